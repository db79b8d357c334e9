"""Terminal output of ``deploy quantize``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from deploy.core.artifact import UNPROVEN
from deploy.support.formatting import size
from deploy.terminal.console import STYLE, console, escape, preprocessing_line, rows, weights_line

if TYPE_CHECKING:
    from deploy.quantization.evidence import Evidence
    from deploy.quantization.quantize import QuantizeReport

LAYERS_SHOWN = 10

_ANSWERS = {"top-1": "same top-1 on", "decision": "same decision on", "mask": "overlap of the values above 0.5:"}
"""What the share of equal answers is of."""

_CPUS = {"avx2": ", for CPUs without VNNI: weights of seven bits", "vnni": ", for CPUs with VNNI"}


def show_quantized(report: QuantizeReport, details: bool) -> None:
    """Print the summary of a quantization; with ``details`` also the layers with the most noise."""
    manifest = report.artifact.manifest
    data = report.data
    overlap = "disjoint from the calibration samples" if data.apart else "also used for calibration"
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(sum(item.bytes for item in manifest.files))),
        ("model", escape(manifest.model)),
        ("trained", weights_line(manifest.weights)),
        ("target", escape(f"{manifest.target}{_CPUS.get(str(manifest.options.get('cpu')), '')}")),
        ("calibration", _samples(report)),
        ("tuning", _tuning(report)),
        ("training", _training(report)),
        ("preprocessing", preprocessing_line(manifest.preprocessing)),
        ("evaluated on", f"{data.evidence.count} samples {overlap}, run by {escape(report.evidence.runtime)}"),
        *_evidence(report.evidence),
        ("verdict", f"[{STYLE.get(report.verdict, 'bold')}]{report.verdict}[/]{_why(report)}"),
        ("to mend it", escape(report.mend or "")),
        ("float file", report.float_verdict if report.float_verdict == UNPROVEN else ""),
    ]
    if report.plan is not None and report.plan.steps:
        names = [escape(step.layer) for step in report.plan.steps]
        pairs.append(("kept in float", f"{len(names)} layers: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"))
    console().print(rows(pair for pair in pairs if pair[1]))
    if details:
        title = "layers with the most noise (noise of earlier layers included)"
        table = Table(title=title, title_justify="left", box=None)
        for name in ("layer", "operator", "tensor"):
            table.add_column(name, overflow="fold")
        table.add_column("SQNR", justify="right")
        for item in report.worst[:LAYERS_SHOWN]:
            table.add_row(escape(item.label), item.operator, escape(item.tensor), _decibels(item.sqnr_db))
        console().print(table)


def _samples(report: QuantizeReport) -> str:
    table, name = report.table, escape(str(report.data.calibration.summary["name"]))
    reused = "; ranges reused from an earlier run" if report.reused else ""
    if report.artifact.manifest.precision == "fp8":
        return f"{table.samples} samples of {name}, largest values{reused}"
    moved = "" if table.moved is None else f"; ranges changed by {table.moved:.1%} in the last quarter of the samples"
    return f"{table.samples} samples of {name}, {table.key['method']}{moved}{reused}"


def _tuning(report: QuantizeReport) -> str:
    scaled = [f"{method} of {len(tensors)} tensors" for method, tensors in report.scaled.items()]
    tried = [
        f"{item.method}: {_sqnr(item.before_db)} to {_sqnr(item.after_db)} on calibration samples, "
        f"{f'{item.layers} layers' if item.kept else 'not kept'}"
        for item in report.tried
    ]
    return "; ".join(scaled + tried)


def _training(report: QuantizeReport) -> str:
    tuned = report.tuned
    if tuned is None:
        return ""
    best = tuned.losses.index(min(tuned.losses))
    kept = f"loss {tuned.losses[0]:.3g} to {tuned.losses[best]:.3g}, epoch {best}" if best else "no epoch was better"
    return (
        f"{tuned.options.epochs} epochs over {tuned.samples} samples, {kept}; the file against the module that was "
        f"trained: {_decibels(tuned.module_db)}"
    )


def _evidence(evidence: Evidence) -> list[tuple[str, str]]:
    pairs = []
    for item in evidence.outputs:
        sqnr = _sqnr(item.sqnr_db)
        agrees = "" if item.agreement is None else f", {_ANSWERS[str(item.agreement_of)]} {item.agreement:.1%}"
        broken = f", [bold red]{item.not_finite} samples with NaN or infinity[/]" if item.not_finite else ""
        pairs.append((f"{escape(item.output)}", f"SQNR {sqnr}, cosine {item.cosine:.5f}{agrees}{broken}"))
    from deploy.evaluation.accuracy import AccuracyComparison

    accuracy, reference, comparison = evidence.accuracy, evidence.float_accuracy, evidence.comparison
    if accuracy and reference and comparison:
        low, high = (100 * end for end in accuracy.interval)
        more = ""
        if isinstance(comparison, AccuracyComparison):
            more = f"; mean confidence {comparison.confidence_shift:+.4f}"
        text = f"{accuracy.value:.2%} ({low:.1f} to {high:.1f} %), float {reference.value:.2%}"
        pairs.append((evidence.metric, f"{text}: {escape(comparison.verdict)}{more}"))
    return pairs


def _sqnr(value: float | None) -> str:
    return "undefined: the output is constant" if value is None else _decibels(value)


def _decibels(value: float) -> str:
    return "identical" if value == math.inf else f"{value:.1f} dB"


def _why(report: QuantizeReport) -> str:
    if report.reasons:
        return ": " + escape("; ".join(report.reasons))
    return ": no --max-drop or --min-sqnr given" if report.verdict == "measured" else ""
