"""The official cases of the ONNX operators for elements, shapes, indices, reductions and control flow."""

import fnmatch
import importlib
import pkgutil
import warnings
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case import node as official

from deploy.onnx_graph.graph import OnnxModule
from deploy.support.precision import computed_in

ELEMENTS = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid
Sign Sin Sinh Softplus Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor
"""
SHAPES = """
CenterCropPad Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten NonZero OneHot Pad Range
Reshape ReverseSequence Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unique Unsqueeze
"""
INDICES = """
ArgMax ArgMin Gather GatherElements GatherND Scatter ScatterElements ScatterND TensorScatter TopK
"""
REDUCTIONS = """
CumProd CumSum Det Einsum Gemm Hardmax LogSoftmax MatMul MatMulInteger NegativeLogLikelihoodLoss ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax
SoftmaxCrossEntropyLoss
"""
CONTROL = "If Loop OptionalGetElement OptionalHasElement Scan SequenceInsert SequenceMap SplitToSequence"
OPERATORS = " ".join((ELEMENTS, SHAPES, INDICES, REDUCTIONS, CONTROL)).split()

EXCLUDED = {
    "*STRING*": "text has no evaluation",
    "test_equal_string*": "text has no evaluation",
    "*FLOAT8*": "PyTorch does not compute with float8",
    "*FLOAT4*": "PyTorch does not have float4",
    "*INT4*": "PyTorch does not have 4-bit integers",
    "*INT2*": "PyTorch does not have 2-bit integers",
    "test_training_dropout_default*": "drops values at random",
    "test_training_dropout": "drops values at random",
    "test_training_dropout_mask": "drops values at random",
    "test_scan_sum": "of operator set 8, which had a batch axis",
}


@cache
def official_cases():
    """Return the official cases by operator, those of its definition in terms of others included."""
    files = {*(name.lower() for name in OPERATORS), "rangeop"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(official.__path__):
            if module.name.replace("_", "") in files:
                importlib.import_module(f"{official.__name__}.{module.name}")
    cases = {}
    for case in official._NodeTestCases:
        operator = official._existing_names[case.name.split("_expanded")[0]].op_type
        cases.setdefault(operator, []).append(case)
    return cases


@pytest.mark.parametrize("operator", OPERATORS)
def test_official(operator):
    for case in official_cases()[operator]:
        if any(fnmatch.fnmatch(case.name, pattern) for pattern in EXCLUDED):
            continue
        module = OnnxModule(case.model, Path())
        for inputs, outputs in case.data_sets:
            given = [tensor(value) for value in inputs]
            results = module(*given)
            wide = [mapped(value, torch.Tensor.double) for value in given]
            with computed_in(torch.float64, module):
                precise = module(*wide)
            for expected, (name, result) in zip(outputs, results.items(), strict=True):
                same(case.name, result, expected)
                same(case.name, mapped(precise[name], lambda value, like=expected: value.to(floating(like))), expected)


def mapped(value, function):
    """Call a function with the float tensors of a value."""
    if isinstance(value, list):
        return [mapped(item, function) for item in value]
    return function(value) if value is not None and value.is_floating_point() else value


def floating(expected):
    """Return the type of an array, or of those in a list."""
    return floating(expected[0]) if isinstance(expected, list) else tensor(expected).dtype


def tensor(value):
    if isinstance(value, list):
        return [tensor(item) for item in value]
    if isinstance(value, onnx.TensorProto):
        return tensor(numpy_helper.to_array(value))
    if value is None:
        return None
    value = np.array(value)
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def same(name, result, expected):
    if isinstance(expected, list):
        assert len(result) == len(expected), name
        for one, two in zip(result, expected, strict=True):
            same(name, one, two)
        return
    wanted = tensor(expected)
    assert result.dtype is wanted.dtype, name
    tolerance = 1e-2 if wanted.dtype in (torch.float16, torch.bfloat16) else 1e-4
    floats = wanted.is_floating_point()
    torch.testing.assert_close(
        result, wanted, rtol=tolerance if floats else 0, atol=1e-6 if floats else 0, equal_nan=True, msg=name
    )
