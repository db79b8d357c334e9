"""What other versions of packages change: in an environment of their own, with files that are really made and run."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.bench.statistics import Interval
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.checked import dump_checked, load_checked
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.progress import SILENT
from deploy.core.store import Store
from deploy.tools.verify import verify
from deploy.upgrading.environment import check_requirements, create_environment
from deploy.upgrading.renewal import Renewal, renewals
from deploy.upgrading.rows import FileState, UpgradedFile
from deploy.upgrading.upgrade import UpgradeReport, copy_folders
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]

PASSING = """
import importlib, sys
from pathlib import Path

own = str(Path(__file__).parents[1])
sys.path = [path for path in sys.path if path != own]
del sys.modules["NAME"]
real = importlib.import_module("NAME")
sys.path.insert(0, own)
"""
"""A release that is the installed one."""

WRONG = """
begin = real.InferenceSession.__init__


def changed(self, path_or_bytes, *args, **kwargs):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path_or_bytes) if isinstance(path_or_bytes, str) else onnx.load_from_string(path_or_bytes)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
    begin(self, model.SerializeToString(), *args, **kwargs)


real.InferenceSession.__init__ = changed
"""
"""A release of ONNX Runtime that computes with a wrong weight."""


def wheel(folder: Path, name: str, version: str, code: str) -> None:
    """Write a wheel of one module; without a network, pip takes it from the folder."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    wheel(folder, "canary", "2.0", "")
    wheel(folder, "onnxruntime", "99.0", PASSING.replace("NAME", "onnxruntime") + WRONG)
    wheel(folder, "openvino", "99.0", PASSING.replace("NAME", "openvino"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_an_environment_sees_all_other_packages(wheels: Path, tmp_path: Path) -> None:
    made = create_environment(tmp_path / "environment", {"canary": "2.0"}, SILENT)
    assert made.changed == {"canary": (None, "2.0")} and made.after["torch"] == made.before["torch"] is not None
    with pytest.raises(UsageError, match=r"canary==3\.0 cannot be installed"):
        create_environment(tmp_path / "another", {"canary": "3.0"}, SILENT)


def test_a_release_that_is_wrong(run: Run, lenet5: Path, store: Path, wheels: Path) -> None:
    shutil.copytree(lenet5, store)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    done = run("upgrade-check", "--to", "onnxruntime==99.0", "lenet5", "--not-timed", "--json")
    assert done.code == 3, done.err
    (row,) = done.json["rows"]
    assert (row["before"]["verdict"], row["after"]["verdict"]) == ("pass", "fail") and row["regressions"]
    assert done.json["changed"]["onnxruntime"][1] == "99.0" and done.json["verdict"] == "fail"
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_release_of_another_runtime(run: Run, artifacts: Path, wheels: Path) -> None:
    done = run("upgrade-check", "--to", "openvino==99.0", "lenet5", "--threads", "1", "--time-limit", "1", "--json")
    assert done.code in (0, 3, 4), done.err
    rows = {(Path(row["file"]).name, row["backend"]): row for row in done.json["rows"]}
    files = ("lenet5.fp32.onnx", "lenet5.fp16.onnx")
    assert set(rows) == {(file, backend) for file in files for backend in ("onnxruntime", "openvino")}
    for row in rows.values():
        assert row["before"]["verdict"] == row["after"]["verdict"] == "pass" and row["ratio"], row


@pytest.mark.slow
def test_nothing_changes_and_all_is_timed(run: Run, artifacts: Path, wheels: Path) -> None:
    assert run("quantize", "lenet5", "--calib", "digits", "--samples", "40").code == 0
    done = run("upgrade-check", "--to", "canary==2.0", "--threads", "1", "--time-limit", "1", "--json")
    assert done.code in (0, 3, 4), done.err
    rows = {Path(row["file"]).name: row for row in done.json["rows"]}
    assert set(rows) == {"lenet5.fp32.onnx", "lenet5.fp16.onnx", "lenet5.int8-onnxruntime.onnx"}
    for row in rows.values():
        assert row["before"]["verdict"] == row["after"]["verdict"] and row["ratio"]["low"] < row["ratio"]["high"]
    assert rows["lenet5.int8-onnxruntime.onnx"]["after"]["sqnr_db"] == pytest.approx(
        rows["lenet5.int8-onnxruntime.onnx"]["before"]["sqnr_db"], abs=0.1
    )
    assert verify(artifacts).problems == ()
    shown = run("upgrade-check", "--to", "canary==2.0", "lenet5", "--not-timed")
    assert "lenet5.fp16.onnx" in shown.out and "canary none → 2.0" in shown.out


@pytest.mark.parametrize("text", ["onnxruntime", "onnxruntime>=1.2", "onnxruntime==1.2,onnxruntime==1.3", "a==1 b==2"])
def test_versions_that_are_not_clear(run: Run, lenet5: Path, store: Path, text: str) -> None:
    shutil.copytree(lenet5, store)
    assert run("upgrade-check", "--to", text).code == 2


def test_requirements() -> None:
    assert check_requirements(["ONNX==1.2,tensorrt_rtx==1.7", "torch==2.9.1"]) == {
        "onnx": "1.2",
        "tensorrt-rtx": "1.7",
        "torch": "2.9.1",
    }


def test_a_store_without_the_model(store: Path, lenet5: Path) -> None:
    with pytest.raises(ArtifactError, match="no ONNX files"):
        renewals(Store.at(store), ())
    with pytest.raises(ArtifactError, match="no files of resnet18"):
        renewals(Store.at(lenet5), ["resnet18"])


def test_the_copy_follows_no_links_and_holds_no_rejected_files(lenet5: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(lenet5, store)
    folder = next(store.glob("*/*.fp32.onnx")).parent
    (tmp_path / "private").write_text("private")
    (folder / "link").symlink_to(tmp_path / "private")
    os.mkfifo(folder / "pipe")
    shutil.copytree(lenet5 / folder.name, folder / "rejected")
    files = [item.artifact for item in renewals(Store.at(store), ())]
    copied = {
        path.name for path in copy_folders(Store.at(store), files, tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert copied == {path.name for path in (lenet5 / folder.name).iterdir()}


def test_values_of_a_received_manifest_are_not_options(lenet5: Path, store: Path) -> None:
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.fp32.onnx")
    document = load_checked(manifest_path(path).read_text(encoding="utf-8"))
    document["reference"]["weights"] = "--artifacts=/elsewhere"
    manifest_path(path).write_text(dump_checked(document), encoding="utf-8")
    (found,) = renewals(Store.at(store), ())
    assert not found.words and "option" in found.reason


HARMFUL = (
    "deploy serve lenet5",
    "deploy quantize lenet5 --artifacts /elsewhere",
    "deploy quantize evil.py:f --calib x",
    "deploy trt build lenet5 --timing-cache /elsewhere",
    "deploy quantize 'lenet5",
    "rm -r /",
)


def test_a_command_of_a_received_manifest_is_not_run(run: Run, artifacts: Path) -> None:
    assert run("quantize", "lenet5", "--calib", "digits", "--samples", "40").code == 0
    (path,) = artifacts.glob("*/*.int8-onnxruntime.onnx")

    def found() -> Renewal:
        return next(item for item in renewals(Store.at(artifacts), ["lenet5"]) if item.artifact.path == path)

    assert found().words[:2] == ("quantize", "zoo/lenet5")
    for command in HARMFUL:
        document = load_checked(manifest_path(path).read_text(encoding="utf-8"))
        document["options"]["rebuild"] = command
        manifest_path(path).write_text(dump_checked(document), encoding="utf-8")
        assert not found().words and found().reason == "its calibration data is not recorded", command


def test_files_that_nobody_can_make_again(lenet5: Path, store: Path) -> None:
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.fp32.onnx")
    document = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    for reference, reason in (({}, "elsewhere"), ({"name": "theirs.py:build", "options": {}}, "theirs.py:build")):
        document["reference"] = reference
        manifest_path(path).write_text(dump_checked(document), encoding="utf-8")
        (found,) = renewals(Store.at(store), ())
        assert found.artifact == Artifact.open(path) and not found.words and reason in found.reason


ROW = UpgradedFile(
    path=Path("m.onnx"),
    model="m",
    precision="int8",
    backend="onnxruntime",
    before=FileState(verdict="measured", sqnr_db=30.0, accuracy=0.9, samples="a"),
    after=FileState(verdict="measured", sqnr_db=29.5, accuracy=0.897, samples="a"),
)


def test_what_is_worse() -> None:
    assert ROW.after is not None and ROW.regressions == ()
    assert replace(ROW, after=replace(ROW.after, sqnr_db=28.0)).regressions == ("SQNR 30.0 dB, then 28.0 dB",)
    worse = replace(ROW.after, accuracy=0.89)
    assert replace(ROW, after=worse).regressions == ("accuracy 90.00%, then 89.00%",)
    assert replace(ROW, after=replace(worse, samples="b")).regressions == (), "other samples are not compared"
    assert replace(ROW, after=FileState(verdict="poor", reasons=("why",))).regressions == ("measured, then poor: why",)
    assert replace(ROW, before=FileState(verdict="fail"), after=FileState(verdict="error")).regressions == ()
    untimed = replace(ROW, guard="inconclusive", note="not timed: it crashed")
    report = UpgradeReport(packages={}, changed={}, rows=(untimed,), warnings=(), allowed=0.05, seconds=0.0)
    assert report.verdict == "inconclusive", "what could not be timed is not a pass"
    slow = replace(ROW, ratio=Interval(value=1.2, low=1.1, high=1.3), guard="fail")
    assert slow.regressions == ("20.0% slower",)
