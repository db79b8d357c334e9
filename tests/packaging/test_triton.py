"""A model repository, read with Triton's own protobuf definition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deploy.core.artifact import Artifact, Payload, manifest_path
from deploy.data.preprocess import prepare
from tests.conftest import Ran

Run = Callable[..., Ran]
TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(string)": "TYPE_STRING",
}


def _session(folder: Path, config: Any) -> onnxruntime.InferenceSession:
    newest = max(int(path.name) for path in folder.iterdir() if path.is_dir())
    return onnxruntime.InferenceSession(str(folder / str(newest) / config.default_model_filename))


def _ensemble(repository: Path, name: str, parsed: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Run the steps of an ensemble as its configuration wires them; a batch dimension is Triton's to add."""
    pool = dict(tensors)
    for step in parsed(repository / name).ensemble_scheduling.step:
        folder = repository / step.model_name
        session = _session(folder, parsed(folder))
        found = session.run(None, {inner: pool[outer] for inner, outer in step.input_map.items()})
        given = dict(zip([item.name for item in session.get_outputs()], found, strict=True))
        pool |= {outer: given[inner] for inner, outer in step.output_map.items()}
    return {item.name: pool[item.name] for item in parsed(repository / name).output}


def test_every_configuration_is_tritons_and_fits_its_file(run: Run, made: Path, parsed: Any) -> None:
    assert run("package", "lenet5", "--for", "triton", "--max-batch", 16, "--instances", 2, "--device", "cpu").code == 0
    repository = made / "packages" / "triton"
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["lenet5", "lenet5_labels", "lenet5_pipeline", "lenet5_preprocessing"]
    for folder in folders:
        config = parsed(folder)
        assert config.name == folder.name
        if config.platform == "ensemble":
            continue
        session = _session(folder, config)
        for configured, actual in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [item.name for item in configured] == [item.name for item in actual]
            for item, tensor in zip(configured, actual, strict=True):
                shape = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
                full = [-1, *item.dims] if config.max_batch_size else list(item.dims)
                assert len(full) == len(shape)
                assert all(-1 in (have, want) or have == want for have, want in zip(full, shape, strict=True))
                assert (
                    TYPES[tensor.type]
                    == item.DESCRIPTOR.fields_by_name["data_type"].enum_type.values[item.data_type].name
                )
    config = parsed(repository / "lenet5")
    assert config.backend == "onnxruntime" and config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert config.instance_group[0].count == 2 and config.instance_group[0].kind == 2  # KIND_CPU
    assert [warm.batch_size for warm in config.model_warmup] == [1, 16]
    assert list(config.model_warmup[0].inputs["input"].dims) == [1, 32, 32]
    assert (repository / "lenet5" / config.output[0].label_filename).read_text().split() == list("0123456789")


def test_a_delay_is_written_in_microseconds(run: Run, made: Path, parsed: Any) -> None:
    for delay, expected in ((2.5, 2500), (0, 0)):
        assert run("package", "lenet5", "--for", "triton", "--no-preprocessing", "--max-delay-ms", delay).code == 0
        config = parsed(made / "packages" / "triton" / "lenet5")
        assert config.dynamic_batching.max_queue_delay_microseconds == expected


def test_a_picture_goes_in_and_names_come_out(run: Run, made: Path, parsed: Any) -> None:
    ran = run("package", "lenet5", "--for", "triton", "--data", "digits", "--json")
    proof = ran.json["models"][0]["proof"]
    assert proof["equal_inputs"] == proof["same_first_label"] == proof["pictures"] > 60
    repository = made / "packages" / "triton"
    artifact = Artifact.open(repository / "lenet5" / "1" / "lenet5.fp32.onnx")
    recipe = artifact.manifest.preprocessing
    assert recipe is not None
    session = onnxruntime.InferenceSession(str(artifact.path))
    rng = np.random.default_rng(3)
    for size in ((8, 8), (120, 90), (40, 200)):
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        found = _ensemble(repository, "lenet5_pipeline", parsed, {"image": image})
        logits = session.run(None, {"input": prepare(image, recipe)[None]})[0][0]
        order = np.argsort(-logits, kind="stable")[:5]
        assert found["label"].tolist() == [[artifact.manifest.labels[index] for index in order]]
        weights = np.exp(logits.astype(np.float64))
        np.testing.assert_allclose(found["probability"][0], weights[order] / weights.sum(), rtol=1e-5)


