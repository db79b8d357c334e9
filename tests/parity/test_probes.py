"""Kinds of probes, each in calls of its own; samples that many calls share; refusals of the model."""

from collections.abc import Callable

import numpy as np
import pytest

from deploy.core.errors import BackendError, UsageError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.compare import compare
from deploy.parity.kinds import MASKS, Domain
from deploy.parity.probes import Probe, check_level, make_probes
from deploy.parity.verdict import ParityReport

SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 6, 6))
WEIGHT = np.random.default_rng(1).standard_normal((108, 5))

Change = Callable[[Fetches, Feeds], Fetches]
Model = Callable[[np.ndarray], np.ndarray]


def plain(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1) @ WEIGHT.astype(x.dtype)


def unchanged(out: Fetches, feeds: Feeds) -> Fetches:
    return out


class Net(Runner):
    """A model in one precision, then a change made by the test; counts the samples that it ran."""

    def __init__(self, dtype: type, model: Model = plain, change: Change = unchanged) -> None:
        self.inputs, self.outputs = (SPEC,), ()
        self.dtype, self.model, self.change = dtype, model, change
        self.samples = 0
        self.pending: Feeds = {}

    def run(self, feeds: Feeds) -> Fetches:
        self.samples += len(feeds["x"])
        return self.change({"y": self.model(feeds["x"].astype(self.dtype))}, feeds)

    def submit(self, feeds: Feeds) -> None:
        self.pending = feeds

    def result(self) -> Fetches:
        return self.run(self.pending)


def judge(change: Change = unchanged, model: Model = plain, probes: list[Probe] | None = None) -> ParityReport:
    probes = make_probes([SPEC], {"batch": 2}, fresh=7) if probes is None else probes
    return compare(Net(np.float64, model), Net(np.float32, model), Net(np.float32, model, change), probes)


def _where(condition: Callable[[np.ndarray], bool], factor: float = 1.5) -> Change:
    """Make a file that is wrong in calls whose whole input meets a condition."""
    return lambda out, feeds: {"y": out["y"] * np.float32(factor)} if condition(feeds["x"]) else out


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: x.min() >= 0,
        lambda x: x.min() >= 0 and len(x) == 1,
        lambda x: x.max() <= 0,
        lambda x: 6 < x.max() < 20,
        lambda x: abs(x).max() < 0.1 and x.any(),
        lambda x: x.std() == 0 and bool(x.any()),
        lambda x: x.mean() < -3,
        lambda x: np.abs(np.diff(x, axis=-1)).max() < 0.9 and x.std() > 0.1,  # a smooth picture
        *[lambda x, size=size: len(x) == size for size in (1, 2, 3, 4, 5, 8, 13)],
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_for_one_kind_of_call_fails(condition: Callable[[np.ndarray], bool]) -> None:
    assert judge(_where(condition)).verdict == "fail"


def test_a_file_that_returns_nan_for_a_call_of_zeros_fails() -> None:
    assert judge(_where(lambda x: not x.any(), np.nan)).verdict == "fail"


def test_every_kind_is_a_call_of_its_own_with_one_sample() -> None:
    alone = [probe for probe in make_probes([SPEC], {}) if probe.samples == 1]
    groups = {probe.groups[0] for probe in alone}
    assert groups == {"unit", "constant", "tiny", "shifted", "large"}
    values = [probe.feeds["x"] for probe in alone]
    assert any(not value.any() for value in values)
    assert any(value.min() > 4 for value in values) and any(value.max() < -4 for value in values)
    both = [
        probe.groups for probe in make_probes([SPEC], {}) if (probe.samples or 0) > 3 and probe.feeds["x"].min() >= 0
    ]
    assert both, "batches of positive samples only"


def test_raw_pixels_are_probed_where_the_model_takes_them() -> None:
    domains = {"x": Domain(role="floats", pixels=True)}
    probes = make_probes([SPEC], {}, domains=domains)
    assert "bytes" in {group for probe in probes for group in probe.groups}
    assert max(probe.feeds["x"].max() for probe in probes) > 200
    below = [probe for probe in probes if probe.feeds["x"].min() < 0]
    assert below and all("negative" in probe.label for probe in below if probe.samples == 1)
    image = TensorSpec(name="image", dtype="uint8", shape=("batch", 8, 8, 3))
    values = np.concatenate([probe.feeds["image"].ravel() for probe in make_probes([image], {})])
    assert values.dtype == np.uint8 and values.min() < 5 and values.max() > 250


def test_the_float64_work_is_shared() -> None:
    reference, own, candidate = Net(np.float64), Net(np.float32), Net(np.float32)
    assert compare(reference, own, candidate, make_probes([SPEC], {})).verdict == "pass"
    assert reference.samples <= 18 and own.samples <= 18 and candidate.samples >= 45


@pytest.mark.parametrize(
    "model",
    [
        lambda x: plain(x - x.mean(0)),
        lambda x: plain(np.cumsum(x, 0)),
        lambda x: plain(np.cumsum(x[::-1], 0)[::-1]),
        lambda x: plain(x - x[:1]),
        lambda x: plain(x) + 1e-5 * plain(x).sum(0, keepdims=True),
        lambda x: plain(x) + (0.1 * np.abs(plain(x)).max() if len(x) > 4 else 0),  # found only where it matters
    ],
)
def test_a_model_that_mixes_samples_is_run_call_by_call(model: Model) -> None:
    report = judge(model=model)
    assert report.verdict != "fail", report.reasons
    assert judge(lambda out, feeds: {"y": out["y"] * np.float32(1.001)}, model).verdict == "fail"


