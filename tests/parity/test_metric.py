"""Signal, noise and verdict, against values computed by hand."""

import numpy as np
import pytest

from deploy.parity.metric import Accumulator
from deploy.parity.verdict import ENVELOPE, FLOOR, combine, judge

RNG = np.random.default_rng(0)


def _fed(noise: float, own: float, *, count: int = 8, scale: float = 1.0, offset: float = 0.0) -> Accumulator:
    found = Accumulator()
    for index in range(count):
        reference = RNG.standard_normal((3, 50)) * scale + offset
        baseline = reference + RNG.standard_normal((3, 50)) * own * scale
        candidate = reference + RNG.standard_normal((3, 50)) * noise * scale
        found.add(reference, baseline, candidate, batched=True, at=f"probe {index}")
    return found


def test_signal_and_noise_of_known_data() -> None:
    found = _fed(2e-4, 1e-4, count=200, scale=3.0, offset=1000.0)
    assert found.measure().signal == pytest.approx(3.0, rel=0.02)
    assert found.measure().candidate == pytest.approx(6e-4, rel=0.02)
    assert found.measure().baseline == pytest.approx(3e-4, rel=0.02)
    assert found.measure().candidate_worst > found.measure().candidate
    assert found.samples == 600


def test_lists_of_other_lengths_count_with_what_varies_in_them() -> None:
    """The scores of candidates: alike for two inputs of one kind, and as many as the input decides for others."""
    scores = np.sort(RNG.standard_normal(3000))
    found = Accumulator()
    for shift in (0.0, 1e-6):
        found.add(scores + shift, scores + shift, scores + shift, batched=False, at="normal")
    assert found.measure().signal == pytest.approx(5e-7, rel=1e-3)
    shorter = scores[:2400]
    found.add(shorter, shorter + 1e-5, shorter + 1e-5, batched=False, at="uniform")
    expected = np.sqrt(2400 * np.var(shorter) / (2 * 3000 + 2400))
    assert found.measure().signal == pytest.approx(expected, rel=1e-3)
    assert judge("scores", "unit", found, "fp32").verdict == "pass"


def test_signal_does_not_depend_on_batching() -> None:
    values = RNG.standard_normal((24, 7)) + 5
    whole, split = Accumulator(), Accumulator()
    whole.add(values, values, values, batched=True, at="")
    for row in values:
        split.add(row[None], row[None], row[None], batched=True, at="")
    expected = np.sqrt(np.mean((values - values.mean(0)) ** 2))
    assert whole.measure().signal == pytest.approx(expected, rel=1e-12)
    assert split.measure().signal == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e8])
@pytest.mark.parametrize(
    ("noise", "own", "verdict"),
    [(1e-6, 1e-6, "pass"), (2e-6, 1e-6, "pass"), (9e-6, 1e-6, "fail"), (1e-3, 1e-6, "fail"),
     (2e-2, 2e-2, "inconclusive"), (FLOOR["fp32"] * 2, 0.0, "pass"), (0.0, 0.0, "pass")],
)  # fmt: skip
def test_the_verdict_does_not_depend_on_the_outputs_scale(scale: float, noise: float, own: float, verdict: str) -> None:
    assert judge("logits", "unit", _fed(noise, own, scale=scale), "fp32").verdict == verdict


def test_one_bad_sample_is_not_averaged_away() -> None:
    found = _fed(1e-6, 1e-6, count=400)
    reference = RNG.standard_normal((1, 50))
    found.add(reference, reference + 1e-6, reference + 2e-5, batched=True, at="the bad one")
    assert found.measure().candidate < ENVELOPE * found.measure().baseline
    judged = judge("logits", "unit", found, "fp32")
    assert judged.verdict == "fail" and judged.worst_at == "sample 0 of the bad one"


def test_a_constant_output_passes_if_it_is_equal_and_does_not_pass_alone() -> None:
    good = judge("logits", "unit", _fed(1e-6, 1e-6), "fp32")
    for value, verdict in ((1.0, "pass"), (np.float32(1.0) + np.spacing(np.float32(1.0)), "pass"), (1.00001, "fail")):
        found = Accumulator()
        for _ in range(3):
            found.add(np.ones((2, 4)), np.ones((2, 4)), np.full((2, 4), value), batched=True, at="")
        constant = judge("anchors", "unit", found, "fp32")
        assert constant.verdict == verdict and np.isfinite(constant.margin)
        assert combine([good, constant], [])[0] == verdict
        assert combine([constant], [])[0] == ("inconclusive" if verdict == "pass" else "fail")


@pytest.mark.parametrize(
    ("candidate", "datum"),
    [
        (np.full((2, 4), np.nan), "4 values"),
        (np.full((2, 4), np.inf), "4 values"),
        (np.ones((2, 5)), "[2, 5] instead of [2, 4]"),
    ],
)
def test_values_that_are_not_finite_and_other_shapes_fail(candidate: np.ndarray, datum: str) -> None:
    found = _fed(1e-7, 1e-7)
    reference = RNG.standard_normal((2, 4))
    found.add(reference, reference, candidate, batched=True, at="probe x")
    judged = judge("logits", "unit", found, "fp32")
    assert judged.verdict == "fail" and datum in judged.reason and "probe x" in judged.reason


def test_integers_must_be_equal() -> None:
    found = Accumulator()
    found.add(np.arange(4), np.arange(4), np.arange(4), batched=True, at="")
    assert judge("labels", "unit", found, "fp32").verdict == "pass"
    found.add(np.arange(4), np.arange(4), np.array([0, 1, 2, 4]), batched=True, at="")
    assert judge("labels", "unit", found, "fp32").verdict == "fail"
    found.add(np.arange(4), np.array([1, 2, 3, 4]), np.arange(4), batched=True, at="")
    assert judge("labels", "unit", found, "fp32").verdict == "inconclusive"


def test_integers_that_never_change_are_inconclusive() -> None:
    found = Accumulator()
    found.add(np.full(9, 3), np.full(9, 3), np.full(9, 3), batched=True, at="")
    judged = judge("labels", "unit", found, "fp32")
    assert judged.verdict == "inconclusive" and judged.reason
    assert judge("labels", "unit", found, "fp32", known=True).verdict == "pass"


def test_an_inconclusive_group_other_than_unit_does_not_matter() -> None:
    good = judge("logits", "unit", _fed(1e-6, 1e-6), "fp32")
    inconclusive = judge("logits", "large", _fed(1.0, 1.0), "fp32")
    bad = judge("logits", "constant", _fed(1e-2, 1e-6), "fp32")
    assert combine([good, inconclusive], [])[0] == "pass"
    assert combine([good, bad], [])[0] == "fail"
    assert combine([good], ["a fault"]) == ("fail", ("a fault",))
    assert combine([judge("logits", "unit", _fed(1.0, 1.0), "fp32")], [])[0] == "inconclusive"
    assert combine([], [])[0] == "inconclusive"


def test_constant_inputs_take_the_signal_of_the_others_and_a_wider_envelope() -> None:
    unit = _fed(1e-6, 1e-6)
    reference = np.ones((1, 50))
    for noise, verdict in ((2e-5, "pass"), (1e-4, "inconclusive"), (1e-2, "fail"), (np.nan, "fail")):
        constant = Accumulator()
        constant.add(reference, reference + 1e-6, reference + noise, batched=True, at="zeros")
        assert judge("logits", "constant", constant, "fp32", unit=unit).verdict == verdict
