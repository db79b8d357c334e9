import io

import numpy as np
import pytest

from deploy.core import wire


def test_arrays_come_out_as_they_went_in() -> None:
    stream = io.BytesIO()
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        "empty": np.zeros((0, 4), np.int64),
        "scalar": np.array(True),
        "half": np.ones((2, 1), np.float16),
    }
    wire.send(stream, {"do": "run"}, arrays)
    stream.seek(0)
    message, found = wire.receive(io.BufferedReader(stream))
    assert message == {"do": "run"}
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert np.array_equal(found[name], value)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_cut_message_is_the_end(keep: int) -> None:
    stream = io.BytesIO()
    wire.send(stream, {}, {"a": np.ones(100)})
    with pytest.raises(EOFError):
        wire.receive(io.BufferedReader(io.BytesIO(stream.getvalue()[:keep])))
