"""The child process that runs a float graph during quantization: a crash of the runtime is an error here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from typing_extensions import Self

import calibration
from calibration import Observations, adjustment
from calibration.adjustment import Adjustments
from calibration.graph import is_large, prepare_in
from calibration.layers import LayerNoise, NoiseMeter
from calibration.observations import pack, unpack
from calibration.rewriting import rewrite, scalable
from deploy.core.errors import UsageError
from deploy.core.limits import limits
from deploy.core.memory import memory_limited
from deploy.core.remote import Remote, Reply
from deploy.core.runner import Feeds
from deploy.core.store import storage_errors


class GraphChild:
    """The parent's side; a context manager that ends the process.

    The process starts at once, so that its imports overlap with what the parent does next.
    """

    def __init__(self) -> None:
        with storage_errors(Path(tempfile.gettempdir())):
            self._temporary = tempfile.TemporaryDirectory(prefix="deploy-calibration-")
        self._remote = Remote("deploy.quantization.worker:GraphWorker", name="ONNX Runtime")
        self.folder = Path(self._temporary.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.close()
        self._temporary.cleanup()

    def prepare(self, path: Path) -> Path:
        """Run `calibration.graph.prepare_in` and return the prepared file, which stays until the process ends."""
        self._remote.limit = "onnx_open_seconds"
        seconds = limits().onnx_open_seconds
        reply, _ = self._remote.call("prepare", timeout_s=seconds, path=str(path), folder=str(self.folder))
        return Path(reply["prepared"])

    def collect(self, feeds: Iterable[Feeds], *, samples: int, advance: Callable[[int, int], None]) -> Observations:
        """Run `calibration.collect` over the prepared graph; ``samples`` is their number in all batches.

        ``advance`` is called after every batch with the number of samples done and ``samples``.
        """
        self._remote.call("collect", samples=samples)
        self._add(feeds, lambda done: advance(done, samples))
        return unpack(*self._remote.call("observations"))

    def layer_noise(self, quantized: Path, feeds: Iterable[Feeds]) -> list[LayerNoise]:
        """Return the noise of the layers of a file that was quantized from the prepared one."""
        self._remote.call("compare", path=str(quantized))
        self._add(feeds)
        reply, arrays = self._remote.call("noise")
        return [
            LayerNoise(layer=layer, operator=operator, tensor=tensor, module=module, sqnr_db=float(value))
            for (layer, operator, tensor, module), value in zip(reply["layers"], arrays["sqnr_db"], strict=True)
        ]

    def rewrite(self, feeds: Iterable[Feeds], *, samples: int) -> dict[str, list[str]]:
        """Run `calibration.rewriting.rewrite` on the prepared file, which is written again if the graph changes."""
        reply, _ = self._remote.call("can_rewrite")
        if not reply["can_rewrite"]:
            return {}
        self._remote.call("gather")
        self._add(feeds)
        seconds = limits().onnx_open_seconds + limits().onnx_run_seconds * samples
        reply, _ = self._remote.call("rewrite", timeout_s=seconds)
        return dict(reply["rewritten"])

    def tune(self, quantized: Path, feeds: Iterable[Feeds], *, rounding: bool, samples: int) -> Adjustments:
        """Run `calibration.tune` for a file that was quantized from the prepared one, with so many samples."""
        self._remote.call("gather")
        self._add(feeds)
        file = self.folder / "adjustments.npz"
        seconds = limits().onnx_open_seconds + 2 * limits().onnx_run_seconds * samples
        self._remote.call("tune", path=str(quantized), file=str(file), rounding=rounding, timeout_s=seconds)
        return adjustment.load(file)

    def _add(self, feeds: Iterable[Feeds], advance: Callable[[int], None] = lambda done: None) -> None:
        """Send every batch; the next one is read while the process works on the last."""
        self._remote.limit = "onnx_run_seconds"
        sent = samples = 0
        for batch in feeds:
            if sent:
                self._remote.receive(limits().onnx_run_seconds * samples)
                advance(sent)
            self._remote.send("add", batch)
            samples = len(next(iter(batch.values())))
            sent += samples
        if sent:
            self._remote.receive(limits().onnx_run_seconds * samples)
            advance(sent)


class GraphWorker:
    """The child's side: prepares a graph, then collects ranges, measures noise or tunes over the batches it is sent.

    Files of graphs, not graphs, go from process to process: protobuf cannot write 2 GB.
    """

    def __init__(self) -> None:
        self._prepared = Path()
        self._collector: calibration.Collector | None = None
        self._meter: NoiseMeter | None = None
        self._batches: list[Feeds] | None = None

    def prepare(self, _: Feeds, path: str, folder: str) -> Reply:
        """Prepare the graph of a file."""
        with memory_limited(Path(path)):
            self._prepared = prepare_in(Path(folder), Path(path))
        return {"prepared": str(self._prepared)}, {}

    def collect(self, _: Feeds, samples: int) -> Reply:
        """Start to collect ranges."""
        graph = outline(self._prepared)
        self._collector = calibration.Collector(graph, samples=samples, folder=self._prepared.parent)
        self._meter = None
        return {}, {}

    def compare(self, _: Feeds, path: str) -> Reply:
        """Start to measure the noise of a quantized graph."""
        graph, quantized = outline(self._prepared), outline(Path(path))
        self._collector = None
        self._meter = NoiseMeter(graph, quantized, folder=self._prepared.parent, quantized_folder=Path(path).parent)
        return {}, {}

    def gather(self, _: Feeds) -> Reply:
        """Start to keep batches for `tune`."""
        self._collector = self._meter = None
        self._batches = []
        return {}, {}

    def can_rewrite(self, _: Feeds) -> Reply:
        """Tell whether the prepared graph has something to rewrite, and fits into memory twice."""
        graph = outline(self._prepared)
        return {"can_rewrite": not is_large(graph) and bool(scalable(graph))}, {}

    def rewrite(self, _: Feeds) -> Reply:
        """Rewrite the prepared graph."""
        batches, self._batches = self._batches or [], None
        model = onnx.load(str(self._prepared))
        rewritten = rewrite(model, batches)
        if rewritten:
            self._prepared.with_suffix(".data").unlink(missing_ok=True)
            onnx.save(model, str(self._prepared))
        return {"rewritten": rewritten}, {}

    def tune(self, _: Feeds, path: str, file: str, rounding: bool) -> Reply:
        """Write the adjustments of a quantized graph to a file."""
        batches, self._batches = self._batches or [], None
        model, quantized = onnx.load(str(self._prepared)), onnx.load(path)
        adjustment.save(calibration.tune(model, quantized, batches, rounding=rounding), Path(file))
        return {}, {}

    def add(self, batch: Feeds) -> Reply:
        """Run a batch, or keep it for `tune`."""
        if self._batches is not None:
            self._batches.append({name: np.array(values) for name, values in batch.items()})
            return {}, {}
        running = self._collector or self._meter
        if running is None:
            raise UsageError("neither collect, compare nor gather was called.")
        running.add(batch)
        return {}, {}

    def observations(self, _: Feeds) -> Reply:
        """Finish `collect`."""
        if self._collector is None:
            raise UsageError("collect was not called.")
        collector, self._collector = self._collector, None
        observations = collector.finish()
        collector.close()
        return pack(observations)

    def noise(self, _: Feeds) -> Reply:
        """Finish `compare`."""
        if self._meter is None:
            raise UsageError("compare was not called.")
        meter, self._meter = self._meter, None
        layers = meter.finish()
        named = [[item.layer, item.operator, item.tensor, item.module] for item in layers]
        return {"layers": named}, {"sqnr_db": np.asarray([item.sqnr_db for item in layers], np.float64)}


def outline(path: Path) -> onnx.ModelProto:
    """Return the graph of a file of ours without its external data."""
    return onnx.load(str(path), load_external_data=False)
