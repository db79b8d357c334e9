"""ONNX files that somebody else made: every command takes them, and what no model is known of is unproven."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.artifact import Artifact
from deploy.report.write import write_report
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
Change = Callable[[onnx.ModelProto], None]
QUICK = ("--threads", "1", "--repetitions", "1", "--min-time", "0.01", "--backends", "onnxruntime")
RECIPE = [word for text in ("crop=8", "mean=0.5,0.5,0.5", "std=0.5,0.5,0.5") for word in ("--preprocess", text)]
LABELS = ",".join("abcdefghij")


def classifier(
    path: Path,
    *,
    batch: str | int | None = "N",
    result: str | int | None = "N",
    sides: tuple[Any, Any] = (8, 8),
    dtype: type = np.float32,
    change: Change = lambda model: None,
) -> Path:
    """Write a small image classifier of ten classes."""
    rng = np.random.default_rng(0)
    kernel, head = rng.normal(size=(4, 3, 3, 3)).astype(dtype), rng.normal(size=(4, 10)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["convolved"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["active"], name="relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["scores"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", kind, [batch, 3, *sides])],
        [helper.make_tensor_value_info("scores", kind, [result, 10])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(head, "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A classifier in a folder of its own."""
    (tmp_path / "received").mkdir()
    return classifier(tmp_path / "received" / "theirs.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Labeled images for it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=rng.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8), labels=np.arange(40) % 10)
    return path


def test_it_is_described_timed_compared_and_profiled(run: Run, theirs: Path, store: Path) -> None:
    assert run("inspect", theirs, "--json").json["parity"] == "unproven"
    assert "unproven" in run("inspect", theirs).out
    ran = run("bench", theirs, *QUICK, "--batch", "1,3", "--json")
    assert ran.code == 0 and "'N'" in ran.err
    assert [row["evidence"]["verdict"] for row in ran.json["rows"]] == ["unproven", "unproven"]
    assert [row["sizes"] for row in ran.json["rows"]] == [{"N": 1}, {"N": 3}]
    assert "unproven" in run("bench", theirs, *QUICK).out
    report = write_report(artifacts=store)
    rows = report.document["rows"]
    assert {row["evidence"]["verdict"] for row in rows} == {"unproven"}
    assert all(f"deploy bench {theirs}" in row["command"] for row in rows)
    assert report.page.read_text(encoding="utf-8").count("unproven") >= len(rows)
    profiled = run("profile", theirs, "--threads", "1", "--backends", "onnxruntime", "--json").json["cells"]
    assert profiled[0]["evidence"]["verdict"] == "unproven" and "Conv" in profiled[0]["by_operator_ns"]
    compared = run("compare", theirs, theirs, "--threads", "1", "--time-limit", "1")
    assert compared.code == 0 and compared.out.count("unproven") == 2


def test_throughput_grows_with_the_batch(run: Run, theirs: Path) -> None:
    found = run("bench", theirs, *QUICK, "--scenario", "throughput", "--max-batch", "2", "--json").json
    assert [row["batch"] for row in found["rows"]] == [1, 2]


def test_it_is_quantized_and_its_int8_file_says_that_the_float_file_is_unproven(
    run: Run, theirs: Path, store: Path, images: Path
) -> None:
    ran = run("quantize", theirs, "--calib", images, *RECIPE, "--json")
    assert ran.code == 0 and ran.json["verdict"] == "measured" and ran.json["float_verdict"] == "unproven"
    made = store / "theirs" / "theirs.int8-onnxruntime.onnx"
    manifest = Artifact.open(made).manifest
    assert manifest.parity is not None and manifest.parity["reference_verdict"] == "unproven"
    alone = shutil.copy(made, theirs.with_name("int8.onnx"))
    rows = run("bench", alone, *QUICK, "--json").json["rows"]
    assert [(row["precision"], row["evidence"]["verdict"]) for row in rows] == [("int8", "unproven")]
    again = run("quantize", alone, "--calib", images, *RECIPE)
    assert again.code == 1 and "int8" in again.err


def test_an_engine_is_built_of_it(run: Run, theirs: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    ran = run("trt", "build", theirs, "--runtime", "tensorrt-rtx", "--batch", "1:2:4", "--json")
    assert ran.code == 0 and "unproven" in ran.json["state"]
    assert [shapes["x"]["max"] for shapes in ran.json["profiles"]] == [[4, 3, 8, 8]]


def test_its_accuracy_is_measured(run: Run, theirs: Path, images: Path) -> None:
    ran = run("evaluate", theirs, "--data", images, "--json")
    assert ran.code == 0 and ran.json["verdict"] == "unproven"
    assert [row["verdict"] for row in ran.json["rows"]] == ["unproven"]
    assert "deploy adopt" in ran.err, "the preprocessing was assumed"
    unsized = classifier(theirs.with_name("open.onnx"), sides=("h", "w"))
    ran = run("evaluate", unsized, "--data", images)
    assert ran.code == 1 and f"deploy adopt {unsized}" in ran.err


def test_it_is_packaged(run: Run, theirs: Path, store: Path) -> None:
    ran = run("package", theirs, "--for", "triton", "--json")
    assert ran.code == 0 and ran.json["models"][0]["parity"] == "unproven" and "WARNING" in ran.err
    folder = store / "packages" / "triton"
    assert json.loads((folder / "package.json").read_text())["models"]["theirs"]["parity"] == "unproven"
    packaged = Artifact.open(folder / "theirs" / "1" / "theirs.onnx")
    packaged.verify()
    assert packaged.manifest.verdict == "unproven" and run("verify", folder).code == 0
    assert not theirs.with_name("theirs.onnx.json").exists()
    standalone = run("package", theirs, "--for", "standalone")
    assert standalone.code == 1 and f"deploy adopt {theirs}" in standalone.err


def test_it_is_served(theirs: Path, store: Path) -> None:
    import http.client

    from tests.serving.conftest import serving  # type: ignore[import-not-found,unused-ignore]

    with serving(store, theirs) as server:
        assert [item["name"] for item in server.info["models"]] == ["theirs"]
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.request("GET", "/v2/models/theirs")
        metadata = json.loads(connection.getresponse().read())
        connection.request("GET", "/page")
        page = json.loads(connection.getresponse().read())
        connection.close()
        code, err = server.stop()
    assert code == 0 and "WARNING" in err and "unproven" in err
    assert metadata["parameters"]["parity"] == "unproven" and metadata["parameters"]["max_batch"] > 1
    assert page["variants"][0]["parity"] == "unproven" and any("unproven" in text for text in page["remarks"])


def test_an_adopted_file_is_an_artifact(run: Run, theirs: Path, images: Path, store: Path) -> None:
    ran = run("adopt", theirs, "--labels", LABELS, *RECIPE, "--name", "letters", "--json")
    assert ran.code == 0 and ran.json["parity"] == "unproven" and ran.json["model"] == "letters"
    manifest = Artifact.open(theirs).manifest
    assert manifest.labels == tuple("abcdefghij") and manifest.preprocessing is not None
    assert manifest.weights.sha256 == manifest.digest
    assert run("verify", theirs.parent).code == 0
    assert run("evaluate", theirs, "--data", images).code == 0
    packaged = run("package", theirs, "--for", "standalone", "--json")
    assert packaged.code == 0 and packaged.json["models"][0]["proof"]["reference"] == "the file"
    before = theirs.with_name("theirs.onnx.json").read_bytes()
    refused = run("adopt", theirs)
    assert refused.code == 1 and "letters" in refused.err and "--force" in refused.err
    assert theirs.with_name("theirs.onnx.json").read_bytes() == before
    assert run("adopt", theirs, "--force").code == 0
    assert Artifact.open(theirs).manifest.model == "theirs"
    theirs.write_bytes(theirs.read_bytes() + b"\0")
    assert run("verify", theirs).code == 3 and run("bench", theirs, *QUICK).code == 3


@pytest.mark.parametrize(
    ("words", "datum"),
    [
        (("--labels", "a,b,c"), "3"),
        (("--preprocess", "crop=9", "--preprocess", "mean=0,0,0", "--preprocess", "std=1,1,1"), "9"),
        (("--preprocess", "crop=8", "--preprocess", "mean=0", "--preprocess", "std=1"), "[batch, 1, 8, 8]"),
        (("--preprocess", "crop=8"), "mean"),
        (("--name", "../elsewhere"), "../elsewhere"),
        (("--name", "packages"), "packages"),
    ],
)
def test_what_does_not_fit_the_file_is_not_adopted(run: Run, theirs: Path, words: tuple[str, ...], datum: str) -> None:
    ran = run("adopt", theirs, *words)
    assert ran.code == 2 and datum in ran.err
    assert os.listdir(theirs.parent) == ["theirs.onnx"]


def test_labels_in_a_file(run: Run, theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij") + "\n", encoding="utf-8")
    assert run("adopt", theirs, "--labels", tmp_path / "labels.txt", "--json").json["labels"] == list("abcdefghij")


def test_json_of_another_tool_is_no_manifest_and_a_damaged_manifest_is_an_error(run: Run, theirs: Path) -> None:
    beside = theirs.with_name("theirs.onnx.json")
    beside.write_text('{"audio": {"sample_rate": 22050}}', encoding="utf-8")
    assert run("bench", theirs, *QUICK, "--json").json["rows"][0]["evidence"]["verdict"] == "unproven"
    assert run("adopt", theirs).code == 1 and "audio" in beside.read_text(encoding="utf-8")
    assert run("adopt", theirs, "--force").code == 0
    beside.write_text(beside.read_text(encoding="utf-8").replace('"theirs"', '"other"', 1), encoding="utf-8")
    ran = run("bench", theirs, *QUICK)
    assert ran.code == 3 and beside.name in ran.err


@pytest.mark.parametrize(
    ("batch", "result", "name"),
    [("unk__617", "unk__618", "unk__617"), (None, None, "x_dim0"), ("batch", "batch", "batch")],
)
def test_dimensions_of_any_name(run: Run, tmp_path: Path, batch: str | None, result: str | None, name: str) -> None:
    path = classifier(tmp_path / "theirs.onnx", batch=batch, result=result)
    ran = run("bench", path, *QUICK, "--batch", "3", "--json")
    assert [(row["sizes"], row["parameters"]) for row in ran.json["rows"]] == [({name: 3}, 148)]
    assert (f"'{name}'" in ran.err) == (name != "batch"), "a guess is said"


def test_sizes_of_open_dimensions(run: Run, tmp_path: Path) -> None:
    path = classifier(tmp_path / "theirs.onnx", sides=("h", "w"))
    missing = run("bench", path, *QUICK, "--json")
    assert missing.code == 4 and "--size h=16 --size w=16" in missing.json["skipped"][0]["reason"]
    sizes = ("--size", "h=16", "--size", "w=8")
    assert run("bench", path, *QUICK, *sizes, "--json").json["rows"][0]["sizes"] == {"N": 1, "h": 16, "w": 8}
    unknown = run("profile", path, "--backends", "onnxruntime", *sizes, "--size", "k=4")
    assert unknown.code == 2 and "--size k=4" in unknown.err
    assert run("bench", path, "--size", "h").code == run("bench", path, "--size", "h=1", "--size", "h=2").code == 2
    no_batch = run("bench", path, *QUICK, *sizes, "--size", "N=5", "--json").json["rows"][0]
    assert no_batch["sizes"]["N"] == 5 and no_batch["batch"] == 1
    fixed = classifier(tmp_path / "fixed.onnx", batch=2, result=2)
    refused = run("bench", fixed, *QUICK, "--batch", "3", "--json")
    assert refused.code == 4 and "--batch 2" in refused.json["skipped"][0]["reason"]


def test_half_precision_is_seen_in_the_weights(run: Run, tmp_path: Path) -> None:
    path = classifier(tmp_path / "half.onnx", dtype=np.float16)
    assert run("bench", path, *QUICK, "--json").json["rows"][0]["precision"] == "fp16"


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node.extend(
        [
            helper.make_node("Add", ["behind", "flat"], ["before"], name="first"),
            helper.make_node("Relu", ["before"], ["behind"], name="second"),
        ]
    )


def twice(model: onnx.ModelProto) -> None:
    model.graph.output.extend([model.graph.output[0]])


def unknown_tensor(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def two_origins(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Neg", ["flat"], ["active"], name="again")])


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Swishy", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def missing_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def texts(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, [1]))


BAD: dict[str, tuple[Change, str]] = {
    "cycle": (cycle, "first"),
    "two outputs of one name": (twice, "scores"),
    "unknown tensor": (unknown_tensor, "nowhere"),
    "two origins": (two_origins, "active"),
    "external data": (missing_data, "weights.bin"),
    "texts": (texts, "words"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_graph_that_cannot_be_is_refused_with_what_is_wrong(
    run: Run, tmp_path: Path, images: Path, name: str
) -> None:
    change, datum = BAD[name]
    path = classifier(tmp_path / "theirs.onnx", change=change)
    commands: list[tuple[object, ...]] = [("bench", path), ("adopt", path)]
    if name == "cycle":
        commands += [("inspect", path), ("package", path, "--for", "triton"), ("evaluate", path, "--data", images)]
    for words in commands:
        ran = run(*words)
        assert ran.code == 1 and path.name in ran.err and datum in ran.err and "Traceback" not in ran.err, words
    assert not path.with_name("theirs.onnx.json").exists()


def test_nodes_in_any_order_and_outer_tensors_in_branches(run: Run, tmp_path: Path) -> None:
    def branch(name: str, tensor: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Identity", [tensor], [name])], name, [], [value])

    def shuffle(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        nodes[-1].output[0] = "plain"
        truth = numpy_helper.from_array(np.asarray(True), "truth")
        model.graph.initializer.append(truth)
        chosen = helper.make_node(
            "If", ["truth"], ["scores"], then_branch=branch("a", "plain"), else_branch=branch("b", "flat")
        )
        del model.graph.node[:]
        model.graph.node.extend([chosen, *reversed(nodes)])

    path = classifier(tmp_path / "theirs.onnx", change=shuffle)
    assert run("inspect", path).code == 0
    assert run("bench", path, *QUICK, "--json").json["rows"][0]["status"] == "timed"


def test_operators_that_nobody_defines_are_named(run: Run, tmp_path: Path, images: Path) -> None:
    path = classifier(tmp_path / "theirs.onnx", change=custom)
    assert run("inspect", path, "--json").json["operators"]["Swishy"] == 1
    timed = run("bench", path, *QUICK, "--json")
    assert timed.code == 4 and "com.example:Swishy" in timed.json["rows"][0]["failure"]
    for words in (("serve", path, "--port", "0"), ("evaluate", path, "--data", images)):
        ran = run(*words)
        assert ran.code == 1 and "com.example:Swishy" in ran.err and path.name in ran.err


def test_a_check_without_a_model_names_both_ways(run: Run, theirs: Path) -> None:
    for _ in range(2):  # without a manifest, and adopted
        ran = run("check", theirs)
        assert ran.code == 2 and f"MODEL --onnx {theirs}" in ran.err and f"check {theirs} --against" in ran.err
        run("adopt", theirs)


def test_an_engine_without_a_manifest_is_not_opened(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs.engine").write_bytes(b"code")
    ran = run("bench", tmp_path / "theirs.engine")
    assert ran.code == 1 and "theirs.engine" in ran.err
