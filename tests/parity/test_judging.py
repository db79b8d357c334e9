"""What counts as equal: mixed scales, dtypes, values that are not finite, integers, constants and groups of probes."""

from collections.abc import Callable

import numpy as np
import pytest

from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.compare import compare
from deploy.parity.probes import Probe
from deploy.parity.verdict import ParityReport

RNG = np.random.default_rng(1)
WEIGHT = RNG.standard_normal((6, 10))
SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 6))
Change = Callable[[Fetches], Fetches]
DTYPES = {"fp32": np.float32, "fp16": np.float16}


class Formula(Runner):
    """A function of ``x @ W`` computed in a dtype, then changed by the test."""

    def __init__(self, formula: Callable[[np.ndarray], Fetches], dtype: type, change: Change = dict) -> None:
        self.inputs, self.outputs = (SPEC,), ()
        self.formula, self.dtype, self.change = formula, dtype, change
        self.pending: Feeds = {}

    def run(self, feeds: Feeds) -> Fetches:
        return self.change(self.formula(feeds["x"].astype(self.dtype) @ WEIGHT.astype(self.dtype)))

    def submit(self, feeds: Feeds) -> None:
        self.pending = feeds

    def result(self) -> Fetches:
        return self.run(self.pending)


def _probes(group: str = "unit", scale: float = 1.0, calls: int = 4, batch: int = 3) -> list[Probe]:
    rng = np.random.default_rng(7)
    return [
        Probe(
            label=f"{group} {call}",
            groups=(group,) * batch,
            sizes={"batch": batch},
            feeds={"x": (rng.standard_normal((batch, 6)) * scale).astype(np.float32)},
        )
        for call in range(calls)
    ]


def _judge(
    formula: Callable[[np.ndarray], Fetches],
    change: Change = dict,
    precision: str = "fp32",
    probes: list[Probe] | None = None,
) -> ParityReport:
    dtype = DTYPES[precision]
    runners = Formula(formula, np.float64), Formula(formula, dtype), Formula(formula, dtype, change)
    return compare(*runners, probes or _probes(), precision=precision)


def _head(values: np.ndarray) -> Fetches:
    """Four coordinates in pixels beside six scores in one tensor, for eight positions."""
    shift = (np.arange(8) / 8).astype(values.dtype)
    wide = values[:, :, None] + shift
    return {"y": np.concatenate([wide[:, :4] * 160 + 320, 1 / (1 + np.exp(-wide[:, 4:]))], 1).astype(values.dtype)}


def _scores(change: Callable[[np.ndarray], np.ndarray], axis: int = 1) -> Change:
    def changed(out: Fetches) -> Fetches:
        value = np.moveaxis(out["y"], axis, 1)
        value = np.concatenate([value[:, :4], change(value[:, 4:])], 1).astype(value.dtype)
        return {"y": np.moveaxis(value, 1, axis)}

    return changed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores[:, ::-1],
        lambda scores: 1 - scores,
        lambda scores: scores[:, [0, 1, 2, 3, 5, 4]],
        lambda scores: scores * 0,
    ],
)
def test_scores_beside_boxes_are_judged_on_their_own(
    change: Callable[[np.ndarray], np.ndarray], axis: int, precision: str
) -> None:
    def head(values: np.ndarray) -> Fetches:
        return {"y": np.moveaxis(_head(values)["y"], 1, axis)}

    right = _judge(head, precision=precision)
    assert right.verdict == "pass" and right.margin > 1.2
    wrong = _judge(head, _scores(change, axis), precision)
    assert wrong.verdict == "fail" and wrong.worst().channels


def test_scores_beside_boxes_in_a_vector() -> None:
    def head(values: np.ndarray) -> Fetches:
        return {"y": _head(values)["y"][..., 0]}

    assert _judge(head, precision="fp16").verdict == "pass"
    assert _judge(head, _scores(lambda scores: scores[:, ::-1]), "fp16").verdict == "fail"


def test_dtypes_and_ranks_are_those_of_the_model() -> None:
    def both(values: np.ndarray) -> Fetches:
        return {"y": values, "label": values.argmax(1)}

    def cast(name: str, kind: str) -> Change:
        return lambda out: {**out, name: out[name].astype(kind)}

    assert _judge(both).verdict == "pass"
    faults = (cast("y", "float64"), cast("label", "int32"), cast("y", "float16"), cast("label", "float32"))
    for change in (*faults, lambda out: {**out, "label": out["label"][:, None]}, cast("y", "str")):
        assert _judge(both, change).verdict == "fail"
    assert _judge(both, cast("y", "float32"), "fp16").verdict == "pass"  # an FP16 file keeps float32 outputs
    assert _judge(both, cast("y", "float64"), "fp16").verdict == "fail"