def test_versions_and_other_models_are_kept(run: Run, made: Path) -> None:
    words = ("package", "lenet5", "--for", "triton")
    assert run(*words).code == 0 and run(*words, "--max-batch", 8).code == 0
    repository = made / "packages" / "triton"
    assert not (repository / "lenet5" / "2").exists(), "the same file is no new version"
    assert run(*words, "--precision", "fp16").code == 0
    assert [(repository / name / "1").is_dir() for name in ("lenet5", "lenet5_pipeline")] == [True, True]
    second = repository / "lenet5" / "2" / "lenet5.fp16.onnx"
    assert (
        second.is_file()
        and 'default_model_filename: "lenet5.fp16.onnx"' in (repository / "lenet5" / "config.pbtxt").read_text()
    )
    assert run("package", "lenet5", "--for", "triton", "--no-preprocessing", "--output", repository).code == 0
    assert (repository / "lenet5" / "3" / "lenet5.fp32.onnx").is_file()
    assert run("verify", repository).code == 0


def test_engines_by_gpu(run: Run, made: Path, parsed: Any) -> None:
    """Engines that were run and proven elsewhere: the manifests say for which GPU each is."""
    source = Artifact.open(made / "lenet5" / "lenet5.fp32.onnx").manifest
    paths = []
    for capability, library in (("8.0", "tensorrt"), ("9.0", "tensorrt"), ("8.6", "tensorrt-rtx")):
        path = made / "lenet5" / f"lenet5.fp16.sm{capability}.engine"
        path.write_bytes(capability.encode())
        profile = {"input": {"min": [1, 1, 32, 32], "opt": [8, 1, 32, 32], "max": [16, 1, 32, 32]}}
        options = {"library": library, "gpu": {"name": "a GPU", "capability": capability}, "profiles": [profile]}
        made_of = {"format": "engine", "precision": "fp16", "target": library, "options": options}
        manifest = replace(source, files=(Payload.of(path),), **made_of)
        manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
        paths.append(path)
    words = ("package", *paths[:2], "--for", "triton")
    refused = run(*words)
    assert refused.code == 2 and "--max-batch 16" in refused.err
    cpu = run(*words, "--max-batch", 16, "--device", "cpu")
    assert cpu.code == 2 and "--device cuda" in cpu.err
    done = run(*words, "--max-batch", 16, "--json")
    assert done.code == 0 and "WARNING" in done.err
    (model,) = done.json["models"]
    assert model["proof"] is None and model["without"] and model["files"] == [str(path) for path in paths[:2]]
    config = parsed(made / "packages" / "triton" / "lenet5")
    assert config.backend == "tensorrt" and config.instance_group[0].kind == 1  # KIND_GPU
    assert dict(config.cc_model_filenames) == {"8.0": paths[0].name, "9.0": paths[1].name}
    rtx = run("package", paths[2], "--for", "triton")
    assert rtx.code == 1 and paths[2].name in rtx.err and "tensorrt-rtx" in rtx.err


def test_what_must_not_be_packaged(run: Run, made: Path) -> None:
    path = made / "lenet5" / "lenet5.fp32.onnx"
    manifest = Artifact.open(path).manifest
    for change, hint in (
        ({"parity": {"verdict": "fail"}}, "deploy check zoo/lenet5"),
        ({"parity": None}, "deploy check zoo/lenet5"),
        ({"target": "openvino"}, "deploy export lenet5"),
        ({"weights": replace(manifest.weights, trained=False)}, "--allow-untrained"),
    ):
        manifest_path(path).write_text(replace(manifest, **change).to_json(), encoding="utf-8")
        ran = run("package", "lenet5", "--for", "triton")
        assert ran.code == 1 and hint in ran.err, ran
        assert not (made / "packages" / "triton").exists()


