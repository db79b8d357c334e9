"""The command line `deploy export`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


def _session(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_zoo_model_is_exported_and_checked(run: Run, store: Path) -> None:
    done = run("export", "zoo/lenet5", "--format", "onnx", "--json")
    assert done.code == 0
    report = done.json
    path = store / "lenet5" / "lenet5.fp32.onnx"
    assert report["file"] == str(path)
    assert report["parity"]["verdict"] == "pass"
    assert report["parity"]["dynamic"] == {"batch": [1, 2, 3, 4, 5, 8, 13]}
    assert report["parity"]["weights"]["counts"]["identical"] == 10
    assert [spec["name"] for spec in report["inputs"] + report["outputs"]] == ["input", "logits"]
    assert report["weights"]["trained"] is False and "UNTRAINED" in done.err
    logits = _session(str(path)).run(None, {"input": np.zeros((7, 1, 32, 32), np.float32)})[0]
    assert logits.shape == (7, 10)
    assert json.loads(path.with_name(path.name + ".json").read_text())["weights"]["trained"] is False
    assert run("verify").code == 0


def test_the_summary(run: Run) -> None:
    done = run("export", "zoo/lenet5", "--weights", "none")
    for word in ("lenet5.fp32.onnx", "252.9 kB", "opset 20", "by export", "dynamic: batch", "UNTRAINED", "pass",
                 "ONNX Runtime", "fp32", "margin", "10 identical"):  # fmt: skip
        assert word in done.out.replace("\n", " "), word


def test_two_exports_are_bitwise_equal(run: Run, store: Path) -> None:
    digests = [run("export", "zoo/lenet5", "--json").json["parity"]["digest"] for _ in range(2)]
    assert digests[0] == digests[1]


def test_nothing_of_this_machine_is_in_the_file(run: Run, store: Path) -> None:
    run("export", "zoo/lenet5")
    run("export", "zoo/lenet5", "--strategy", "trace", "--precision", "fp16")
    for path in (store / "lenet5").glob("*.onnx*"):
        content = path.read_bytes()
        for secret in (str(Path.cwd()), str(Path.home()), "site-packages", "forward("):
            assert secret.encode() not in content, (path, secret)


def test_tracing_half_precision_and_opset(run: Run) -> None:
    done = run("export", "zoo/lenet5", "--strategy", "trace", "--precision", "fp16", "--opset", "18", "--json")
    assert done.code == 0
    report = done.json
    assert (report["strategy"], report["opset"], report["precision"]) == ("trace", 18, "fp16")
    model = onnx.load(report["file"])
    assert {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]} == {
        onnx.TensorProto.FLOAT
    }
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2]
    assert weights and {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert report["parity"]["precision"] == "fp16"


@pytest.mark.parametrize("opset", [12, 17, 18, 21])
def test_the_requested_opset_or_a_fallback(run: Run, opset: int) -> None:
    done = run("export", "zoo/lenet5", "--weights", "none", "--opset", opset, "--json")
    assert done.code == 0, done.err
    assert done.json["opset"] == opset
    assert done.json["strategy"] == "export" or f" {opset}" in done.json["notes"][0]


def test_a_factory_in_a_file_with_two_inputs_and_a_dictionary(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6", "--json")
    assert done.code == 0, done.err
    assert [spec["name"] for spec in done.json["inputs"]] == ["a", "b"]
    assert [spec["name"] for spec in done.json["outputs"]] == ["sum", "gate"]


def test_tokens_of_any_length(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:tokens", "--input", "tokens:batch,length=6:int64:0..50", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["dynamic"] == {"batch": [1, 2, 3, 4, 5, 8, 13], "length": [1, 2, 3, 5, 6, 7, 9, 12]}
    assert [spec["name"] for spec in done.json["outputs"]] == ["output_0", "output_1"]


def test_keyword_inputs(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:scaled", "--input", "scale:1,1,1,1", "--input", "x:batch,3,8,8", "--json")
    assert done.code == 0, done.err
    assert [spec["name"] for spec in done.json["inputs"]] == ["scale", "x"]


def test_an_exported_program(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.randn(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    done = run("export", tmp_path / "net.pt2", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["dynamic"] == {"batch": [1, 2, 3, 4, 5, 8, 13]}
    assert done.json["weights"]["trained"] is True


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_checkpoint_of_another_head(run: Run, nets: Path, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    state = {"module.head.weight": torch.randn(3, 8)}
    exec(compile(nets.read_text(), str(nets), "exec"), space := {"__name__": "nets"})
    net = space["small"](3)
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    path = tmp_path / f"best.{suffix}"
    if suffix == "pt":
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    done = run(
        "export", f"{nets}:small", "--weights", path, "-o", "classes=3", "--input", "input:batch,3,8,8", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["weights"]["source"] == str(path) and len(done.json["weights"]["sha256"]) == 64
    assert ("'state_dict.module'" in done.err) == (suffix == "pt")
    counts = done.json["parity"]["weights"]["counts"]
    assert counts == {"identical": 2, "folded": 11, "computed": 0, "unused": 2, "listed": 0}


def test_arch_sets_the_architecture_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None, num_classes=4)
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    arguments = ("--arch", "squeezenet1_1", "-o", "num_classes=4", "--strategy", "trace", "--json")
    done = run("export", path, *arguments)
    assert done.code == 0, done.err
    assert done.json["outputs"][0]["shape"] == ["batch", 4]


def test_large_weights_go_to_one_file_beside(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporters import torch_to_onnx

    monkeypatch.setattr(torch_to_onnx, "SINGLE_FILE_LIMIT", 50_000)
    for strategy in ("export", "trace"):
        done = run("export", "zoo/lenet5", "--strategy", strategy, "--json")
        assert done.code == 0, done.err
        assert done.json["files"] == ["lenet5.fp32.onnx", "lenet5.fp32.onnx.data"]
    assert run("verify").code == 0
    data = store / "lenet5" / "lenet5.fp32.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert run("verify").code == 3


def test_dynamic_none_and_height_and_width(run: Run) -> None:
    fixed = run("export", "squeezenet1_1", "--weights", "none", "--dynamic", "none", "--strategy", "trace", "--json")
    assert fixed.code == 0 and fixed.json["inputs"][0]["shape"] == [1, 3, 224, 224]
    assert fixed.json["parity"]["dynamic"] == {}
    arguments = ("--weights", "none", "--dynamic", "batch,height,width", "--strategy", "trace", "--json")
    free = run("export", "squeezenet1_1", *arguments)
    assert free.code == 0, free.err
    assert free.json["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert {111, 223, 225, 336, 448} <= set(free.json["parity"]["dynamic"]["height"])


def test_a_fallback_is_reported_with_its_reason(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:branching", "--input", "x:batch,4", "--json")
    assert done.code == 0, done.err
    assert done.json["strategy"] == "trace"
    (fallback,) = done.json["notes"]
    assert fallback.startswith("export: ") and "trace" in fallback and fallback in done.err
    assert done.json["outputs"][0]["shape"] == ["batch", 2]
    (note,) = done.json["parity"]["notes"]
    assert "nets.py:" in note and "negated" in note and note in done.err


def test_a_graph_with_one_of_two_branches_is_rejected(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:forked", "--input", "x:batch,4", "--json")
    assert done.code == 3 and done.json["strategy"] == "trace"
    assert any(item["verdict"] == "fail" for item in done.json["parity"]["outputs"])
    checked = run("check", f"{nets}:forked", "--input", "x:batch,4", "--onnx", done.json["file"], "--json")
    assert checked.code == 3, "without its manifest too"


def test_a_batch_exported_as_a_constant_is_rejected_by_name(run: Run, nets: Path, store: Path) -> None:
    done = run("export", f"{nets}:baked", "--input", "x:batch,4", "--strategy", "trace", "--json")
    assert done.code == 3
    assert "'batch'" in done.json["parity"]["reasons"][0]
    assert Path(done.json["file"]).parent.name == "rejected"
    assert run("check").code == 1, "a rejected export is not the newest export"


def test_an_output_that_does_not_depend_on_the_input_is_inconclusive(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:constant", "--input", "x:batch,4", "--json")
    assert done.code == 4
    assert done.json["parity"]["verdict"] == "inconclusive"
    assert done.json["parity"]["reasons"]


def test_real_samples_are_probed(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).random((9, 1, 32, 32), np.float32))
    plain = run("export", "zoo/lenet5", "--json").json["parity"]
    done = run("export", "zoo/lenet5", "--data", tmp_path / "samples.npy", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["probes"] == plain["probes"] + 4  # one, four, four and one
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3, 8, 8), np.float32))
    refused = run("export", "zoo/lenet5", "--data", tmp_path / "wrong.npy")
    assert refused.code == 1 and "[4, 3, 8, 8]" in refused.err


def test_real_images_are_prepared_for_the_model_and_probed(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(5):
        picture = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    plain = run("export", "zoo/lenet5", "--json").json["parity"]
    done = run("export", "zoo/lenet5", "--data", tmp_path, "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["probes"] == plain["probes"] + 3
    bundled = run("check", "--data", "digits", "--json")
    assert bundled.json["parity"]["probes"] == plain["probes"] + 5
    for data, code in (("nothing", 2), ("no/such/folder", 1)):
        refused = run("check", "--data", data)
        assert refused.code == code and data in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["resnet81"], 2, ["'resnet81'", "resnet18"]),
        (["zoo/lenet6"], 2, ["lenet6", "lenet5"]),
        (["nowhere/resnet18"], 2, ["'nowhere'"]),
        (["missing.py:net", "--input", "x:1"], 1, ["missing.py"]),
        (["{nets}:smal", "--input", "x:1"], 2, ["smal", "small"]),
        (["{nets}:small"], 2, ["--input"]),
        (["{nets}:not_a_module", "--input", "x:1"], 1, ["not_a_module", "int", "torch.nn.Module"]),
        (["{nets}:broken", "--input", "x:1"], 1, ["RuntimeError: no such luck"]),
        (["{nets}:small", "--input", "x:batch,4,8,8"], 1, ["channels"]),
        (["{nets}:impossible", "--input", "x:batch,4"], 1, ["export:", "trace:", ".log"]),
        (["zoo/lenet5", "--input", "x"], 2, ["--input"]),
        (["zoo/lenet5", "--input", "x:batch,3,32,32"], 2, ["axis 1"]),
        (["zoo/lenet5", "--input", "x:batch,1,32"], 2, ["3 dimensions"]),
        (["zoo/lenet5", "--dynamic", "depth"], 2, ["--dynamic depth", "batch"]),
        (["zoo/lenet5", "-o", "wings=2"], 2, ["'wings'", "activation"]),
        (["zoo/lenet5", "-o", "activation=loud"], 2, ["activation", "relu"]),
        (["zoo/lenet5", "-o", "novalue"], 2, ["novalue"]),
        (["zoo/lenet5", "--weights", "nowhere.pt"], 1, ["nowhere.pt"]),
        (["zoo/lenet5", "--weights", "default"], 1, ["lenet5"]),
        (["zoo/lenet5", "--arch", "resnet18"], 2, ["--arch"]),
        (["some.safetensors"], 1, ["some.safetensors"]),
        (["other.onnx"], 2, ["deploy check MODEL --onnx"]),
        (["zoo/lenet5", "--format", "tflite"], 2, ["tflite"]),
    ],
)
def test_mistakes(run: Run, nets: Path, store: Path, arguments: list[str], code: int, words: list[str]) -> None:
    done = run("export", *[item.format(nets=nets) for item in arguments])
    assert done.code == code, done.err
    for word in words:
        assert word in done.err, done.err
    assert "Traceback" not in done.err
    assert not [path for path in store.rglob("*") if path.is_file()], "partial results were left"
    as_json = run("export", *[item.format(nets=nets) for item in arguments], "--json")
    assert as_json.code == code and set(as_json.json) == {"error", "exit_code"}


def test_weights_that_do_not_fit_name_the_first_five(run: Run, tmp_path: Path) -> None:
    import torchvision

    safetensors.torch.save_file(torchvision.models.alexnet(num_classes=3).state_dict(), tmp_path / "a.safetensors")
    done = run("export", "zoo/lenet5", "--weights", tmp_path / "a.safetensors")
    assert done.code == 1
    assert done.err.count(" is missing") + done.err.count("not in the model") == 5 and "more" in done.err


def test_weights_that_are_not_finite_are_named(run: Run, tmp_path: Path, store: Path) -> None:
    from deploy.models.request import ModelRequest
    from deploy.models.resolve import resolve

    state = dict(resolve(ModelRequest(name="zoo/lenet5", weights="none")).module.state_dict())
    name = next(key for key in state if key.endswith("weight"))
    state[name] = state[name].clone()
    state[name].view(-1)[3] = float("nan")
    state[name].view(-1)[4] = float("inf")
    safetensors.torch.save_file(state, tmp_path / "nan.safetensors")
    done = run("export", "zoo/lenet5", "--weights", tmp_path / "nan.safetensors")
    assert done.code == 1 and name in done.err and " 2 " in done.err
    assert not store.exists()


def test_a_directory_that_cannot_be_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    done = run("--artifacts", tmp_path / "file" / "below", "export", "zoo/lenet5")
    assert done.code == 1 and str(tmp_path / "file") in done.err.replace("\n", "")


def test_output_of_libraries_goes_to_stderr(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import ctypes, os, torch\n"
        "def build():\n"
        "    os.write(1, b'written\\n')\n"
        "    ctypes.CDLL(None).puts(b'kept in a buffer of C until the end')\n"
        "    return torch.nn.Linear(4, 2)\n"
    )
    words = ["--artifacts", str(tmp_path / "a"), "export", f"{tmp_path / 'loud.py'}:build", "--input", "x:batch,4"]
    command = [sys.executable, "-m", "deploy.cli.main", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["parity"]["verdict"] == "pass"
    assert "written\n" in done.stderr and "kept in a buffer of C" in done.stderr
