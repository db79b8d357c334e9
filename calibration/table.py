"""The calibration table: the range of every activation, and what it was found from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.collecting import Observation, Observations
from calibration.grid import Grid, Range
from deploy.core import registry
from deploy.core.errors import ArtifactError, DataError

SCHEMA = 1
STABLE = 0.05
"""Share of its range by which a tensor may still move in the last quarter of the data."""

_GRIDS = (Grid(symmetric=False), Grid(symmetric=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRange:
    """What eight bits shall cover of one tensor.

    Attributes:
        asymmetric, symmetric: the range on either grid (`Grid`).
        low, high: smallest and largest value seen.
        moved: share of the asymmetric range by which it changed in the last quarter of the data; None if untold.
        channels: of a tensor (N, C, H, W), else 0.
        dead: channels that never changed.
    """

    asymmetric: Range
    symmetric: Range
    low: float
    high: float
    moved: float | None
    channels: int
    dead: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTable:
    """Ranges by tensor, in execution order.

    Attributes:
        key: what they depend on, field by field; a table is used again only where all are equal.
        tensors: those that were observed.
        shared: tensors that have the range of another.
        samples: how many were seen.
    """

    key: Mapping[str, Any]
    tensors: Mapping[str, TensorRange]
    shared: Mapping[str, str]
    samples: int

    @classmethod
    def of(cls, seen: Observations, method: str, key: Mapping[str, Any]) -> CalibrationTable:
        """Choose every range by one statistic.

        Args:
            seen: the histograms.
            method: ``minmax``, ``percentile``, ``entropy``, ``mse``, or a third party's.
            key: what the ranges depend on.

        Raises:
            UnknownNameError: no such method.
            DataError: every tensor was zero throughout.
        """
        choose = registry.load("calibration.statistics", method, "calibration method").choose
        tensors = {name: _range(item, choose) for name, item in seen.tensors.items()}
        if all(item.low == item.high == 0.0 for item in tensors.values()):
            raise DataError("every activation was zero on every sample: there is nothing to calibrate.")
        return cls(key=dict(key), tensors=tensors, shared=seen.shared, samples=seen.samples)

    def ranges(self, grid: Grid) -> dict[str, Range]:
        """The range of every float activation on a grid."""
        found: dict[str, Range] = {name: getattr(item, grid.name) for name, item in self.tensors.items()}
        return found | {name: found[root] for name, root in self.shared.items()}

    @property
    def moved(self) -> float | None:
        """By how much all but one in twenty of the tensors at most moved in the last quarter of the data."""
        every = [item.moved for item in self.tensors.values() if item.moved is not None]
        return float(np.percentile(every, 95)) if every else None

    @property
    def dead(self) -> dict[str, tuple[int, int]]:
        """Tensors with channels that never changed: how many, and of how many."""
        return {name: (item.dead, item.channels) for name, item in self.tensors.items() if item.dead}

    def changed(self, key: Mapping[str, Any]) -> list[str]:
        """The fields of ``key`` that differ from the table's."""
        return [name for name in {**self.key, **key} if self.key.get(name) != key.get(name)]

    def to_json(self) -> str:
        """The table's text."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> CalibrationTable:
        """Read a table.

        Raises:
            ArtifactError: it is not one, or of another schema.
        """
        try:
            data = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise ArtifactError(f"{path}: another schema than this version's ({SCHEMA}).")
            tensors = {name: _revive(item) for name, item in data.pop("tensors").items()}
            return cls(tensors=tensors, **data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise ArtifactError(f"{path}: not a calibration table: {exc}.") from exc


def _range(item: Observation, choose: Any) -> TensorRange:
    asymmetric, symmetric = (choose(item.all, grid) for grid in _GRIDS)
    return TensorRange(
        asymmetric=asymmetric,
        symmetric=symmetric,
        low=item.all.low,
        high=item.all.high,
        moved=None if item.early is None else _moved(choose(item.early, _GRIDS[0]), asymmetric),
        channels=0 if item.channels is None else item.channels.shape[1],
        dead=item.dead,
    )


def _moved(early: Range, late: Range) -> float:
    width = late[1] - late[0]
    return (abs(late[0] - early[0]) + abs(late[1] - early[1])) / width if width else 0.0


def _revive(item: dict[str, Any]) -> TensorRange:
    spans = {name: tuple(map(float, item[name])) for name in ("asymmetric", "symmetric")}
    found = TensorRange(**{**item, **spans})
    if not all(len(span) == 2 and np.isfinite(span).all() and span[0] <= 0.0 <= span[1] for span in spans.values()):
        raise ValueError("a range is not one")
    return found
