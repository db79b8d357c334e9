"""onnxscript's list of operators is the same without parsing their sources."""

from onnxscript._internal.values import TracedOnnxFunction
from torch.onnx._internal._lazy_import import onnxscript_apis

from exporters.operator_list import list_once


def test_the_list_is_the_same_and_made_once() -> None:
    list_once()
    ours = onnxscript_apis.get_torchlib_ops()
    assert onnxscript_apis.get_torchlib_ops() is ours, "made once"
    parsed = [item.function.function_ir.domain for item in ours]  # the property is the one that parses, again
    assert len(ours) > 400 and parsed == [item.domain for item in ours]
    assert sum(isinstance(item.function, TracedOnnxFunction) for item in ours) > 300