def test_values_that_are_not_finite_in_the_model_too_are_compared_by_position() -> None:
    def masked(values: np.ndarray) -> Fetches:
        values = values.copy()
        values[:, 2], values[:, 5], values[:, 7] = -np.inf, np.nan, np.finfo(values.dtype).min
        return {"y": values}

    def at(column: int, value: float) -> Change:
        def change(out: Fetches) -> Fetches:
            out["y"][:, column] = value
            return out

        return change

    assert _judge(masked).verdict == "pass"
    for column, value in ((2, 0.0), (2, np.inf), (5, 0.0), (3, -np.inf), (7, 0.0), (0, 0.0)):
        assert _judge(masked, at(column, value)).verdict == "fail", (column, value)


def test_integers_beyond_the_precision_of_floats_are_compared_exactly() -> None:
    def huge(values: np.ndarray) -> Fetches:
        return {"y": np.round(values.astype(np.float64)).astype(np.int64) * 8 + 2**60}

    assert _judge(huge).verdict == "pass"
    assert _judge(huge, lambda out: {"y": out["y"] + 1}).verdict == "fail"


def test_complex_numbers_are_compared_as_pairs() -> None:
    def turned(values: np.ndarray) -> Fetches:
        return {"y": values[:, :5] + 1j * values[:, 5:]}

    def pairs(out: Fetches) -> Fetches:
        return {"y": np.stack([out["y"].real, out["y"].imag], -1)}

    assert _judge(turned).verdict == _judge(turned, pairs).verdict == "pass"
    assert _judge(turned, lambda out: {"y": out["y"].conj()}).verdict == "fail"


def test_outputs_in_place_are_not_sorted() -> None:
    """Time comes first: the labels in reverse order are the same set of rows."""

    def tags(values: np.ndarray) -> Fetches:
        scores = np.stack([values * (step + 1) + np.arange(10) for step in range(7)]).astype(values.dtype)
        return {"label": scores.argmax(2)}

    assert _judge(tags).verdict == "pass"
    assert _judge(tags, lambda out: {"label": out["label"][::-1]}).verdict == "fail"


def test_elements_of_a_map_are_counted() -> None:
    def classes(values: np.ndarray) -> Fetches:
        wide = values[:, :, None] + np.sin(np.arange(900) * 1.3).astype(values.dtype) * values[:, ::-1, None]
        return {"map": wide.argmax(1)}

    def flipped(count: int) -> Change:
        def change(out: Fetches) -> Fetches:
            out["map"][0, :count] += 1
            return out

        return change

    assert _judge(classes).verdict == "pass"
    assert _judge(classes, flipped(1)).verdict == "pass"
    assert _judge(classes, flipped(100)).verdict == "fail"
    assert np.isfinite(_judge(classes).margin)


def test_an_answer_that_never_changes_is_not_a_proof() -> None:
    def label(values: np.ndarray) -> Fetches:
        return {"label": (values + 100 * (np.arange(10) == 3)).argmax(1)}

    report = _judge(label)
    assert report.verdict == "inconclusive" and report.reasons


def test_empty_and_scalar_outputs() -> None:
    assert _judge(lambda values: {"y": values, "none": values[:, :0], "one": values.mean()}).verdict == "pass"
    assert _judge(lambda values: {"none": values[:, :0]}).verdict == "inconclusive"


def test_zeros_are_judged_by_their_own_size_and_gross_errors_fail() -> None:
    """Normalization divides the rounding error of a constant: correct files are far apart there."""

    def biased(values: np.ndarray) -> Fetches:
        return {"y": values + values.dtype.type(1000.0) * (np.abs(values).max(1, keepdims=True) == 0)}

    def off(noise: float) -> Change:
        def change(out: Fetches) -> Fetches:
            zero = np.abs(out["y"]).min(1, keepdims=True) >= 999
            return {"y": np.where(zero, out["y"] + np.float32(noise), out["y"]).astype(np.float32)}

        return change

    probes = [*_probes(), *_probes("constant", 0.0, calls=1)]
    for noise, verdict in ((1e-3, "pass"), (100.0, "fail"), (np.nan, "fail")):
        assert _judge(biased, off(noise), probes=probes).verdict == verdict, noise


@pytest.mark.parametrize("group", ["tiny", "shifted", "bytes", "large", "another"])
def test_every_group_fails_a_file_that_is_wrong_there(group: str) -> None:
    probes = [*_probes(), *_probes(group, 1e-3 if group == "tiny" else 40.0)]

    def plain(values: np.ndarray) -> Fetches:
        return {"y": values + values.dtype.type(0.5)}

    def wrong(out: Fetches) -> Fetches:
        size = np.abs(out["y"] - np.float32(0.5)).max()
        return {"y": out["y"][:, ::-1].copy() if size < 0.1 or size > 20 else out["y"]}

    assert _judge(plain, probes=probes).verdict == "pass"
    assert _judge(plain, wrong, probes=probes).verdict == "fail"


