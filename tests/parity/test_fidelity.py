"""SQNR, cosine and agreement of known noise."""

import math

import numpy as np
import pytest

from deploy.parity.fidelity import Fidelity, decibels

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((200, 10))


def _of(actual: np.ndarray, reference: np.ndarray = LOGITS) -> Fidelity:
    fidelity = Fidelity()
    for start in range(0, len(reference), 7):
        fidelity.add({"y": reference[start : start + 7]}, {"y": actual[start : start + 7]})
    return fidelity


def test_known_noise() -> None:
    noise = RNG.standard_normal(LOGITS.shape) * 0.01
    (item,) = _of((LOGITS + noise).astype(np.float32)).outputs()
    assert item.samples == 200 and item.not_finite == 0
    assert item.sqnr_db == pytest.approx(40, abs=0.5)
    same = (LOGITS.argmax(1) == (LOGITS + noise).argmax(1)).mean()
    assert item.agreement == same and item.cosine > 0.999 >= item.worst_cosine - 1e-3


def test_a_constant_offset_is_no_signal() -> None:
    noise = RNG.standard_normal(LOGITS.shape) * 0.01
    (item,) = _of(LOGITS + 1000 + noise, LOGITS + 1000).outputs()
    assert item.sqnr_db == pytest.approx(40, abs=0.5)


def test_equal_and_constant_outputs() -> None:
    (equal,) = _of(LOGITS.copy()).outputs()
    assert equal.sqnr_db == math.inf and equal.to_dict()["identical"] and equal.to_dict()["sqnr_db"] is None
    (constant,) = _of(np.ones((20, 3)), np.ones((20, 3))).outputs()
    assert constant.sqnr_db is None and not constant.to_dict()["identical"]
    assert decibels(1.0, 1.0) == 0.0


def test_samples_that_are_not_finite_are_counted_and_left_out() -> None:
    damaged = LOGITS.copy()
    damaged[3, 2], damaged[9, 0] = np.nan, np.inf
    (item,) = _of(damaged).outputs()
    assert item.not_finite == 2 and item.samples == 200 and item.sqnr_db == math.inf


def test_only_rows_of_logits_have_an_agreement() -> None:
    maps = RNG.standard_normal((6, 3, 4, 4))
    (item,) = _of(maps, maps).outputs()
    assert item.agreement is None
    fidelity = Fidelity()
    fidelity.add({"boxes": np.zeros((2, 4), np.int64)}, {"boxes": np.zeros((2, 4), np.int64)})
    assert fidelity.outputs() == ()


def test_the_answer_depends_on_what_the_output_is() -> None:
    single = RNG.uniform(size=(50, 1))
    (item,) = _of(np.where(np.arange(50)[:, None] < 5, 1 - single, single), single).outputs()
    assert (item.agreement, item.agreement_of) == (0.9, "decision")
    (item,) = _of(RNG.standard_normal((50, 1)), RNG.standard_normal((50, 1))).outputs()
    assert item.agreement is None
    mask = (RNG.uniform(size=(6, 1, 8, 8)) > 0.5) * 0.9
    half = mask.copy()
    half[:, :, :4] = 0
    (item,) = _of(half, mask).outputs()
    assert item.agreement_of == "mask" and item.agreement == pytest.approx((half > 0.5).sum() / (mask > 0.5).sum())
    (item,) = _of(LOGITS.copy()).outputs()
    assert item.agreement_of == "top-1"


@pytest.mark.parametrize("shape", [(40, 6, 30), (40, 30, 6), (40, 6, 5, 6), (40, 6)])
def test_a_channel_that_is_lost_among_larger_ones(shape: tuple[int, ...]) -> None:
    axis = shape.index(6)
    sizes = np.asarray([600, 600, 600, 600, 1, 1], float).reshape(
        [6 if item == axis else 1 for item in range(len(shape))]
    )
    reference = RNG.uniform(size=shape) * sizes
    (item,) = _of(np.rint(reference / 2.5) * 2.5, reference).outputs()
    assert item.sqnr_db is not None and item.sqnr_db > 40
    assert item.worst_part_db is not None and item.worst_part_db < 3
    assert item.coarse or len(shape) == 2
    (item,) = _of(np.rint(reference / sizes * 255) / 255 * sizes, reference).outputs()
    assert item.worst_part_db is not None and item.worst_part_db > 40 and not item.coarse


def test_an_output_with_a_handful_of_values() -> None:
    (item,) = _of(np.rint(LOGITS), LOGITS).outputs()
    assert item.coarse
    (item,) = _of(np.rint(LOGITS), np.rint(LOGITS)).outputs()
    assert not item.coarse, "the float output has no more"
