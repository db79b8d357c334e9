"""PyTorch, eager."""

from collections.abc import Mapping, Sequence

from deploy.core.backend import Backend, RunSettings, Variant
from deploy.core.tensors import TensorSpec


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.torch.runner.TorchOptions`."""
    return {
        "threads": settings.threads,
        "precision": settings.precision,
        "device": settings.device,
        "graph": settings.cuda_graph,
    }


def variants(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> tuple[Variant, ...]:
    """Return the variant with images in NHWC order, for models that take images."""
    images = any(len(spec.shape) == 4 for spec in inputs)
    return (Variant(name="channels last", options={"channels_last": True}),) if images else ()


BACKEND = Backend(
    name="torch",
    title="PyTorch",
    runner="deploy.backends.torch.runner",
    packages=("torch",),
    modules=("torch",),
    install="torch",
    formats=(),
    precisions=("fp32", "fp16", "bf16"),
    devices=("cpu", "cuda"),
    cuda_graphs=True,
    profiler=True,
    default=True,
    reference=True,
    color="#E69F00",
    options=options,
    variants=variants,
)
