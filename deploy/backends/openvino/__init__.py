"""OpenVINO."""

from collections.abc import Mapping, Sequence

from deploy.core.backend import Backend, RunSettings, Variant
from deploy.core.tensors import TensorSpec


def options(settings: RunSettings) -> dict[str, object]:
    """Translate settings to `deploy.backends.openvino.runner.OpenVinoOptions`."""
    return {"threads": settings.threads}


def variants(inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> tuple[Variant, ...]:
    """Return the variant that is compiled for one size, where the model takes several."""
    shapes = {spec.name: list(spec.concrete(sizes)) for spec in inputs}
    return (Variant(name="fixed sizes", options={"shapes": shapes}),) if sizes else ()


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
    variants=variants,
)
