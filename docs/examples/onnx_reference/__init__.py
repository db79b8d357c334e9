"""ONNX's reference implementation as a backend: its declaration, which imports no runtime."""

from deploy.core.backend import Backend

BACKEND = Backend(
    name="onnx-reference",
    title="ONNX reference",
    runner="onnx_reference.runner",
    packages=("onnx",),
    modules=("onnx",),
    install="onnx",
    precisions=("fp32",),
    color="#F0E442",
)
