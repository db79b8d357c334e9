"""`deploy verify`, as typed."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


def test_added_changed_and_removed_files_are_found(run: Run, lenet5: Path, store: Path) -> None:
    shutil.copytree(lenet5, store)
    exported = store / "lenet5" / "lenet5.fp32.onnx"
    assert run("verify").code == run("verify", exported).code == 0
    stranger = exported.with_name("stranger.bin")
    stranger.write_bytes(b"")
    done = run("verify", "--json")
    assert done.code == 3 and [str(stranger) in problem for problem in done.json["problems"]] == [True]
    assert str(exported) in done.json["sound"] and str(stranger) in run("verify").out
    stranger.unlink()
    content = exported.read_bytes()
    exported.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run("verify").code == run("verify", exported).code == 3
    exported.unlink()
    assert run("verify").code == 3


def test_a_path_that_does_not_exist(run: Run, store: Path) -> None:
    assert run("verify", store / "nothing").code == 1
