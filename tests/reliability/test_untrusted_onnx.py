"""ONNX files made to do harm are refused, within limits of time and memory, and a signal ends the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Run = Callable[..., Any]
Node = onnx.NodeProto
NET = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Linear(4, 4)\n"
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("their", 1)]


def info(name: str, shape: Sequence[int | str] = ("batch", 4)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def relu(name: str = "input", out: str = "logits") -> Node:
    return helper.make_node("Relu", [name], [out])


def model(
    nodes: Sequence[Node] = (),
    initializers: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes or [relu()], "g", [info("input")], [info("logits")], list(initializers))
    made = helper.make_model(graph, opset_imports=OPSETS, functions=list(functions))
    made.ir_version = 10
    return made


def call(function: str, name: str = "input", out: str = "logits") -> Node:
    return helper.make_node(function, [name], [out], domain="their")


def function(name: str, calls: Sequence[str]) -> onnx.FunctionProto:
    """A function that calls others one after another; an empty name is Relu."""
    nodes = []
    for index, callee in enumerate(calls):
        ends = ("a" if index == 0 else f"t{index}", "b" if index == len(calls) - 1 else f"t{index + 1}")
        nodes.append(call(callee, *ends) if callee else relu(*ends))
    return helper.make_function("their", name, ["a"], ["b"], nodes, OPSETS)


def branch(nodes: Sequence[Node], out: str = "o") -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [info(out)])


def choice(then: onnx.GraphProto, out: str = "logits") -> Node:
    return helper.make_node("If", ["condition"], [out], then_branch=then, else_branch=branch([relu(out="e")], "e"))


CONDITION = numpy_helper.from_array(np.array(True), "condition")


def nested(levels: int) -> onnx.ModelProto:
    inner = branch([relu(out="o")])
    for _ in range(levels):
        inner = branch([choice(inner, "o")])
    return model([choice(inner)], [CONDITION])


def laughs(levels: int, calls: int = 2) -> list[onnx.FunctionProto]:
    return [function(f"F{i}", [f"F{i + 1}"] * calls) for i in range(levels)] + [function(f"F{levels}", [""])]


def in_a_branch() -> onnx.ModelProto:
    """A function that calls itself from a branch of its own."""
    body = [choice(branch([call("F0", "a", "o")]), "b")]
    return model([call("F0")], [], [helper.make_function("their", "F0", ["a"], ["b"], body, OPSETS)])


LARGE: dict[str, Callable[[], onnx.ModelProto]] = {
    "doubled 30 times": lambda: model([call("F0")], [], laughs(30)),
    "hundredfold 4 times": lambda: model([call("F0")], [], laughs(4, 100)),
    "never called": lambda: model([], [], laughs(40)),
    "calls itself": lambda: model([call("F0")], [], [function("F0", ["F0"])]),
    "calls itself from a branch": in_a_branch,
    "two call each other": lambda: model([call("F0")], [], [function("F0", ["F1"]), function("F1", ["", "F0"])]),
    "chain of 5,000": lambda: model([call("F0")], [], laughs(5000, 1)),
    "one name twice": lambda: model([call("F0")], [], [function("F0", [""]), function("F0", ["", ""])]),
    "nodes": lambda: model([relu(out=f"t{index}") for index in range(200_000)] + [relu()]),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_graph_that_grows_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    assert refusal(run, tmp_path, LARGE[name]().SerializeToString()) == "ArtifactError"


def test_a_file_that_is_far_larger_in_memory_is_refused(run: Run, tmp_path: Path) -> None:
    """Every two bytes are a node of some hundred bytes."""
    graph = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
    nodes = b"\x0a\x00" * 20_000_000
    size, prefix = len(nodes), bytearray([graph << 3 | 2])
    while size:
        prefix.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
    assert refusal(run, tmp_path, model().SerializeToString() + bytes(prefix) + nodes) == "ArtifactError"


def refusal(run: Run, folder: Path, data: bytes) -> str:
    path = folder / "theirs.onnx"
    path.write_bytes(data)
    ran = run("inspect", path, "--json")
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert "theirs.onnx" in ran.err
    return str(ran.json["error"]["kind"])


def tensor(**fields: Any) -> onnx.TensorProto:
    filled = {"name": "w", "data_type": TensorProto.FLOAT, "dims": [2], "raw_data": bytes(8), **fields}
    return onnx.TensorProto(**{key: value for key, value in filled.items() if value is not None})


def outside(**fields: Any) -> onnx.TensorProto:
    made = tensor(raw_data=None, data_location=TensorProto.EXTERNAL, **fields)
    made.external_data.add(key="location", value="../secret.bin")
    return made


TENSORS = {
    "unknown type": tensor(data_type=77),
    "unknown type, external": outside(data_type=77),
    "no type": tensor(data_type=0),
    "negative": tensor(dims=[-2]),
    "too few": tensor(dims=[3]),
    "too many": tensor(dims=[1]),
    "none": tensor(raw_data=None),
    "overflow": tensor(dims=[2**33, 2**33], raw_data=None, float_data=[1.0]),
    "overflow to a small number": tensor(dims=[2**62, 4, 2]),
    "raw strings": tensor(data_type=TensorProto.STRING),
    "external strings": outside(data_type=TensorProto.STRING),
    "outside": outside(),
}


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto | None = None) -> onnx.SparseTensorProto:
    known = numpy_helper.from_array(np.array([0, 1], np.int64), "i")
    return onnx.SparseTensorProto(values=values, indices=indices or known, dims=[4])


def constant(out: str = "c", **attribute: Any) -> Node:
    return helper.make_node("Constant", [], [out], **attribute)


def hide_indices(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    made.graph.sparse_initializer.append(sparse(tensor(), hidden))


def hide_in_function(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    made.functions.append(helper.make_function("their", "F", ["a"], ["b"], [constant(value=hidden)], OPSETS))


def hide_in_branch_of_function(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    nodes = [choice(branch([constant("o", value=hidden)]), "b")]
    made.functions.append(helper.make_function("their", "F", ["a"], ["b"], nodes, OPSETS))


def hide_in_default(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    defaults = [helper.make_attribute("value", hidden)]
    made.functions.append(
        helper.make_function("their", "F", ["a"], ["b"], [relu("a", "b")], OPSETS, attribute_protos=defaults)
    )


def hide_behind_another_type(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    attribute = helper.make_attribute("value", hidden)
    attribute.type = onnx.AttributeProto.INT
    made.graph.node.append(onnx.NodeProto(op_type="Constant", output=["c"], attribute=[attribute]))


def hide_in_training(made: onnx.ModelProto, hidden: onnx.TensorProto) -> None:
    made.training_info.add().initialization.initializer.append(hidden)


PLACES: dict[str, Callable[[onnx.ModelProto, onnx.TensorProto], Any]] = {
    "initializer": lambda made, hidden: made.graph.initializer.append(hidden),
    "sparse values": lambda made, hidden: made.graph.sparse_initializer.append(sparse(hidden)),
    "sparse indices": hide_indices,
    "constant": lambda made, hidden: made.graph.node.append(constant(value=hidden)),
    "sparse constant": lambda made, hidden: made.graph.node.append(constant(sparse_value=sparse(hidden))),
    "list of tensors": lambda made, hidden: made.graph.node.append(constant(values=[hidden])),
    "branch": lambda made, hidden: made.graph.node.append(choice(branch([constant("o", value=hidden)]), "x")),
    "function": hide_in_function,
    "branch of a function": hide_in_branch_of_function,
    "default of a function": hide_in_default,
    "another type of attribute": hide_behind_another_type,
    "training": hide_in_training,
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_cannot_be_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    assert refusal(run, tmp_path, model([], [TENSORS[name]]).SerializeToString()) == "ArtifactError"


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_looked_at_wherever_it_hides(run: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    made = model()
    PLACES[place](made, outside())
    assert refusal(run, folder, made.SerializeToString()) == "ArtifactError"


def sequence(made: onnx.ModelProto) -> None:
    made.graph.node[0].op_type = "SequenceConstruct"
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    made.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(of))


def optional(made: onnx.ModelProto) -> None:
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    made.graph.input[0].type.CopyFrom(helper.make_optional_type_proto(of))


def mapping(made: onnx.ModelProto) -> None:
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    made.graph.output[0].type.CopyFrom(helper.make_map_type_proto(TensorProto.INT64, of))


def elements(made: onnx.ModelProto) -> None:
    made.graph.input[0].type.tensor_type.elem_type = 77


def huge(made: onnx.ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**62


def no_version(made: onnx.ModelProto) -> None:
    made.opset_import[0].version = -(2**40)


INTERFACES: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "sequence": sequence,
    "optional": optional,
    "map": mapping,
    "element type": elements,
    "no type of an input": lambda made: made.graph.input[0].ClearField("type"),
    "no type of an output": lambda made: made.graph.output[0].ClearField("type"),
    "huge": huge,
    "no outputs": lambda made: made.graph.ClearField("output"),
    "operator set": no_version,
}


@pytest.mark.parametrize("command", ["inspect", "check"])
@pytest.mark.parametrize("name", INTERFACES)
def test_inputs_and_outputs_that_no_model_has(run: Run, tmp_path: Path, name: str, command: str) -> None:
    made = model()
    INTERFACES[name](made)
    path = write(tmp_path, made)
    words = [path] if command == "inspect" else checking(tmp_path, path)
    ran = run(command, *words, "--json")
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert ran.json["error"]["kind"] in ("ArtifactError", "BackendError")


@pytest.mark.parametrize("size", [0, -1, -(2**62)])
def test_a_size_that_is_not_positive_is_unknown(run: Run, tmp_path: Path, size: int) -> None:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    ran = run("inspect", write(tmp_path, made), "--json")
    assert ran.code == 0 and ran.json["inputs"][0]["shape"] == ["?", 4]


@pytest.mark.parametrize("text", [b"logits", b"Relu", b"branchname"])
def test_text_that_is_not_utf8(run: Run, tmp_path: Path, text: bytes) -> None:
    made = model()
    made.graph.name = "branchname"
    data = made.SerializeToString().replace(text, b"\xff" * len(text))
    assert refusal(run, tmp_path, data) == "ArtifactError"


def test_an_operator_without_its_inputs_has_an_unknown_cost(run: Run, tmp_path: Path) -> None:
    made = model([relu(), onnx.NodeProto(op_type="Conv"), onnx.NodeProto(op_type="Gemm", input=["input"])])
    ran = run("inspect", write(tmp_path, made), "--json")
    assert ran.code in (0, 1) and "Traceback" not in ran.err, ran.err


def test_a_file_name_does_not_choose_the_format(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_bytes(model().SerializeToString())
    assert run("inspect", path).code == 0


def test_honest_files_are_read(run: Run, tmp_path: Path) -> None:
    """Nested branches and functions, sparse values, and four-bit weights beside the file."""
    packed = tensor(name="four", data_type=TensorProto.INT4, dims=[3], raw_data=None)
    packed.data_location = TensorProto.EXTERNAL
    packed.external_data.add(key="location", value="four.bin")
    (tmp_path / "four.bin").write_bytes(bytes(2))
    deep = nested(10)
    made = model([*deep.graph.node[:-1], choice(deep.graph.node[-1].attribute[0].g, "x"), call("F0")], [CONDITION])
    made.functions.extend(laughs(8))
    made.graph.initializer.append(packed)
    made.graph.sparse_initializer.append(sparse(tensor(name="few")))
    ran = run("inspect", write(tmp_path, made), "--json")
    assert ran.code == 0, ran.err
    assert ran.json["parameter_bytes"] == 1 + 2 + 8 + 16 and ran.json["bytes"] == path_bytes(tmp_path) + 2


def path_bytes(folder: Path) -> int:
    return (folder / "theirs.onnx").stat().st_size


def write(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "theirs.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def checking(folder: Path, path: Path) -> list[str]:
    """Arguments of ``deploy check``."""
    (folder / "net.py").write_text(NET)
    return [f"{folder / 'net.py'}:build", "--input", "input:batch,4", "--onnx", str(path)]


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def grown(node: Node, *initializers: onnx.TensorProto) -> onnx.ModelProto:
    """A graph that needs 18 GB for ``c``."""
    nodes = [
        node,
        helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
        helper.make_node("Add", ["input", "m"], ["logits"]),
    ]
    return model(nodes, initializers)


GROWN = {
    "ConstantOfShape": grown(helper.make_node("ConstantOfShape", ["s"], ["c"]), ints("s", 4_500_000_000)),
    "Expand": grown(helper.make_node("Expand", ["input", "s"], ["c"]), ints("s", 1_200_000_000, 1, 4)),
    "Pad": grown(helper.make_node("Pad", ["input", "s"], ["c"]), ints("s", 0, 0, 4_500_000_000, 0)),
}


@pytest.mark.parametrize("name", GROWN)
def test_memory_is_limited(run: Run, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, GROWN[name])
    assert run("inspect", path).code == 0
    ran = run("check", *checking(tmp_path, path), "--json")
    assert ran.code == 1 and ran.json["error"]["kind"] == "BackendMemoryError"
    assert "DEPLOY_LIMIT_ONNX_MEMORY_BYTES" in ran.json["error"]["hint"]


def endless() -> onnx.ModelProto:
    scalar = [info("v", None), info("vo", None)]  # type: ignore[arg-type]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["v", "one"], ["vo"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            scalar[0],
        ],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), scalar[1]],
    )
    one = numpy_helper.from_array(np.array(1e-9, np.float32), "one")
    condition, trips = CONDITION, numpy_helper.from_array(np.array(2**62), "trips")
    return model(
        [helper.make_node("Loop", ["trips", "condition", "input"], ["logits"], body=body)], [trips, condition, one]
    )


@pytest.fixture
def looping(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``deploy check`` of a loop without end."""
    started = []

    def start(**environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deploy.cli.main", "--artifacts", str(tmp_path / "artifacts"), "check"]
        process = subprocess.Popen(
            [*command, *checking(tmp_path, write(tmp_path, endless()))],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_time_is_limited(looping: Callable[..., subprocess.Popen[str]]) -> None:
    process = looping(DEPLOY_LIMIT_ONNX_RUN_SECONDS="2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "DEPLOY_LIMIT_ONNX_RUN_SECONDS" in err and "Traceback" not in err, err


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, signal.SIGKILL]
)
def test_a_signal_ends_the_command_and_its_children(
    looping: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = looping()
    children = _children(process, busy_s=1.0)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while any(map(_alive, children)):
        assert time.monotonic() < deadline, "a child outlives the command"
        time.sleep(0.05)


def _children(process: subprocess.Popen[str], busy_s: float) -> list[int]:
    """Wait until a child computes, long after its imports; return all children."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("building the model"):
            break
    before: dict[int, float] = {}
    while process.poll() is None:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, found):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if used > before.setdefault(child, used) + busy_s:
                return [int(item) for item in found]
        time.sleep(0.1)
    raise AssertionError("the command ended by itself")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
