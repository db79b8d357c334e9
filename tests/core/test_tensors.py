import pytest

from deploy.core.errors import InputSpecError
from deploy.core.tensors import TensorSpec, parse_input, symbols


def test_parse_reads_every_part() -> None:
    spec, sizes = parse_input("tokens:batch,length=16:int64:0..30522")
    assert spec == TensorSpec(name="tokens", dtype="int64", shape=("batch", "length"), bounds=(0, 30522))
    assert sizes == {"length": 16}


def test_dtype_defaults_to_float32() -> None:
    assert parse_input("x:1,3,8,8")[0] == TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8))


@pytest.mark.parametrize(
    "text",
    ["x", "x:1:2:3:4", "1x:3", "x:0,3", "x:-1", "x:3.5", "x:batch,:complex", "x:3:float33", "x:length",
     "x:3:int64:5..5", "x:3:int64:a..b", "x:n=0", "x:n=a", ":3", "x:3,$"],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InputSpecError, match="--input"):
        parse_input(text)


def test_bind_and_concrete() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3, "height", "height"))
    assert spec.symbols == ("batch", "height")
    assert spec.bind({"height": 8}).shape == ("batch", 3, 8, 8)
    assert spec.concrete({"batch": 2, "height": 8}) == (2, 3, 8, 8)
    with pytest.raises(InputSpecError, match="'batch'"):
        spec.concrete({"height": 8})
    assert symbols([spec, TensorSpec(name="y", dtype="float32", shape=("batch", "n"))]) == ("batch", "height", "n")
