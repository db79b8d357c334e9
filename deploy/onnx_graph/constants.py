"""Stored tensors of an ONNX file as tensors of PyTorch."""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from deploy.core.errors import ModelError

_BFLOAT16 = onnx.TensorProto.BFLOAT16
_DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.COMPLEX64: torch.complex64,
    onnx.TensorProto.COMPLEX128: torch.complex128,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
}


def dtype_of(element_type: int) -> torch.dtype:
    """Return the type of an ONNX tensor's elements in PyTorch.

    Raises:
        ModelError: PyTorch does not have the type, such as strings, or does not compute with it, such as float8.
    """
    if element_type not in _DTYPES:
        kind = onnx.TensorProto.DataType.Name(element_type)
        raise ModelError(f"the type {kind} has no evaluation.")
    return _DTYPES[element_type]


@singledispatch
def tensor_of(value: Any, folder: Path) -> torch.Tensor:
    """Return a tensor, a sparse tensor (made dense) or the value of a node ``Constant``.

    External data is read from ``folder``; the file must have been checked by `deploy.support.onnx_file.load`.

    Raises:
        ModelError: the tensor has a type that PyTorch does not have, such as strings.
    """
    raise TypeError(type(value).__name__)


@tensor_of.register
def _(value: onnx.TensorProto, folder: Path) -> torch.Tensor:
    array = numpy_helper.to_array(value, str(folder))
    if value.data_type == _BFLOAT16:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, order="C"))  # a copy that can be written to
    except TypeError as exc:
        kind = onnx.TensorProto.DataType.Name(value.data_type)
        raise ModelError(f"the tensor {value.name!r} is of the type {kind}, which has no evaluation.") from exc


@tensor_of.register
def _(value: onnx.SparseTensorProto, folder: Path) -> torch.Tensor:
    values, indices = tensor_of(value.values, folder), tensor_of(value.indices, folder)
    dense = torch.zeros(tuple(value.dims), dtype=values.dtype)
    if indices.dim() == 1:
        dense.view(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


@tensor_of.register
def _(value: onnx.NodeProto, folder: Path) -> torch.Tensor:
    (item,) = value.attribute
    if item.name in ("value", "sparse_value"):
        return tensor_of(item.t if item.name == "value" else item.sparse_tensor, folder)
    plain = onnx.helper.get_attribute_value(item)
    if item.name.startswith("value_string"):
        raise ModelError(f"the constant {value.output[0]!r} is text, which has no evaluation.")
    dtype = torch.float32 if item.name.startswith("value_float") else torch.int64
    return torch.tensor(plain if isinstance(plain, (int, float)) else list(plain), dtype=dtype)
