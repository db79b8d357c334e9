"""A model repository for the Triton Inference Server.

Each model is a folder with its ``config.pbtxt`` and a folder for every version; artifacts keep their names and their
manifests, and the configuration names the file. A model with a pipeline gets three more: preprocessing, labels, and the
ensemble that joins them. The ensemble takes one picture a request, so it has no batch of its own; the model in its
middle batches across requests, and Triton adds and removes the batch dimension between the two kinds.

Source: Triton's ``model_config.proto``; the joining of models with a batch dimension to those without is
``EnsembleContext::ReshapeTensorDims``.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, sha256
from deploy.core.errors import UsageError
from deploy.core.tensors import DATATYPES, TensorSpec
from deploy.packaging.content import Content, PackageOptions, Pipeline, copy_artifact
from deploy.packaging.protobuf_text import Word, text

LABELS = "labels.txt"
GRAPH = "model.onnx"
BEFORE, AFTER, WHOLE = "preprocessing", "labels", "pipeline"
"""What the names of a pipeline's models end in."""
IMAGE = TensorSpec(name="image", dtype="uint8", shape=("height", "width", 3))
KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
WARM_SIDE = 256
"""Height and width in pixels of the picture that warms the preprocessing."""


def refuse(artifact: Artifact) -> str | None:
    """Why Triton would not run a file as it was proven; None if it would."""
    manifest = artifact.manifest
    if manifest.format == "engine":
        library = manifest.options.get("library")
        return None if library == "tensorrt" else f"Triton's TensorRT backend does not read engines of {library}"
    if manifest.format != "onnx":
        return f"Triton has no backend here for {manifest.format}"
    if manifest.target not in (None, "onnxruntime"):
        return f"its INT8 was made for {manifest.target}, and Triton would run it with ONNX Runtime"
    return None


def write(folder: Path, contents: Sequence[Content], options: PackageOptions) -> None:
    """Add models to a repository; one that is there gets a new version, and a new configuration.

    Args:
        folder: the repository.
        contents: the models.
        options: how they are run.

    Raises:
        UsageError: engines that one configuration cannot name.
    """
    for content in contents:
        version = _version(folder / content.name, content.artifacts)
        _model(folder / content.name, version, content, options)
        if content.pipeline is not None:
            _pipeline(folder, version, content, content.pipeline)


def _version(folder: Path, artifacts: Sequence[Artifact]) -> int:
    """The number of the newest version if it holds these very files, else the next one."""
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    newest = max(numbers, default=0)
    paths = [folder / str(newest) / artifact.path.name for artifact in artifacts]
    same = newest and all(
        path.is_file() and sha256(path) == artifact.manifest.files[0].sha256
        for path, artifact in zip(paths, artifacts, strict=True)
    )
    return newest if same else newest + 1


def _fresh(folder: Path, version: int) -> Path:
    place = folder / str(version)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _model(folder: Path, version: int, content: Content, options: PackageOptions) -> None:
    place = _fresh(folder, version)
    for artifact in content.artifacts:
        copy_artifact(artifact, place)
    is_engine = content.artifacts[0].manifest.format == "engine"
    batched = content.batch is not None
    outputs = [_tensor(spec, batched) for spec in content.outputs]
    if content.labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in content.labels), encoding="utf-8")
        outputs[0]["label_filename"] = LABELS
    config: dict[str, Any] = {
        "name": content.name,
        "backend": "tensorrt" if is_engine else "onnxruntime",
        "max_batch_size": content.max_batch if batched else 0,
        "input": [_tensor(spec, batched) for spec in content.inputs],
        "output": outputs,
        "default_model_filename": content.artifacts[0].path.name,
    }
    if is_engine:
        config["cc_model_filenames"] = [{"key": key, "value": name} for key, name in _by_gpu(content.artifacts).items()]
    kind = KINDS["gpu" if is_engine else options.device]
    config["instance_group"] = {"count": options.instances, "kind": Word(kind)}
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": options.max_delay_us}
    warm = _warm_up(content)
    if warm:
        config["model_warmup"] = warm
    _write_config(folder, config)


