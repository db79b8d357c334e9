"""What the official cases leave out: older operator sets, float64, choices, and values around subgraphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import ModelError
from deploy.onnx_graph.graph import OnnxModule
from deploy.support.precision import computed_in

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


def evaluator(nodes, inputs, outputs, opset, weights=()):
    """Return the module of a graph; ``inputs`` are tensors by name, ``weights`` arrays by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TYPES[value.dtype], value.shape) for name, value in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in dict(weights).items()],
    )
    return OnnxModule(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), Path())


def evaluate(operator, opset, *inputs, outputs=1, **attributes):
    """Return the outputs of one node."""
    named = {f"x{index}": value for index, value in enumerate(inputs)}
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, list(named), results, **attributes)
    values = list(evaluator([node], named, results, opset)(*inputs).values())
    return values[0] if outputs == 1 else values


def close(result, expected):
    expected = torch.from_numpy(np.array(expected))
    torch.testing.assert_close(result, expected.to(result.dtype) if result.is_floating_point() else expected)


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
LENGTHS = torch.arange(3) + 1.0


@pytest.mark.parametrize(
    "operator, opset, inputs, attributes, expected",
    [
        ("Add", 6, (X, LENGTHS), {"axis": 1, "broadcast": 1}, lambda x, y: x + y[:, None]),
        ("Sub", 6, (X, torch.ones(4)), {"broadcast": 1}, lambda x, y: x - y),
        ("Greater", 6, (X, LENGTHS), {"axis": 1, "broadcast": 1}, lambda x, y: x > y[:, None]),
        ("PRelu", 6, (X, LENGTHS), {}, lambda x, y: np.where(x < 0, x * y[:, None], x)),
        ("PRelu", 9, (X, torch.full((3, 1), 0.5)), {}, lambda x, y: np.where(x < 0, x * 0.5, x)),
        ("Clip", 6, (X,), {"max": 1.0}, lambda x: np.minimum(x, 1)),
        ("Softmax", 11, (X,), {"axis": 1}, lambda x: np.exp(x) / np.exp(x).sum((1, 2), keepdims=True)),
        ("Softmax", 11, (X,), {"axis": -1}, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
        ("Softmax", 13, (X,), {"axis": 1}, lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
        ("Hardmax", 11, (X,), {"axis": 1}, lambda x: (x == x.max((1, 2), keepdims=True)).astype(np.float32)),
        ("ReduceSum", 11, (X,), {"axes": [0, -1]}, lambda x: x.sum((0, 2), keepdims=True)),
        ("ReduceMax", 12, (X,), {"keepdims": 0}, lambda x: x.max()),
        ("ReduceMean", 17, (torch.tensor([[-3, 2], [0, 2]]),), {"axes": [1]}, lambda x: np.array([[0], [1]])),
        ("Squeeze", 11, (X[:1],), {"axes": [0]}, lambda x: x[0]),
        ("Unsqueeze", 11, (X,), {"axes": [-1, 0]}, lambda x: x[None, ..., None]),
        ("Slice", 9, (X,), {"axes": [1, -1], "starts": [1, -3], "ends": [99, -1]}, lambda x: x[:, 1:, -3:-1]),
        ("Pad", 2, (X,), {"pads": [0, 1, 2, 0, 0, -1], "mode": "reflect"}, lambda x: np.pad(x, [(0, 0), (1, 0), (2, 0)], mode="reflect")[..., :-1]),  # noqa: E501
        ("Pad", 10, (X,), {"pads": [0, -1, 2, 0, 0, 1], "value": 3.0}, lambda x: np.pad(x[:, 1:], [(0, 0), (0, 0), (2, 1)], constant_values=3)),  # noqa: E501
        ("Reshape", 1, (X,), {"shape": [0, -1]}, lambda x: x.reshape(2, 12)),
        ("Tile", 1, (X, torch.tensor(2.0), torch.tensor(1.0)), {}, lambda x, *_: np.tile(x, (1, 2, 1))),
        ("Concat", 1, (X, X), {}, lambda x, y: np.concatenate([x, y], 1)),
        ("MatMul", 9, (torch.arange(6).reshape(2, 3), torch.arange(3)), {}, lambda x, y: x @ y),
        ("Gemm", 6, (X[0], X[1].T.contiguous(), LENGTHS), {"alpha": 0.5}, lambda x, y, z: x @ y / 2 + z),
        ("Div", 7, (torch.tensor([-7, 7]), torch.tensor([2, -2])), {}, lambda x, y: np.array([-3, -3])),
        ("Pow", 12, (torch.tensor([2, 3]), torch.tensor([0.5, 2.0])), {}, lambda x, y: np.array([1, 9])),
        ("Pow", 12, (torch.tensor([2.0, 3.0]), torch.tensor([-1, 2])), {}, lambda x, y: np.array([0.5, 9.0])),
        ("Cast", 13, (torch.tensor([-1.7, 0.0, 2.9]),), {"to": TensorProto.INT32}, lambda x: x.astype(np.int32)),
        ("Cast", 13, (torch.tensor([-1.7, 0.0, np.nan]),), {"to": TensorProto.BOOL}, lambda x: x.astype(bool)),
        ("Gather", 13, (X, torch.tensor([[-1, 0]])), {"axis": 1}, lambda x, i: np.take(x, i, 1)),
        ("Gather", 13, (X[0], torch.tensor(-1)), {}, lambda x, i: x[-1]),
        ("Gather", 13, (LENGTHS, torch.tensor(-1)), {}, lambda x, i: x[-1]),
        ("GatherND", 13, (X, torch.tensor([1, -1, 0])), {}, lambda x, i: x[1, -1, 0]),
        ("GatherND", 12, (X, torch.tensor([[-1], [0]])), {"batch_dims": 1}, lambda x, i: np.stack([x[0, -1], x[1, 0]])),
        ("ConstantOfShape", 9, (torch.tensor([2, 0]),), {}, lambda x: np.zeros((2, 0), np.float32)),
        ("Range", 11, tuple(map(torch.tensor, (1.0, 0.0, -0.25))), {}, lambda a, b, c: np.arange(a, b, c)),
        ("Range", 11, tuple(map(torch.tensor, (-4.0, 3.0, 0.7))), {}, lambda a, b, c: a + np.arange(11) * c),
        ("Range", 11, tuple(map(torch.tensor, (3, 0, -2))), {}, lambda a, b, c: np.arange(a, b, c)),
        ("Range", 11, tuple(map(torch.tensor, (3, 0, 2))), {}, lambda a, b, c: np.arange(a, b, c)),
        ("CumSum", 14, (X, torch.tensor(-1)), {"exclusive": 1, "reverse": 1}, lambda x, _: (np.cumsum(x[..., ::-1], -1) - x[..., ::-1])[..., ::-1]),  # noqa: E501
        ("ArgMax", 13, (torch.tensor([[3.0, 1, 3], [np.inf, 0, np.inf]]),), {"axis": 1, "select_last_index": 1}, lambda x: np.array([[2], [2]])),  # noqa: E501
        ("Einsum", 12, (X, X), {"equation": "B c d, B e d -> B c e"}, lambda x, y: x @ y.transpose(0, 2, 1)),
        ("LogSoftmax", 11, (X,), {}, lambda x: x - np.log(np.exp(x).sum((1, 2), keepdims=True))),
        ("ReduceL2", 18, (X, torch.tensor([1])), {}, lambda x, _: np.sqrt((x * x).sum(1, keepdims=True))),
        ("SpaceToDepth", 13, (torch.arange(16.0).reshape(1, 1, 4, 4),), {"blocksize": 2}, lambda x: x.reshape(1, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3).reshape(1, 4, 2, 2)),  # noqa: E501
    ],
)  # fmt: skip
def test_operator(operator, opset, inputs, attributes, expected):
    close(evaluate(operator, opset, *inputs, **attributes), expected(*(value.numpy() for value in inputs)))


@pytest.mark.parametrize("opset", [1, 10, 11])
def test_topk_takes_k_from_an_attribute_or_an_input(opset):
    k = () if opset == 1 else (torch.tensor([2]),)
    attributes = {"k": 2, "axis": 1} if opset == 1 else {"axis": 1}
    values, indices = evaluate("TopK", opset, X, *k, outputs=2, **attributes)
    close(indices, np.argsort(-X.numpy(), axis=1)[:, :2])
    close(values, -np.sort(-X.numpy(), axis=1)[:, :2])


@pytest.mark.parametrize("start, end, step", [(5, -99, -1), (-1, 0, -2), (99, 99, 1), (1, 2**63 - 1, 3), (0, 0, -1)])
def test_slice_limits_starts_and_ends(start, end, step):
    x = torch.arange(6)
    wanted = np.arange(6)[start : None if end < -6 else end : step]
    close(evaluate("Slice", 13, x, *(torch.tensor([value]) for value in (start, end, 0, step))), wanted)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pads_longer_than_the_axis(mode):
    pads = torch.tensor([0, 0, 7, 0, 0, -1])
    close(evaluate("Pad", 19, X, pads, mode=mode), np.pad(X[..., :-1], [(0, 0), (0, 0), (7, 0)], mode=mode))


def test_dropout_is_the_identity_and_random_dropout_is_refused():
    x, mask = evaluate("Dropout", 13, X, outputs=2)
    close(x, X.numpy())
    close(mask, np.ones(X.shape, bool))
    with pytest.raises(ModelError):
        evaluate("Dropout", 13, X, torch.tensor(0.5), torch.tensor(True))


@pytest.mark.parametrize("inner", [False, True])
def test_an_operator_is_computed_by_its_definition(inner):
    """The definitions depend on the type of a weight and on the defaults of attributes."""
    table = np.array([0.5, 2.0, 1.0, 3.0], np.float32)
    weights = {"table": table, "yes": np.array(True), "size": np.array(5)}
    window = helper.make_node("BlackmanWindow", ["size"], ["window"])
    loss = helper.make_node("NegativeLogLikelihoodLoss", ["x", "labels", "table"], ["y"])
    inputs = {"x": X[0], "labels": torch.tensor([0, 3, 1])}
    if inner:
        branches = [body([loss], [], [("y", FLOAT, [])]) for _ in range(2)]
        branches[0].initializer.append(numpy_helper.from_array(table, "table"))
        loss = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    results = evaluator([window, loss], inputs, ["y", "window"], 17, weights)(*inputs.values())
    wanted = torch.nn.functional.nll_loss(X[0], inputs["labels"], torch.from_numpy(table))
    close(results["y"], wanted.numpy())
    close(results["window"], torch.blackman_window(5).numpy())


def test_an_unknown_operator_is_named():
    with pytest.raises(ModelError, match="RandomNormalLike"):
        evaluate("RandomNormalLike", 13, X)


SINGLE = torch.linspace(-30, 30, 121)


@pytest.mark.parametrize(
    "operator, opset, attributes, expected",
    [
        ("Softplus", 1, {}, lambda x: np.logaddexp(x, 0)),
        ("Selu", 6, {"alpha": 1.5, "gamma": 2.0}, lambda x: 2 * np.where(x > 0, x, 1.5 * np.expm1(x))),
        ("Softmax", 13, {}, lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()),
        ("ReduceLogSumExp", 13, {"keepdims": 0}, lambda x: np.log(np.exp(x).sum())),
        ("ReduceL2", 13, {"keepdims": 0}, lambda x: np.linalg.norm(x)),
        ("Swish", 24, {"alpha": 0.5}, lambda x: x / (1 + np.exp(-np.float64(0.5) * x))),
        ("HardSwish", 14, {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("Mish", 18, {}, lambda x: x * np.tanh(np.logaddexp(x, 0))),
        ("Reciprocal", 13, {}, lambda x: 1 / (x + 0)),
    ],
)  # fmt: skip
def test_float64(operator, opset, attributes, expected):
    x = SINGLE + 0.01
    module = evaluator([helper.make_node(operator, ["x"], ["y"], **attributes)], {"x": x}, ["y"], opset)
    with computed_in(torch.float64, module):
        result = module(x)["y"]
    assert result.dtype is torch.float64
    wanted = expected(x.numpy().astype(np.float64))
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-13, atol=1e-13)


def observed(nodes, inputs, outputs, opset, weights=()):
    """Return the calls of operators in a float64 run."""
    module = evaluator(nodes, inputs, outputs, opset, weights)
    calls = []
    with computed_in(torch.float64, module, lambda *call: calls.append(call)):
        module(*inputs.values())
    return calls


def test_choices_are_made_by_one_operator_each():
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["values", "indices"]),
        helper.make_node("ArgMax", ["x"], ["largest"], select_last_index=1),
        helper.make_node("Greater", ["x", "y"], ["above"]),
        helper.make_node("PRelu", ["x", "slope"], ["z"]),
        helper.make_node("Clip", ["z", "low", "high"], ["clipped"]),
    ]
    inputs = {"x": X, "y": -X}
    weights = {
        "k": np.array([2]),
        "slope": np.array([0.5], np.float32),
        "low": np.array(-1, np.float32),
        "high": np.array(1, np.float32),
    }
    names = [name for name, _, _ in observed(nodes, inputs, ["indices", "largest", "above", "clipped"], 13, weights)]
    chosen = [name for name in names if name in ("topk", "sort", "argmax", "gt", "ge", "lt", "le", "eq", "ne")]
    assert sorted(chosen) == ["argmax", "gt", "topk"]


def test_equal_elements_are_taken_in_their_order():
    x = torch.tensor([[0.0, 2, 1] * 40])
    for largest, wanted in ((1, [*range(1, 120, 3), *range(2, 120, 3)]), (0, [*range(0, 120, 3), *range(2, 120, 3)])):
        _, indices = evaluate("TopK", 11, x, torch.tensor([80]), outputs=2, largest=largest)
        assert indices.tolist() == [wanted]


def test_the_indices_of_a_lookup_are_the_input_itself():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    indices = torch.tensor([[0, 3]])
    calls = observed([helper.make_node("Gather", ["table", "i"], ["y"])], {"i": indices}, ["y"], 13, {"table": table})
    (operands,) = [operands for name, operands, _ in calls if name == "embedding"]
    assert operands[1].data_ptr() == indices.data_ptr()


def body(nodes, inputs, outputs):
    """Return a subgraph; its inputs and outputs are names with types."""
    infos = [[helper.make_tensor_value_info(*pair) for pair in part] for part in (inputs, outputs)]
    return helper.make_graph(nodes, "body", *infos)


@pytest.mark.parametrize("count", [0, 3])
def test_a_loop_stacks_what_it_returns_and_sees_values_around_it(count):
    inner = body(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["state", "step"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        [("turn", INT64, []), ("going", BOOL, []), ("state", FLOAT, [2])],
        [("still", BOOL, []), ("next", FLOAT, [2]), ("seen", FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["step"]),
        helper.make_node("Loop", ["count", "", "x"], ["last", "all"], body=inner),
    ]
    inputs = {"x": torch.tensor([1.0, 2.0]), "count": torch.tensor(count)}
    results = evaluator(nodes, inputs, ["last", "all"], 16)(*inputs.values())
    states = np.array([[1.0, 2.0]], np.float32) * (1 - np.arange(count + 1, dtype=np.float32)[:, None])
    close(results["last"], states[-1])
    close(results["all"], states[1:])


def test_a_loop_ends_when_its_condition_fails():
    inner = body(
        [
            helper.make_node("Add", ["state", "state"], ["next"]),
            helper.make_node("Less", ["next", "limit"], ["still"]),
        ],
        [("turn", INT64, []), ("going", BOOL, []), ("state", FLOAT, [])],
        [("still", BOOL, []), ("next", FLOAT, [])],
    )
    nodes = [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=inner)]
    inputs = {"x": torch.tensor(3.0), "limit": torch.tensor(20.0)}
    close(evaluator(nodes, inputs, ["y"], 16, {"yes": np.array(True)})(*inputs.values())["y"], np.float32(24))


def test_scan_reads_and_writes_other_axes_backward():
    inner = body(
        [helper.make_node("Add", ["state", "part"], ["next"]), helper.make_node("Identity", ["next"], ["seen"])],
        [("state", FLOAT, [2]), ("part", FLOAT, [2])],
        [("next", FLOAT, [2]), ("seen", FLOAT, [2])],
    )
    node = helper.make_node(
        "Scan",
        ["start", "x"],
        ["last", "all"],
        body=inner,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[1],
        scan_output_axes=[-1],
        scan_output_directions=[1],
    )
    inputs = {"start": torch.zeros(2), "x": torch.arange(6.0).reshape(2, 3)}
    results = evaluator([node], inputs, ["last", "all"], 16)(*inputs.values())
    x = inputs["x"].numpy()
    close(results["last"], x.sum(1))
    close(results["all"], np.cumsum(x[:, ::-1], 1)[:, ::-1])


def test_branches_within_branches_see_the_values_around_both():
    deep = [body([helper.make_node(name, ["x", "y"], ["z"])], [], [("z", FLOAT, [3])]) for name in ("Add", "Mul")]
    outer = [
        body(
            [helper.make_node("If", ["second"], ["w"], then_branch=deep[0], else_branch=deep[1])],
            [],
            [("w", FLOAT, [3])],
        ),
        body([helper.make_node("Identity", ["y"], ["v"])], [], [("v", FLOAT, [3])]),
    ]
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("If", ["first"], ["result"], then_branch=outer[0], else_branch=outer[1]),
        helper.make_node("Exp", ["result"], ["out"]),
    ]
    x = LENGTHS
    for first in (True, False):
        for second in (True, False):
            inputs = {"x": x, "first": torch.tensor(first), "second": torch.tensor(second)}
            wanted = (x - x if second else -x * x) if first else -x
            close(evaluator(nodes, inputs, ["out"], 16)(*inputs.values())["out"], torch.exp(wanted).numpy())


def test_sequences():
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "y"], ["s"]),
        helper.make_node("SequenceInsert", ["s", "y", "zero"], ["t"]),
        helper.make_node("SequenceErase", ["t", "last"], ["u"]),
        helper.make_node("SequenceAt", ["u", "last"], ["a"]),
        helper.make_node("SequenceLength", ["t"], ["n"]),
        helper.make_node("ConcatFromSequence", ["u"], ["c"], axis=-1, new_axis=1),
    ]
    inputs = {"x": X, "y": -X}
    weights = {"zero": np.array(0), "last": np.array(-1)}
    results = evaluator(nodes, inputs, ["a", "n", "c"], 13, weights)(*inputs.values())
    close(results["a"], X.numpy())
    close(results["n"], np.array(3))
    close(results["c"], np.stack([-X.numpy(), X.numpy()], -1))
