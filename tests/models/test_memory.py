"""Modules in memory, through the public functions; files are judged here against a double copy of the module."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import deploy
from tests.conftest import Listener, Ran


class Images(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 10)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.last)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, a: Tensor, b: Tensor | None = None, *, scale: Tensor | None = None) -> dict[str, Tensor]:
        total = self.left(a) if b is None else self.left(a) + self.right(b)
        return {"sum": total if scale is None else total * scale, "gate": torch.sigmoid(total)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, pixels: Tensor | None = None, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        hidden = self.embed(tokens)
        return self.head((hidden if mask is None else hidden * mask[..., None]).mean(1))


class Any_(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, *items: Tensor) -> Tensor:
        return self.a(items[0]) - items[1]


class Packed(Pair):
    def forward(self, items: list[Tensor]) -> Tensor:  # type: ignore[override]
        return self.left(items[0]) + self.right(items[1])


class Keyed(Pair):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return self.left(batch["a"])


class Keywords(Pair):
    def forward(self, **items: Tensor) -> Tensor:  # type: ignore[override]
        return self.left(items["a"]) + self.right(items["b"])


def normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(6, 4)), nn.ReLU())


def called(module: nn.Module, *inputs: Tensor) -> nn.Module:
    module(*inputs)
    return module


def seeded(build: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(*arguments)


X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
A, B = torch.randn(2, 8), torch.randn(2, 6)
TOKENS = torch.arange(10, 40).reshape(2, 15)


def noise_to_signal(path: Path, module: nn.Module, feeds: dict[str, Tensor]) -> float:
    """Return the largest noise-to-signal ratio of a file's outputs against a double copy of the module."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    given = dict(zip(names, feeds.values(), strict=True)) if set(names) != set(feeds) else feeds
    outputs = session.run(None, {name: value.numpy() for name, value in given.items()})
    module.last = None  # a history cannot be copied
    wide = copy.deepcopy(module).double().eval()
    values = [value.double() if value.is_floating_point() else value for value in feeds.values()]
    with torch.no_grad():
        expected = wide(*values) if set(names) != set(feeds) else wide(**dict(zip(feeds, values, strict=True)))
    wanted = list(expected.values()) if isinstance(expected, dict) else [expected]
    assert len(wanted) == len(outputs)
    return max(
        float(np.square(a - b.numpy()).sum() / np.square(b.numpy()).sum()) ** 0.5
        for a, b in zip(outputs, wanted, strict=True)
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Tensor]]] = {
    "a tensor": (lambda: seeded(Images), X, {"x": torch.randn(5, 1, 8, 8)}),
    "a text": (lambda: seeded(Images), "x:batch,1,8,8", {"x": torch.randn(1, 1, 8, 8)}),
    "a tuple": (lambda: seeded(Pair), (A, B), {"a": torch.randn(3, 8), "b": torch.randn(3, 6)}),
    "a dict, keyword-only": (lambda: seeded(Pair), {"scale": A[:, :4], "a": A}, {"a": A, "scale": B[:, :4]}),
    "not the first parameter": (lambda: seeded(Tokens), {"tokens": TOKENS}, {"tokens": TOKENS + 3}),
    "a mask": (
        lambda: seeded(Tokens),
        {"tokens": TOKENS, "mask": torch.ones(2, 15, dtype=torch.int64)},
        {"tokens": TOKENS, "mask": (TOKENS > 20).long()},
    ),
    "any number": (lambda: seeded(Any_), [A[:, :3], B[:, :3]], {"i": B[:, :3], "j": A[:, :3]}),
    "example_input_array": (lambda: with_example(seeded(Images)), None, {"x": torch.randn(4, 1, 8, 8)}),
    "a history": (lambda: called(seeded(Images), X), X, {"x": torch.randn(2, 1, 8, 8)}),
}


QUICK = ("a text", "a tuple", "a mask", "any number", "not the first parameter", "example_input_array", "a history")
"""Cases that are only traced, which is faster than torch.export."""


