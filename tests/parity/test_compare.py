"""Comparison of runners with known faults."""

from collections.abc import Callable

import numpy as np
import pytest

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.compare import compare
from deploy.parity.probes import make_probes
from deploy.parity.verdict import ParityReport

WEIGHT = np.random.default_rng(1).standard_normal((6, 4))
SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 6))


class Linear(Runner):
    """``x @ W`` in a precision, then a change made by the test."""

    def __init__(self, dtype: type, change: Callable[[Fetches, Feeds], Fetches] = lambda out, feeds: out) -> None:
        self.inputs, self.outputs = (SPEC,), ()
        self.dtype, self.change = dtype, change
        self.pending: Feeds = {}

    def run(self, feeds: Feeds) -> Fetches:
        return self.change({"y": feeds["x"].astype(self.dtype) @ WEIGHT.astype(self.dtype)}, feeds)

    def submit(self, feeds: Feeds) -> None:
        self.pending = feeds

    def result(self) -> Fetches:
        return self.run(self.pending)


def _judge(change: Callable[[Fetches, Feeds], Fetches], spec: TensorSpec = SPEC) -> ParityReport:
    probes = make_probes([spec], {"batch": 2})
    return compare(Linear(np.float64), Linear(np.float32), Linear(np.float32, change), probes)


def test_an_equal_candidate_passes_at_every_size() -> None:
    report = _judge(lambda out, feeds: out)
    assert report.verdict == "pass" and report.dynamic == {"batch": (1, 2, 3, 4, 5, 8, 13)}
    assert report.margin > 1


def test_a_batch_exported_as_a_constant_fails_by_name() -> None:
    def constant(out: Fetches, feeds: Feeds) -> Fetches:
        if len(feeds["x"]) != 2:
            raise BackendError("shape mismatch")
        return out

    report = _judge(constant)
    assert report.verdict == "fail"
    (reason,) = report.reasons
    assert all(word in reason for word in ("'batch'", "batch 1", "batch 5", "shape mismatch"))
    assert "batch 2" not in reason


def test_a_batch_that_repeats_its_first_sample_fails() -> None:
    def repeats(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": np.repeat(out["y"][:1], len(out["y"]), axis=0)}

    assert _judge(repeats).verdict == "fail"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda out, feeds: {"z": out["y"], "y": out["y"]}, ": z"),
        (lambda out, feeds: {}, ": y"),
        (lambda out, feeds: {"y": out["y"][:, :3]}, "[1, 3] instead of [1, 4]"),
        (lambda out, feeds: {"y": out["y"].astype(np.float16).astype(np.float32)}, "noise"),
        (lambda out, feeds: {"y": out["y"] * np.float32(1.00001)}, "noise"),
        (lambda out, feeds: {"y": out["y"][:, ::-1]}, "noise"),
    ],
)
def test_a_fault_fails_with_its_reason(change: Callable[[Fetches, Feeds], Fetches], reason: str) -> None:
    report = _judge(change)
    assert report.verdict == "fail" and reason in " ".join(report.reasons)


