"""Untrusted ExportedPrograms: each part of the file that PyTorch's loader would run as code is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.core.errors import ModelError, UnsafePickleError
from deploy.models.program_file import load_program
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve

Run = Callable[..., Any]
GRAPH, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


class Net(torch.nn.Module):
    """Keyword inputs, a dynamic batch, a dictionary out, a constant and a subgraph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("table", torch.ones(3))

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        y = self.linear(x) + self.table + torch.tensor([1.0, 2.0, 3.0])
        with torch.no_grad():
            z = torch.sin(y)
        return {"y": z, "pair": [y * scale, x.reshape(x.shape[0] * 2, 2)]}


class Called:
    """Unpickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of an archive by name, without its root."""
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Net().eval(),
        (torch.randn(2, 4),),
        {"scale": torch.randn(2, 1)},
        dynamic_shapes={"x": {0: batch}, "scale": {0: batch}},
    )
    torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Mapping[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(f"net/{name}", data)
    return path


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def bare(value: object) -> bytes:
    return pickle.dumps(value)


def touching(canary: Path) -> Called:
    return Called(Path.touch, canary)


Members = dict[str, bytes]
Pickles = Callable[[Members, Path], None]


def sample_inputs(members: Members, canary: Path) -> None:
    members[INPUTS] = pickled(touching(canary))


def sample_inputs_that_evaluate(members: Members, canary: Path) -> None:
    code = f"(open({str(canary)!r}, 'w').close(), ((__import__('torch').zeros(2, 4),), {{}}))[1]"
    members[INPUTS] = pickled(Called(eval, code))


def sample_inputs_without_an_archive(members: Members, canary: Path) -> None:
    members[INPUTS] = bare(touching(canary))


def pickled_weight(members: Members, canary: Path) -> None:
    config = json.loads(members[WEIGHTS])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    members[WEIGHTS] = json.dumps(config).encode()
    members[f"data/weights/{entry['path_name']}"] = pickled(touching(canary))


def pickled_constant(members: Members, canary: Path) -> None:
    config = json.loads(members[CONSTANTS])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    members[CONSTANTS] = json.dumps(config).encode()
    members[f"data/constants/{entry['path_name']}"] = pickled(touching(canary))


def opaque_object(members: Members, canary: Path) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.loads(members[CONSTANTS])
    config["config"]["thing"] = entry
    members[CONSTANTS] = json.dumps(config).encode()
    members["data/constants/opaque_obj_0"] = bare(touching(canary))


def custom_object(members: Members, canary: Path) -> None:
    entry = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.loads(members[CONSTANTS])
    config["config"]["thing"] = entry
    members[CONSTANTS] = json.dumps(config).encode()
    members["data/constants/custom_obj_0"] = bare(touching(canary))


def older_weights(members: Members, canary: Path) -> None:
    members["data/weights/model.pt"] = pickled({"linear.weight": touching(canary)})


def older_constants(members: Members, canary: Path) -> None:
    members["data/constants/model.pt"] = pickled({"linear.weight": touching(canary)})


PICKLES: tuple[Pickles, ...] = (
    *(sample_inputs, sample_inputs_that_evaluate, sample_inputs_without_an_archive, pickled_weight, pickled_constant),
    *(opaque_object, custom_object, older_weights, older_constants),
)


@pytest.mark.parametrize("spoil", PICKLES, ids=lambda item: item.__name__)
def test_a_pickle_is_not_executed(tmp_path: Path, members: Members, spoil: Pickles) -> None:
    canary = tmp_path / "CANARY"
    changed = dict(members)
    spoil(changed, canary)
    with pytest.raises(UnsafePickleError, match=r"net\.pt2"):
        load_program(write(tmp_path / "net.pt2", changed))
    assert not canary.exists()


def test_the_command_refuses_it(run: Run, store: Path, tmp_path: Path, members: Members) -> None:
    changed = dict(members)
    sample_inputs_that_evaluate(changed, tmp_path / "CANARY")
    done = run("export", write(tmp_path / "net.pt2", changed))
    assert done.code == 1 and "Traceback" not in done.err and "net.pt2" in done.err
    assert not (tmp_path / "CANARY").exists() and not store.exists()


Graph = dict[str, Any]
Spoil = Callable[[Graph, str], None]
"""Changes a graph so that a file is created by the Python code that is given."""


def nodes(graph: Graph) -> list[Graph]:
    found: list[Graph] = graph["graph_module"]["graph"]["nodes"]
    return found


def node_of(graph: Graph, target: str) -> Graph:
    return next(node for node in nodes(graph) if node["target"] == f"torch.ops.aten.{target}")


def call_of(target: str, *strings: str) -> Spoil:
    def spoil(graph: Graph, code: str) -> None:
        arguments = [{"name": "", "arg": {"as_string": text or code}, "kind": 1} for text in strings]
        nodes(graph).insert(0, {"target": target, "inputs": arguments, "outputs": [], "metadata": {}, "name": "called"})

    return spoil


def operator_as_argument(graph: Graph, code: str) -> None:
    arguments: list[Graph] = [
        {"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1},
        {"name": "", "arg": {"as_string": code}, "kind": 1},
    ]
    hop = "torch.ops.higher_order.wrap_with_set_grad_enabled"
    nodes(graph).insert(0, {"target": hop, "inputs": arguments, "outputs": [], "metadata": {}, "name": "called"})


def size(graph: Graph, code: str) -> None:
    for value in graph["graph_module"]["graph"]["tensor_values"].values():
        for dim in value["sizes"]:
            if "as_expr" in dim:
                dim["as_expr"]["expr_str"] = code


def size_in_a_list(graph: Graph, code: str) -> None:
    size(graph, [code])  # type: ignore[arg-type]


def size_in_a_symbol(graph: Graph, code: str) -> None:
    size(graph, f"Max({code!r}, 1)")


def huge_size(graph: Graph, code: str) -> None:
    size(graph, "Pow(Pow(Pow(Integer(9), Integer(60)), Integer(60)), Integer(60))")


def guard(graph: Graph, code: str) -> None:
    graph["guards_code"] = [f"{code} or True"]


def endless_symbol(graph: Graph, code: str) -> None:
    graph["range_constraints"]["u99999999999999999"] = {"min_val": 0, "max_val": 9}


def renamed(graph: Graph, old: str, new: str) -> None:
    text = json.dumps(graph).replace(json.dumps(old), json.dumps(new))
    graph.clear()
    graph.update(json.loads(text))


def node_name(graph: Graph, code: str) -> None:
    renamed(graph, "linear", f"linear = {code}; linear")


def input_name(graph: Graph, code: str) -> None:
    renamed(graph, "x", f"x = {code}")


def argument_name(graph: Graph, code: str) -> None:
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [f"x={code}", "scale"]


def keyword(graph: Graph, code: str) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("scale", f"scale={code}".replace('"', "'"))
    signature["forward_arg_names"] = None


def parameter_name(graph: Graph, code: str) -> None:
    renamed(graph, "linear.weight", f'linear.wei"), {code}, ("ght')


def imported_enumeration(graph: Graph, code: str) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps([{"__enum__": True, "fqn": "canary_module:Kind", "name": "A"}])
    protocol, tree = json.loads(signature["out_spec"])
    signature["out_spec"] = json.dumps([protocol, {**tree, "context": context}])


def imported_factory(graph: Graph, code: str) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    context = {"default_factory_module": "canary_module", "default_factory_name": "f", "dict_context": ["y", "pair"]}
    protocol, tree = json.loads(signature["out_spec"])
    tree = {**tree, "type": "collections.defaultdict", "context": context}
    signature["out_spec"] = json.dumps([protocol, tree])


def custom_input(graph: Graph, code: str) -> None:
    argument = {"name": "thing", "class_fqn": "some.Class"}
    graph["graph_module"]["signature"]["input_specs"].append(
        {"custom_obj": {"arg": argument, "custom_obj_name": "thing"}}
    )


GRAPHS: dict[str, Spoil] = {
    "os.system": call_of("torch.os.system", ""),
    "load_library": call_of("torch.ops.load_library", ""),
    "hub": call_of("torch.hub.load_state_dict_from_url", ""),
    "attribute of an operator": call_of("torch.ops.aten.add.__class__", ""),
    "operator module": call_of("_operator.methodcaller", ""),
    "extension": call_of("#canary:op", ""),
    "from_file": call_of("torch.ops.aten.from_file.default", ""),
    "save": call_of("torch.ops.aten.save.default", ""),
    "torchvision file": call_of("torch.ops.image.write_file.default", ""),
    "printing": call_of("torch.ops.higher_order.print", ""),
    "compiled code": call_of("torch.ops.higher_order.inductor_compiled_code", ""),
    **{
        item.__name__: item
        for item in (
            *(operator_as_argument, size, size_in_a_list, size_in_a_symbol, huge_size, endless_symbol, node_name),
            *(input_name, argument_name, keyword, parameter_name, imported_enumeration, imported_factory, custom_input),
        )
    },
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_runs_no_python(tmp_path: Path, members: Members, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "CANARY"
    (tmp_path / "canary_module.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    graph = json.loads(members[GRAPH])
    GRAPHS[name](graph, f"__import__('os').system('touch {canary}')")
    path = write(tmp_path / "net.pt2", {**members, GRAPH: json.dumps(graph).encode()})
    with pytest.raises(UnsafePickleError, match=r"net\.pt2"):
        load_program(path)
    assert not canary.exists()


def test_guards_are_dropped(tmp_path: Path, members: Members) -> None:
    """Every program with a dynamic size has them, so they are no reason to refuse it; ranges are still checked."""
    canary = tmp_path / "CANARY"
    graph = json.loads(members[GRAPH])
    guard(graph, f"__import__('os').system('touch {canary}')")
    write(tmp_path / "net.pt2", {**members, GRAPH: json.dumps(graph).encode()})
    module = resolve(ModelRequest(name=str(tmp_path / "net.pt2"))).module
    module(torch.zeros(3, 4), scale=torch.zeros(3, 1))
    assert not canary.exists()
    with pytest.raises(RuntimeError):
        module(torch.zeros(65, 4), scale=torch.zeros(65, 1))


def test_compiled_libraries_are_not_loaded(tmp_path: Path, members: Members) -> None:
    library = {"data/aotinductor/model/canary.so": b"\x7fELF", "data/aotinductor/model/canary.cpp": b""}
    load_program(write(tmp_path / "net.pt2", {**members, **library}))


def test_a_sound_program_is_the_same(run: Run, tmp_path: Path, members: Members) -> None:
    path = write(tmp_path / "net.pt2", members)
    ours, theirs = load_program(path).module(), torch.export.load(path).module()
    x, scale = torch.randn(5, 4), torch.randn(5, 1)
    for mine, other in zip(*(torch.utils._pytree.tree_leaves(m(x, scale=scale)) for m in (ours, theirs)), strict=True):
        assert torch.equal(mine, other)
    done = run("export", path, "--json")
    assert [spec["name"] for spec in done.json["inputs"]] == ["x", "scale"], done.err
    assert done.json["parity"]["dynamic"] == {"batch": [1, 2, 3, 5, 8]}


def test_a_file_of_an_older_torch(tmp_path: Path, members: Members) -> None:
    """Pickled weights and constants (before 2.9), and other names in the archive (before 2.8)."""
    program = torch.export.load(write(tmp_path / "new.pt2", members))
    weights, constants = pickled(dict(program.state_dict)), pickled(dict(program.constants))
    x, scale = torch.randn(5, 4), torch.randn(5, 1)
    expected = program.module()(x, scale=scale)["y"]
    kept = {name: data for name, data in members.items() if not name.startswith(("data/weights", "data/constants"))}
    write(tmp_path / "b.pt2", {**kept, "data/weights/model.pt": weights, "data/constants/model.pt": constants})
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("version", "8.20")
        archive.writestr("serialized_exported_program.json", members[GRAPH])
        archive.writestr("serialized_state_dict.pt", weights)
        archive.writestr("serialized_constants.pt", constants)
        archive.writestr("serialized_example_inputs.pt", members[INPUTS])
    for name in ("a.pt2", "b.pt2"):
        assert torch.equal(load_program(tmp_path / name).module()(x, scale=scale)["y"], expected)


def damaged_sum(path: Path, members: Members) -> None:
    write(path, members)
    data = bytearray(path.read_bytes())
    data[data.index(members["data/weights/weight_0"]) + 5] ^= 0xFF
    path.write_bytes(data)


def bomb(path: Path, members: Members) -> None:
    write(path, {**members, "data/extra/zeros": bytes(100 << 20)}, zipfile.ZIP_DEFLATED)


def twice(path: Path, members: Members) -> None:
    write(path, members)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/{INPUTS}", pickled(1))


def absolute(path: Path, members: Members) -> None:
    write(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/etc/evil", b"")


def outside(path: Path, members: Members) -> None:
    write(path, {**members, "../../evil": b""})


def cut(path: Path, members: Members) -> None:
    write(path, members)
    path.write_bytes(path.read_bytes()[:-200])


def nested(path: Path, members: Members) -> None:
    write(path, {**members, GRAPH: b"[" * 100_000})


def no_data(path: Path, members: Members) -> None:
    """A tensor of terabytes without bytes."""
    config = json.loads(members[WEIGHTS])
    entry = next(iter(config["config"].values()))
    entry["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}, {"as_int": 4}]
    write(path, {**members, WEIGHTS: json.dumps(config).encode(), f"data/weights/{entry['path_name']}": b""})


def text(path: Path, members: Members) -> None:
    path.write_text("this is no archive")


DAMAGES = {item.__name__: item for item in (damaged_sum, bomb, twice, absolute, outside, cut, nested, no_data, text)}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive_is_refused(tmp_path: Path, members: Members, name: str) -> None:
    DAMAGES[name](tmp_path / "net.pt2", members)
    with pytest.raises(ModelError, match=r"net\.pt2"):
        load_program(tmp_path / "net.pt2")


def test_a_large_archive_is_read(tmp_path: Path, members: Members) -> None:
    """Zip64 headers, which torch writes for archives of more than 4 GB."""
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for name, data in members.items():
            with archive.open(f"net/{name}", "w", force_zip64=True) as stream:
                stream.write(data)
    load_program(tmp_path / "net.pt2")


def test_the_operators_that_touch_files_are_known() -> None:
    """A new one of PyTorch must be added to those that are refused."""
    found = {
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.partition("::")[0] in ("aten", "prims", "torchvision", "quantized_decomposed", "onnx")
        and any("file" in argument.name for argument in schema.arguments)
    }
    assert found == {"aten::from_file", "aten::save"}
