"""Files and records from other weights than the export beside them are named as stale, with the command that renews."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deploy
from deploy.core.artifact import manifest_path
from deploy.core.checked import dump_checked
from deploy.support.provenance import differ, export_command
from deploy.support.release_check import check_release
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
NET = """
import torch


def build():
    torch.manual_seed({seed})
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
"""


def write(path: Path, seed: int) -> str:
    path.write_text(NET.format(seed=seed), encoding="utf-8")
    return f"{path}:build"


def bench(run: Run, *more: object) -> Any:
    options = ("--backends", "onnxruntime", "--repetitions", 1, "--min-time", 0.01, "--threads", 1, "--json")
    done = run("bench", *more, *options)
    assert done.code == 0, done.err
    return done


def test_stale_files_and_records(tmp_path: Path, run: Run, store: Path) -> None:
    model, data = write(tmp_path / "nets.py", 1), tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    export = ("export", model, "--input", "x:batch,8", "--strategy", "trace", "--probes", "quick", "--name", "net")
    assert run(*export).code == run(*export, "--precision", "fp16").code == 0
    assert run("quantize", "net", "--calib", data, "--samples", 16).code == 0
    int8 = store / "net" / "net.int8-onnxruntime.onnx"
    first = bench(run, "net", "--precision", "fp32,int8")
    assert len(first.json["rows"]) == 2 and first.json["stale"] == []
    assert run("verify", "--json").json["stale"] == []

    write(tmp_path / "nets.py", 2)
    assert run(*export).code == 0
    verified = run("verify", "--json")
    assert verified.code == 0  # the files are sound
    stale = {Path(item["path"]).name: item for item in verified.json["stale"]}
    records = [name for name in stale if name.startswith(("net.fp32-onnxruntime-b1", "net.int8-onnxruntime-b1"))]
    assert len(records) == 2 and set(stale) == {int8.name, "net.fp16.onnx", *records}
    assert "STALE" in run("verify").out
    assert run("inspect", int8, "--json").json["stale"]["command"] == stale[int8.name]["command"]
    assert run("inspect", store / "net" / "net.fp32.onnx", "--json").json["stale"] is None
    timed = bench(run, "net", "--precision", "int8")
    assert [item["path"] for item in timed.json["stale"]] == [str(int8)] and int8.name in timed.err
    progress = Listener()
    check_release(deploy.Artifact.open(int8), allow_untrained=True, progress=progress)
    assert any(int8.name in text for text in progress.warnings)
    run("report")
    rows = json.loads((store / "report" / "report.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["stale"] for row in rows) and len(rows) == 2
    for name in ("report.md", "index.html"):
        assert "Stale rows" in (store / "report" / name).read_text(encoding="utf-8")

    for name in (int8.name, "net.fp16.onnx", *records):  # the commands that were named
        command = shlex.split(stale[name]["command"])
        assert command[0] == "deploy"
        done = run(*command[1:])
        assert done.code == 0, done.err
    assert run("verify", "--json").json["stale"] == []
    run("report")
    rows = json.loads((store / "report" / "report.json").read_text(encoding="utf-8"))["rows"]
    assert [row["stale"] for row in rows] == [None, None]


def test_a_stale_engine(tmp_path: Path, run: Run, store: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = write(tmp_path / "nets.py", 1)
    export = ("export", model, "--input", "x:batch,8", "--strategy", "trace", "--probes", "quick", "--name", "net")
    assert run(*export).code == 0
    built = run("trt", "build", "net", "--fp16", "--runtime", "tensorrt-rtx", "--json")
    assert built.code == 0, built.err
    assert run("trt", "inspect", built.json["file"], "--json").json["stale"] is None
    write(tmp_path / "nets.py", 2)
    assert run(*export).code == 0
    found = run("trt", "inspect", built.json["file"], "--json").json["stale"]
    stale = [item["path"] for item in run("verify", "--json").json["stale"]]
    assert sorted(Path(path).suffix for path in stale) == [".engine", ".onnx"]
    assert run(*shlex.split(found["command"])[1:]).code == 0
    assert run("verify", "--json").json["stale"] == []


def test_a_command_of_somebody_else_is_not_shown(tmp_path: Path, run: Run, store: Path) -> None:
    model, data = write(tmp_path / "nets.py", 1), tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    export = ("export", model, "--input", "x:batch,8", "--strategy", "trace", "--probes", "quick", "--name", "net")
    assert run(*export).code == 0 and run("quantize", "net", "--calib", data, "--samples", 16).code == 0
    int8 = store / "net" / "net.int8-onnxruntime.onnx"
    document = json.loads(manifest_path(int8).read_text(encoding="utf-8"))
    document["options"]["rebuild"] = "rm -r /"
    manifest_path(int8).write_text(dump_checked(document), encoding="utf-8")
    write(tmp_path / "nets.py", 2)
    assert run(*export).code == 0
    (stale,) = (item for item in run("verify", "--json").json["stale"] if item["path"] == str(int8))
    assert stale["command"].startswith("deploy quantize net --calib DATA")


def test_what_is_not_stale(tmp_path: Path, run: Run, store: Path) -> None:
    """The same weights exported again, also with other options; files of a folder without an export."""
    model, data = write(tmp_path / "nets.py", 1), tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32))
    export = ("export", model, "--input", "x:batch,8", "--strategy", "trace", "--probes", "quick")
    assert run(*export).code == 0
    assert run("quantize", "nets-build", "--calib", data).code == 0
    assert run(*export, "--opset", 17).code == 0
    assert run("verify", "--json").json["stale"] == []
    exported = store / "nets-build" / "nets-build.fp32.onnx"
    for path in (exported, exported.with_name(f"{exported.name}.json")):
        path.unlink()
    assert run("verify", "--json").json["stale"] == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["ab"], {"sha256": "ab", "source": "x"}, False),
        (["ab"], {"sha256": "cd", "source": "x"}, True),
        (["ab"], {"source": "untrained", "seed": 0}, True),
        (["untrained", 0], {"sha256": "ab", "source": "best.pt"}, True),
        (["untrained", 0], {"source": "untrained", "seed": 1}, True),
        (["untrained", 0], {"source": "untrained", "seed": 0}, False),
        (["as built by nets:build", 0], {"sha256": "ab", "source": "as built by nets:build", "seed": 0}, False),
    ],
)
def test_which_weights_differ(old: list[Any], new: dict[str, Any], expected: bool) -> None:
    from deploy.core.model import Weights

    assert differ(old, Weights(trained=True, **new)) is expected


def test_a_module_in_memory(store: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 3))
    made = []
    for precision in ("fp16", "fp32"):
        made.append(
            deploy.export_model(
                module, inputs="x:batch,8", name="net", precision=precision, strategy="trace", artifacts=store
            )
        )
        with torch.no_grad():
            module[0].bias[0] += 1
    (stale,) = deploy.verify(store).stale
    assert stale.path == made[0].artifact.path
    assert deploy.inspect(made[0].artifact).stale == stale and deploy.inspect(made[1].artifact).stale is None


def test_the_command_that_exports_again_names_the_outputs(run: Run, nets: Path, store: Path) -> None:
    done = run("export", f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6", "--outputs", "gate", "--json")
    artifact = deploy.Artifact.open(Path(done.json["file"]))
    again = shlex.split(export_command(artifact.manifest))
    assert again[again.index("--outputs") + 1] == "gate"
    repeated = run(*again[1:], "--json")
    assert [item["name"] for item in repeated.json["outputs"]] == ["gate"], repeated.err
