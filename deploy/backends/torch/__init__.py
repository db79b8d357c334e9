"""PyTorch, eager."""

from deploy.core.backend import Backend, RunSettings


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.torch.runner.TorchOptions`."""
    return {
        "threads": settings.threads,
        "precision": settings.precision,
        "device": settings.device,
        "graph": settings.cuda_graph,
    }


BACKEND = Backend(
    name="torch",
    title="PyTorch",
    runner="deploy.backends.torch.runner",
    packages=("torch",),
    modules=("torch",),
    install="torch",
    formats=(),
    precisions=("fp32", "fp16"),
    devices=("cpu", "cuda"),
    cuda_graphs=True,
    profiler=True,
    default=True,
    reference=True,
    color="#E69F00",
    options=options,
)
