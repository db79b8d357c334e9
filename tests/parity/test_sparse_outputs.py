"""Outputs behind a ReLU: an element that is hardly ever above 0 is no channel of its own scale."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.parity.metric import Accumulator
from deploy.parity.verdict import judge


@pytest.mark.parametrize("seed", range(5))
def test_a_rarely_active_element_is_no_channel_of_its_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = Accumulator("fp32")
    rare = np.arange(144) % 36 == 1
    lucky, usual = np.where(rare, 1e-8, 1e-7), np.full(144, 1.5e-7)
    for index in range(24):
        exact = np.maximum(rng.standard_normal((1, 144)), 0.0)
        exact[:, rare] *= 0.02 * (index % 6 == 0)
        own, given = (exact + (exact > 0) * scale * rng.standard_normal(exact.shape) for scale in (lucky, usual))
        found.add(exact, own, given, batched=True, at="probe")
    assert judge("y", "unit", found, "fp32").verdict == "pass"
