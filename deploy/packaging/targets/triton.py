"""A model repository for the Triton Inference Server.

Each model is a folder with its ``config.pbtxt`` and one folder per version. Artifacts keep their names and manifests;
the configuration names the file. A model with a pipeline has three more models: preprocessing, labels, and the ensemble
that connects them. The ensemble takes one image per request, so it has no batch dimension; the model inside it batches
across requests, and Triton adds and removes the batch dimension between the two kinds.

Source: Triton's ``model_config.proto``; ``EnsembleContext::ReshapeTensorDims`` connects models with and without a batch
dimension.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import ENGINE
from deploy.core.errors import UsageError
from deploy.core.tensors import DATATYPES, TensorSpec
from deploy.packaging.target import (
    SAMPLE,
    SCORES,
    Images,
    PackageItem,
    PackageOptions,
    PackageTarget,
    Pipeline,
    PipelineOutput,
    RankedLabel,
    copy_artifact,
)

LABELS = "labels.txt"
GRAPH = "model.onnx"
PREPROCESSING, POSTPROCESSING, ENSEMBLE = "preprocessing", "labels", "pipeline"
"""Suffixes of the names of a pipeline's models."""
IMAGE = TensorSpec(name="image", dtype="uint8", shape=("height", "width", 3))
WARMUP_SIDE = 256
"""Height and width in pixels of the preprocessing's warm-up image."""


class EnumName(str):
    """A protobuf enum value's name, which the text format writes without quotes."""

    __slots__ = ()


def write(folder: Path, items: Sequence[PackageItem], options: PackageOptions) -> None:
    """Add models to a repository; a model that is already there gets a new version and a new configuration."""
    for item in items:
        version = _next_version(folder / item.name, item.artifacts)
        _write_model(folder / item.name, version, item, options)
        if item.pipeline is not None:
            _write_pipeline(folder, version, item, item.pipeline)


def _newest_version(folder: Path) -> int:
    """Return the highest version number; 0 if there is no version."""
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def _next_version(folder: Path, artifacts: Sequence[Artifact]) -> int:
    """Return the newest version's number if it contains exactly these files, otherwise the next number."""
    newest = _newest_version(folder)
    paths = [folder / str(newest) / artifact.path.name for artifact in artifacts]
    same = newest and all(
        path.is_file() and sha256(path) == artifact.manifest.files[0].sha256
        for path, artifact in zip(paths, artifacts, strict=True)
    )
    return newest if same else newest + 1


def _empty_version(folder: Path, version: int) -> Path:
    path = folder / str(version)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _write_model(folder: Path, version: int, item: PackageItem, options: PackageOptions) -> None:
    is_engine = item.manifest.format == ENGINE
    if is_engine and options.device == "cpu":
        raise UsageError(f"{item.artifacts[0].path}: a TensorRT engine does not run on the CPU.", "--device cuda")
    path = _empty_version(folder, version)
    for artifact in item.artifacts:
        copy_artifact(artifact, path)
    batched = item.batch is not None
    outputs = [_tensor(spec, batched) for spec in item.manifest.outputs]
    if item.labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in item.labels), encoding="utf-8")
        outputs[0]["label_filename"] = LABELS
    config: dict[str, Any] = {
        "name": item.name,
        "backend": "tensorrt" if is_engine else "onnxruntime",
        "max_batch_size": options.max_batch if batched else 0,
        "input": [_tensor(spec, batched) for spec in item.manifest.inputs],
        "output": outputs,
        "default_model_filename": item.artifacts[0].path.name,
    }
    if is_engine:
        config["cc_model_filenames"] = [{"key": key, "value": name} for key, name in _by_gpu(item.artifacts).items()]
    kind = EnumName("KIND_GPU" if is_engine or options.device == "cuda" else f"KIND_{options.device.upper()}")
    config["instance_group"] = {"count": options.instances, "kind": kind}
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": round(1000 * options.max_delay_ms)}
    warmup = _warmup(item, options.max_batch)
    if warmup:
        config["model_warmup"] = warmup
    _write_config(folder, config)


def _by_gpu(engines: Sequence[Artifact]) -> Mapping[str, str]:
    files: dict[str, str] = {}
    for engine in engines:
        capability = str((engine.manifest.options.get("gpu") or {}).get("capability") or "")
        if not capability:
            raise UsageError(f"{engine.path}: its manifest does not record the GPU it was built for.")
        if capability in files:
            raise UsageError(f"{engine.path}: {files[capability]} is also for compute capability {capability}.")
        files[capability] = engine.path.name
    return files


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    shape = spec.shape[1:] if batched else spec.shape
    dims = [dim if isinstance(dim, int) else -1 for dim in shape]
    return {"name": spec.name, "data_type": _type(spec), "dims": dims}


def _type(spec: TensorSpec) -> EnumName:
    return EnumName("TYPE_" + DATATYPES[spec.dtype])


