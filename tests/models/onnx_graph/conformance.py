"""The official test cases of ONNX operators, run by `deploy.models.onnx_graph`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases

from deploy.models.onnx_graph.graph import OnnxModule
from deploy.support.precision import computed_in


@cache
def _all() -> tuple[Any, ...]:
    return tuple(collect_testcases())


def cases(operators: Collection[str], excluded: Collection[str] = ()) -> Iterator[Any]:
    """Yield the cases that consist of one of the operators."""
    for case in _all():
        (node, *rest) = case.model.graph.node
        if not rest and node.op_type in operators and node.domain == "" and case.name not in excluded:
            yield pytest.param(case, id=case.name)


def tensor(value: Any) -> Any:
    """Return an input of a case for the module."""
    return torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else torch.tensor(value)


def check(model: onnx.ModelProto, inputs: Any, outputs: Any, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that a model has these outputs, as it is and with everything computed in float64."""
    module = OnnxModule(model, Path())
    feeds = [tensor(value) for value in inputs]
    for dtype in (torch.float32, torch.float64):
        with computed_in(dtype, module) if dtype is torch.float64 else torch.no_grad():
            results = list(module(*feeds).values())
        for result, expected in zip(results, outputs, strict=True):
            array = result.numpy()
            assert array.shape == expected.shape
            if np.issubdtype(expected.dtype, np.floating):
                assert array.dtype == (np.float64 if dtype is torch.float64 else expected.dtype)
                np.testing.assert_allclose(array, expected, rtol=rtol, atol=atol)
            else:
                assert array.dtype == expected.dtype
                np.testing.assert_array_equal(array, expected)


def run(case: Any) -> None:
    """Run an official case."""
    for inputs, outputs in case.data_sets:
        check(case.model, inputs, outputs, rtol=max(case.rtol, 1e-4), atol=max(case.atol, 1e-5))
