"""Damaged ONNX files: how `deploy` ends on each.

    python -m benchmarks.untrusted_onnx [--files 3000]

Damages an export of LeNet-5 in seeded ways (bits, cuts, splices, fields of the graph), gives every file a manifest that
fits it, and runs `inspect`, `check`, `quantize` and `bench` on the files. Counts the exit codes, by command and by kind
of damage; a traceback or a crash has another exit code than success (0), error (1), failed check (3) or inconclusive
(4). Writes results/untrusted/onnx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.common import deploy_or_exit, write
from deploy.core.artifact import Artifact, Payload, manifest_path

Mutation = Callable[[bytes, random.Random], bytes]
MEMORY_BYTES = 24 << 30
"""Address space of a command, so that a forged size cannot be allocated."""
TIMEOUT_S = 300.0
ENDS = {0, 1, 3, 4}
"""Permitted exit codes."""
COMMANDS: dict[str, tuple[float, tuple[str, ...]]] = {
    "inspect": (0.47, ("inspect", "FILE")),
    "check": (0.27, ("check", "zoo/lenet5", "--weights", "none", "--onnx", "FILE")),
    "quantize": (0.2, ("quantize", "FILE", "--calib", "SAMPLES")),
    "bench": (0.06, ("bench", "FILE", "--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.01")),
}
"""Share of the files, and arguments, of each command."""
ZYGOTE = Path(__file__).parent.parent / "tests" / "reliability" / "_zygote.py"


def flip(data: bytes, chance: random.Random) -> bytes:
    """Flip bits."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    """Cut the file short."""
    return data[: chance.randrange(len(data))]


def splice(data: bytes, chance: random.Random) -> bytes:
    """Bytes from one place at another: instead of what is there, between it, or as a hole."""
    begin, size = chance.randrange(len(data)), chance.choice((1, 4, 16, 256, 4096))
    place = chance.randrange(len(data))
    return data[:place] + data[begin : begin + size] + data[place + chance.choice((0, size)) :]


def field(data: bytes, chance: random.Random) -> bytes:
    """Change a field of the graph, and sometimes a version."""
    model = onnx.load_model_from_string(data)
    chance.choice(FIELDS)(model.graph, chance)
    if chance.random() < 0.1:
        model.opset_import[0].version = chance.choice((0, 1, 7, 99, -1))
    if chance.random() < 0.1:
        model.ir_version = chance.choice((0, 1, 99))
    return bytes(model.SerializeToString())


def _dims(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    if tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice((-1, 0, 1, 2**31, 2**62, 7))


def _type(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).data_type = chance.choice((0, 2, 7, 8, 10, 16, 21, 22, 23, 77, 99))


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
        attribute.type = chance.choice((0, 1, 3, 5, 10))


def _shape(graph: onnx.GraphProto, chance: random.Random) -> None:
    value = chance.choice((*graph.input, *graph.output))
    dims = value.type.tensor_type.shape.dim
    if dims:
        dims[chance.randrange(len(dims))].dim_value = chance.choice((-1, 0, 1, 2**31, 2**62))
    if chance.random() < 0.3:
        value.type.tensor_type.elem_type = chance.choice((0, 7, 8, 11, 77, 99))


def _names(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).name = chance.choice(("", "\0", "x" * 100_000, graph.initializer[0].name))


def _kind_of_value(graph: onnx.GraphProto, chance: random.Random) -> None:
    """A sequence, an optional, a map or nothing, in place of a tensor."""
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kinds = (
        helper.make_sequence_type_proto(of),
        helper.make_optional_type_proto(of),
        helper.make_map_type_proto(TensorProto.INT64, of),
        onnx.TypeProto(),
    )
    chance.choice((*graph.input, *graph.output)).type.CopyFrom(chance.choice(kinds))


def _interface(graph: onnx.GraphProto, chance: random.Random) -> None:
    """No outputs, or inputs and outputs twice."""
    values = chance.choice((graph.input, graph.output))
    if chance.random() < 0.5:
        del values[:]
    else:
        values.append(values[0])


def _external(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    place = chance.choice(("/etc/passwd", "../other", "lenet5.fp32.onnx", "", ".", "nowhere"))
    tensor.external_data.add(key="location", value=place)
    if chance.random() < 0.5:
        tensor.external_data.add(
            key=chance.choice(("offset", "length", "key")), value=chance.choice(("-1", "x", "9" * 30))
        )


def _sparse(graph: onnx.GraphProto, chance: random.Random) -> None:
    """A weight as a sparse tensor, with indices and sizes that fit it or not."""
    tensor = graph.initializer.pop(chance.randrange(len(graph.initializer)))
    count = chance.choice((0, 1, 4, 2**20))
    indices = helper.make_tensor("", TensorProto.INT64, [4], [0, 1, 2, chance.choice((3, -1, 2**40))])
    graph.sparse_initializer.add(values=tensor, indices=indices, dims=[count or 1, chance.choice((1, 2**31))])


def _nested(graph: onnx.GraphProto, chance: random.Random) -> None:
    """The graph, or an empty one, as a branch of a node of it."""
    inner = onnx.GraphProto()
    if chance.random() < 0.7:
        inner.CopyFrom(graph)
    node = chance.choice(graph.node)
    node.op_type = chance.choice(("If", "Loop", "Scan", node.op_type))
    for name in chance.choice((("then_branch", "else_branch"), ("body",), ("then_branch",))):
        node.attribute.append(helper.make_attribute(name, inner))


def _grow(graph: onnx.GraphProto, chance: random.Random) -> None:
    """An operator whose output is as large as a constant says."""
    size = chance.choice((-1, 0, 2**20, 2**33, 2**40, 2**62))
    name = graph.node[0].input[0]
    graph.initializer.append(helper.make_tensor("growth", TensorProto.INT64, [4], [size, 1, 1, 1]))
    graph.node.insert(0, helper.make_node(chance.choice(("Expand", "Tile")), [name, "growth"], ["grown"]))
    graph.node[1].input[0] = "grown"


FIELDS = (
    _dims, _type, _values, _not_finite, _operator, _domain, _wire, _remove, _twice, _attribute, _shape, _names,
    _kind_of_value, _interface, _external, _sparse, _nested, _grow,
)  # fmt: skip


def function(data: bytes, chance: random.Random) -> bytes:
    """Nodes as calls of functions that are missing, call each other or themselves, or are called too often."""
    model = onnx.load_model_from_string(data)
    count = chance.choice((1, 2, 40))
    for index in range(count):
        calls = [f"F{chance.choice((index + 1, index + 1, index, 0))}"] * chance.choice((1, 2, 3))
        if index == count - 1 and chance.random() < 0.8:
            calls = ["Relu"]
        nodes = [
            helper.make_node(name, ["a"], ["b" if number == 0 else f"b{number}"], domain="" if name == "Relu" else "f")
            for number, name in enumerate(calls)
        ]
        model.functions.append(helper.make_function("f", f"F{index}", ["a"], ["b"], nodes, list(model.opset_import)))
    node = chance.choice([item for item in model.graph.node if item.op_type == "Relu"] or list(model.graph.node))
    node.op_type, node.domain = "F0", "f"
    model.opset_import.add(domain="f", version=chance.choice((0, 1, 1, 1)))
    return bytes(model.SerializeToString())


def text(data: bytes, chance: random.Random) -> bytes:
    """A name that is not UTF-8 anywhere in the file, or another one that is as long."""
    model = onnx.load_model_from_string(data)
    names = [item.name for item in (*model.graph.initializer, *model.graph.input, *model.graph.node) if item.name]
    name = chance.choice(names).encode()
    return data.replace(name, chance.choice((b"\xff", b"\0", b"a")) * len(name), chance.choice((1, -1)))


MUTATIONS: tuple[Mutation, ...] = (flip, cut, splice, field, field, function, field, text)


def mutate(data: bytes, command: str, number: int) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged bytes; the seed is the command and the number."""
    mutation = MUTATIONS[number % len(MUTATIONS)]
    return mutation.__name__, mutation(data, random.Random(f"{command} {number}"))


