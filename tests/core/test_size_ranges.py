"""Ranges of dynamic dimensions in `--input`, and what they refuse."""

import pytest

from deploy.core.errors import InputSpecError
from deploy.core.tensors import SizeRange, parse_input, size_ranges, with_ranges


@pytest.mark.parametrize(
    ("text", "size", "allowed"),
    [
        ("x:batch,n=16..24", 16, SizeRange(dim="n", max=24)),
        ("x:batch,n=64%32", 64, SizeRange(dim="n", min=32, multiple=32)),
        ("x:batch,n=64%32..640", 64, SizeRange(dim="n", min=32, max=640, multiple=32)),
    ],
)
def test_a_dimension_may_have_a_maximum_and_a_divisor(text: str, size: int, allowed: SizeRange) -> None:
    spec, sizes = parse_input(text)
    assert sizes == {"n": size} and spec.shape == ("batch", "n")
    assert spec.ranges == (allowed,)


@pytest.mark.parametrize(
    "text", ["x:n=16..8", "x:n=30%8", "x:n=16..", "x:n=16%", "x:n%8", "x:n..8", "x:n=8%0", "x:n=8..24%8", "x:n=a..b"]
)
def test_a_malformed_range_is_refused(text: str) -> None:
    with pytest.raises(InputSpecError, match="--input"):
        parse_input(text)


def test_sizes_outside_the_range_are_refused() -> None:
    spec, _ = parse_input("x:batch,n=64%32..128")
    assert spec.concrete({"batch": 3, "n": 96}) == (3, 96)
    for size in (33, 160, 16):
        with pytest.raises(InputSpecError, match="'n'"):
            spec.concrete({"batch": 3, "n": size})
    assert spec.bind({"batch": 1}).ranges == spec.ranges
    assert spec.refused((1, 64)) == "" and "'n' is 65" in spec.refused((1, 65))


def test_ranges_of_one_dimension_are_shared_by_all_inputs() -> None:
    one, two = parse_input("x:batch,n=24..48")[0], parse_input("mask:batch,n=24%12:bool")[0]
    first, second = with_ranges([one, two])
    assert first.ranges == second.ranges == (SizeRange(dim="n", min=12, max=48, multiple=12),)
    assert size_ranges([one, two])["batch"] == SizeRange(dim="batch") and not size_ranges([one])["batch"].limited
