"""PyTorch compiled ahead of time by AOTInductor; not a default backend, since every process compiles."""

from deploy.backends import torch
from deploy.backends.torch_compile import variants
from deploy.core.backend import Backend

BACKEND = Backend(
    name="torch-aot",
    title="AOTInductor",
    runner="deploy.backends.torch_aot.runner",
    packages=("torch",),
    modules=("torch",),
    install="torch",
    formats=(),
    precisions=("fp32", "fp16", "bf16"),
    devices=("cpu", "cuda"),
    color="#F0A04B",
    options=torch.options,
    variants=variants,
)
