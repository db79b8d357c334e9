"""Damaged ONNX files: commands do not crash; they report a typed error or a valid result."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deploy.core.artifact import Artifact, Payload, manifest_path

Cli = Callable[..., int]
Mutation = Callable[[bytes, random.Random], bytes]
MEMORY = 24 << 30
"""Address space of a command in bytes, so that a forged size cannot be allocated."""
PATIENCE_S = 120.0
ENDS = {0, 1, 3, 4}
"""Permitted exit codes: success, error, usage error, failed check, inconclusive."""


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def splice(data: bytes, chance: random.Random) -> bytes:
    """Bytes from one place at another: instead of what is there, between it, or as a hole."""
    begin, size = chance.randrange(len(data)), chance.choice((1, 4, 16, 256, 4096))
    place = chance.randrange(len(data))
    return data[:place] + data[begin : begin + size] + data[place + chance.choice((0, size)) :]


def field(data: bytes, chance: random.Random) -> bytes:
    model = onnx.load_model_from_string(data)
    chance.choice(FIELDS)(model.graph, chance)
    if chance.random() < 0.1:
        model.opset_import[0].version = chance.choice((0, 1, 7, 99, -1))
    if chance.random() < 0.1:
        model.ir_version = chance.choice((0, 1, 99))
    return model.SerializeToString()


def _dims(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    if tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice((-1, 0, 1, 2**31, 2**62, 7))


def _type(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).data_type = chance.choice((0, 2, 7, 8, 10, 16, 23, 99))


def _values(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]


def _not_finite(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice([item for item in graph.initializer if item.data_type == TensorProto.FLOAT])
    tensor.raw_data = np.full(len(tensor.raw_data) // 4, chance.choice((np.nan, np.inf, 1e38)), np.float32).tobytes()


def _operator(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.node).op_type = chance.choice(("Relu", "Add", "Conv", "Invented", "", "Loop", "If", "Reshape"))


def _domain(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.node).domain = chance.choice(("ai.onnx.ml", "com.microsoft", "theirs"))


def _wire(graph: onnx.GraphProto, chance: random.Random) -> None:
    """An input from somewhere else: nowhere, oneself, a later node."""
    node, other = chance.choice(graph.node), chance.choice(graph.node)
    node.input[chance.randrange(len(node.input))] = chance.choice(("", "nowhere", node.output[0], other.output[0]))


def _remove(graph: onnx.GraphProto, chance: random.Random) -> None:
    del graph.node[chance.randrange(len(graph.node))]


def _twice(graph: onnx.GraphProto, chance: random.Random) -> None:
    graph.node.append(chance.choice(graph.node))


def _attribute(graph: onnx.GraphProto, chance: random.Random) -> None:
    with_some = [node for node in graph.node if node.attribute]
    attribute = chance.choice(chance.choice(with_some).attribute)
    attribute.i = chance.choice((-1, 0, 2**31, 2**62))
    if attribute.ints:
        attribute.ints[0] = chance.choice((-1, 0, 2**31, 2**62))
    if chance.random() < 0.3:
        attribute.type = chance.choice((0, 1, 3, 5, 99))


def _shape(graph: onnx.GraphProto, chance: random.Random) -> None:
    value = chance.choice((*graph.input, *graph.output))
    dims = value.type.tensor_type.shape.dim
    if dims:
        dims[chance.randrange(len(dims))].dim_value = chance.choice((-1, 0, 1, 2**31, 2**62))
    if chance.random() < 0.3:
        value.type.tensor_type.elem_type = chance.choice((0, 7, 8, 11, 99))


def _names(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).name = chance.choice(("", "\0", "x" * 100_000, graph.initializer[0].name))


FIELDS = (
    _dims, _type, _values, _not_finite, _operator, _domain, _wire, _remove, _twice, _attribute, _shape, _names
)  # fmt: skip
MUTATIONS: tuple[Mutation, ...] = (flip, cut, splice, field, field)
COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "inspect": (140, ("inspect", "FILE")),
    "check": (80, ("check", "zoo/lenet5", "--weights", "none", "--onnx", "FILE")),
    "quantize": (60, ("quantize", "FILE", "--calib", "SAMPLES")),
    "bench": (20, ("bench", "FILE", "--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.01")),
}
"""Number of files, and arguments, of each command."""


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_lives(cli: Cli, lenet5: Path, tmp_path: Path, command: str, times: int) -> None:
    count, words = COMMANDS[command]
    store = tmp_path / "artifacts"
    shutil.copytree(lenet5, store)
    (path,) = store.glob("*/*.onnx")
    sound, samples = path.read_bytes(), tmp_path / "samples.npy"
    np.save(samples, np.random.default_rng(0).standard_normal((8, 1, 32, 32), np.float32))
    ends = []
    for number in range(count * times):
        chance = random.Random(f"{command} {number}")
        mutation = MUTATIONS[number % len(MUTATIONS)]
        path.write_bytes(mutation(sound, chance))
        vouch(path)
        told = [{"FILE": str(path), "SAMPLES": str(samples)}.get(word, word) for word in words]
        end = cli(*told, at=store, kill_after_s=PATIENCE_S, memory=MEMORY)
        assert end in ENDS, f"{mutation.__name__} {number} ended with {end}"
        ends.append(end)
    assert 1 in ends, "something was refused"


def vouch(path: Path) -> None:
    """A manifest that the damaged file fits, as one who may write to the store could make."""
    manifest = replace(Artifact.open(path).manifest, files=(Payload.of(path),))
    manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