def with_example(module: nn.Module) -> nn.Module:
    module.example_input_array = X  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("case", CASES)
def test_a_module_is_exported_and_left_as_it_is(case: str, store: Path) -> None:
    build, inputs, feeds = CASES[case]
    module = build().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    strategy = "trace" if case in QUICK else "auto"
    report = deploy.export_model(module, inputs=inputs, strategy=strategy, artifacts=store)
    assert report.verdict == "pass", report.parity.reasons
    assert noise_to_signal(report.artifact.path, module, feeds) < 1e-5
    assert module.training and all(value.requires_grad for value in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    reference = report.artifact.manifest.reference
    assert "name" not in reference and type(module).__qualname__ in reference["module"]


@pytest.mark.parametrize(
    ("kind", "inputs", "call"),
    [
        (Packed, [A, B], lambda module: module([A, B])),
        (Packed, {"a": A, "b": B}, lambda module: module([A, B])),
        (Packed, ["a:batch,8", "b:batch,6"], lambda module: module([A, B])),
        (Keyed, {"a": A}, lambda module: module({"a": A})),
        (Keyed, "a:batch,8", lambda module: module({"a": A})),
        (Keywords, {"b": B, "a": A}, lambda module: module(a=A, b=B)),
    ],
)
def test_inputs_are_passed_as_forward_takes_them(
    kind: type[nn.Module], inputs: Any, call: Callable[[nn.Module], Tensor], store: Path
) -> None:
    module = seeded(kind)
    report = deploy.export_model(module, inputs=inputs, strategy="trace", artifacts=store)
    assert report.verdict == "pass", report.parity.reasons
    session = onnxruntime.InferenceSession(str(report.artifact.path), providers=["CPUExecutionProvider"])
    feeds = {item.name: (A if item.shape[1] == 8 else B).numpy() for item in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, feeds)[0], call(module).detach().numpy(), atol=1e-5)


def test_the_module_inside_is_exported(store: Path) -> None:
    module = seeded(Images)
    wrapped = [torch.compile(module), nn.DataParallel(module), nn.DataParallel(torch.compile(module))]  # type: ignore[arg-type]
    assert len({deploy.module_request(item, X).name for item in wrapped}) == 1  # type: ignore[arg-type]
    report = deploy.export_model(wrapped[-1], inputs=X, strategy="trace", artifacts=store)
    assert report.verdict == "pass" and noise_to_signal(report.artifact.path, module, {"x": X}) < 1e-5
    assert deploy.check(module, artifacts=store).parity.verdict == "pass"
    part = torch.compile(Pair())
    outer = nn.Sequential(part)
    assert deploy.export_model(outer, inputs=A, strategy="trace", artifacts=store).verdict == "pass"
    assert outer[0] is part


@pytest.mark.slow
def test_weight_normalization_float16_and_float64(store: Path) -> None:
    module = normed()
    report = deploy.export_model(module, inputs=torch.randn(2, 6), name="normed", strategy="trace", artifacts=store)
    assert report.verdict == "pass" and report.artifact.path == store / "normed" / "normed.fp32.onnx"
    for cast, precision in ((torch.float16, "fp16"), (torch.float64, "fp64")):
        module = seeded(Pair).to(cast)
        own = deploy.export_model(module, inputs=A.to(cast), strategy="trace", artifacts=store)
        assert own.verdict == "pass" and own.artifact.manifest.precision == precision
        assert deploy.check(module, onnx=own.artifact.path, artifacts=store).parity.verdict == "pass"


def test_other_weights_or_another_structure_are_another_model(store: Path) -> None:
    first, second = Images(), Images()
    report = deploy.export_model(first, inputs=X, strategy="trace", artifacts=store)
    path = report.artifact.path
    assert deploy.check(first, probes="quick", artifacts=store).parity.verdict == "pass"
    assert deploy.check(second, onnx=path, probes="quick", artifacts=store).parity.verdict == "fail"
    with pytest.raises(deploy.ArtifactError):
        deploy.check(second, artifacts=store)
    with torch.no_grad():
        first.head.bias[3] += 0.01
    assert deploy.check(first, onnx=path, probes="quick", artifacts=store).parity.verdict == "fail"
    tanh, relu = nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    relu.load_state_dict(tanh.state_dict())
    names = {deploy.module_request(item, torch.ones(1, 2)).name for item in (tanh, relu)}
    assert len(names) == 2


