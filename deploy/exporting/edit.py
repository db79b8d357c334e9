"""``deploy edit``: change an ONNX file, and check the result against the file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from deploy.core.artifact import Artifact, Manifest, Payload, manifest_path, sha256
from deploy.core.errors import ArtifactError, BackendError, DeployError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.names import REJECTED
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.core.tensors import SizeRange
from deploy.exporting.locate import locate, locate_by_name
from deploy.exporting.open_batch import fixed_batch, open_batch, set_batch
from deploy.exporting.prove import ProofOptions, prove
from deploy.models.open import open_model
from deploy.models.owner import free_name
from deploy.models.request import ModelRequest, check_slug
from deploy.onnx_graph.view import View
from deploy.parity.locate import Location
from deploy.parity.probes import check_level
from deploy.parity.verdict import ParityReport, Verdict
from deploy.support import onnx_file
from deploy.support.lookup import EXPORTS
from deploy.support.onnx_child import OnnxChild
from exporters import onnx_edits

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples

DYNAMIC: Literal["dynamic"] = "dynamic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One edit and what it changed.

    Attributes:
        edit: its option, ``fold``.
        detail: what changed; ``nothing to change`` if the graph is the same.
        nodes_before, nodes_after: number of nodes of the graph, those of branches and functions included.
    """

    edit: str
    detail: str
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EditReport:
    """The result of `edit`.

    Attributes:
        source: the file that was edited.
        artifact: the edited file and its manifest; in the folder ``rejected`` unless the parity check passed.
        changes: what each edit did, in the order of the edits.
        location: the first tensor that differs from the original; None if the check did not fail.
    """

    source: Path
    artifact: Artifact
    changes: tuple[Change, ...]
    parity: ParityReport
    opset_before: int
    opset_after: int
    location: Location | None
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Verdict of the parity check: ``pass``, ``fail`` or ``inconclusive``."""
        return self.parity.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "source": str(self.source),
            **self.artifact.facts(),
            "opset_before": self.opset_before,
            "opset_after": self.opset_after,
            "changes": [asdict(change) for change in self.changes],
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "parity": self.parity.to_dict(),
            "location": asdict(self.location) if self.location else None,
            "seconds": round(self.seconds, 3),
        }


@dataclass(kw_only=True, slots=True)
class _Draft:
    """The graph while it is edited, how the original is seen from it, and what was done."""

    graph: ir.Model
    folder: Path
    view: View = field(default_factory=View)
    changes: list[Change] = field(default_factory=list)
    stuck: Location | None = None


def edit(
    file: Path | str,
    *,
    simplify: bool = False,
    fold: bool = False,
    batch: int | Literal["dynamic"] | None = None,
    opset: int | None = None,
    rename: Mapping[str, str] | None = None,
    cut_inputs: Sequence[str] = (),
    cut_outputs: Sequence[str] = (),
    fp16_io: bool = False,
    strip_names: bool = False,
    inputs: Sequence[str] = (),
    name: str | None = None,
    artifacts: str | Path | None = None,
    samples: ProbeSamples | None = None,
    probes: str = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    progress: Progress = SILENT,
) -> EditReport:
    """Change an ONNX file, and check the result against the file, evaluated in float64.

    The edits are made in the order: cut, batch, fold, simplify, opset, rename, fp16_io, strip_names.

    Args:
        file: the file; it stays as it is.
        simplify: fold constants, remove what has no effect, and fuse nodes, by onnxslim.
        fold: compute what depends on constants only.
        batch: number of samples that the inputs are fixed to, or ``dynamic``. The result for several samples is
            compared with the original's for each of them.
        opset: ONNX operator set.
        rename: new names of inputs and outputs.
        cut_inputs: tensors at which the graph begins, in place of its inputs.
        cut_outputs: tensors at which the graph ends, in place of its outputs.
        fp16_io: take and return float16 where the file has float32; weights and arithmetic stay.
        strip_names: remove the names of nodes and inner tensors, documentation and metadata.
        inputs: the inputs of the file, see `deploy.ModelRequest`, where its sizes or values cannot be found by trying.
        name: name of the folder and files; default: the stem of the file with ``.edited``.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        samples: real samples, probed in addition, see `deploy.export_model`.
        probes: how many probes are run, see `deploy.export_model`.
        min_coverage: coverage in percent below which the verdict is inconclusive.
        accept_unreached: accept branches of the graph that no probe took.
        progress: receives progress messages.

    Returns:
        The report; a verdict other than ``pass`` raises no error.

    Raises:
        UsageError: no edit, edits that contradict each other, or one that does not fit the graph.
        ExportError: the graph cannot be edited in this way.
        DeployError: see `deploy.core.errors`; partial results are discarded.
    """
    began = time.perf_counter()
    path = Path(file)
    if not any((simplify, fold, batch, opset, rename, cut_inputs, cut_outputs, fp16_io, strip_names)):
        raise UsageError(f"{path}: no edit was requested.", f"deploy edit {path} --simplify")
    if batch is not None and batch != DYNAMIC and (not isinstance(batch, int) or batch < 1):
        raise UsageError(f"batch {batch!r} is neither a positive number nor 'dynamic'.")
    if inputs and cut_inputs:
        raise UsageError("--input describes the inputs of the file, and --cut-inputs removes them.", "give one of them")
    check_level(probes, samples is not None)
    source, store = _source(path), Store.at(artifacts)
    slug = _folder(path, name, store)
    with IsolatedRunner("onnxruntime") as candidate, OnnxChild() as reader:
        reader.examine(path)  # before this process or a runtime opens the file
        with progress.stage("building the model"):
            built = open_model(ModelRequest(name=str(path), inputs=tuple(inputs)), store, SILENT)
        with progress.stage("editing"):
            draft = _Draft(graph=onnx_edits.load(path), folder=path.parent)
            before = _opset(draft.graph)
            _cut(draft, path, cut_inputs, cut_outputs, store)
            _batch(draft, batch, {spec.name: spec.concrete(built.sizes) for spec in built.inputs})
            _edit(draft, "fold", fold, onnx_edits.fold)
            _edit(draft, "simplify", simplify, onnx_edits.simplify)
            _opset_edit(draft, opset)
            _rename(draft, rename or {})
            _fp16_io(draft, fp16_io)
            _edit(draft, "strip_names", strip_names, onnx_edits.strip_names)
        request = ModelRequest(name=str(path), inputs=tuple(inputs), options=draft.view.options())
        built = open_model(request, store, SILENT)
        precision = source.manifest.precision if source else built.precision
        with store.transaction(slug) as transaction:
            written = transaction.path(f"{slug}.{precision}.onnx")
            onnx_edits.save(draft.graph, written)
            with progress.stage("checking parity"):
                parity = _prove(
                    built,
                    written,
                    candidate,
                    precision=precision,
                    samples=samples,
                    negated=True,
                    ranges=[item for spec in source.manifest.inputs for item in spec.ranges] if source else (),
                    options=ProofOptions(probes=probes, min_coverage=min_coverage, accept_unreached=accept_unreached),
                    progress=progress,
                )
            location = None
            if parity.verdict == "fail":
                with progress.stage("locating"):
                    location = draft.stuck or _locate(built, written, precision, draft.view.block)
            with progress.stage("writing"):
                manifest = _manifest(draft, built, source, written, slug, precision, parity, location)
                artifact = transaction.publish(manifest, "" if parity.verdict == "pass" else REJECTED)
    return EditReport(
        source=path,
        artifact=artifact,
        changes=tuple(draft.changes),
        parity=parity,
        opset_before=before,
        opset_after=_opset(draft.graph),
        location=location,
        seconds=time.perf_counter() - began,
    )


def _folder(path: Path, name: str | None, store: Store) -> str:
    """Return the name of the folder of an edited file.

    Raises:
        UsageError: the name cannot be used, or the folder holds something that was not made from this file.
    """
    slug = name or f"{_stem(path)}.edited"
    check_slug(slug)
    for artifact in store.artifacts(slug):
        origin = str(artifact.manifest.reference.get("name", ""))
        if not origin or Path(origin).resolve() != path.resolve():
            raise UsageError(
                f"{artifact.path.parent}: holds {artifact.path.name}, which was not made from {path}.",
                f"write elsewhere: deploy edit {path} … --name {free_name(store, slug)}",
            )
    return slug


def _source(path: Path) -> Artifact | None:
    """Return the artifact of the file, verified; None if it has no manifest.

    Raises:
        ArtifactError: the file does not exist.
        UsageError: it is an INT8 file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file.")
    if not manifest_path(path).exists():
        return None
    artifact = Artifact.open(path)
    artifact.verify()
    if artifact.manifest.precision not in EXPORTS:
        raise UsageError(
            f"{path}: the parity check has no limits for {artifact.manifest.precision}.",
            "edit the export, and quantize it again",
        )
    return artifact


