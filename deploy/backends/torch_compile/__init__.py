"""PyTorch with ``torch.compile``; not a default backend, since compilation takes up to a minute per process."""

from deploy.backends.torch import options
from deploy.core.backend import Backend

BACKEND = Backend(
    name="torch-compile",
    title="torch.compile",
    runner="deploy.backends.torch_compile.runner",
    packages=("torch",),
    modules=("torch",),
    install="torch",
    formats=(),
    precisions=("fp32", "fp16"),
    devices=("cpu", "cuda"),
    color="#D55E00",
    options=options,
)