def test_a_package_that_sees_pictures_otherwise_is_not_published(run: Run, made: Path) -> None:
    """The preprocessing in the manifest is not the model's: what was there before stays."""
    assert run("package", "lenet5", "--for", "triton").code == 0
    repository = made / "packages" / "triton"
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    path = made / "lenet5" / "lenet5.fp32.onnx"
    manifest = Artifact.open(path).manifest
    assert manifest.preprocessing is not None
    wrong = replace(manifest, preprocessing=replace(manifest.preprocessing, mean=(0.9,), std=(-0.3,)))
    manifest_path(path).write_text(wrong.to_json(), encoding="utf-8")
    ran = run("package", "lenet5", "--for", "triton", "--data", "digits")
    assert ran.code == 3 and "--no-preprocessing" in ran.err
    assert before == {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert [path.name for path in repository.parent.iterdir()] == ["triton"]


@pytest.mark.parametrize("harm", ["changed", "added", "removed", "linked", "list"])
def test_verify_finds_what_was_done_to_a_package(run: Run, made: Path, harm: str) -> None:
    assert run("package", "lenet5", "--for", "triton", "--no-preprocessing").code == 0
    repository = made / "packages" / "triton"
    assert run("verify").code == 0 and run("verify", repository / "lenet5" / "1" / "lenet5.fp32.onnx").code == 0
    config = repository / "lenet5" / "config.pbtxt"
    if harm == "changed":
        config.write_text(config.read_text().replace("32", "33", 1))
    elif harm == "added":
        (repository / "lenet5" / "1" / "more").touch()
    elif harm == "linked":
        (made / "elsewhere").write_bytes(config.read_bytes())
        config.unlink()
        config.symlink_to(made / "elsewhere")
    elif harm == "removed":
        config.unlink()
    else:
        listed = json.loads((repository / "package.json").read_text())
        del listed["files"]["lenet5/config.pbtxt"]
        (repository / "package.json").write_text(json.dumps(listed))
    found = run("verify", made / "packages", "--json")
    assert found.code == 3 and len(found.json["problems"]) == 1
    again = run("package", "lenet5", "--for", "triton")
    assert again.code in (1, 3), "it is not built upon"


def test_mistakes(run: Run, made: Path) -> None:
    nearest = run("package", "lenet5", "--for", "trition")
    assert nearest.code == 2 and "triton" in nearest.err.replace("trition", "")
    assert "deploy export lenet" in run("package", "lenet", "--for", "triton").err
    assert "deploy quantize lenet5" in run("package", "lenet5", "--for", "triton", "--precision", "int8").err
    (made / "mine").mkdir()
    (made / "mine" / "thesis.txt").touch()
    there = run("package", "lenet5", "--for", "triton", "--output", made / "mine")
    assert there.code == 2 and "--output" in there.err and (made / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("source", "result"), [("image", "label"), ("constant_0", "probability"), ("sample", "scores")]
)
def test_a_model_with_the_names_of_the_pipeline(
    run: Run, store: Path, parsed: Any, tmp_path: Path, source: str, result: str
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [source, "w"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], [result]),
        ],
        "net",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (40, 8, 8, 3), np.uint8))
    recipe = ["--preprocess", "crop=8,8", "--preprocess", "mean=0.5,0.5,0.5", "--preprocess", "std=0.1,0.1,0.1"]
    made = run("quantize", path, "--calib", tmp_path / "data.npz", "--samples", "20", *recipe, "--json")
    assert made.code == 0, made.err
    done = run("package", made.json["file"], "--for", "triton", "--labels", "a,b,c,d", "--json")
    assert done.code == 0, done.err
    repository = store / "packages" / "triton"
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    found = _ensemble(repository, "net_pipeline", parsed, {"image": image})
    assert set(found["label"][0].tolist()) == {b"a", b"b", b"c", b"d"} or set(found["label"][0]) == {*"abcd"}
