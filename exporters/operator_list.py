"""onnxscript's list of PyTorch's operators, without parsing the source of each.

For every export, PyTorch (2.15) asks onnxscript (0.7) for the list. onnxscript parses the source of each function to
say in which domain it is. The domain is that of the function's opset.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any


@functools.cache
def list_once() -> None:
    """Let the list be made once in a process, without a look at the sources; with other versions, do nothing."""
    try:
        from onnxscript._internal.values import TracedOnnxFunction
        from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

        whole, module = onnxscript_apis.get_torchlib_ops, onnxscript_apis._module
        parsed = TracedOnnxFunction.function_ir
    except (ImportError, AttributeError):
        return
    if not isinstance(parsed, property) or module is None:
        return

    @functools.cache
    def get_torchlib_ops() -> Any:
        TracedOnnxFunction.function_ir = property(lambda function: SimpleNamespace(domain=function.opset.domain))
        try:
            return whole()
        finally:
            TracedOnnxFunction.function_ir = parsed

    module.get_torchlib_ops = get_torchlib_ops
