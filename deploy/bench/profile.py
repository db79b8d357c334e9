"""``deploy profile``: where the time of one call goes, and why INT8 is not faster where it is not."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploy.bench.cells import PlannedCell, check_sizes, choose_backends
from deploy.bench.plan import Choices, plan_model
from deploy.bench.process import BenchProcess
from deploy.bench.records import save_profile
from deploy.bench.timed_model import INT8
from deploy.core.backend import find_backend
from deploy.core.environment import usable_cores
from deploy.core.errors import BackendError, UsageError
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.given import as_request
from deploy.parity.probes import probes_at
from deploy.support.lone_file import open_artifact
from deploy.support.onnx_modules import LayerModules

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

CALLS = 50
WALL_S = 0.5
WARM_S = 2.0

Kind = Literal["compute", "qdq", "reformat"]

QDQ = ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Convert", "Cast")
REFORMAT = ("Reorder", "ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split")
"""Operators that quantize or cast, and operators that only move data; all others compute."""

SUFFIXES = ("_nchwc", "_quant", "/DequantizationMultiply", "/WithoutBiases", "/fq_input_0")
"""Suffixes that runtimes append to the name of the layer a node was made from, besides ``_token_3``."""


def without_suffixes(layer: str) -> str:
    """Return the name of the layer that a runtime made a node from."""
    layer = re.sub(r"_token_\d+$", "", layer)
    for suffix in SUFFIXES:
        layer = layer.removesuffix(suffix)
    return layer


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTime:
    """Time of a node as it ran, after fusion.

    Attributes:
        operator: its type, as the runtime calls it.
        ns: nanoseconds per call of the model.
        arithmetic: ``int8``, ``float``, or empty where the profiler does not tell.
        module: the model's module that it computes; empty where the file does not tell.
    """

    layer: str
    operator: str
    ns: float
    arithmetic: str = ""
    module: str = ""

    @property
    def kind(self) -> Kind:
        """What the time is spent on."""
        if self.operator in QDQ:
            return "qdq"
        return "reformat" if self.operator in REFORMAT else "compute"

    @property
    def origin(self) -> str:
        """The name without the runtime's suffixes, to find the same layer in another profile."""
        return without_suffixes(self.layer)

    @property
    def label(self) -> str:
        """The module if it is known and called otherwise, and the layer."""
        return f"{self.module} ({self.layer})" if self.module not in ("", self.layer) else self.layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Layers of one cell, the slowest first, and the median latency without the profiler; nanoseconds per call."""

    layers: tuple[LayerTime, ...]
    wall_ns: float

    @classmethod
    def of(cls, items: Iterable[Mapping[str, Any]], wall_ns: float, path: Path | None = None) -> Profile:
        """Build a profile from nodes of `deploy.support.profiling.node_times`; those of the same name are added up.

        ``path`` is the ONNX file that ran, which tells the modules.
        """
        modules = LayerModules(path) if path is not None and path.suffix == ".onnx" else None
        found: dict[tuple[str, str, str], float] = {}
        for item in items:
            key = (item["layer"], item["operator"], item.get("arithmetic", ""))
            found[key] = found.get(key, 0.0) + float(item["ns"])
        layers = [
            LayerTime(
                layer=name,
                operator=operator,
                ns=value,
                arithmetic=arithmetic,
                module=modules.of(without_suffixes(name), operator) if modules else "",
            )
            for (name, operator, arithmetic), value in found.items()
        ]
        return cls(layers=tuple(sorted(layers, key=lambda item: -item.ns)), wall_ns=wall_ns)

    @property
    def total_ns(self) -> float:
        """Sum over all layers."""
        return sum(item.ns for item in self.layers)

    def by_operator(self) -> dict[str, float]:
        """Return nanoseconds by operator type, the slowest first."""
        found: dict[str, float] = {}
        for item in self.layers:
            found[item.operator] = found.get(item.operator, 0.0) + item.ns
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def share(self, kind: Kind) -> float:
        """Return the share of the layers' time that is spent on a kind."""
        total = self.total_ns
        return sum(item.ns for item in self.layers if item.kind == kind) / total if total else 0.0

    def slower_than(self, before: Profile) -> list[tuple[LayerTime, float]]:
        """Return the layers slower than the one of the same origin before, with its nanoseconds then, the worst first.

        Layers that a runtime fused into another one cannot be matched.
        """
        known: dict[str, float] = {}
        for item in before.layers:
            known[item.origin] = known.get(item.origin, 0.0) + item.ns
        worse = [(item, known[item.origin]) for item in self.layers if item.ns > known.get(item.origin, float("inf"))]
        return sorted(worse, key=lambda pair: pair[1] - pair[0].ns)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "wall_ns": self.wall_ns,
            "layers_ns": self.total_ns,
            "outside_layers_ns": self.wall_ns - self.total_ns,
            "by_operator_ns": self.by_operator(),
            "qdq_share": self.share("qdq"),
            "reformat_share": self.share("reformat"),
            "layers": [{**asdict(item), "kind": item.kind} for item in self.layers],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfiledCell:
    """A cell with its profile and, for INT8, the profile of the float file on the same backend."""

    plan: PlannedCell
    profile: Profile
    before: Profile | None = None

    @property
    def in_float(self) -> list[LayerTime]:
        """For INT8: layers that still compute in float, the slowest first."""
        if self.plan.cell.precision != INT8:
            return []
        return [item for item in self.profile.layers if item.kind == "compute" and item.arithmetic == "float"]

    @property
    def unfused(self) -> list[LayerTime]:
        """Q/DQ nodes that the runtime did not fuse."""
        return [item for item in self.profile.layers if item.kind == "qdq"]

    @property
    def slower(self) -> list[tuple[LayerTime, float]]:
        """For INT8: layers slower than in float, with their nanoseconds there."""
        return [] if self.before is None else self.profile.slower_than(self.before)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **asdict(self.plan.cell),
            "evidence": dict(self.plan.evidence or {}),
            **self.profile.to_dict(),
            "in_float": [item.layer for item in self.in_float],
            "unfused": [item.layer for item in self.unfused],
            "float_wall_ns": None if self.before is None else self.before.wall_ns,
            "slower": [
                {"layer": item.layer, "module": item.module, "ns": item.ns, "float_ns": was}
                for item, was in self.slower
            ],
        }


