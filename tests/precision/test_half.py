"""Conversion of graphs to half precision: what is cast, what stays, and that the files open and compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from deploy.backends.torch.rounded import RoundedRunner
from exporters.half import Halved, to_half

Array = NDArray[np.float32]
RNG = np.random.default_rng(0)


def graph(tmp_path: Path, text: str, opset: int = 20, **weights: Array) -> Path:
    """Write a graph in ONNX's own notation."""
    parsed = onnx.parser.parse_graph(text)
    parsed.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    model = onnx.helper.make_model(parsed, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "float.onnx"
    onnx.save(model, path)
    return path


def converted(source: Path, precision: str = "fp16", **options: object) -> tuple[Path, Halved]:
    path = source.with_name(f"{precision}.onnx")
    halved = to_half(source, path, precision=precision, **options)  # type: ignore[arg-type]
    onnx.checker.check_model(str(path), full_check=True)
    return path, halved


def run(path: Path, **feeds: Array) -> list[Array]:
    """Run a file in ONNX Runtime, and node by node with every result rounded; return the latter."""
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    return list(RoundedRunner(path).run(feeds).values())


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_value_that_two_float32_nodes_read_is_cast_once(tmp_path: Path) -> None:
    """ONNX Runtime's converter casts it twice under one name, and no runtime opens the file."""
    source = graph(
        tmp_path, "g (float[n,4] x) => (float[n,4] y) { h = Relu (x) a = Exp (h) b = Tanh (h) y = Mul (a, b) }"
    )
    path, halved = converted(source, keep={"a", "b"})
    assert halved.given == {"a", "b"} and halved.half == {"h", "y"}
    x = RNG.standard_normal((2, 4), np.float32)
    (y,) = run(path, x=x)
    assert np.allclose(y, np.exp(x.clip(0)) * np.tanh(x.clip(0)), rtol=5e-3, atol=1e-3)
    assert operators(path).count("Cast") == 5, "x, h, a, b and y"


def test_an_output_keeps_its_name_also_where_nodes_read_it(tmp_path: Path) -> None:
    source = graph(tmp_path, "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Relu (x) z = Exp (y) }")
    for keep in (set(), {"y"}, {"z"}):
        path, _ = converted(source, keep=keep)
        assert [value.name for value in onnx.load(path).graph.output] == ["y", "z"]
        x = RNG.standard_normal((2, 4), np.float32)
        assert np.allclose(run(path, x=x)[1], np.exp(x.clip(0)), rtol=5e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_constants_beyond_the_range_become_the_largest_number(tmp_path: Path, precision: str) -> None:
    """As masks have them: with an infinity, a row without any key would be NaN."""
    text = """g (float[n,4] x, bool[n,4] seen) => (float[n,4] y) {
        masked = Where (seen, x, low) sums = Add (masked, low) y = Softmax (sums) }"""
    path, _ = converted(graph(tmp_path, text, low=np.array(-3.4e38, np.float32)), precision)
    x, seen = RNG.standard_normal((2, 4), np.float32), np.zeros((2, 4), bool)
    (y,) = RoundedRunner(path).run({"x": x, "seen": seen}).values()
    assert np.isfinite(onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float32)).all()
    assert precision == "bf16" or np.isnan(y).any(), "the sum of two of them is another matter: a search keeps it"


def test_a_constant_that_would_vanish_keeps_its_node(tmp_path: Path) -> None:
    source = graph(
        tmp_path,
        "g (float[n,4] x) => (float[n,4] y) { d = Add (x, eps) y = Div (x, d) }",
        eps=np.array(1e-12, np.float32),
    )
    assert converted(source)[1].kept == {"d": "underflow"}
    assert converted(source, "bf16")[1].kept == {}, "bfloat16 has the exponents of float32"


def test_operators_without_half_precision_stay(tmp_path: Path) -> None:
    text = """g (float[6,4] boxes, float[1,1,6] scores) => (int64[n,3] chosen, float[1,1,6] y) {
        b = Unsqueeze (boxes, zero) chosen = NonMaxSuppression (b, scores) y = Relu (scores) }"""
    _, halved = converted(graph(tmp_path, text, zero=np.array([0], np.int64)))
    assert halved.half == {"y"} and halved.kept == {"chosen": "no kernel"}


def test_arguments_that_must_be_float32_stay(tmp_path: Path) -> None:
    text = """g (float[n,3,4,4] x) => (float[n,3,8,8] y)
        { h = Relu (x) y = Resize <mode="linear"> (h, , scales) }"""
    path, halved = converted(graph(tmp_path, text, scales=np.array([1, 1, 2, 2], np.float32)))
    assert halved.half == {"h", "y"}
    assert run(path, x=np.ones((1, 3, 4, 4), np.float32))[0].shape == (1, 3, 8, 8)


def test_a_branch_reads_a_value_in_half_precision(tmp_path: Path) -> None:
    text = """g (float[4] x, bool c) => (float[4] y) {
        h = Relu (x)
        z = If (c) <
            then_branch = t () => (float[4] a) { a = Exp (h) },
            else_branch = e () => (float[4] b) { b = Neg (h) }
        >
        y = Mul (z, h) }"""
    path, halved = converted(graph(tmp_path, text))
    assert halved.half == {"h", "y"}
    x = RNG.standard_normal(4).astype(np.float32)
    for c in (True, False):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        session.run(None, {"x": x, "c": np.array(c)})
        (y,) = RoundedRunner(path).run({"x": x, "c": np.array(c)}).values()
        h = x.clip(0)
        assert np.allclose(y, (np.exp(h) if c else -h) * h, rtol=5e-3, atol=1e-3)


def test_what_is_only_moved_stays_in_its_type(tmp_path: Path) -> None:
    """A node in float32 before and after a Reshape: between them nothing is rounded."""
    text = "g (float[2,4] x) => (float[8] y) { a = Exp (x) b = Reshape (a, shape) y = Log (b) }"
    path, _ = converted(graph(tmp_path, text, shape=np.array([8], np.int64)), keep={"a", "y"})
    assert "Cast" not in operators(path)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    source = graph(
        tmp_path,
        "g (float[n,64] x) => (float[n,64] y) { y = MatMul (x, w) }",
        w=RNG.standard_normal((64, 64), np.float32),
    )
    path, _ = converted(source, single_file_limit=1000)
    assert path.with_name("fp16.onnx.data").stat().st_size == 64 * 64 * 2
    x = RNG.standard_normal((3, 64), np.float32)
    assert np.isfinite(run(path, x=x)[0]).all()
    (tmp_path / "again.onnx").write_bytes(source.read_bytes())
    to_half(tmp_path / "again.onnx", tmp_path / "again.onnx", single_file_limit=1000)
    assert np.array_equal(run(tmp_path / "again.onnx", x=x)[0], run(path, x=x)[0])


def test_results_are_rounded_although_the_runtime_does_not(tmp_path: Path) -> None:
    """ONNX Runtime leaves out the conversions on x86, so that nothing overflows there."""
    source = graph(
        tmp_path,
        "g (float[n] x) => (float[n] y) { a = Mul (x, big) y = Mul (a, small) }",
        big=np.array([3e4], np.float32),
        small=np.array([1e-3], np.float32),
    )
    path, _ = converted(source)
    assert np.isposinf(run(path, x=np.array([4.0], np.float32))[0]).all()
    (y,) = run(path, x=np.array([1.2345678], np.float32))
    a = np.float16(np.float32(np.float16(1.2345678)) * np.float16(3e4))
    assert y == np.float16(np.float32(a) * np.float32(np.float16(1e-3)))


@pytest.mark.parametrize("move", ["Transpose (w)", "Reshape (w, s)", "Expand (w, s)", "Identity (w)"])
def test_a_moved_constant_is_rounded_only_for_nodes_in_half(move: str, tmp_path: Path) -> None:
    """Such as a learned query: it was rounded in front of nodes that had to stay in float32."""
    weights = {"w": RNG.standard_normal((4, 4), np.float32)}
    text = f"""g (float[n,4] x) => (float[n,4] y, float[n,4] z, float[4,4] out) <int64[2] s = {{4, 4}}> {{
        m = {move} k = Identity (m) y = MatMul (x, k) z = Add (x, y) out = Identity (m)
    }}"""
    source = graph(tmp_path, text, **weights)
    path, halved = converted(source, keep={"y", "z"})
    assert halved.half == set()
    x = RNG.standard_normal((3, 4), np.float32)
    moved = weights["w"].T if move.startswith("Transpose") else weights["w"]
    y, z, out = run(path, x=x)
    assert np.array_equal(out, moved) and np.allclose(y, x @ moved, rtol=1e-6, atol=1e-6)
    assert np.allclose(z, x + x @ moved, rtol=1e-6, atol=1e-6)
    path, _ = converted(source)
    assert not np.allclose(run(path, x=x)[0], x @ moved, rtol=1e-6, atol=1e-6), "half is half"


def test_a_moved_constant_that_a_branch_reads_is_not_rounded(tmp_path: Path) -> None:
    """Branches stay in float32."""
    weights = {"w": RNG.standard_normal((4, 4), np.float32)}
    text = """g (float[n,4] x, bool c) => (float[n,4] y) {
        m = Transpose <perm = [1, 0]> (w)
        y = If (c) <then_branch = a () => (float[n,4] p) { p = MatMul (x, m) },
                    else_branch = b () => (float[n,4] q) { q = Identity (x) }>
    }"""
    path, _ = converted(graph(tmp_path, text, **weights))
    x = RNG.standard_normal((3, 4), np.float32)
    (y,) = RoundedRunner(path).run({"x": x, "c": np.array(True)}).values()
    assert np.allclose(y, x @ weights["w"].T, rtol=1e-6, atol=1e-6)
