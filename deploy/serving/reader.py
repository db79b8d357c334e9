"""Reading of large JSON and of images, in a child process.

The functions that do it hold Python's lock for up to tens of milliseconds a call, in which the server would answer
nobody. A child also keeps their memory, and a crash of an image decoder, out of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.core.errors import BackendCrashedError, DataError
from deploy.core.limits import limits
from deploy.core.model import Preprocessing
from deploy.core.plain import from_plain, to_plain
from deploy.core.remote import Remote, Reply
from deploy.core.runner import Feeds
from deploy.core.tensors import TensorSpec
from deploy.data.decode import FORMATS, decode
from deploy.data.preprocess import prepare
from deploy.serving.protocol import Body, InferenceRequest, RequestedOutput, RequestError, read_request

NICENESS = 10
"""The child leaves the cores to the server and its runners."""


class Reader:
    """A child process that reads one request at a time; it is started again after a crash."""

    def __init__(self) -> None:
        self._remote = self._start()
        self._thread = ThreadPoolExecutor(1, "reader")

    async def request(
        self, text: Body, binary: memoryview, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> InferenceRequest:
        """Do what `read_request` does."""
        arrays = {"text": np.frombuffer(text, np.uint8), "binary": np.frombuffer(binary, np.uint8)}
        plain = {"inputs": to_plain(list(inputs)), "outputs": to_plain(list(outputs))}
        values, feeds = await self._call("request", arrays, **plain)
        wanted = from_plain(tuple[RequestedOutput, ...], values["outputs"])
        return InferenceRequest(id=values["id"], feeds=feeds, outputs=wanted)

    async def sample(self, image: Body, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """Decode an image and prepare it: channels x height x width.

        Raises:
            RequestError: status 400: it cannot be read; 413: it has too many pixels.
        """
        arrays = {"image": np.frombuffer(image, np.uint8)}
        _, samples = await self._call("sample", arrays, preprocessing=to_plain(preprocessing))
        return samples["sample"]

    def close(self) -> None:
        """End the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._remote.close()

    async def _call(self, method: str, arrays: Feeds, **arguments: Any) -> Reply:
        call = partial(self._answer, method, arrays, **arguments)
        values, results = await asyncio.get_running_loop().run_in_executor(self._thread, call)
        if "status" in values:
            raise RequestError(values["status"], values["message"])
        return values, results

    def _answer(self, method: str, arrays: Feeds, **arguments: Any) -> Reply:
        try:
            return self._remote.call(method, arrays, timeout_s=limits().serve_body_s, **arguments)
        except BackendCrashedError as exc:
            self._remote.close()
            self._remote = self._start()
            raise RequestError(400, f"the request cannot be read: {exc.message}") from exc

    @staticmethod
    def _start() -> Remote:
        return Remote("deploy.serving.reader:ReaderHost", name="reader")


class ReaderHost:
    """The object in the child process; its methods return the status and message of a `RequestError`."""

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # these go to the whole group; the server ends this process
            signal.signal(number, signal.SIG_IGN)
        if hasattr(os, "nice"):
            os.nice(NICENESS)

    def request(self, arrays: Feeds, *, inputs: Any, outputs: Any) -> Reply:
        """Read an inference request."""
        specs = from_plain(tuple[TensorSpec, ...], inputs), from_plain(tuple[TensorSpec, ...], outputs)
        try:
            found = read_request(arrays["text"].tobytes(), arrays["binary"].data, *specs)
        except RequestError as exc:
            return {"status": exc.status, "message": exc.message}, {}
        return {"id": found.id, "outputs": to_plain(list(found.outputs))}, dict(found.feeds)

    def sample(self, arrays: Feeds, *, preprocessing: Any) -> Reply:
        """Decode and prepare an image."""
        data = arrays["image"].tobytes()
        recipe = from_plain(Preprocessing, preprocessing)
        try:
            _check_pixels(data, recipe)
            return {}, {"sample": prepare(decode(data), recipe)}
        except RequestError as exc:
            return {"status": exc.status, "message": exc.message}, {}
        except DataError as exc:
            return {"status": 400, "message": exc.message}, {}


def _check_pixels(data: bytes, preprocessing: Preprocessing) -> None:
    """Check the size that an image declares, and the size it is resized to, before it is decoded."""
    limit = limits().serve_image_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.closing(Image.open(io.BytesIO(data), formats=tuple(FORMATS))) as image:
                short, long = sorted(image.size)
    except Image.DecompressionBombError:
        pixels = limit + 1
    except Exception as exc:  # a decoder may raise anything on a damaged file
        raise RequestError(400, f"the image cannot be read; formats: {', '.join(FORMATS)}.") from exc
    else:
        resized = (preprocessing.resize or 0) ** 2 * long // max(short, 1)  # an extreme aspect ratio makes it large
        pixels = max(short * long, resized)
    if pixels > limit:
        raise RequestError(413, f"the image, or what it is resized to, has more than {limit} pixels.")