@pytest.mark.parametrize("group", ["tiny", "constant"])
@pytest.mark.parametrize(("own", "verdict"), [(1e-6, "fail"), (1e-3, "pass")])
def test_where_rounding_is_amplified_chance_does_not_fail_a_file(group: str, own: float, verdict: str) -> None:
    """Few values make up most of the noise then, as a side of one box among thousands."""
    rng = np.random.default_rng(2)

    def amplifying(values: np.ndarray) -> Fetches:
        rounding = rng.standard_normal(values.shape) * own if values.dtype == np.float32 else 0.0
        return {"y": values + (rounding * (np.abs(values).max() < 0.1)).astype(values.dtype)}

    def off(out: Fetches) -> Fetches:
        return {"y": out["y"] + np.float32(0.1) * (np.abs(out["y"]).max() < 1)}

    probes = [*_probes(), *_probes(group, 1e-3)]
    assert _judge(amplifying, off, probes=probes).verdict == verdict


@pytest.mark.parametrize(("group", "verdict"), [("unit", "fail"), ("tiny", "pass"), ("constant", "pass")])
def test_rows_that_differ_are_limited_like_the_noise_of_their_probes(group: str, verdict: str) -> None:
    """A few of some hundred rows are missing."""

    def selected(values: np.ndarray) -> Fetches:
        return {"y": values[values[:, 0] > 0]}

    def without(out: Fetches) -> Fetches:
        rows = out["y"]
        return {"y": rows[1:] if len(rows) == length else rows}

    probes = [*_probes(batch=40), *_probes(group, 0.5, calls=40, batch=40)]
    lengths = [len(selected(probe.feeds["x"] @ WEIGHT)["y"]) for probe in probes]
    length = next(item for item in lengths[4:] if item not in lengths[:4] and 5 <= lengths.count(item) <= 20)
    assert _judge(selected, without, probes=probes).verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, "pass"), (2, "pass"), (20, "inconclusive"), (200, "inconclusive")])
def test_channels_that_rounding_decides_are_not_proven(count: int, verdict: str) -> None:
    """Logits of a network that amplifies rounding: of 200 channels, a number vary no more than PyTorch's own noise.

    Channels have several scales, so that they are judged in groups.
    """
    rng, index = np.random.default_rng(3), np.arange(200)
    scale = np.where(index < count, np.where(index % 2, 1e-4, 1e-2), np.where(index < 100, 1.0, 100.0))

    def logits(values: np.ndarray) -> Fetches:
        wide = np.tile(values, (1, 20)) * scale
        if values.dtype == np.float32:
            wide = wide + rng.standard_normal(wide.shape) * 0.2 * scale * (index < count)
        return {"y": wide.astype(values.dtype)}

    def wrong(out: Fetches) -> Fetches:
        return {"y": out["y"] * np.float32(1.001)}

    report = _judge(logits)
    assert report.verdict == verdict, report.reasons
    said = "\n".join((*report.reasons, *report.notes))
    assert (f"{count} of 200" in said) == (count > 0), said
    assert _judge(logits, wrong).verdict == ("fail" if count < 200 else verdict)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_scores_that_are_zero_but_for_rounding_do_not_hide_the_others(precision: str) -> None:
    """Of 84 channels of a detector, 30 are scores of classes that no probe shows, around 1e-8."""
    bias = np.where(np.arange(80) < 30, -18.0, 0.0)

    def head(values: np.ndarray) -> Fetches:
        wide = np.tile(values, (1, 9))
        gates = (wide[:, :80] + bias.astype(values.dtype)).astype(np.promote_types(values.dtype, np.float32))
        scores = 1 / (1 + np.exp(-gates))
        return {"y": np.concatenate([wide[:, 80:84] * 160 + 320, scores], 1).astype(values.dtype)}

    def rounded(out: Fetches) -> Fetches:
        """A runtime's sigmoid is a sum with 1."""
        scores = out["y"][:, 4:].astype(np.float32)
        step = np.float32(2.0**-24)
        scores = np.where(scores < 1e-3, np.rint(scores / step) * step, scores)
        return {"y": np.concatenate([out["y"][:, :4], scores.astype(out["y"].dtype)], 1)}

    def wrong(out: Fetches) -> Fetches:
        return {"y": np.concatenate([out["y"][:, :4], out["y"][:, 4:] + out["y"].dtype.type(2e-2)], 1)}

    dtype = DTYPES[precision]
    own = Formula(head, dtype, rounded)
    runners = Formula(head, np.float64), own, Formula(head, dtype, rounded)
    report = compare(*runners, _probes(), precision=precision)
    assert report.verdict == "pass", report.reasons
    assert "of 84, which are left out" in "\n".join(report.notes)
    runners = Formula(head, np.float64), own, Formula(head, dtype, lambda out: wrong(rounded(out)))
    assert compare(*runners, _probes(), precision=precision).verdict == "fail"
