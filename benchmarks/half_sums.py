"""Which float16 kernels of ONNX Runtime keep their sums in float16.

    python -m benchmarks.half_sums [--device cpu|cuda] [--precision float16|float32] [--out DIR]

Runs one node at a time, in float16, on operands whose result is far inside the range of float16 while the sum it is
computed from is not: values of 1,000 in hundreds, or large products that cancel. A kernel that keeps the sum in float16
returns infinity, NaN or 0. The second measurement is the error of the same operator on ordinary values, 4,096 for each
result of most operators, in roundings of the result: a kernel that adds up in float32 has at most 2. On a CPU, where
ONNX Runtime computes such nodes in float32, this checks the measurement itself. Written to DIR/DEVICE.json; nothing is
fetched.

``--precision float32`` runs the same nodes in float32, still in roundings of float16, and writes
DIR/DEVICE.float32.json: what is wrong there too is no matter of half precision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.common import RESULTS
from deploy.core.environment import machine, versions
from deploy.support.cuda_driver import gpus

Array = NDArray[Any]
PROVIDERS: Mapping[str, Any] = {
    "cpu": "CPUExecutionProvider",
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
LARGE = 1000.0
"""66 of these are beyond float16, whose largest number is 65,504; so is the square of one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One node: its operands in float64, and its result in float64."""

    name: str
    operator: str
    compute: Callable[..., Array]
    operands: tuple[Array, ...]
    fine: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Array, ...] = ()


def main() -> None:
    """Run all nodes on one provider."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(PROVIDERS), default="cpu")
    parser.add_argument("--precision", choices=tuple(TYPES), default="float16")
    parser.add_argument("--out", type=Path, default=RESULTS / "half_sums")
    arguments = parser.parse_args()
    found = {}
    for case in cases():
        found[case.name] = {
            "finite": _measured(case, case.operands, arguments, _finite),
            "roundings": _measured(case, case.fine, arguments, _roundings),
        }
        print(f"{case.name:36} {found[case.name]}", flush=True)
    devices = gpus() if arguments.device == "cuda" else []
    document = {
        "machine": machine(),
        "versions": versions(),
        "gpu": devices[0].name if devices else None,
        "cases": found,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    suffix = "" if arguments.precision == "float16" else f".{arguments.precision}"
    path = arguments.out / f"{arguments.device}{suffix}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _measured(
    case: Case,
    operands: tuple[Array, ...],
    arguments: argparse.Namespace,
    judge: Callable[[Array, Array], bool | float],
) -> bool | float | str:
    halves = [value.astype(np.float16) for value in operands]
    wide = [value.astype(np.float64) for value in halves]
    expected = case.compute(*wide, *case.constants)
    assert np.abs(expected).max() < 30_000, f"{case.name}: the result itself is too large"
    try:
        return judge(_run(case, halves, arguments.device, arguments.precision), expected)
    except Exception as exc:
        return next(iter(str(exc).splitlines()), type(exc).__name__)[:200]


def _finite(result: Array, expected: Array) -> bool:
    """Return whether the result is finite and not 0 where it must not be."""
    return bool(np.isfinite(result).all() and ((result != 0) | (np.abs(expected) < 1e-3)).all())


def _roundings(result: Array, expected: Array) -> float:
    steps = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    return round(float((np.abs(result.astype(np.float64) - expected) / steps).max()), 2)


def _run(case: Case, halves: Sequence[Array], device: str, precision: str) -> Array:
    operands = [value.astype(precision) for value in halves]
    names = [f"x{index}" for index in range(len(operands))]
    constants = [
        onnx.numpy_helper.from_array(value if value.dtype.kind == "i" else value.astype(precision), f"c{index}")
        for index, value in enumerate(case.constants)
    ]
    node = helper.make_node(
        case.operator, [*names, *(constant.name for constant in constants)], ["y"], **case.attributes
    )
    inputs = [
        helper.make_tensor_value_info(name, TYPES[precision], value.shape)
        for name, value in zip(names, operands, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TYPES[precision], None)
    graph = helper.make_graph([node], case.name, inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDERS[device]])
    (result,) = session.run(["y"], dict(zip(names, operands, strict=True)))
    return np.asarray(result)