def test_int8_and_accuracy_of_a_module(store: Path) -> None:
    module = seeded(Images)
    recipe = ["crop=8", "mean=0.5", "std=0.5", "gray=true"]
    quantized = deploy.quantize(
        module, inputs=X, calib="digits", samples=16, preprocess=recipe, artifacts=store
    ).artifact
    progress = Listener()
    again = deploy.quantize(
        module, calib="digits", samples=16, preprocess=recipe, artifacts=store, progress=progress
    ).artifact
    assert again.manifest.parent == quantized.manifest.parent
    report = deploy.evaluate_models([module], data="digits", artifacts=store)
    assert [(row.runtime, row.precision) for row in report.rows[:2]] == [("torch", "fp32"), ("onnxruntime", "fp32")]
    assert report.rows[1].verdict == "pass" and report.rows[1].comparison is not None
    other = deploy.evaluate_models([seeded(Images, 4)], inputs=X, data="digits", artifacts=store)
    assert [row.runtime for row in other.rows] == ["torch"]


@pytest.mark.slow
def test_speed_of_modules(store: Path) -> None:
    first, second = seeded(Images), seeded(Images, 4)
    budget = deploy.Budget(time_s=0.1)
    report = deploy.measure_speed(
        [first], inputs=X, repetitions=1, budget=budget, backends=["onnxruntime", "torch"], artifacts=store
    )
    (row,) = report.rows
    assert not row.record.failure and row.record.evidence["verdict"] == "pass"
    (skipped,) = report.skipped
    assert "FACTORY" in skipped.reason
    compared = deploy.compare_speed(first, second, inputs=X, time_limit_s=0.1, artifacts=store)
    assert (compared.first.name, compared.second.name) == tuple(
        deploy.module_request(item, X).name for item in (first, second)
    )
    assert deploy.profile_model(first, backends=["onnxruntime"], artifacts=store)


def test_pytorch_is_not_timed_with_a_module(store: Path) -> None:
    report = deploy.measure_speed([seeded(Images)], inputs=X, repetitions=1, backends=["torch"], artifacts=store)
    assert not report.rows and "FACTORY" in report.skipped[0].reason


def test_layers_of_a_module() -> None:
    assert [row.kind for row in deploy.layers(seeded(Images), inputs=X)] == ["Conv2d", "BatchNorm2d", "Linear"]


def test_two_modules_of_one_name_are_refused(store: Path) -> None:
    same = [deploy.module_request(seeded(Images, width), X, name="net") for width in (8, 4)]
    for call in (deploy.measure_speed, deploy.saturate):
        with pytest.raises(deploy.UsageError, match="net"):
            call(same, artifacts=store)
    with pytest.raises(deploy.UsageError, match="net"):
        deploy.compare_speed(*same, artifacts=store)


def test_commands_that_build_the_model_say_how(store: Path, run: Callable[..., Ran]) -> None:
    report = deploy.export_model(seeded(Images), inputs=X, name="net", strategy="trace", artifacts=store)
    refused = run("check", "--onnx", report.artifact.path)
    assert refused.code == deploy.ArtifactError.exit_code
    assert "FACTORY" in refused.err
    with pytest.raises(deploy.ArtifactError, match="memory"):
        deploy.check(artifacts=store)
    with pytest.raises(deploy.UsageError):
        deploy.train_model(deploy.module_request(seeded(Images), X), data="digits", artifacts=store)


def meta() -> nn.Module:
    with torch.device("meta"):
        return Images()


def locked() -> nn.Module:
    module = seeded(Images)
    module.lock = threading.Lock()  # type: ignore[assignment]
    return module


