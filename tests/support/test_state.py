"""A run leaves the module, its inputs and the random generators as they were."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy.support.state import unchanged

GLOBAL = torch.zeros(3)


class Counter:
    def __init__(self) -> None:
        self.calls = 0
        self.seen: list[float] = []


class Stateful(nn.Module):
    """Has every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.part = nn.BatchNorm1d(3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("missing", None)
        self.plain = torch.zeros(3)
        self.number = 0
        self._private: dict[str, Any] = {}
        self.items: list[Any] = [1, [2]]
        self.recent: deque[int] = deque(maxlen=2)
        self.known: set[int] = set()
        self.array = np.zeros(3)
        self.counter = Counter()
        self.generator = torch.Generator()


def state(module: Stateful) -> list[Any]:
    plain = [module.plain, torch.from_numpy(module.array), GLOBAL]
    return [
        {key: value.clone() for key, value in module.state_dict().items()},
        [value.clone() for value in plain],
        (
            getattr(module, "number", None),
            dict(module._private),
            repr(module.items),
            list(module.recent),
            set(module.known),
        ),
        (module.counter.calls, list(module.counter.seen), module.generator.get_state().tolist()),
        (sorted(vars(module)), sorted(module._modules), module.training, module.weight.shape),
        (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
    ]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


CHANGES: dict[str, tuple[Callable[[Stateful], object], set[str]]] = {
    "buffer": (lambda m: m.mean.add_(1), {"mean"}),
    "integer buffer": (lambda m: m.count.add_(1), {"count"}),
    "slice": (lambda m: m.mean[1:].fill_(2.0), {"mean"}),
    "new buffer": (lambda m: setattr(m, "mean", m.mean + 1), {"mean"}),
    "buffer that was None": (lambda m: setattr(m, "missing", torch.ones(2)), {"missing"}),
    "registered buffer": (lambda m: m.register_buffer("fresh", torch.ones(2)), {"fresh"}),
    "parameter": (lambda m: m.weight.data.mul_(2), {"weight"}),
    "parameter data": (lambda m: setattr(m.weight, "data", torch.ones(5)), {"weight"}),
    "shape": (lambda m: m.mean.unsqueeze_(0), {"mean"}),
    "batch norm": (
        lambda m: m.part(torch.randn(4, 3)),
        {"part.running_mean", "part.running_var", "part.num_batches_tracked"},
    ),
    "functional batch norm": (
        lambda m: torch.nn.functional.batch_norm(torch.randn(4, 3), m.mean, m.plain, training=True),
        {"mean"},
    ),
    "plain tensor": (lambda m: m.plain.add_(1), set()),
    "global tensor": (lambda m: GLOBAL.sub_(1), set()),
    "out": (lambda m: torch.add(m.mean, 1, out=m.plain), set()),
    "number": (lambda m: setattr(m, "number", m.number + 1), {"number"}),
    "new attribute": (lambda m: setattr(m, "fresh", 1), {"fresh"}),
    "removed attribute": (lambda m: delattr(m, "number"), {"number"}),
    "private dictionary": (lambda m: m._private.update(a=torch.ones(1)), {"_private"}),
    "nested list": (lambda m: m.items[1].append(3), {"items"}),
    "deque": (lambda m: m.recent.append(1), {"recent"}),
    "set": (lambda m: m.known.add(1), {"known"}),
    "array": (lambda m: m.array.fill(1), {"array"}),
    "object": (lambda m: setattr(m.counter, "calls", 1), {"counter"}),
    "list in an object": (lambda m: m.counter.seen.append(1.0), {"counter"}),
    "generator": (lambda m: torch.rand(3, generator=m.generator), {"generator"}),
    "mode": (lambda m: m.eval(), {"training", "part.training"}),
    "replaced part": (lambda m: setattr(m, "part", nn.Identity()), {"part"}),
    "torch's random state": (lambda m: torch.rand(3), set()),
    "Python's random state": (lambda m: random.random(), set()),
    "numpy's random state": (lambda m: np.random.rand(), set()),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("inference", [True, False])
def test_everything_is_restored(name: str, inference: bool) -> None:
    change, names = CHANGES[name]
    module = Stateful()
    before = state(module)
    with unchanged(module) as changes, torch.inference_mode(inference), torch.no_grad():
        change(module)
        assert not same(state(module), before)
    assert same(state(module), before)
    assert names <= set(changes.names) and (names or not changes.names)


def test_inputs_are_restored_and_results_are_not() -> None:
    x, made = torch.zeros(3), torch.zeros(0)
    with unchanged(None), torch.no_grad():
        made = torch.ones(3)
        made.add_(x.add_(1)).mul_(2)
    assert torch.equal(x, torch.zeros(3)) and torch.equal(made, torch.full((3,), 4.0))


def test_a_module_that_is_traced() -> None:
    module = Stateful()
    before = state(module)
    with unchanged(module, traced=True) as changes:
        module.mean.add_(1)
        module._private["table"] = 1
    assert same(state(module), before) and set(changes.names) == {"mean", "_private"}


def test_an_error_restores_too() -> None:
    module = Stateful()
    before = state(module)
    with pytest.raises(RuntimeError, match="here"), unchanged(module), torch.no_grad():
        module.mean.add_(1)
        raise RuntimeError("here")
    assert same(state(module), before)


def test_hooks_that_forward_adds_are_removed() -> None:
    class Recording(nn.Module):
        """Adds a hook in the first call, and remembers that, as models of transformers do."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.kept: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not getattr(self, "hooked", False):
                self.layer.register_forward_hook(lambda module, args, output: self.kept.append(output))
                self.hooked = True
            self.kept.clear()
            self.layer(x)
            return torch.stack(self.kept)

    module = Recording()
    for _ in range(3):
        with unchanged(module):
            assert module(torch.ones(2, 4)).shape == (1, 2, 4)
    assert not module.layer._forward_hooks
