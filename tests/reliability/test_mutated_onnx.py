"""Damaged ONNX files: commands do not crash; they report a typed error or a valid result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.untrusted_onnx import COMMANDS, ENDS, MEMORY_BYTES, TIMEOUT_S, mutate, vouch, words, write_samples

Cli = Callable[..., int]
FILES = 30
FOUND = {"quantize": [566]}
"""Damage that was not handled once, by command."""


@pytest.mark.parametrize("times", [1, pytest.param(101, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_lives(cli: Cli, lenet5: Path, tmp_path: Path, command: str, times: int) -> None:
    store = tmp_path / "artifacts"
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.onnx")
    sound, samples = path.read_bytes(), write_samples(tmp_path / "samples.npy")
    ends = []
    for number in [*range(round(FILES * times * COMMANDS[command][0])), *FOUND.get(command, [])]:
        kind, data = mutate(sound, command, number)
        path.write_bytes(data)
        vouch(path)
        end = cli(*words(command, path, samples), at=store, kill_after_s=TIMEOUT_S, memory=MEMORY_BYTES)
        assert end in ENDS, f"{kind} {number} ended with {end}"
        ends.append(end)
    assert 1 in ends, "something was refused"
