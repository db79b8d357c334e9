"""Optimization profiles from the options of `deploy trt build`."""

import pytest

from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec
from deploy.engines.profiles import profiles_of

IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, "height", "height"))
TOKENS = TensorSpec(name="tokens", dtype="int64", shape=("batch", 7))
FIXED = TensorSpec(name="fixed", dtype="float32", shape=(1, 2))


def test_one_range_serves_every_profile() -> None:
    made = profiles_of([IMAGE, TOKENS, FIXED], "1:1:1,8:16:32", ["height:64:64:96"])
    assert [profile["image"].opt for profile in made] == [(1, 3, 64, 64), (16, 3, 64, 64)]
    assert [profile["tokens"].max for profile in made] == [(1, 7), (32, 7)]
    assert all("fixed" not in profile for profile in made)


def test_each_profile_may_have_ranges_of_its_own() -> None:
    made = profiles_of([IMAGE], "1:1:1,8:16:32", ["height:64:64:96,32:32:32"])
    assert [profile["image"].max for profile in made] == [(1, 3, 96, 96), (32, 3, 32, 32)]
    whole = profiles_of([TOKENS], None, ["tokens:1x7:2x7:4x7,8x7:8x7:8x7"])
    assert [profile["tokens"].opt for profile in whole] == [(2, 7), (8, 7)]


def test_without_dynamic_dimensions_there_is_none() -> None:
    assert profiles_of([FIXED], None, []) == ()


@pytest.mark.parametrize(
    ("batch", "shapes", "datum"),
    [
        ("8:4:16", ["height:1:2:3"], "--batch 8:4:16"),
        ("0:4:16", ["height:1:2:3"], "--batch 0:4:16"),
        ("1:1:1,x", ["height:1:2:3"], "--batch x"),
        (None, [], "image.*'height'"),
        ("1:1:1,2:2:2", ["height:1:2:3,2:2:2,3:3:3"], "batch 2, height 3"),
        (None, ["height:1:2:3", "height:4:5:6"], "--shape height:4:5:6"),
        ("1:2:3", ["batch:4:5:6"], "--shape batch:4:5:6"),
        (None, ["width:1:2:3"], "'width'.*batch, height, image"),
    ],
)
def test_invalid_ranges_are_refused(batch: str | None, shapes: list[str], datum: str) -> None:
    with pytest.raises(UsageError, match=datum):
        profiles_of([IMAGE], batch, shapes)


def test_a_fixed_batch_has_no_range() -> None:
    with pytest.raises(UsageError, match="--batch 1:8:32") as refused:
        profiles_of([FIXED], "1:8:32", [])
    assert refused.value.hint == "deploy export MODEL --dynamic batch"
