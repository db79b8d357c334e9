"""Libraries with known holes: a loud warning in every command, from the doctor too; no pickle is read with them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.models.zoo.lenet import lenet5

Run = Callable[..., Any]
OLD = {
    "torch": [("2.5.1", "CVE-2025-32434"), ("2.9.1+cu128", "CVE-2026-24747")],
    "onnx": [("1.15.0", "CVE-2024-27318"), ("1.20.1", "CVE-2026-27489")],
    "pillow": [("9.5.0", "CVE-2023-4863"), ("10.2.0", "CVE-2024-28219")],
}
CASES = [(package, *case) for package, cases in OLD.items() for case in cases]
NEW = {"torch": "2.10.0", "onnx": "1.21.0rc1", "pillow": "11.0"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a package's metadata before that of the real one, as an environment with that version has it."""

    def put(package: str, version: str) -> None:
        folder = tmp_path / "site" / f"{package}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        monkeypatch.setattr(sys, "path", [str(folder.parent), *sys.path])
        importlib.invalidate_caches()

    return put


@pytest.mark.parametrize(("package", "version", "source"), CASES)
def test_an_old_one_is_told_of(
    run: Run, installed: Callable[[str, str], None], package: str, version: str, source: str
) -> None:
    installed(package, version)
    ran = run("-q", "report")
    assert "WARNING" in ran.err and f"{package} {version} is older than" in ran.err
    assert source in ran.err and f"pip install '{package}>=" in ran.err


@pytest.mark.parametrize(("package", "version"), NEW.items())
def test_a_new_one_is_not(run: Run, installed: Callable[[str, str], None], package: str, version: str) -> None:
    installed(package, version)
    assert "is older than" not in run("-q", "report").err


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cu128"])
def test_no_pickle_is_read(
    run: Run, store: Path, tmp_path: Path, installed: Callable[[str, str], None], version: str
) -> None:
    torch.save(lenet5().state_dict(), tmp_path / "x.pt")
    installed("torch", version)
    ran = run("export", "zoo/lenet5", "--weights", tmp_path / "x.pt")
    assert ran.code == 1 and "not read, for torch" in ran.err and "or give safetensors" in ran.err
    assert not store.exists()


def test_the_doctor_tells(run: Run, installed: Callable[[str, str], None]) -> None:
    installed("onnx", "1.20.1")
    found = {item["name"]: item for item in run("doctor", "--json").json["findings"]}["known holes"]
    assert found["state"] == "broken" and "CVE-2026-27489" in found["detail"] and "onnx>=1.21.0" in found["fix"]
