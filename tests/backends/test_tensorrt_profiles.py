"""Choice of an optimization profile, and the errors where none fits."""

import numpy as np
import pytest

from deploy.backends.tensorrt.profiles import Binding, check_feeds, choose_profile, numpy_type, static_shape
from deploy.core.errors import BackendError

IMAGE = Binding(
    name="image",
    dtype="float32",
    ranges=(((1, 3), (1, 3), (4, 3)), ((2, 3), (16, 3), (32, 3)), ((1, 3), (4, 3), (32, 3))),
)
MASK = Binding(name="mask", dtype="bool", ranges=(((1,), (1,), (1,)), ((2,), (16,), (32,)), ((1,), (4,), (32,))))


@pytest.mark.parametrize(("size", "profile"), [(1, 0), (2, 0), (3, 2), (8, 2), (12, 1), (32, 1)])
def test_the_profile_made_for_the_nearest_shape(size: int, profile: int) -> None:
    assert choose_profile([IMAGE], {"image": (size, 3)}) == profile


def test_all_inputs_must_fit_one_profile() -> None:
    assert choose_profile([IMAGE, MASK], {"image": (2, 3), "mask": (2,)}) == 2
    with pytest.raises(BackendError, match="image 3×3, mask 1") as refused:
        choose_profile([_only(IMAGE, 1), _only(MASK, 0)], {"image": (3, 3), "mask": (1,)})
    assert "--batch" in (refused.value.hint or "")


def _only(item: Binding, index: int) -> Binding:
    """Two profiles, one of which accepts the input."""
    never = tuple(tuple(99 for _ in shape) for shape in item.ranges[0])
    pair = [never, never]
    pair[index] = item.ranges[index]
    return Binding(name=item.name, dtype=item.dtype, ranges=tuple(pair))  # type: ignore[arg-type]


def test_a_shape_that_fits_nowhere_is_named() -> None:
    with pytest.raises(BackendError, match=r"'image'.* 40×3; .* 1×3 to 4×3 or 2×3 to 32×3 or 1×3 to"):
        choose_profile([IMAGE], {"image": (40, 3)})
    with pytest.raises(BackendError, match=r"'image'.* 4×3×1"):
        choose_profile([IMAGE], {"image": (4, 3, 1)})


def test_an_engine_without_inputs() -> None:
    assert choose_profile([], {}) == 0 and check_feeds([], {}) == {}


def test_feeds() -> None:
    feeds = {"image": np.zeros((2, 3), np.float32), "mask": np.ones(2, np.bool_)}
    assert check_feeds([IMAGE, MASK], feeds) == {"image": (2, 3), "mask": (2,)}
    with pytest.raises(BackendError, match=r"image, mask.* image"):
        check_feeds([IMAGE, MASK], {"image": feeds["image"]})
    with pytest.raises(BackendError, match=r"'image'.* float32.* float64"):
        check_feeds([IMAGE], {"image": np.zeros((2, 3))})


def test_types_and_shapes_that_are_not_supported() -> None:
    assert numpy_type("HALF", "x") == "float16"
    with pytest.raises(BackendError, match=r"'x'.* BF16"):
        numpy_type("BF16", "x")
    assert static_shape("y", (2, 10)) == (2, 10)
    with pytest.raises(BackendError, match="'y'"):
        static_shape("y", (-1, 4))
