"""The official test cases of ONNX operators, run by `deploy.onnx_graph`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from onnx.backend.test.case.node import collect_testcases

from deploy.onnx_graph.graph import OnnxModule
from deploy.support.precision import computed_in


@cache
def _official() -> Mapping[str, list[Any]]:
    """Return the cases of one node by its operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases()
    cases: dict[str, list[Any]] = {}
    for case in found:
        (node, *rest) = case.model.graph.node
        if not rest and "_expanded" not in case.name:
            cases.setdefault(node.op_type, []).append(case)
    return cases


def run(operator: str, excluded: Iterable[str], double_steps: int = 0) -> None:
    """Run the official cases of an operator, but those that match a pattern; for ``double_steps`` see `check`."""
    for case in _official()[operator]:
        if any(fnmatch(case.name, pattern) for pattern in excluded):
            continue
        for inputs, outputs in case.data_sets:
            check(case.name, case.model, inputs, outputs, double_steps=double_steps)


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.array(value, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def check(
    name: str,
    model: onnx.ModelProto,
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    *,
    steps: int = 0,
    double_steps: int | None = None,
) -> None:
    """Assert that a model has these outputs, as it is and computed in float64.

    Integers may differ by ``steps``, and in float64, where a half may round otherwise, by ``double_steps``.
    """
    module = OnnxModule(model, Path())
    feeds = [_tensor(value) for value in inputs]
    expected = list(outputs)
    with torch.no_grad():
        plain = list(module(*feeds).values())
    with computed_in(torch.float64, module):
        double = list(module(*feeds).values())
    for results, most in ((plain, steps), (double, steps if double_steps is None else double_steps)):
        assert len(results) == len(expected), name
        for result, wanted in zip(results, expected, strict=True):
            target = _tensor(wanted)
            floating = target.is_floating_point()
            assert result.shape == target.shape, f"{name}: {result.shape} is not {target.shape}"
            assert result.dtype is (torch.float64 if floating and results is double else target.dtype), name
            half = target.dtype in (torch.float16, torch.bfloat16)
            rtol, atol = ((1e-2, 1e-2) if half else (3e-4, 3e-5)) if floating else (0, most)
            np.testing.assert_allclose(result.double(), target.double(), rtol=rtol, atol=atol, err_msg=name)


def single(
    operator: str,
    feeds: Mapping[str, Any],
    outputs: int = 1,
    *,
    domain: str = "",
    version: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a graph of one node; inputs in the order of ``feeds``, None for an omitted one."""
    inputs = [name if value is not None else "" for name, value in feeds.items()]
    names = [f"output_{index}" for index in range(outputs)]
    node = onnx.helper.make_node(operator, inputs, names, "node", domain=domain, **attributes)
    types = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
        if value is not None
    ]
    results = [onnx.ValueInfoProto(name=name) for name in names]
    opsets = [onnx.helper.make_opsetid("", version)] + [onnx.helper.make_opsetid(domain, 1)] * bool(domain)
    graph = onnx.helper.make_graph([node], "graph", types, results)
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def against_runtime(
    operator: str, feeds: Mapping[str, Any], outputs: int = 1, *, steps: int = 0, **options: Any
) -> None:
    """Assert that a node computes what ONNX Runtime computes."""
    model = single(operator, feeds, outputs, **options)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    given = {name: value for name, value in feeds.items() if value is not None}
    check(operator, model, given.values(), session.run(None, given), steps=steps)