def vouch(path: Path) -> None:
    """Write a manifest that fits the damaged file, as anyone who may write to the store can."""
    manifest = replace(Artifact.open(path).manifest, files=(Payload.of(path),))
    manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")


def words(command: str, path: Path, samples: Path) -> list[str]:
    """Return the arguments of a command for a file."""
    return [{"FILE": str(path), "SAMPLES": str(samples)}.get(word, word) for word in COMMANDS[command][1]]


def write_samples(path: Path) -> Path:
    """Write calibration samples for LeNet-5."""
    np.save(path, np.random.default_rng(0).standard_normal((8, 1, 32, 32), np.float32))
    return path


def _run(zygote: subprocess.Popen[str], arguments: list[str]) -> int:
    assert zygote.stdin is not None and zygote.stdout is not None
    request = {"words": arguments, "kill_after_s": TIMEOUT_S, "memory": MEMORY_BYTES}
    zygote.stdin.write(json.dumps(request) + "\n")
    zygote.stdin.flush()
    return int(zygote.stdout.readline())


def measure(files: int) -> dict[str, Any]:
    """Run all commands on their shares of the damaged files; return the counts."""
    began = time.monotonic()
    ends: dict[str, Counter[int]] = {command: Counter() for command in COMMANDS}
    kinds: dict[str, Counter[int]] = {}
    wrong: list[dict[str, Any]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(ZYGOTE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as zygote,
    ):
        store = str(Path(folder) / "artifacts")
        path = Path(
            deploy_or_exit("--artifacts", store, "export", "zoo/lenet5", "--weights", "none", "--format", "onnx")[
                "file"
            ]
        )
        sound, samples = path.read_bytes(), write_samples(Path(folder) / "samples.npy")
        for command, (share, _) in COMMANDS.items():
            for number in range(round(files * share)):
                kind, data = mutate(sound, command, number)
                path.write_bytes(data)
                vouch(path)
                end = _run(zygote, ["--artifacts", store, "-q", *words(command, path, samples)])
                ends[command][end] += 1
                kinds.setdefault(kind, Counter())[end] += 1
                if end not in ENDS:
                    wrong.append({"command": command, "number": number, "kind": kind, "exit": end})
        assert zygote.stdin is not None
        zygote.stdin.close()
    return {
        "files": sum(sum(counts.values()) for counts in ends.values()),
        "crashes": len(wrong),
        "exit_codes": {command: _plain(counts) for command, counts in ends.items()},
        "by_damage": {kind: _plain(counts) for kind, counts in kinds.items()},
        "wrong": wrong,
        "timeout_s": TIMEOUT_S,
        "seconds": round(time.monotonic() - began),
    }


def _plain(counts: Counter[int]) -> dict[str, int]:
    return {str(code): counts[code] for code in sorted(counts)}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="number of damaged files")
    figures = measure(parser.parse_args().files)
    write("untrusted/onnx", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
