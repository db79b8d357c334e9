"""Terminal lines of a plan of precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.precision.plan import PrecisionPlan, recorded_plan
from deploy.terminal.console import escape

SHOWN = 8
"""Number of nodes, and of blocks, that are named."""


def plan_rows(plan: PrecisionPlan | None) -> list[tuple[str, str]]:
    """Return a plan as pairs of names and values for `deploy.terminal.console.rows`."""
    if plan is None:
        return []
    pairs = [("precision", escape(plan.summary()))]
    lines = list(plan.block_lines())
    pairs += [("", escape(line)) for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        pairs.append(("", f"… and {len(lines) - SHOWN} more blocks, all in .precision.json"))
    pairs += [("", escape(item.text())) for item in plan.kept[:SHOWN]]
    if len(plan.kept) > SHOWN:
        pairs.append(("", f"… and {len(plan.kept) - SHOWN} more nodes, all in .precision.json"))
    return pairs


def recorded_rows(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the plan that a manifest records, in the same way; nothing if it is damaged."""
    return plan_rows(recorded_plan(options))