def infinite() -> nn.Module:
    module = seeded(Images)
    nn.init.constant_(module.get_submodule("head").bias, torch.inf)  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize(
    ("build", "inputs", "error"),
    [
        pytest.param(lambda: seeded(Images), None, deploy.InputSpecError, id="no inputs"),
        pytest.param(lambda: seeded(Images), [], deploy.InputSpecError, id="an empty list"),
        pytest.param(lambda: seeded(Images), {"y": X}, deploy.InputSpecError, id="an unknown name"),
        pytest.param(lambda: seeded(Images), (X, X), deploy.InputSpecError, id="too many"),
        pytest.param(lambda: seeded(Images), X.numpy(), deploy.InputSpecError, id="an array"),
        pytest.param(lambda: seeded(Images), (X.numpy(),), deploy.InputSpecError, id="arrays"),
        pytest.param(lambda: seeded(Images), 7, deploy.InputSpecError, id="a number"),
        pytest.param(lambda: seeded(Images), X[:0], deploy.InputSpecError, id="no values"),
        pytest.param(lambda: seeded(Images), X.bfloat16(), deploy.InputSpecError, id="bfloat16"),
        pytest.param(lambda: seeded(Images).bfloat16(), "x:2,1,8,8", deploy.ModelError, id="bfloat16 weights"),
        pytest.param(lambda: seeded(Keyed), {"a": A, "b": 3}, deploy.InputSpecError, id="an item is a number"),
        pytest.param(lambda: seeded(Pair), {"a": A, "b": B, "c": A, "d": A}, deploy.InputSpecError, id="other names"),
        pytest.param(lambda: seeded(Images), "x", deploy.InputSpecError, id="not a text of --input"),
        pytest.param(lambda: seeded(Images), torch.randn(2, 3, 8, 8), deploy.ModelError, id="of another shape"),
        pytest.param(lambda: 7, X, deploy.UsageError, id="not a module"),
        pytest.param(lambda: Images, X, deploy.UsageError, id="a class"),
        pytest.param(lambda: nn.LazyLinear(3), torch.randn(2, 3), deploy.ModelError, id="lazy"),
        pytest.param(meta, X, deploy.ModelError, id="meta"),
        pytest.param(locked, X, deploy.ModelError, id="cannot be copied"),
        pytest.param(lambda: torch.jit.trace(seeded(Images).eval(), X), X, deploy.ModelError, id="TorchScript"),
        pytest.param(lambda: nn.Sequential(torch.jit.script(nn.ReLU())), X, deploy.ModelError, id="a TorchScript part"),
        pytest.param(infinite, X, deploy.WeightsError, id="infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_what_is_refused(build: Callable[[], Any], inputs: Any, error: type[Exception], store: Path) -> None:
    with pytest.raises(error):
        deploy.export_model(build(), inputs=inputs, artifacts=store)
    assert not list(store.glob("*/*"))


@pytest.mark.parametrize("name", ["", "a/b", "..", "net.onnx", "rejected", "report"])
def test_names_that_are_refused(name: str, store: Path) -> None:
    with pytest.raises(deploy.UsageError):
        deploy.ModuleRequest(name=name, module=seeded(Images), inputs=("x:batch,1,8,8",))


def test_arguments_without_effect(store: Path) -> None:
    module, request = seeded(Images), deploy.module_request(seeded(Images), X)
    for call in (
        lambda: deploy.export_model("lenet5", name="other/one", artifacts=store),
        lambda: deploy.export_model(request, inputs=X, artifacts=store),
        lambda: deploy.check(inputs=X, artifacts=store),
        lambda: deploy.quantize("lenet5", inputs=X, calib="digits", artifacts=store),
        lambda: deploy.measure_speed(["lenet5"], inputs=X, artifacts=store),
        lambda: deploy.ModuleRequest(name="net", module=module, weights="none"),
    ):
        with pytest.raises(deploy.UsageError):
            call()
    with pytest.raises(deploy.InputSpecError):
        deploy.export_model("lenet5", inputs=X, artifacts=store)
    with pytest.raises(ValueError):
        deploy.ModelRequest.from_dict(request.to_dict())
