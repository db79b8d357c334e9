"""Output of ``deploy package``."""

from __future__ import annotations

from deploy.core.artifact import UNPROVEN
from deploy.core.text import visible
from deploy.packaging.package import PackagedModel, PackageReport
from deploy.terminal import results


def show_package(report: PackageReport) -> None:
    """Print the models of a package and its folder."""
    for model in report.models:
        unproven = f"{UNPROVEN}; " if model.parity == UNPROVEN else ""
        results.echo(visible(f"{model.name}: {unproven}{_summary(model)}"))
    results.echo(visible(f"packaged for {report.server}: {report.folder}"))


def _summary(model: PackagedModel) -> str:
    check = model.proof
    if check is None:
        return f"labels not compared ({model.without})"
    text = f"{check.same_first_label} of {check.pictures} test images have the same label as in {check.reference}"
    if check.ties:
        text += f", {check.ties} of the others are ties"
    if check.equal_inputs is not None:
        text += f"; {check.equal_inputs} of {check.pictures} preprocessed identically to the bit"
    return text