def test_noise_outside_the_trained_range_is_reported_and_does_not_decide() -> None:
    def clipped(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": np.where(np.abs(out["y"]) > 60, out["y"] * np.float32(1.001), out["y"])}

    report = _judge(clipped)
    assert report.verdict == "pass"
    large = next(item for item in report.outputs if item.group == "large")
    assert large.verdict == "inconclusive" and large.reason

    def gross(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": np.where(np.abs(out["y"]) > 60, 60, out["y"]).astype(out["y"].dtype)}

    assert _judge(gross).verdict == "fail"

    def overflows(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": np.where(np.abs(out["y"]) > 60, np.inf, out["y"])}

    assert _judge(overflows).verdict == "fail"


def test_an_original_file_may_round_more_than_pytorch() -> None:
    def rougher(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": out["y"] * np.float32(1 + 1e-5)}

    def wrong(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": out["y"] * np.float32(1 + 1e-3)}

    def judge(change: Callable[[Fetches, Feeds], Fetches], original: Runner | None) -> str:
        runs = (Linear(np.float64), Linear(np.float32), Linear(np.float32, change))
        return compare(*runs, make_probes([SPEC], {"batch": 2}), original=original).verdict

    assert judge(rougher, None) == "fail"
    assert judge(rougher, Linear(np.float32, rougher)) == "pass"
    assert judge(rougher, Linear(np.float32)) == "fail", "an original that rounds less changes nothing"
    assert judge(wrong, Linear(np.float32, rougher)) == "fail"


def test_a_network_that_amplifies_rounding_is_held_to_its_other_roundings() -> None:
    """Ten times the noise of one of its own runs, where another run of its own has as much."""

    def amplified(out: Fetches, feeds: Feeds) -> Fetches:
        far = np.abs(feeds["x"].mean(axis=1, keepdims=True)) > 1.0
        return {"y": np.where(far, out["y"] * np.float32(1 + 7e-7), out["y"])}

    def judge(perturbed: Runner) -> str:
        runs = (Linear(np.float64), Linear(np.float32), Linear(np.float32, amplified))
        return compare(*runs, make_probes([SPEC], {"batch": 2}), perturbed=perturbed).verdict

    assert judge(Linear(np.float32)) == "fail"
    assert judge(Linear(np.float32, amplified)) == "pass"


def test_integers_of_one_small_call_that_are_all_wrong() -> None:
    """Three of some hundred may be ties that rounding decides; all of one call may not."""

    class Labels(Linear):
        def __init__(self, dtype: type, wrong_at: int = 0) -> None:
            super().__init__(dtype)
            self.wrong_at = wrong_at

        def run(self, feeds: Feeds) -> Fetches:
            scores = feeds["x"].astype(self.dtype) @ WEIGHT.astype(self.dtype)
            wrong = len(scores) == self.wrong_at
            return {"label": scores.argmax(1) + wrong, "score": scores}

    def judge(wrong_at: int) -> str:
        runs = (Labels(np.float64), Labels(np.float32), Labels(np.float32, wrong_at))
        return compare(*runs, make_probes([SPEC], {"batch": 2})).verdict

    assert judge(0) == "pass"
    assert judge(2) == judge(3) == "fail"


class Biased(Linear):
    """A layer whose bias is large beside what tiny inputs make."""

    def run(self, feeds: Feeds) -> Fetches:
        out = {"y": feeds["x"].astype(self.dtype) @ WEIGHT.astype(self.dtype) + self.dtype(1)}
        return self.change(out, feeds)


def test_tiny_inputs_beside_large_biases() -> None:
    """The rounding of a folded weight counts at every position; a fault that only tiny inputs show still fails."""

    def judge(factor: float) -> ParityReport:
        def changed(out: Fetches, feeds: Feeds) -> Fetches:
            return {"y": out["y"] * np.float32(factor) if np.abs(feeds["x"]).max() < 0.02 else out["y"]}

        runs = (Biased(np.float64), Biased(np.float32), Biased(np.float32, changed))
        return compare(*runs, make_probes([SPEC], {"batch": 2}))

    report = judge(1 + 2e-6)
    assert report.verdict == "pass", report.reasons
    assert judge(1 + 1e-5).verdict == judge(1.01).verdict == "fail"


def test_other_roundings_do_not_excuse_ordinary_inputs_in_the_same_call() -> None:
    """A call may hold a sample of a lenient group beside ordinary ones."""

    def off(out: Fetches, feeds: Feeds) -> Fetches:
        return {"y": out["y"] * np.float32(1 + 7e-6)}

    runs = (Linear(np.float64), Linear(np.float32), Linear(np.float32, off))
    report = compare(*runs, make_probes([SPEC], {"batch": 2}), perturbed=Linear(np.float32, off))
    assert report.verdict == "fail"
    failed = {item.group for item in report.outputs if item.verdict == "fail"}
    assert "unit" in failed and not failed & {"shifted", "large"}, failed


def test_a_crash_is_not_a_verdict() -> None:
    def crash(out: Fetches, feeds: Feeds) -> Fetches:
        raise BackendCrashedError("gone")

    with pytest.raises(BackendCrashedError):
        _judge(crash)


class Choosing(Linear):
    """Returns the index of the largest output; near ties, rounding decides."""

    def __init__(self, dtype: type, flips: tuple[int, ...] = ()) -> None:
        super().__init__(dtype)
        self.flips, self.calls = flips, 0

    def run(self, feeds: Feeds) -> Fetches:
        scores = feeds["x"].astype(self.dtype) @ WEIGHT.astype(self.dtype)
        choice = scores.argmax(1) ^ int(self.calls in self.flips)
        self.calls += 1
        return {"choice": choice, "score": scores}


@pytest.mark.parametrize(
    ("own", "theirs", "verdict"),
    [((), (), "pass"), ((), (1,), "fail"), ((0,), (1,), "pass"), ((0, 1, 2, 3), (), "inconclusive")],
)
def test_decisions_may_differ_within_the_envelope(own: tuple[int, ...], theirs: tuple[int, ...], verdict: str) -> None:
    fixed = TensorSpec(name="x", dtype="float32", shape=(1, 6), bounds=(-3, 3))
    probes = make_probes([fixed], {})
    flipped = tuple(range(len(probes))) if len(own) == 4 else own
    report = compare(Choosing(np.float64), Choosing(np.float32, flipped), Choosing(np.float32, theirs), probes)
    assert report.verdict == verdict, report.reasons


IMAGE = TensorSpec(name="x", dtype="float32", shape=(3, 8, 8))


class Detector(Linear):
    """Boxes of an image, highest score first; their number depends on the image."""

    def run(self, feeds: Feeds) -> Fetches:
        wide = feeds["x"].reshape(-1)[:160].astype(np.float64).reshape(40, 4)
        boxes, scores = wide * 7.1 + 3.3, 1 / (1 + np.exp(-wide.sum(1) / 3.7))
        order = np.argsort(-scores)[: 40 - int(wide[0, 0] * 1000) % 3]
        out = {"boxes": boxes[order], "labels": (np.arange(40) % 5)[order], "scores": scores[order]}
        rounded = {name: value.astype(self.dtype) if value.dtype.kind == "f" else value for name, value in out.items()}
        return self.change(rounded, feeds)


def _same(out: Fetches, feeds: Feeds) -> Fetches:
    return out


def _swap(out: Fetches, feeds: Feeds) -> Fetches:
    order = [1, 0, *range(2, len(out["scores"]))]
    return {name: value[order] for name, value in out.items()}


def _without(count: int) -> Callable[[Fetches, Feeds], Fetches]:
    return lambda out, feeds: {name: value[count:] for name, value in out.items()}


def _moved(out: Fetches, feeds: Feeds) -> Fetches:
    return {**out, "boxes": out["boxes"] * np.float32(1.0001)}


def _relabeled(out: Fetches, feeds: Feeds) -> Fetches:
    return {**out, "labels": (out["labels"] + 1) % 5}


@pytest.mark.parametrize(
    ("own", "theirs", "verdict"),
    [
        (_same, _same, "pass"),
        (_same, _swap, "pass"),  # near ties in another order
        (_without(2), _without(3), "pass"),  # rounding decides a few boxes
        (_same, _without(3), "fail"),
        (_same, _moved, "fail"),
        (_same, _relabeled, "fail"),
        (_without(40), _same, "inconclusive"),
        (_same, lambda out, feeds: {**out, "boxes": out["boxes"][:, :3]}, "fail"),
    ],
)
def test_boxes_are_compared_one_by_one(
    own: Callable[[Fetches, Feeds], Fetches], theirs: Callable[[Fetches, Feeds], Fetches], verdict: str
) -> None:
    probes = make_probes([IMAGE], {})
    report = compare(Detector(np.float64), Detector(np.float32, own), Detector(np.float32, theirs), probes)
    assert report.verdict == verdict, report.reasons


@pytest.mark.parametrize(("theirs", "verdict"), [(_same, "pass"), (_swap, "fail")])
def test_rows_are_compared_in_place_where_all_runs_have_the_same_choices(
    theirs: Callable[[Fetches, Feeds], Fetches], verdict: str
) -> None:
    probes = make_probes([IMAGE], {})
    runs = Detector(np.float64), Detector(np.float32), Detector(np.float32, theirs)
    assert compare(*runs, probes, in_place=True).verdict == verdict


def test_probes_are_seeded_and_stay_in_their_bounds() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3, "side", "side"), bounds=(0, 1))
    first, second = (make_probes([spec], {"batch": 2, "side": 8}, seed=4) for _ in range(2))
    assert all(np.array_equal(a.feeds["x"], b.feeds["x"]) for a, b in zip(first, second, strict=True))
    assert {probe.sizes["batch"] for probe in first} == {1, 2, 3, 4, 5, 8, 13}
    assert {probe.sizes["side"] for probe in first} == {3, 7, 8, 9, 11, 12, 16}
    assert all(probe.feeds["x"].min() >= 0 and probe.feeds["x"].max() <= 1 for probe in first)
    tokens = TensorSpec(name="t", dtype="int64", shape=("batch", 9), bounds=(5, 7))
    assert all(set(np.unique(probe.feeds["t"])) <= {5, 6} for probe in make_probes([tokens], {}))