def profile_model(
    model: ModelLike,
    *,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    backends: Sequence[str] = (),
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = None,
    batch: int = 1,
    threads: int | None = None,
    sizes: Mapping[str, int] | None = None,
    calib: str | None = None,
    seed: int = 0,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> list[ProfiledCell]:
    """Profile a model or file on backends, on the CPU.

    Args:
        model: a model name, a request, an ONNX file, an engine with a manifest, or a module in memory.
        inputs: of a module in memory, see `deploy.ExampleInputs`; of a name: texts.
        name: name of the model's folder and files.
        backends: names of backends; none takes the installed default ones that run files.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8`` (beside ``fp32``); None takes a file's own, else ``fp32``.
        batch: batch size.
        threads: threads within an operator; None takes all cores.
        sizes: sizes of symbolic dimensions other than the batch.
        calib: calibration data for a missing INT8 file.
        seed: seed of the inputs.
        artifacts: artifacts directory.
        progress: receives progress messages.

    Raises:
        BackendError: no cell can run.
        UsageError: a backend has no profiler, or an argument would have no effect.
    """
    store = Store.at(artifacts)
    request = as_request(model, inputs, name)
    path = Path(request.name)
    own = open_artifact(path).manifest.precision if path.suffix in (".onnx", ".engine") and path.is_file() else None
    if own is not None and precision not in (None, own):
        raise UsageError(f"{path}: the file is {own}, so --precision {precision} does not apply.")
    chosen = precision or own or "fp32"
    if calib is not None and chosen != INT8:
        raise UsageError("--calib has no effect without --precision int8.")
    names = tuple(backends) or tuple(name for name in choose_backends(()) if find_backend(name).runs_files)
    for name in choose_backends(names):
        if not find_backend(name).profiler:
            raise UsageError(f"the backend {name} has no profiler.")
    choices = Choices(
        backends=names,
        named=bool(backends),
        precisions=(INT8, "fp32") if chosen == INT8 and own is None else (chosen,),
        batches=(batch,),
        threads=threads or usable_cores(),
        sizes=dict(sizes or {}),
        calib=calib,
        seed=seed,
    )
    found: list[tuple[PlannedCell, Profile]] = []
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        plans, skipped = plan_model(request, choices, store, Path(scratch), progress)
        check_sizes(choices.sizes, plans)
        for plan in plans:
            with progress.stage(f"{plan.cell}: profiling"):
                found.append((plan, _profile(plan, seed)))
    in_float = {plan.cell.backend: profile for plan, profile in found if plan.cell.precision != INT8}
    result = [
        ProfiledCell(plan=plan, profile=profile, before=in_float.get(plan.cell.backend) if chosen == INT8 else None)
        for plan, profile in found
        if plan.cell.precision == chosen
    ]
    if not result:
        raise BackendError(
            f"{request.name}: nothing to profile: {skipped[0].reason if skipped else 'no backend runs it'}"
        )
    for item in result:
        save_profile(store.root, item.plan.cell, item.to_dict())
    return result


def _profile(plan: PlannedCell, seed: int) -> Profile:
    """Measure the latency without the profiler, then the layers with it, each in its own process."""
    feeds = probes_at(plan.inputs, plan.cell.sizes, seed=seed)[0].feeds
    with BenchProcess(plan.backend.runner, plan.cell.threads) as process:
        process.open(feeds, path=plan.path, model=plan.model, options=plan.options)
        process.warm(WARM_S)
        wall = float(np.median(process.time(WALL_S)[1]))
    with BenchProcess(plan.backend.runner, plan.cell.threads) as process:
        nodes = process.profile(feeds, path=plan.path, model=plan.model, options=plan.options, calls=CALLS)
    return Profile.of(nodes, wall, plan.path)
