"""ONNX float32 to float16, with float32 inputs and outputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnxruntime.transformers.float16 import convert_float_to_float16

from deploy.support.onnx_file import SINGLE_FILE_LIMIT, load


def to_half(source: Path, path: Path, single_file_limit: int = SINGLE_FILE_LIMIT) -> None:
    """Write a file with float16 weights and activations; inputs and outputs stay float32.

    Operators without a float16 kernel, or that need float32 arguments, stay in float32 between casts. The source may be
    ``path`` itself; from ``single_file_limit`` bytes, weights go to ``<path>.data``.

    Raises:
        ArtifactError: the source is damaged, or its external data lies outside its folder.
    """
    model = load(source)  # checks the location of external data before it is read
    onnx.load_external_data_for_model(model, str(source.parent))
    data = path.with_name(f"{path.name}.data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values outside the range of float16, which the parity check reports
        half = convert_float_to_float16(
            model,
            keep_io_types=True,
            disable_shape_infer=_exceeds(model, single_file_limit),
            node_block_list=_transposed_products(model.graph),
        )
    data.unlink(missing_ok=True)
    external = _exceeds(half, single_file_limit)
    onnx.save(half, str(path), save_as_external_data=external, location=data.name if external else None)


def _transposed_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of MatMul nodes, and of the Transpose before them that moves the first axis behind others.

    ONNX Runtime 1.31 fuses them and then crashes (SIGSEGV) when it opens the file, if one of them is in float16.
    """
    moved = {}
    for node in graph.node:
        perm = [axis for item in node.attribute if item.name == "perm" for axis in item.ints]
        first_moves = len(perm) > 2 and 0 in perm[-2:] and perm[:-2] == list(range(1, len(perm) - 1))
        if node.op_type == "Transpose" and first_moves:
            moved[node.output[0]] = node.name
    products = [node for node in graph.node if node.op_type == "MatMul" and moved.keys() & {*node.input}]
    before = [moved[name] for node in products for name in node.input if name in moved]
    return [*dict.fromkeys(before), *(node.name for node in products)]


def _exceeds(model: onnx.ModelProto, limit: int) -> bool:
    try:
        return bool(model.ByteSize() >= limit)
    except EncodeError:  # protobuf cannot compute a size of 2 GB and more
        return True