def _by_gpu(engines: Sequence[Artifact]) -> Mapping[str, str]:
    """File names by compute capability.

    Raises:
        UsageError: two for one GPU, or an engine that does not say its own.
    """
    found: dict[str, str] = {}
    for engine in engines:
        capability = str((engine.manifest.options.get("gpu") or {}).get("capability") or "")
        if not capability or capability in found:
            said = f"is for compute capability {capability} too" if capability else "does not say which GPU it is for"
            raise UsageError(f"{engine.path}: {said}.")
        found[capability] = engine.path.name
    return found


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    shape = spec.shape[1:] if batched else spec.shape
    dims = [dim if isinstance(dim, int) else -1 for dim in shape]
    return {"name": spec.name, "data_type": _type(spec), "dims": dims}


def _type(spec: TensorSpec) -> Word:
    return Word("TYPE_" + DATATYPES[spec.dtype])


def _warm_up(content: Content) -> list[dict[str, Any]]:
    """Requests at the smallest and the largest batch; none where a size is not known."""
    known = content.artifacts[0].manifest.options.get("sizes", {})
    inputs = []
    for spec in content.inputs:
        bound = spec.bind({name: size for name, size in known.items() if name != content.batch})
        shape = bound.shape[1:] if content.batch else bound.shape
        if not all(isinstance(dim, int) for dim in shape):
            return []
        values = "random_data" if spec.dtype.startswith("float") else "zero_data"  # an index must exist
        entry = {"data_type": _type(spec), "dims": list(shape), values: True}
        inputs.append({"key": spec.name, "value": entry})
    sizes = sorted({1, content.max_batch}) if content.batch else [0]
    return [{"name": f"batch_{size}", "batch_size": size, "inputs": inputs} for size in sizes]


def _pipeline(folder: Path, version: int, content: Content, pipeline: Pipeline) -> None:
    taken, given = content.inputs[0], content.outputs[0]
    before, after, whole = (f"{content.name}_{suffix}" for suffix in (BEFORE, AFTER, WHOLE))
    sample = TensorSpec(name=taken.name, dtype=taken.dtype, shape=(1, *taken.shape[1:]))
    image = {**_tensor(IMAGE, False), "name": "image"}
    label: dict[str, Any] = {"name": "label", "data_type": Word("TYPE_STRING"), "dims": [-1, pipeline.top]}
    probability = {"name": "probability", "data_type": Word("TYPE_FP32"), "dims": [-1, pipeline.top]}
    picture = {"data_type": Word("TYPE_UINT8"), "dims": [WARM_SIDE, WARM_SIDE, 3], "random_data": True}
    parts: tuple[tuple[Any, ...], ...] = (
        (before, pipeline.preprocessing, [image], [_tensor(sample, False)], [("image", picture)]),
        (after, pipeline.labels, [_tensor(given, False)], [label, probability], []),
    )
    for name, onnx, inputs, outputs, warm in parts:
        (_fresh(folder / name, version) / GRAPH).write_bytes(onnx)
        config: dict[str, Any] = {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": 0,
            "input": inputs,
            "output": outputs,
            "default_model_filename": GRAPH,
            "instance_group": {"count": 1, "kind": Word("KIND_CPU")},
        }
        if warm:
            requests = [{"key": key, "value": value} for key, value in warm]
            config["model_warmup"] = {"name": "picture", "batch_size": 0, "inputs": requests}
        _write_config(folder / name, config)
    _fresh(folder / whole, version)
    (folder / whole / str(version) / ".keep").touch()  # version folders of an ensemble are empty, and have to exist
    steps = [
        (before, {"image": "image"}, {taken.name: "sample"}),
        (content.name, {taken.name: "sample"}, {given.name: "scores"}),
        (after, {given.name: "scores"}, {"label": "label", "probability": "probability"}),
    ]
    ensemble = {
        "name": whole,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [image],
        "output": [label, probability],
        "ensemble_scheduling": {"step": [_step(*step) for step in steps]},
    }
    _write_config(folder / whole, ensemble)


def _step(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_name": name,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.pbtxt").write_text(text(config), encoding="utf-8")


def graphs(folder: Path, content: Content) -> tuple[Path, Path, Path]:
    """Where the three graphs of a model's newest pipeline lie: preprocessing, model, labels."""
    newest = max(int(path.name) for path in (folder / content.name).iterdir() if path.name.isdigit())
    before, after = (folder / f"{content.name}_{suffix}" / str(newest) / GRAPH for suffix in (BEFORE, AFTER))
    return before, folder / content.name / str(newest) / content.artifacts[0].path.name, after
