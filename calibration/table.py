"""The calibration table: the range of every activation, and what the ranges depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram
from calibration.observations import Observation, Observations
from deploy.core import registry
from deploy.core.errors import ArtifactError, DataError
from deploy.core.plain import from_plain, to_plain

SCHEMA = 2
STABLE = 0.05
"""Ranges are stable if 95 % of the tensors change by less than this share in the last quarter of the data."""

STATISTICS = "calibration.statistics"
Statistic = Callable[[Histogram, Grid], Range]
"""The ``choose`` of a plug-in of `STATISTICS`: from the histogram of a tensor to its INT8 range."""

_ASYMMETRIC, _SYMMETRIC = Grid(symmetric=False), Grid(symmetric=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRange:
    """The INT8 ranges of one tensor.

    Attributes:
        moved: change of the asymmetric range in the last quarter of the data, as a share of its width; None if unknown.
        channels: number of channels of a tensor (N, C, H, W), else 0.
    """

    asymmetric: Range
    symmetric: Range
    low: float
    high: float
    moved: float | None
    channels: int
    dead: int

    @classmethod
    def of(cls, seen: Observation, choose: Statistic) -> TensorRange:
        """Choose the ranges of a tensor."""
        asymmetric = choose(seen.all, _ASYMMETRIC)
        return cls(
            asymmetric=asymmetric,
            symmetric=choose(seen.all, _SYMMETRIC),
            low=seen.all.low,
            high=seen.all.high,
            moved=None if seen.early is None else _change(choose(seen.early, _ASYMMETRIC), asymmetric),
            channels=0 if seen.channels is None else seen.channels.shape[1],
            dead=seen.dead,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelEnds:
    """The smallest and the largest value of each channel of a tensor (N, C, H, W)."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, seen: Observation) -> ChannelEnds:
        """Return those of an observed tensor."""
        low, high = np.asarray(seen.channels, np.float64).tolist()
        return cls(low=tuple(low), high=tuple(high))


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTable:
    """Ranges by tensor, in execution order.

    Attributes:
        key: what the ranges depend on; a stored table is used again only if every field is equal.
        channels: those of the tensors that depthwise convolutions read.
    """

    key: Mapping[str, Any]
    tensors: Mapping[str, TensorRange]
    shared: Mapping[str, str]
    samples: int
    channels: Mapping[str, ChannelEnds]

    @classmethod
    def of(cls, seen: Observations, method: str, key: Mapping[str, Any]) -> CalibrationTable:
        """Choose all ranges with one statistic: ``minmax``, ``percentile``, ``entropy``, ``mse`` or a third party's.

        Raises:
            DataError: every tensor was zero on every sample.
        """
        choose: Statistic = registry.load(STATISTICS, method, "calibration method").choose
        tensors = {name: TensorRange.of(item, choose) for name, item in seen.tensors.items()}
        if all(item.low == item.high == 0.0 for item in tensors.values()):
            raise DataError("every activation is zero on every calibration sample.")
        channels = {name: ChannelEnds.of(seen.tensors[name]) for name in seen.depthwise}
        return cls(key=dict(key), tensors=tensors, shared=seen.shared, samples=seen.samples, channels=channels)

    def ranges(self, grid: Grid) -> dict[str, Range]:
        """Return the range of every float activation on a grid."""
        return self._with_shared({name: getattr(item, grid.name) for name, item in self.tensors.items()})

    def largest(self) -> dict[str, Range]:
        """Return, for every float activation, the symmetric range of all values that were seen."""
        return self._with_shared({name: _SYMMETRIC.around(item.low, item.high) for name, item in self.tensors.items()})

    def _with_shared(self, ranges: dict[str, Range]) -> dict[str, Range]:
        return ranges | {name: ranges[root] for name, root in self.shared.items()}

    @property
    def moved(self) -> float | None:
        """The 95th percentile of `TensorRange.moved`; None if unknown."""
        shares = [item.moved for item in self.tensors.values() if item.moved is not None]
        return float(np.percentile(shares, 95)) if shares else None

    @property
    def dead(self) -> dict[str, tuple[int, int]]:
        """Tensors with constant channels: their number, and the number of all channels."""
        return {name: (item.dead, item.channels) for name, item in self.tensors.items() if item.dead}

    def changed(self, key: Mapping[str, Any]) -> list[str]:
        """Return the names of the fields in which ``key`` differs from the table's."""
        return [name for name in {**self.key, **key} if self.key.get(name) != key.get(name)]

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps({"schema": SCHEMA, **to_plain(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> CalibrationTable:
        """Read a table.

        Raises:
            ArtifactError: the text is not a calibration table, or has another schema version.
        """
        try:
            values = json.loads(text)
            if isinstance(values, dict) and values.get("schema") != SCHEMA:
                raise ArtifactError(f"{path}: schema {values.get('schema')} is not supported; expected {SCHEMA}.")
            table = from_plain(cls, values)
        except (ValueError, RecursionError) as exc:
            raise ArtifactError(f"{path}: not a calibration table: {exc}.") from exc
        for name, item in table.tensors.items():
            if not all(-math.inf < low <= 0.0 <= high < math.inf for low, high in (item.asymmetric, item.symmetric)):
                raise ArtifactError(f"{path}: tensor {name!r} has an invalid range.")
        for name, ends in table.channels.items():
            if len(ends.low) != len(ends.high) or not np.isfinite([*ends.low, *ends.high]).all():
                raise ArtifactError(f"{path}: tensor {name!r} has an invalid range of a channel.")
        return table


def _change(early: Range, late: Range) -> float:
    """Return the change of a range as a share of its final width."""
    width = late[1] - late[0]
    return (abs(late[0] - early[0]) + abs(late[1] - early[1])) / width if width else 0.0
