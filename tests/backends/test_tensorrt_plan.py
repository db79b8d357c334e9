"""Which profile of an engine serves which shapes, and what is said where none does."""

import numpy as np
import pytest

from deploy.backends.tensorrt.profiles import Binding, check_feeds, choose_profile, known_sizes, numpy_type
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
    with pytest.raises(BackendError, match="no profile of the engine takes image 3×3, mask 1") as refused:
        choose_profile([_only(IMAGE, 1), _only(MASK, 0)], {"image": (3, 3), "mask": (1,)})
    assert "--batch" in (refused.value.hint or "")


def _only(item: Binding, index: int) -> Binding:
    """Two profiles, of which the input fits one."""
    never = tuple(tuple(99 for _ in shape) for shape in item.ranges[0])
    pair = [never, never]
    pair[index] = item.ranges[index]
    return Binding(name=item.name, dtype=item.dtype, ranges=tuple(pair))  # type: ignore[arg-type]


def test_a_shape_that_fits_nowhere_is_named() -> None:
    with pytest.raises(BackendError, match=r"'image' is 40×3; the engine takes 1×3 to 4×3 or 2×3 to 32×3 or 1×3 to"):
        choose_profile([IMAGE], {"image": (40, 3)})
    with pytest.raises(BackendError, match=r"'image' is 4×3×1; the engine takes"):
        choose_profile([IMAGE], {"image": (4, 3, 1)})


def test_an_engine_without_inputs() -> None:
    assert choose_profile([], {}) == 0 and check_feeds([], {}) == {}


def test_feeds() -> None:
    feeds = {"image": np.zeros((2, 3), np.float32), "mask": np.ones(2, np.bool_)}
    assert check_feeds([IMAGE, MASK], feeds) == {"image": (2, 3), "mask": (2,)}
    with pytest.raises(BackendError, match="the engine takes image, mask; it was given image"):
        check_feeds([IMAGE, MASK], {"image": feeds["image"]})
    with pytest.raises(BackendError, match="'image' is float64; the engine takes float32"):
        check_feeds([IMAGE], {"image": np.zeros((2, 3))})


def test_types_and_sizes_that_cannot_be() -> None:
    assert numpy_type("HALF", "x") == "float16"
    with pytest.raises(BackendError, match="'x' of the engine is BF16, which no numpy array can be"):
        numpy_type("BF16", "x")
    assert known_sizes("y", (2, 10)) == (2, 10)
    with pytest.raises(BackendError, match="'y' has a size that depends on values"):
        known_sizes("y", (-1, 4))
