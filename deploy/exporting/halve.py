"""Write a float32 graph in half precision, by a plan that is searched for or given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.errors import BackendError, DeployError, InputSpecError, ModelError, UsageError
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.tensors import TensorSpec
from deploy.exporting.domains import find_domains
from deploy.exporting.given_choices import give_choices
from deploy.exporting.half_options import HalfOptions
from deploy.models.onnx_model import build_graph
from deploy.models.request import ModelRequest
from deploy.parity.groups import policy
from deploy.parity.probes import Probe, make_probes
from deploy.parity.verdict import ParityReport
from deploy.precision.plan import MIN_SQNR, PrecisionPlan
from deploy.precision.rescale import rescale_as
from deploy.precision.search import Search, plain
from deploy.precision.structure import structure
from exporters import half as converter

MOST_SAMPLES = 2
"""Samples of the largest probe that graphs are searched with."""


SAFETIES = (1.5, 4.0)
"""Factors by which the noise is below the bound in a search; the second one if the parity check still fails."""


def held(
    attempt: Callable[[float], tuple[PrecisionPlan, tuple[str, ...]]], prove: Callable[[], ParityReport]
) -> tuple[PrecisionPlan, tuple[str, ...], ParityReport]:
    """Put a graph in half precision and check it, with another factor of `SAFETIES` where the check fails."""
    for safety in SAFETIES:
        plan, notes = attempt(safety)
        parity = prove()
        if parity.verdict != "fail" or not plan.runs:
            break
    return plan, notes, parity


def halve(
    source: Path,
    path: Path,
    model: Model,
    inputs: Sequence[TensorSpec],
    options: HalfOptions,
    *,
    seed: int = 0,
    safety: float = SAFETIES[0],
    progress: Progress,
) -> tuple[PrecisionPlan, tuple[str, ...]]:
    """Write ``source``, a float32 graph of the model, in half precision to another path.

    ``inputs`` are the model's with the graph's dimensions. A graph with operators that cannot be run node by node is
    converted as a whole, which a note says, unless nodes were named.

    Returns:
        The plan, and notes.

    Raises:
        UsageError: a pattern matches no node, or the plan is for another precision or another graph.
        ExportError: the graph cannot be converted to the opset that bfloat16 needs.
        ModelError: nodes were named, and the graph cannot be run node by node.
    """
    with _prepared(source, path, options) as prepared:
        notes: tuple[str, ...] = ()
        if options.plan is not None:
            plan = _given(options.plan, prepared, options.precision)
            rescale_as(prepared, plan.rescaled, [item.feeds for item in _probes(model, inputs, seed)])
        else:
            try:
                plan = _search(prepared, model, _probes(model, inputs, seed), options, safety, progress)
            except (ModelError, BackendError) as exc:
                plan, notes = _whole(prepared, options, exc)
        converter.to_half(prepared, path, precision=options.precision, keep=plan.names())
    return plan, notes


def halve_file(
    source: Path, path: Path, options: HalfOptions, *, sizes: Mapping[str, int] | None = None, progress: Progress
) -> tuple[PrecisionPlan, tuple[str, ...]]:
    """Do what `halve` does for an ONNX file, which in float64 is its own reference.

    ``sizes`` are those of its open dimensions; by default they are found, see `deploy.models.onnx_model`.

    Raises:
        UsageError, ExportError: as `halve`.
    """
    try:
        model = build_graph(ModelRequest(name=str(source)))
    except (ModelError, InputSpecError) as exc:
        with _prepared(source, path, options) as prepared:
            plan, notes = _whole(prepared, options, exc)
            converter.to_half(prepared, path, precision=options.precision)
        return plan, notes
    known = {name: size for name, size in (sizes or {}).items() if name in model.sizes}
    model = model.replace(sizes={**model.sizes, **known})
    return halve(source, path, model, model.inputs, options, progress=progress)


@contextmanager
def _prepared(source: Path, path: Path, options: HalfOptions) -> Iterator[Path]:
    """Write the graph as the converter prepares it, to a folder beside ``path`` that is removed at the end."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="half-") as folder:
        prepared = Path(folder) / "float.onnx"
        converter.write_prepared(source, prepared, options.precision)
        yield prepared


def _search(
    prepared: Path, model: Model, probes: Sequence[Probe], options: HalfOptions, safety: float, progress: Progress
) -> PrecisionPlan:
    """Return a plan; of a graph that makes orders, such as that of scores, for the graph with its choices given."""
    given = give_choices(prepared, prepared.with_name("given.onnx"))
    source, judged, drawn, decided = prepared, model, probes, frozenset[str]()
    if given is not None:
        source, judged, drawn, decided = given.path, given.model(), given.probes(probes), given.decided
    plan = Search(
        source=source,
        planned=prepared,
        precision=options.precision,
        probes=drawn,
        reference=PyTorchRunner(judged, "fp64"),
        own=PyTorchRunner(judged, options.precision),
        min_sqnr=options.min_sqnr,
        safety=safety,
        keep=options.keep_float,
        only=options.only_half,
        decided=decided,
        progress=progress,
    ).run()
    if given is not None:
        rescale_as(prepared, plan.rescaled, [item.feeds for item in probes])
    return plan


def _whole(prepared: Path, options: HalfOptions, reason: DeployError) -> tuple[PrecisionPlan, tuple[str, ...]]:
    """Return the plan of a graph that cannot be run node by node; if nodes were named, raise the reason."""
    if options.keep_float or options.only_half or options.plan:
        raise reason
    plan = plain(prepared, options.precision, options.min_sqnr or MIN_SQNR)
    return plan, (f"not searched for nodes to keep in float32: {reason.message}",)


def _probes(model: Model, inputs: Sequence[TensorSpec], seed: int) -> list[Probe]:
    """Return a few small probes of inputs that are not far from ordinary."""
    domains, _ = find_domains(model, inputs)
    drawn = make_probes(inputs, model.sizes, seed=seed, domains=domains, level="quick")
    usual = [probe for probe in drawn if not any(policy(group).lenient for group in probe.groups)]
    return [probe for probe in usual if (probe.samples or 1) <= MOST_SAMPLES] or usual[:1]


def _given(path: Path, prepared: Path, precision: str) -> PrecisionPlan:
    plan = PrecisionPlan.read(path)
    if plan.precision != precision:
        raise UsageError(f"{path}: this plan is for {plan.precision}.", f"--precision {plan.precision}")
    if plan.graph != structure(prepared):
        raise UsageError(f"{path}: this plan is for another graph.", "leave out --plan to search for a new one")
    return plan
