"""ONNX float32 to float16, with float32 inputs and outputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnxruntime.transformers.float16 import convert_float_to_float16

from deploy.support.onnx_file import load


def to_half(source: Path, path: Path, single_file_limit: int) -> None:
    """Write a file with half-precision weights and activations; inputs and outputs stay float32.

    Operators that have no half-precision kernel, or need float32 arguments, keep float32 between casts.

    Args:
        source: the ONNX file, which may be ``path`` itself; its weights may lie in files beside it.
        path: where to write.
        single_file_limit: bytes from which weights go to ``<path>.data``.
    """
    model = load(source)  # external data that points elsewhere is refused before it is read
    onnx.load_external_data_for_model(model, str(source.parent))
    data = path.with_name(f"{path.name}.data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values beyond half's range: the parity check judges them, with numbers
        half = convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=_exceeds(model, single_file_limit)
        )
    data.unlink(missing_ok=True)
    external = _exceeds(half, single_file_limit)
    onnx.save(half, str(path), save_as_external_data=external, location=data.name if external else None)


def _exceeds(model: onnx.ModelProto, limit: int) -> bool:
    try:
        return bool(model.ByteSize() >= limit)
    except EncodeError:  # of 2 GB and more protobuf does not even tell the size
        return True
