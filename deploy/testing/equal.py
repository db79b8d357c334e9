"""The assertion that an ONNX file computes what a model computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.core.artifact import Artifact
    from deploy.exporting.check import CheckReport
    from deploy.exporting.samples import ProbeSamples
    from deploy.models.in_memory import ExampleInputs, ModelLike
    from deploy.parity.probes import Level

MOST_REASONS = 8


def assert_equal_to_model(
    onnx: str | Path | Artifact,
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    *,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    backend: str = "onnxruntime",
) -> CheckReport:
    """Assert that an ONNX file computes what a model computes, by the parity check of ``deploy check``.

    Args:
        onnx: the file, made by any exporter, or an artifact.
        model: a module in memory, a name, a path or a request.
        example_inputs: of a module: example tensors or texts of ``--input``, see `deploy.ExampleInputs`; may be left
            out if the file has a manifest that records them.
        samples: real samples, probed in addition.
        probes: how many probes are run: ``quick``, ``standard`` or ``thorough``; or ``data``: only the samples.
        min_coverage: coverage in percent below which the assertion fails.
        accept_unreached: accept branches of a traced or foreign file that no probe took.
        backend: the backend that runs the file.

    Returns:
        The report of the check, whose verdict is ``pass``.

    Raises:
        AssertionError: the verdict is not ``pass``, or the file does not run; the message has the reasons.
        DeployError: the file or the model cannot be read.
    """
    from deploy.core.errors import BackendError
    from deploy.exporting.check import check

    try:
        report = check(
            model,
            inputs=example_inputs,
            onnx=onnx,
            samples=samples,
            probes=probes,
            min_coverage=min_coverage,
            accept_unreached=accept_unreached,
            backend=backend,
        )
    except BackendError as exc:
        raise AssertionError(f"{onnx} does not run: {exc.message}") from exc
    if report.verdict != "pass":
        raise AssertionError(
            verdict_text(
                f"{report.path} is not shown equal to {report.model.name}", report.verdict, report.parity.reasons
            )
        )
    return report


def verdict_text(what: str, verdict: str, reasons: tuple[str, ...]) -> str:
    """Return a verdict other than ``pass`` with its reasons, a line each."""
    lines = [f"{what}: the parity verdict is {verdict}", *(f"  {reason}" for reason in reasons[:MOST_REASONS])]
    if len(reasons) > MOST_REASONS:
        lines.append(f"  and {len(reasons) - MOST_REASONS} more")
    return "\n".join(lines)
