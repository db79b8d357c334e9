"""Options of half precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import UsageError
from deploy.core.model import HALVES
from deploy.precision.plan import MIN_SQNR, Half, PrecisionPlan

MIXED = "mixed"
"""The precision ``fp16`` held to a signal-to-noise ratio."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfOptions:
    """How a graph is put in half precision.

    Attributes:
        precision: ``fp16`` or ``bf16``.
        min_sqnr: signal over noise in dB that the file is held to against float64; by default the file may have four
            times the noise of PyTorch's own run in half precision, or 40 dB where that run is of no use.
        keep_float: patterns for names, modules or operators of nodes that stay in float32.
        only_half: such patterns for nodes that do not.
        plan: a plan to use in place of a search, as JSON.
    """

    precision: Half = "fp16"
    min_sqnr: float | None = None
    keep_float: tuple[str, ...] = ()
    only_half: tuple[str, ...] = ()
    plan: Path | None = None

    def recorded(self, plan: PrecisionPlan) -> dict[str, Any]:
        """Return what the manifest of a file with this plan records in its options."""
        bound = {} if self.min_sqnr is None else {"min_sqnr": self.min_sqnr}
        return {"precision_plan": plan.to_dict(), **bound}


def half_options(
    precision: str,
    min_sqnr: float | None = None,
    keep_float: Sequence[str] = (),
    only_half: Sequence[str] = (),
    plan: str | Path | None = None,
    *,
    needs: str = "--precision fp16",
) -> HalfOptions | None:
    """Return the options of a precision; None for one that is not half.

    ``needs`` is what the other options have an effect with, for the error.

    Raises:
        UsageError: an option has no effect in this precision or beside another.
    """
    given = {"--min-sqnr": min_sqnr, "--keep-float": keep_float, "--only-half": only_half, "--plan": plan}
    used = [name for name, value in given.items() if value not in (None, ())]
    if precision not in (*HALVES, MIXED):
        if used:
            raise UsageError(f"{used[0]} has no effect in {precision}.", f"add {needs}")
        return None
    if plan is not None and (keep_float or only_half):
        raise UsageError("--plan names the nodes to keep; --keep-float and --only-half have no effect with it.")
    if precision == MIXED and min_sqnr is None:
        min_sqnr = MIN_SQNR
    return HalfOptions(
        precision="bf16" if precision == "bf16" else "fp16",
        min_sqnr=min_sqnr,
        keep_float=tuple(keep_float),
        only_half=tuple(only_half),
        plan=None if plan is None else Path(plan),
    )