def _stem(path: Path) -> str:
    stem = path.stem
    return next((stem.removesuffix(f".{name}") for name in EXPORTS if stem.endswith(f".{name}")), stem)


def _opset(graph: ir.Model) -> int:
    return int(graph.opset_imports.get("", 0) or 0)


def _edit(
    draft: _Draft, name: str, wanted: bool, change: Callable[[ir.Model], ir.Model | str | None], detail: str = ""
) -> None:
    """Make an edit, and record what it changed."""
    if not wanted:
        return
    before, count = _fingerprint(draft.graph), onnx_edits.node_count(draft.graph)
    try:
        result = change(draft.graph)
    except DeployError as exc:
        option = f"--{name.replace('_', '-')}: "
        exc.message = option + exc.message.removeprefix(option)
        raise
    if isinstance(result, ir.Model):
        draft.graph = result
    after = onnx_edits.node_count(draft.graph)
    text = result if isinstance(result, str) else detail or (f"{count} → {after} nodes")
    if before == _fingerprint(draft.graph):
        text = "nothing to change"
    draft.changes.append(Change(edit=name, detail=text, nodes_before=count, nodes_after=after))


def _fingerprint(graph: ir.Model) -> str:
    """Return the structure of a graph as text: nodes, names, types; weights by their shapes."""
    ends = [f"{value.name} {value.dtype} {value.shape}" for value in (*graph.graph.inputs, *graph.graph.outputs)]
    nodes = [
        f"{node.name} {node.op_type} {[value and value.name for value in node.inputs]} "
        f"{[value.name for value in node.outputs]}"
        for node in ir.traversal.RecursiveGraphIterator(graph.graph)
    ]
    notes = [str(graph.doc_string), str(graph.producer_name), str(dict(graph.metadata_props)), str(graph.graph.name)]
    return "\n".join([*ends, *nodes, *notes, str(dict(graph.opset_imports)), *map(str, graph.graph.initializers)])


