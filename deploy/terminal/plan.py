"""Terminal lines of a plan of precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.precision.plan import REASONS, PrecisionPlan
from deploy.terminal.console import escape

SHOWN = 8
"""Number of nodes that are named."""


def plan_rows(plan: PrecisionPlan | None) -> list[tuple[str, str]]:
    """Return a plan as pairs of names and values for `deploy.terminal.console.rows`."""
    if plan is None:
        return []
    pairs = [("precision", escape(plan.summary()))]
    for item in plan.kept[:SHOWN]:
        where = f" in {item.module}" if item.module else ""
        detail = f": {item.detail}" if item.detail else ""
        pairs.append(("", escape(f"{item.operator} {item.name or item.node}{where}, {REASONS[item.reason]}{detail}")))
    if len(plan.kept) > SHOWN:
        pairs.append(("", f"… and {len(plan.kept) - SHOWN} more, all in .precision.json"))
    return pairs


def recorded_rows(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the plan that a manifest records, in the same way; nothing if it is damaged."""
    try:
        return plan_rows(PrecisionPlan.from_dict(options["precision_plan"])) if "precision_plan" in options else []
    except ValueError:
        return []
