"""Sizes at which dynamic dimensions are run."""

import pytest

from deploy.core.tensors import SizeRange, parse_input
from deploy.parity.probes import make_probes
from deploy.parity.sizes import size_steps


def _sizes(text: str, dim: str) -> set[int]:
    spec, sizes = parse_input(text)
    return {probe.sizes[dim] for probe in make_probes([spec], {"batch": 2, **sizes})}


def test_a_dimension_is_run_around_its_traced_size() -> None:
    assert {31, 32, 33, 15, 48, 64} <= _sizes("x:batch,3,h=32,w=32", "h")


def test_dimensions_move_apart() -> None:
    spec, sizes = parse_input("x:batch,3,h=32,w=32")
    shapes = {probe.feeds["x"].shape[2:] for probe in make_probes([spec], {"batch": 2, **sizes})}
    assert (33, 32) in shapes and any(one % 2 and two % 2 and one != two for one, two in shapes)
    assert all(probe.feeds["x"].size for probe in make_probes([spec], {"batch": 2, **sizes}))


def test_sequences_are_run_at_one_two_and_odd_lengths() -> None:
    assert {1, 2, 7, 15, 16, 17} <= _sizes("x:batch,n=16,8", "n")
    assert 1 not in _sizes("x:batch,3,h=32,w=32", "h"), "a picture of one pixel is refused by most models"


@pytest.mark.parametrize("text", ["x:n=2,6", "points:n=64,3", "x:batch,6", "x:time=9,batch,4"])
def test_whatever_counts_samples_is_run_at_one(text: str) -> None:
    spec, sizes = parse_input(text)
    for symbol in {"n", "batch"} & set(spec.symbols):
        assert 1 in {probe.sizes[symbol] for probe in make_probes([spec], {"batch": 2, **sizes})}


def test_sizes_stay_in_their_range_and_reach_its_ends() -> None:
    assert _sizes("x:batch,3,h=64%32..192,w=64%32", "h") == {32, 64, 96, 128, 160, 192}
    tokens = _sizes("x:batch,n=16..24", "n")
    assert max(tokens) == 24 and min(tokens) == 1
    assert 8 in size_steps(16, SizeRange(dim="n", min=8), sequence=True)
    assert 1 not in size_steps(16, SizeRange(dim="n", min=8), sequence=True)


@pytest.mark.parametrize("level", ["quick", "standard", "thorough"])
def test_three_dimensions_do_not_explode(level: str) -> None:
    spec, sizes = parse_input("x:batch,1,d=16,h=16,w=16")
    probes = make_probes([spec], {"batch": 2, **sizes}, level=level)
    assert max(probe.feeds["x"].size for probe in probes) <= max(13 if level != "thorough" else 33, 8) * 16**3