def _cut(draft: _Draft, path: Path, inputs: Sequence[str], outputs: Sequence[str], store: Store) -> None:
    if not inputs and not outputs:
        return
    for option, names in (("--cut-inputs", inputs), ("--cut-outputs", outputs)):
        repeated = [name for name in names if list(names).count(name) > 1]
        if repeated:
            raise UsageError(f"{option} names {repeated[0]!r} twice.")
    both = set(inputs).intersection(outputs)
    if both:
        raise UsageError(f"{both.pop()!r} is in --cut-inputs and in --cut-outputs.")
    view = View(cut_inputs=tuple(inputs), cut_outputs=tuple(outputs))
    seen = open_model(ModelRequest(name=str(path), options=view.options()), store, SILENT)
    draft.view = view
    begin = [spec.name for spec in seen.inputs]
    end = list(outputs) or [str(value.name) for value in draft.graph.graph.outputs]
    detail = f"from {', '.join(begin)} to {', '.join(end)}"
    _edit(draft, "cut", True, lambda graph: onnx_edits.cut(graph, begin, end), detail)


def _batch(draft: _Draft, batch: int | str | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Open or fix the batch; ``shapes`` are those at which the inputs of the original run."""
    if batch is None:
        return

    def change(graph: ir.Model) -> str:
        block = fixed_batch(graph)
        text = ""
        if block is not None and batch != block:
            opened = open_batch(graph, draft.folder, shapes)
            draft.stuck = opened.stuck
            draft.view = dataclasses.replace(draft.view, block=block)
            listed = ", ".join(opened.nodes[:5]) + (" …" if len(opened.nodes) > 5 else "")
            text = f"{block} → dynamic; " + (f"changed for it: {listed}" if listed else "no constant was changed")
            if opened.stuck:
                text += f"; stopped at {opened.stuck.node} ({opened.stuck.operator}): {opened.reason}"
        if isinstance(batch, int) and batch != block:
            set_batch(graph, batch)
            text = f"{block or 'dynamic'} → {batch}" + text.partition("dynamic")[2]
        return text

    _edit(draft, "batch", True, change)


def _opset_edit(draft: _Draft, opset: int | None) -> None:
    if opset is not None:
        before = _opset(draft.graph)
        _edit(draft, "opset", True, lambda graph: onnx_edits.change_opset(graph, opset), f"{before} → {opset}")


def _rename(draft: _Draft, names: Mapping[str, str]) -> None:
    if not names:
        return
    detail = ", ".join(f"{old} → {new}" for old, new in names.items())
    _edit(draft, "rename", True, lambda graph: onnx_edits.rename(graph, names), detail)
    draft.view = dataclasses.replace(draft.view, rename=dict(names))


def _fp16_io(draft: _Draft, wanted: bool) -> None:
    def change(graph: ir.Model) -> str:
        count = onnx_edits.half_ends(graph)
        draft.view = dataclasses.replace(draft.view, fp16_io=count > 0)
        return f"{count} inputs and outputs"

    _edit(draft, "fp16_io", wanted, change)


def _prove(model: Model, path: Path, candidate: IsolatedRunner, **options: Any) -> ParityReport:
    """Check the file; one that the runtime refuses has failed."""
    try:
        onnx_file.input_output_specs(path)
        return prove(model, path, candidate, seed=0, **options)
    except BackendError as exc:
        if candidate.dead:
            raise
        return ParityReport(verdict="fail", reasons=(exc.message,), precision=options["precision"], seed=0)


def _locate(model: Model, path: Path, precision: str, block: int) -> Location | None:
    """Find the first tensor that differs; None if the graph cannot be run node by node."""
    try:
        return locate_by_name(model, path) if block else locate(model, path, precision=precision, seed=0)
    except DeployError:
        return None


def _manifest(
    draft: _Draft,
    model: Model,
    source: Artifact | None,
    path: Path,
    slug: str,
    precision: str,
    parity: ParityReport,
    location: Location | None,
) -> Manifest:
    data = path.with_name(f"{path.name}.data")
    inputs, outputs = onnx_file.input_output_specs(path)
    before = source.manifest if source else None
    ranges: Sequence[SizeRange] = parity.ranges
    inputs = tuple(
        dataclasses.replace(spec, ranges=tuple(item for item in ranges if item.dim in spec.symbols)) for spec in inputs
    )
    keeps_inputs = before is not None and not draft.view.cut_inputs
    options = {
        "edits": [asdict(change) for change in draft.changes],
        "opset": _opset(draft.graph),
        "sizes": dict(model.sizes),
    }
    return Manifest(
        model=model.name,
        slug=slug,
        format="onnx",
        precision=precision,
        files=tuple(Payload.of(item) for item in (path, data) if item.exists()),
        inputs=inputs,
        outputs=outputs,
        weights=before.weights if before else model.weights,
        preprocessing=before.preprocessing if before and keeps_inputs else None,
        labels=before.labels if before else (),
        task=before.task if before else None,
        postprocessing=before.postprocessing if before else None,
        reference=model.reference,
        options=options | ({"location": asdict(location)} if location else {}),
        parent=before.digest if before else sha256(draft.folder / model.name),
        parity=parity.to_dict(),
    )
