"""TensorRT and TensorRT for RTX."""

from deploy.core.backend import ENGINE, Backend, RunSettings


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.tensorrt.runner.TensorRTOptions`."""
    return {"graph": settings.cuda_graph}


BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    runner="deploy.backends.tensorrt.runner",
    packages=("tensorrt", "tensorrt-rtx"),
    modules=("tensorrt", "tensorrt_rtx"),
    install="deploy-toolkit[tensorrt]",
    formats=(ENGINE,),
    targets=("tensorrt", "tensorrt-rtx"),
    default_for=(ENGINE,),
    devices=("cuda",),
    cuda_graphs=True,
    color="#CC79A7",
    options=options,
)
