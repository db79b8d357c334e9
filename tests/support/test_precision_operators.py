"""The float64 run equals a float64 copy of the module, on many operators and idioms; so does the float16 run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils import _pytree

from deploy.support.precision import computed_in
from tests.support.precision_cases import CASES, Bag, Case

DRAWN = settings(max_examples=2, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
HALF_OTHERWISE = {
    "rms_norm": "PyTorch computes it in float32 inside",
    "encoder": "PyTorch's fused layer rounds otherwise",
    "encoder_causal": "PyTorch's fused layer rounds otherwise",
    "flex": "PyTorch computes the scores in float32",
    "autocast": "autocast turns float16, not float64, into bfloat16",
    "scripted": "TorchScript keeps the constants of its first run, here in float64",
    "scripted_twice": "TorchScript keeps the constants of its first run, here in float64",
    "numpy_shared": "the result is float64 in the module itself",
}


@pytest.fixture(autouse=True)
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run PyTorch's own kernels for half precision, also on CPUs where they are slow."""
    monkeypatch.setattr("deploy.support.half_products.has_kernels", lambda: True)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensors(value: Any) -> list[torch.Tensor]:
    return [item for item in _pytree.tree_leaves(value) if isinstance(item, torch.Tensor)]


@pytest.fixture(scope="module")
def bag() -> Bag:
    torch.manual_seed(0)
    with pytest.warns(FutureWarning, match="script"):
        return Bag()


def in_copy(bag: Bag, dtype: torch.dtype, case: Case, x: torch.Tensor) -> list[torch.Tensor]:
    """Run a converted copy of the module."""
    module = copy.deepcopy(bag)
    module = module.double() if dtype is torch.float64 else module.half()
    with default_dtype(dtype), torch.no_grad():
        return tensors(module(x.clone(), case))


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    assert [(item.dtype, item.shape) for item in found] == [(item.dtype, item.shape) for item in expected]
    for ours, theirs in zip(found, expected, strict=True):
        if torch.equal(ours, theirs):
            continue
        assert torch.equal(ours.isnan(), theirs.isnan())
        ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
        assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


ROUNDING = 1e-14
"""Relative difference of algorithms that depend on the alignment of memory, or on whether a fused layer is used."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CASES))
@DRAWN
@given(rows=st.integers(2, 5), seed=st.integers(0, 9), scale=st.sampled_from([1.0, 1e-3, 20.0]))
def test_float64_equals_a_double_copy(bag: Bag, name: str, rows: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator, dtype=torch.float64) * scale
    before = {key: (value, value.clone()) for key, value in bag.state_dict(keep_vars=True).items()}
    try:
        expected = in_copy(bag, torch.float64, CASES[name], x)
    except torch.linalg.LinAlgError:
        return
    with computed_in(torch.float64, bag):
        found = tensors(bag(x.clone(), CASES[name]))
    assert_equal(found, expected, ROUNDING)
    after = bag.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and bag.steps == 0 and torch.get_default_dtype() is torch.float32
    for key, (value, content) in before.items():
        assert after[key] is value and value.dtype is content.dtype and torch.equal(value, content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CASES.keys() - HALF_OTHERWISE.keys()))
def test_float16_equals_a_half_copy(bag: Bag, name: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 8).half()
    try:
        expected = in_copy(bag, torch.float16, CASES[name], x)
    except RuntimeError as exc:
        pytest.skip(f"PyTorch itself: {exc}".splitlines()[0])
    with computed_in(torch.float16, bag):
        found = tensors(bag(x.clone(), CASES[name]))
    assert_equal(found, expected, 0.0)


def test_there_are_many() -> None:
    assert len(CASES) >= 150
