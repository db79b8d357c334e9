"""The page where a picture can be dropped: what every variant of the model says of it, and how long it took."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.core.errors import DataError, DeployError
from deploy.serving.app import Service
from deploy.serving.refusal import Refusal
from deploy.serving.served import ServedModel

RUNS = 5
"""Calls of each variant; the page shows their median."""
TOP = 5
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
_TYPES = {"page.js": "text/javascript", "page.css": "text/css", "page.html": "text/html"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What the page needs.

    Attributes:
        title: the model's name.
        variants: what is compared, PyTorch first where it is there.
        remarks: what is missing or was assumed.
        prepare: from the bytes of a picture to the model's input, one sample.
        service: reads bodies within its bounds.
    """

    title: str
    variants: Sequence[ServedModel]
    remarks: Sequence[str]
    prepare: Callable[[bytes], NDArray[Any]]
    service: Service

    def routes(self) -> list[Route]:
        """Its addresses."""
        assets = [Route(f"/{name}", _asset) for name in ("page.js", "page.css")]
        return [
            Route("/", _asset),
            *assets,
            Route("/page", self._about),
            Route("/compare", self._compare, methods=["POST"]),
        ]

    async def _about(self, request: Request) -> Response:
        rows = [{"name": item.name, **item.about} for item in self.variants]
        return JSONResponse({"title": self.title, "variants": rows, "remarks": list(self.remarks), "runs": RUNS})

    async def _compare(self, request: Request) -> Response:
        async with self.service.body(request) as body:
            try:
                sample = await asyncio.to_thread(self.prepare, body)
            except DataError as exc:
                raise Refusal(400, exc.message) from exc
            rows = [await self._row(item, sample[None]) for item in self.variants]
        return JSONResponse({"rows": rows, "runs": RUNS})

    async def _row(self, served: ServedModel, batch: NDArray[Any]) -> dict[str, Any]:
        spec = served.inputs[0]
        feeds = {spec.name: batch.astype(spec.dtype, copy=False)}
        try:
            answers = [await served.batcher.answer(feeds, 1) for _ in range(RUNS)]
        except DeployError as exc:
            return {"name": served.name, "error": exc.message}
        logits = next(iter(answers[-1].fetches.values()))
        return {
            "name": served.name,
            "top": _top(logits, served.labels),
            "median_ms": 1000 * statistics.median(item.ran_s for item in answers),
        }


def _top(logits: NDArray[Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The most probable classes of the first sample, by softmax in float64."""
    row = logits.reshape(len(logits), -1)[0].astype(np.float64)
    if not np.isfinite(row).all():
        return []
    weights = np.exp(row - row.max())
    probabilities = weights / weights.sum()
    named = len(labels) == len(row)
    return [
        {
            "index": int(index),
            "label": labels[index] if named else str(index),
            "probability": float(probabilities[index]),
        }
        for index in np.argsort(-probabilities, kind="stable")[:TOP]
    ]


async def _asset(request: Request) -> Response:
    name = request.url.path.lstrip("/") or "page.html"
    text = (files("deploy.serving") / "assets" / name).read_text(encoding="utf-8")
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache", "x-content-type-options": "nosniff"}
    return Response(text, media_type=_TYPES[name], headers=headers)