def cases() -> Iterator[Case]:
    """Yield all nodes."""
    rng = np.random.default_rng(0)
    image, fine_image = np.full((2, 8, 16, 16), LARGE), rng.uniform(0.5, 1.5, (2, 8, 64, 64))
    for axes in ((2, 3), (3,), (0, 1), (0, 1, 2, 3), (1,)):
        over, given = ",".join(map(str, axes)), np.array(axes, dtype=np.int64)
        shape = [4, 4, 4, 4]
        shape[axes[-1]] = 128
        many = np.full(shape, LARGE)
        cancelling = np.moveaxis(many.copy(), axes[-1], 0)
        cancelling[64:] *= -0.998
        cancelling = np.moveaxis(cancelling, 0, axes[-1])
        shape[axes[-1]] = 4096
        fine = rng.uniform(0.5, 1.5, shape)
        yield Case(f"ReduceMean over {over}", "ReduceMean", _over(np.mean), (many,), (fine,), {}, (given,))
        yield Case(f"ReduceSum over {over}", "ReduceSum", _over(np.sum), (cancelling,), (fine / 64,), {}, (given,))
        yield Case(f"ReduceL2 over {over}", "ReduceL2", _over(_l2), (many / 8,), (fine,), {}, (given,))
        exponents = np.full(many.shape, 10.0)
        yield Case(f"ReduceLogSumExp over {over}", "ReduceLogSumExp", _over(_lse), (exponents,), (fine,), {}, (given,))
    yield Case(
        "GlobalAveragePool", "GlobalAveragePool", lambda x: x.mean((2, 3), keepdims=True), (image,), (fine_image,)
    )
    pool, small = {"kernel_shape": [16, 16]}, fine_image[:, :, :16, :16]
    yield Case("AveragePool", "AveragePool", lambda x: x.mean((2, 3), keepdims=True), (image,), (small,), pool)
    channels = np.ones(8)
    stretched = image * np.linspace(0.5, 1.5, image.size).reshape(image.shape)
    yield Case(
        "InstanceNormalization",
        "InstanceNormalization",
        lambda x, *_: _normal(x, (2, 3)),
        (stretched,),
        (fine_image,),
        {},
        (channels, np.zeros(8)),
    )
    rows, fine_rows = stretched.reshape(16, 256), fine_image.reshape(16, 4096)
    for name, count in (("LayerNormalization", 256), ("LayerNormalization of 4096", 4096)):
        value = rows if count == 256 else np.tile(rows, 16)
        yield Case(
            name,
            "LayerNormalization",
            lambda x, *_: _normal(x, (1,)),
            (value,),
            (fine_rows[:, :count],),
            {"axis": 1},
            (np.ones(count), np.zeros(count)),
        )
    yield Case(
        "GroupNormalization",
        "GroupNormalization",
        lambda x, *_: _normal(x.reshape(2, 4, -1), (2,)).reshape(x.shape),
        (stretched,),
        (fine_image,),
        {"num_groups": 4},
        (channels, np.zeros(8)),
    )
    yield Case("LpNormalization", "LpNormalization", lambda x: x / _l2(x, (1,)), (rows,), (fine_rows,), {"axis": 1})
    yield Case(
        "LRN",
        "LRN",
        lambda x: x / (1 + 1e-4 / 5 * _neighbors(x * x, 5)) ** 0.75,
        (image / 2,),
        (fine_image,),
        {"size": 5},
    )
    yield Case("Softmax", "Softmax", _softmax, (rows * 20,), (fine_rows,), {"axis": 1})
    left, right = np.full((8, 512), LARGE), np.ones((512, 8))
    right[256:] = -0.99
    fine_left, fine_right = rng.uniform(0.5, 1.5, (8, 4096)), rng.uniform(0.5, 1.5, (4096, 8)) / 64
    yield Case("MatMul", "MatMul", np.matmul, (left, right), (fine_left, fine_right))
    yield Case("Gemm", "Gemm", np.matmul, (left, right), (fine_left, fine_right))
    equation = {"equation": "ij,jk->ik"}
    yield Case("Einsum", "Einsum", np.matmul, (left, right), (fine_left, fine_right), equation)
    kernel = np.ones((8, 8, 3, 3))
    kernel[:, 4:] = -0.99
    wide = np.full((1, 8, 16, 16), 2 * LARGE)
    yield Case(
        "Conv 3×3",
        "Conv",
        lambda x, w: _convolved(x, w),
        (wide, kernel),
        (fine_image[:1, :, :16, :16], kernel * 0 + 1),
    )
    point, fine_point = right.T.reshape(8, 512, 1, 1), fine_right.T.reshape(8, 4096, 1, 1)
    spread = np.full((1, 512, 8, 8), LARGE)
    yield Case("Conv 1×1", "Conv", _convolved, (spread, point), (rng.uniform(0.5, 1.5, (1, 4096, 8, 8)), fine_point))


def _over(compute: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, axes: compute(x, axis=tuple(axes), keepdims=True)


def _l2(x: Array, axis: tuple[int, ...], keepdims: bool = True) -> Array:
    return np.asarray(np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)))


def _lse(x: Array, axis: tuple[int, ...], keepdims: bool = True) -> Array:
    return np.asarray(np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)))


def _normal(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5))


def _softmax(x: Array) -> Array:
    exponents = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(exponents / exponents.sum(1, keepdims=True))


def _neighbors(x: Array, size: int) -> Array:
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
    return sum((padded[:, start : start + x.shape[1]] for start in range(size)), np.zeros_like(x))


def _convolved(x: Array, w: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.asarray(np.einsum("bchwij,ocij->bohw", windows, w))


if __name__ == "__main__":
    main()