def _warmup(item: PackageItem, max_batch: int) -> list[dict[str, Any]]:
    """Return warm-up requests with the smallest and the largest batch; none if an input's size is unknown."""
    sizes = item.manifest.options.get("sizes", {})
    inputs = []
    for spec in item.manifest.inputs:
        bound = spec.bind({name: size for name, size in sizes.items() if name != item.batch})
        shape = bound.shape[1:] if item.batch else bound.shape
        if not all(isinstance(dim, int) for dim in shape):
            return []
        values = "random_data" if spec.dtype.startswith("float") else "zero_data"  # integers may be indices
        entry = {"data_type": _type(spec), "dims": list(shape), values: True}
        inputs.append({"key": spec.name, "value": entry})
    batches = sorted({1, max_batch}) if item.batch else [0]
    return [{"name": f"batch_{batch}", "batch_size": batch, "inputs": inputs} for batch in batches]


def _write_pipeline(folder: Path, version: int, item: PackageItem, pipeline: Pipeline) -> None:
    model_input, model_output = item.manifest.inputs[0], item.manifest.outputs[0]
    before, after, ensemble = (f"{item.name}_{suffix}" for suffix in (PREPROCESSING, POSTPROCESSING, ENSEMBLE))
    sample = TensorSpec(name=SAMPLE, dtype=model_input.dtype, shape=(1, *model_input.shape[1:]))
    image = _tensor(IMAGE, False)
    label: dict[str, Any] = {"name": "label", "data_type": EnumName("TYPE_STRING"), "dims": [-1, pipeline.top]}
    probability = {"name": "probability", "data_type": EnumName("TYPE_FP32"), "dims": [-1, pipeline.top]}
    preprocessing = _graph_config(before, [image], [_tensor(sample, False)])
    warmup = {"data_type": _type(IMAGE), "dims": [WARMUP_SIDE, WARMUP_SIDE, 3], "random_data": True}
    requests = [{"key": IMAGE.name, "value": warmup}]
    preprocessing["model_warmup"] = {"name": "image", "batch_size": 0, "inputs": requests}
    scores = dataclasses.replace(model_output, name=SCORES)
    postprocessing = _graph_config(after, [_tensor(scores, False)], [label, probability])
    for config, graph in ((preprocessing, pipeline.preprocessing), (postprocessing, pipeline.labels)):
        (_empty_version(folder / config["name"], version) / GRAPH).write_bytes(graph)
        _write_config(folder / config["name"], config)
    # an ensemble's version folder is empty but has to exist
    (_empty_version(folder / ensemble, version) / ".keep").touch()
    steps = [
        (before, {"image": "image"}, {SAMPLE: SAMPLE}),
        (item.name, {model_input.name: SAMPLE}, {model_output.name: SCORES}),
        (after, {SCORES: SCORES}, {"label": "label", "probability": "probability"}),
    ]
    config = {
        "name": ensemble,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [image],
        "output": [label, probability],
        "ensemble_scheduling": {"step": [_step(*step) for step in steps]},
    }
    _write_config(folder / ensemble, config)


def _graph_config(name: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": inputs,
        "output": outputs,
        "default_model_filename": GRAPH,
        "instance_group": {"count": 1, "kind": EnumName("KIND_CPU")},
    }


def _step(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_name": name,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.pbtxt").write_text(_protobuf_text(config), encoding="utf-8")


def _protobuf_text(message: Mapping[str, Any], indent: str = "") -> str:
    """Format a message in protobuf's text format: one line per value; lists are repeated fields."""
    lines = []
    for name, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{name} {{\n{_protobuf_text(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (EnumName, int)):
        return str(value)
    return json.dumps(str(value), ensure_ascii=True)


def classify(folder: Path, item: PackageItem, images: Images) -> PipelineOutput | None:
    """Run images through the three graphs of a model's newest pipeline; None for an engine."""
    if item.manifest.format == ENGINE:
        return None
    import numpy as np

    from deploy.backends.onnxruntime.runner import open as open_graph
    from deploy.data.preprocess import prepare

    version = str(_newest_version(folder / item.name))
    before, after = (folder / f"{item.name}_{suffix}" / version / GRAPH for suffix in (PREPROCESSING, POSTPROCESSING))
    model = folder / item.name / version / item.artifacts[0].path.name
    recipe = item.manifest.preprocessing
    model_input, model_output = item.manifest.inputs[0].name, item.manifest.outputs[0].name
    ranked, equal = [], 0
    with open_graph(before) as first, open_graph(model) as second, open_graph(after) as third:
        for image in images:
            sample = first.run({"image": image})[SAMPLE]
            equal += int(recipe is not None and np.array_equal(sample[0], prepare(image, recipe)))
            result = third.run({SCORES: second.run({model_input: sample})[model_output]})
            pairs = zip(result["label"][0], result["probability"][0], strict=True)
            ranked.append(tuple(RankedLabel(label=str(label), probability=float(value)) for label, value in pairs))
    return PipelineOutput(labels=ranked, equal_inputs=equal)


TARGET = PackageTarget(
    name="triton",
    title="Triton Inference Server",
    write=write,
    backends=("onnxruntime", "tensorrt"),
    excluded_targets=("tensorrt-rtx",),
    options=("max_batch", "max_delay_ms", "instances", "device"),
    classify=classify,
)