def test_a_batch_of_one_that_the_model_refuses_is_no_fault() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        if len(x) == 1:
            raise BackendError("expected more than 1 value per channel")
        return plain(x)

    report = judge(model=model)
    assert report.verdict == "pass" and report.refused == {"batch": (1,)}
    assert 1 not in report.dynamic["batch"]


def test_a_model_that_cannot_be_run_at_all_is_an_error() -> None:
    def model(x: np.ndarray) -> np.ndarray:
        raise BackendError("no")

    with pytest.raises(BackendError):
        judge(model=model)


def test_the_check_ends_early_where_the_file_fails_in_any_case() -> None:
    report = judge(lambda out, feeds: {"y": -out["y"]})
    assert report.verdict == "fail" and report.probes < len(make_probes([SPEC], {}))


def test_one_sample_comes_from_a_seed_of_its_own() -> None:
    def values(fresh: int) -> list[np.ndarray]:
        return [probe.feeds["x"] for probe in make_probes([SPEC], {}, fresh=fresh) if probe.samples == 1]

    first, same, other = values(1), values(1), values(2)
    assert all(np.array_equal(one, two) for one, two in zip(first, same, strict=True))
    assert sum(not np.array_equal(one, two) for one, two in zip(first, other, strict=True)) == 1


def test_levels() -> None:
    counts = [
        sum(len(probe.groups) for probe in make_probes([SPEC], {}, level=level))
        for level in ("quick", "standard", "thorough")
    ]
    assert counts == sorted(set(counts))
    with pytest.raises(UsageError, match="lots"):
        check_level("lots", True)
    with pytest.raises(UsageError, match="--probes data"):
        check_level("data", False)


def test_real_samples_replace_the_seeded_ones() -> None:
    samples = {"x": np.random.default_rng(0).normal(7, 1, (9, 3, 6, 6)).astype(np.float32)}
    probes = make_probes([SPEC], {}, samples=samples, level="data")
    assert all(probe.feeds["x"].min() > 1 for probe in probes)
    assert {probe.samples for probe in probes} >= {1, 2, 3, 5, 8}
    assert {group for probe in probes for group in probe.groups} == {"real"}
    assert judge(probes=probes).verdict == "pass"
    assert judge(_where(lambda x: len(x) == 5), probes=probes).verdict == "fail"


def test_tokens_reach_both_ends_of_their_range_and_repeat() -> None:
    tokens = TensorSpec(name="ids", dtype="int64", shape=("batch", 12), bounds=(0, 1000))
    rows = [row for probe in make_probes([tokens], {}) for row in probe.feeds["ids"]]
    values = np.concatenate(rows)
    assert values.min() == 0 and values.max() == 999 and len(np.unique(values)) > 50
    assert any(len(np.unique(row)) == 1 for row in rows)
    assert any((np.diff(row) == 1).sum() >= 10 for row in rows)


@pytest.mark.parametrize("dtype", ["bool", "int64"])
def test_masks_are_contiguous_full_and_empty(dtype: str) -> None:
    mask = TensorSpec(name="attention_mask", dtype=dtype, shape=("batch", 10))
    rows = [row.astype(bool) for probe in make_probes([mask], {}) for row in probe.feeds["attention_mask"]]
    edges = {(int(row[0]), int(row[-1]), int(np.abs(np.diff(row.astype(int))).sum())) for row in rows}
    assert {(1, 1, 0), (0, 0, 0), (1, 0, 1), (0, 1, 1)} <= edges
    assert any(row.sum() == 1 for row in rows)
    only = Domain(role="mask", patterns=tuple(item for item in MASKS if item != "none"))
    probes = make_probes([mask], {}, domains={"attention_mask": only})
    assert all(row.any() for probe in probes for row in probe.feeds["attention_mask"] if probe.samples)


def test_lengths_run_from_one_to_the_maximum_in_descending_order() -> None:
    spec = TensorSpec(name="lengths", dtype="int64", shape=("batch",))
    probes = make_probes([spec], {}, domains={"lengths": Domain(role="length", high=7)})
    values = np.concatenate([probe.feeds["lengths"] for probe in probes])
    assert values.min() == 1 and values.max() == 7


@pytest.mark.parametrize("seed", range(12))
def test_samples_that_are_sorted_and_not_put_back_fail(seed: int) -> None:
    """At 2 samples, and often at 3 and 5, an order is its own inverse."""

    def sorted_sums(x: np.ndarray) -> np.ndarray:
        order = x[:, 0, 0, 0].argsort(kind="stable")
        return np.cumsum(plain(x[order]), 0)[order.argsort()]

    def not_put_back(out: Fetches, feeds: Feeds) -> Fetches:
        order = feeds["x"][:, 0, 0, 0].argsort(kind="stable")
        return {"y": out["y"][order][order]}

    probes = make_probes([SPEC], {"batch": 2}, seed=seed, fresh=seed + 100)
    assert judge(model=sorted_sums, probes=probes).verdict != "fail"
    assert judge(not_put_back, sorted_sums, probes).verdict == "fail"
