"""INT8 files that are of no use: verdict ``poor``, exit code 4, and a command that mends them."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.core.artifact import Artifact
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **attributes)


def save(folder: Path, spread: float, *, classes: int = 10) -> tuple[str, str]:
    """Write a small network of depthwise blocks, whose weights and means differ by ``spread``, and its data."""
    rng = np.random.default_rng(0)
    sizes = np.logspace(-spread, 0, 16).astype(np.float32)
    weights = {
        "w1": rng.normal(size=(16, 3, 3, 3)) * sizes.reshape(-1, 1, 1, 1),
        "w2": rng.normal(size=(16, 1, 3, 3)) / sizes.reshape(-1, 1, 1, 1),
        "w3": rng.normal(size=(16, 16, 1, 1)) / 4,
        "w4": rng.normal(size=(16, classes)),
        "b4": rng.normal(size=classes) * spread * 4,
    }
    nodes = [
        *(node("Conv", ["x", "w1"], "a"), node("Relu", ["a"], "ar")),
        *(node("Conv", ["ar", "w2"], "d", group=16), node("Relu", ["d"], "dr"), node("Conv", ["dr", "w3"], "e")),
        *(node("GlobalAveragePool", ["e"], "p"), node("Flatten", ["p"], "f")),
        node("Gemm", ["f", "w4", "b4"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    np.save(folder / "data.npy", rng.normal(size=(96, 3, 12, 12)).astype(np.float32))
    return str(folder / "net.onnx"), str(folder / "data.npy")


def test_a_poor_file_and_the_command_that_mends_it(tmp_path: Path, run: Run) -> None:
    model, data = save(tmp_path, 3.0)
    done = run("quantize", model, "--calib", data, "--samples", "48", "--effort", "low", "--json")
    assert done.code == 4 and done.json["verdict"] == "poor" and done.json["reasons"]
    assert done.json["evidence"]["outputs"][0]["sqnr_db"] < 10
    assert "poor" in done.err and done.json["mend"] in " ".join(done.err.split())
    assert Artifact.open(Path(done.json["file"])).manifest.verdict == "poor"
    mended = run(*shlex.split(done.json["mend"])[1:], "--json")
    assert mended.code == 0 and mended.json["verdict"] == "pass" and mended.json["mend"] is None
    assert mended.json["evidence"]["outputs"][0]["sqnr_db"] >= 20


def test_a_good_file_is_not_poor(tmp_path: Path, run: Run) -> None:
    model, data = save(tmp_path, 0.1)
    done = run("quantize", model, "--calib", data, "--samples", "48", "--json")
    assert done.code == 0 and done.json["verdict"] == "measured" and not done.json["reasons"]


def test_a_bound_is_the_users_decision(tmp_path: Path, run: Run) -> None:
    model, data = save(tmp_path, 3.0)
    done = run("quantize", model, "--calib", data, "--samples", "48", "--min-sqnr", "0", "--json")
    assert done.code in (0, 3) and done.json["verdict"] in ("pass", "fail")


def test_a_single_value_has_no_top_1(tmp_path: Path, run: Run) -> None:
    model, data = save(tmp_path, 0.1, classes=1)
    (output,) = run("quantize", model, "--calib", data, "--json").json["evidence"]["outputs"]
    assert output["agreement"] is None and output["agreement_of"] is None
