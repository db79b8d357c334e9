"""The choices of a graph, and the values that decide them, also within branches and loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from deploy.core.isolated import IsolatedRunner
from deploy.support.onnx_decisions import RANGES, watched

LOOP = """
<ir_version: 10, opset_import: ["": 18]>
agraph (float[N, 4] x, int64 m) => (float[N, 4] y)
<float one = {1.0}, bool yes = {1}> {
  y = Loop (m, yes, x) <body = b (int64 i, bool c, float[N, 4] v) => (bool c2, float[N, 4] w) {
    c2 = Identity(c)
    above = Greater(v, one)
    square = Mul(v, v)
    less = Sub(v, one)
    either = Where(above, square, less)
    w = Relu(either)
  }>
}
"""

NESTED = """
<ir_version: 10, opset_import: ["": 18]>
agraph (float[N, 4] x) => (float[N, 4] y)
<float zero = {0.0}, float five = {5.0}> {
  total = ReduceSum<keepdims = 0>(x)
  positive = Greater(total, zero)
  y = If (positive) <
    then_branch = t () => (float[N, 4] a) {
      large = Greater(total, five)
      a = If (large) <
        then_branch = tt () => (float[N, 4] aa) { aa = Neg(x) },
        else_branch = te () => (float[N, 4] ab) { ab = Relu(x) }
      >
    },
    else_branch = e () => (float[N, 4] b) { b = Clip(x, zero, five) }
  >
}
"""


def _reached(text: str, path: Path, *feeds: dict[str, np.ndarray]) -> list[tuple[str, list[set[str]]]]:
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    _, choices = watched(model)
    if not choices:
        return []
    with IsolatedRunner("onnxruntime", "deploy.backends.onnxruntime.watching") as runner:
        runner.open(path)
        runs = [runner.run(item)[RANGES] for item in feeds]
    return [
        (choice.operator, [set(choice.reached(*run[index])) for run in runs]) for index, choice in enumerate(choices)
    ]


def test_choices_in_a_loop_are_reported_over_all_iterations(tmp_path: Path) -> None:
    x = np.array([[-3.0, 0.5, 2.0, 1.5]], np.float32)
    feeds = ({"x": x, "m": np.array(3)}, {"x": x, "m": np.array(0)}, {"x": x[:0], "m": np.array(2)})
    assert _reached(LOOP, tmp_path / "loop.onnx", *feeds) == [
        ("Loop", [{"iterations"}, {"no iteration"}, {"iterations"}]),
        ("Where", [{"true", "false"}, set(), set()]),
        ("Relu", [{"below 0", "above 0"}, set(), set()]),
    ]


def test_choices_in_branches_are_reported_where_the_branch_is_taken(tmp_path: Path) -> None:
    x = np.array([[-1.0, 1.0, 1.0, 1.0]], np.float32)
    assert _reached(NESTED, tmp_path / "nested.onnx", {"x": x}, {"x": -x}, {"x": 9 * x}) == [
        ("If", [{"then"}, {"else"}, {"then"}]),
        ("Clip", [set(), {"below 0", "between"}, set()]),
        ("If", [{"else"}, set(), {"then"}]),
        ("Relu", [{"below 0", "above 0"}, set(), set()]),
    ]


@pytest.mark.parametrize(
    ("line", "x", "expected"),
    [
        ("y = Clip(x, one)", [0.5], [{"below 1"}]),
        ("y = Clip(x, , one)", [0.5, 2.0], [{"below 1", "above 1"}]),
        ("y = HardSigmoid<alpha = 0.5, beta = 0.5>(x)", [-2.0], [{"below -1"}]),
        ("y = Max(x, one)", [0.5], [{"first smaller"}]),
        ("s = Shape(x) f = Cast<to = 1>(s) c = Greater(f, one) y = Where(c, x, x)", [0.5], [{"false"}]),
        ("s = Shape(x) c = Equal(s, s) w = Where(c, s, s) y = Expand(x, w)", [0.5], []),
        ("c = Less(x, one) d = Cast<to = 1>(c) y = Add(x, d)", [0.5], [{"true"}]),
    ],
)
def test_each_kind_of_choice(line: str, x: list[float], expected: list[set[str]], tmp_path: Path) -> None:
    graph = f"agraph (float[N] x) => (float[N] y) <float one = {{1.0}}> {{ {line} }}"
    text = f'<ir_version: 10, opset_import: ["": 18]> {graph}'
    found = _reached(text, tmp_path / "one.onnx", {"x": np.array(x, np.float32)})
    assert [sides[0] for _, sides in found] == expected
