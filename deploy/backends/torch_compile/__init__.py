"""PyTorch with ``torch.compile``; not a default backend, since compilation takes up to a minute per process."""

from collections.abc import Mapping, Sequence

from deploy.backends import torch
from deploy.core.backend import Backend, Variant
from deploy.core.tensors import TensorSpec


def variants(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> tuple[Variant, ...]:
    """Return the variant whose weights are constants of the compiled code, and that with images in NHWC order."""
    return Variant(name="frozen", options={"freezing": True}), *torch.variants(inputs, sizes)


BACKEND = Backend(
    name="torch-compile",
    title="torch.compile",
    runner="deploy.backends.torch_compile.runner",
    packages=("torch",),
    modules=("torch",),
    install="torch",
    formats=(),
    precisions=("fp32", "fp16", "bf16"),
    devices=("cpu", "cuda"),
    color="#D55E00",
    options=torch.options,
    variants=variants,
)
