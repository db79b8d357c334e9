"""OpenVINO."""

from deploy.core.backend import Backend, RunSettings


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.openvino.runner.OpenVinoOptions`."""
    return {"threads": settings.threads}


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    runner="deploy.backends.openvino.runner",
    packages=("openvino",),
    modules=("openvino",),
    install="deploy-toolkit[openvino]",
    targets=("openvino",),
    profiler=True,
    default=True,
    color="#009E73",
    options=options,
)
