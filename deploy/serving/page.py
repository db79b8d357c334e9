"""The demo page: what PyTorch and every served file answer for an image that the user chooses, and in what time."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import UNPROVEN, Artifact
from deploy.core.errors import ArtifactError, DeployError
from deploy.core.limits import limits
from deploy.core.model import Preprocessing
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import batch_symbol
from deploy.data.preprocess import assumed_preprocessing, image_preprocessing
from deploy.models.open import open_model, request_of
from deploy.serving.answers import Answer, agreement, answer, picture_of
from deploy.serving.app import Service
from deploy.serving.models import ModelOpener, ServedModel
from deploy.serving.protocol import RequestError
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import Task, task_of

PICTURES = ("detection", "instance-segmentation", "semantic-segmentation")
"""Tasks whose answers are drawn on the picture that the model receives."""
RUNS = 5
"""Runs of each variant; the page shows their median time."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_TYPES = {"page.js": "text/javascript", "page.css": "text/css", "page.html": "text/html"}


def page_routes(
    artifact: Artifact,
    served: Sequence[ServedModel],
    service: Service,
    opener: ModelOpener,
    store: Store,
    stack: contextlib.ExitStack,
    progress: Progress,
) -> list[Route]:
    """Return the page's routes; none if the model does not take images. ``stack`` closes the PyTorch model's queue."""
    manifest = artifact.manifest
    variants, remarks = list(served), list[str]()
    recipe = manifest.preprocessing
    try:
        if not manifest.reference:
            if recipe is None and len(manifest.outputs[0].shape) == 2:
                recipe = assumed_preprocessing(artifact.path.name, manifest.inputs, manifest.options.get("sizes", {}))
                remarks.append(_assumed(manifest.model, recipe))
            raise ArtifactError(f"the model of {artifact.path.name} is not known.")
        with progress.stage("opening the model in PyTorch"):
            model = open_model(request_of(artifact), store, progress)
        if model.weights.identity != manifest.weights.identity:
            raise ArtifactError(
                f"{artifact.path.name} was made from other weights than the model has now ({model.weights.source})."
            )
        if recipe is None:
            recipe = image_preprocessing(model)
            remarks.append(_assumed(manifest.model, recipe))
    except DeployError as exc:
        remarks.append(f"The page does not show PyTorch: {exc.message}")
    else:
        batched = batch_symbol(model.inputs, ()) is not None
        pytorch = ServedModel(
            name="torch",
            platform="pytorch",
            batcher=opener.batcher([PyTorchRunner(model)], "torch", batched=batched),
            inputs=model.inputs,
            outputs=(),
            labels=manifest.labels or model.labels,
            about={"file": model.weights.source},
        )
        variants.insert(0, pytorch)
        stack.callback(pytorch.batcher.close)
    if recipe is None or len(manifest.inputs) != 1:
        progress.note("there is no demo page: the preprocessing of the model is not known, or it does not take images")
        return []
    for remark in remarks:
        progress.warn(remark)
    remarks += [f"{item.name} is {UNPROVEN}." for item in served if item.about["parity"] == UNPROVEN]
    form = manifest.postprocessing
    page = Page(
        title=manifest.model,
        variants=variants,
        remarks=remarks,
        preprocessing=recipe,
        task=task_of(manifest.task, manifest.inputs, manifest.outputs),
        postprocessing=None if form is None else Postprocessing.from_dict(form),
        service=service,
    )
    return page.routes()


def _assumed(name: str, recipe: Preprocessing) -> str:
    height, width = recipe.crop
    return f"The preprocessing of {name} is not known: images are resized to {height} x {width} and scaled to [-1, 1]."


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The page's content and request handlers; of the variants, PyTorch comes first."""

    title: str
    variants: Sequence[ServedModel]
    remarks: Sequence[str]
    preprocessing: Preprocessing
    task: Task | None
    postprocessing: Postprocessing | None
    service: Service
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: set[Request] = field(default_factory=set)

    def routes(self) -> list[Route]:
        """Return the page's routes."""
        assets = [Route(path, _asset) for path in ("/", "/page.js", "/page.css")]
        return [*assets, Route("/page", self._about), Route("/compare", self._compare, methods=["POST"])]

    async def _about(self, request: Request) -> Response:
        variants = [{"name": item.name, **item.about} for item in self.variants]
        return JSONResponse({"title": self.title, "variants": variants, "remarks": list(self.remarks), "runs": RUNS})

    async def _compare(self, request: Request) -> Response:
        if len(self.waiting) >= limits().serve_images:
            raise RequestError(429, "too many images are waiting.", 1)
        self.waiting.add(request)
        try:
            body = await self.service.body(request)
            sample = await self.service.reader.sample(body, self.preprocessing)
            async with self.turn:  # the times of one image at a time are comparable
                rows, answers = zip(*[await self._row(item, sample[None]) for item in self.variants], strict=True)
        finally:
            self.waiting.discard(request)
        for row, given in zip(rows[1:], answers[1:], strict=True):
            row["same"] = agreement(answers[0], given) if answers[0] and given else None
        picture = picture_of(sample, self.preprocessing) if self.task in PICTURES else None
        return JSONResponse({"rows": rows, "runs": RUNS, "picture": picture})

    async def _row(self, model: ServedModel, batch: NDArray[Any]) -> tuple[dict[str, Any], Answer | None]:
        """Run a variant; return what the page shows of it, and its answer if it has one."""
        spec = model.inputs[0]
        feeds = {spec.name: batch.astype(spec.dtype, copy=False)}
        try:
            results = [await model.batcher.run(feeds, 1) for _ in range(RUNS)]
            outputs = results[-1][0]
            found = answer(outputs, self.task, model.labels, self.postprocessing, (batch.shape[2], batch.shape[3]))
        except DeployError as exc:
            return {"name": model.name, "error": exc.message}, None
        median_ms = 1000 * statistics.median(ran_s for _, ran_s in results)
        return {"name": model.name, **found.shown, "median_ms": median_ms}, found


async def _asset(request: Request) -> Response:
    name = request.url.path.lstrip("/") or "page.html"
    text = (files("deploy.serving") / "assets" / name).read_text(encoding="utf-8")
    return Response(text, media_type=_TYPES[name], headers=_HEADERS)
