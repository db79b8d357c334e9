"""The official test cases of ONNX operators, run by `deploy.onnx_graph`."""

from __future__ import annotations

import importlib
import pkgutil
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
from onnx.backend.test.case import node as official

from deploy.onnx_graph.graph import OnnxModule
from deploy.support.precision import computed_in

STORED = {"Constant", "If"}
"""Operators of graphs that return stored values, which nothing converts."""


@cache
def _load(operator: str) -> None:
    """Import the file with the cases of an operator; all files together take ten times as long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(official.__path__):
            if module.name.replace("_", "") in (operator.lower(), f"{operator.lower()}op"):
                importlib.import_module(f"{official.__name__}.{module.name}")


def run(operator: str, excluded: Iterable[str], *, expanded: bool = False, double_steps: int = 0) -> None:
    """Run the official cases of an operator, but those that match a pattern; for ``double_steps`` see `check`.

    ``expanded`` runs those of its definition in terms of other operators, too.
    """
    _load(operator)
    ran = 0
    for case in official._NodeTestCases:
        name, _, definition = case.name.partition("_expanded")
        if official._existing_names[name].op_type != operator or (definition and not expanded):
            continue
        if any(fnmatch(case.name, pattern) for pattern in excluded):
            continue
        for inputs, outputs in case.data_sets:
            check(case.name, case.model, inputs, outputs, double_steps=double_steps)
            ran += 1
    assert ran, f"no case of {operator}"


def _tensor(value: Any) -> Any:
    """Return a tensor, or a list of tensors; None for an optional without a value."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_tensor(item) for item in value]
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.array(value, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _wide(value: Any) -> Any:
    """Return the float tensors of a value in float64."""
    if isinstance(value, list):
        return [_wide(item) for item in value]
    return value.double() if value is not None and value.is_floating_point() else value


def _flat(values: Iterable[Any]) -> list[torch.Tensor]:
    return [item for value in values for item in (_flat(value) if isinstance(value, list) else [value])]


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
    stored = STORED.issuperset(node.op_type for node in model.graph.node)
    feeds = [_tensor(value) for value in inputs]
    expected = _flat(_tensor(value) for value in outputs)
    with torch.no_grad():
        plain = _flat(module(*feeds).values())
    with computed_in(torch.float64, module):
        double = _flat(module(*map(_wide, feeds)).values())
    for results, most in ((plain, steps), (double, steps if double_steps is None else double_steps)):
        assert len(results) == len(expected), name
        for result, target in zip(results, expected, strict=True):
            floating = target.is_floating_point()
            assert result.shape == target.shape, f"{name}: {result.shape} is not {target.shape}"
            wide = floating and results is double and not stored
            assert result.dtype is (torch.float64 if wide else target.dtype), name
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
