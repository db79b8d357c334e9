"""ONNX Runtime."""

from collections.abc import Mapping, Sequence

from deploy.core.backend import ONNX, Backend, RunSettings, Variant
from deploy.core.tensors import TensorSpec


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.onnxruntime.runner.OnnxRuntimeOptions`."""
    return {
        "provider": settings.device,
        "threads": settings.threads,
        "low_memory": settings.low_memory,
        "spinning": not settings.shared_cores,
        "optimization": "all" if settings.fusion else "none",
    }


def variants(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> tuple[Variant, ...]:
    """Return the options that are faster on some networks and machines, and slower on others."""
    fixed = (Variant(name="fixed sizes", options={"sizes": dict(sizes)}),) if sizes else ()
    return (
        *fixed,
        Variant(name="plain layout", options={"optimization": "extended"}),
        Variant(name="no spinning", options={"spinning": False}),
    )


BACKEND = Backend(
    name="onnxruntime",
    title="ONNX Runtime",
    runner="deploy.backends.onnxruntime.runner",
    packages=("onnxruntime-gpu", "onnxruntime"),
    modules=("onnxruntime",),
    install="onnxruntime",
    targets=("onnxruntime",),
    default_for=(ONNX,),
    precisions=("fp32", "fp16", "int8", "fp64"),
    devices=("cpu", "cuda"),
    profiler=True,
    default=True,
    color="#0072B2",
    options=options,
    variants=variants,
)
