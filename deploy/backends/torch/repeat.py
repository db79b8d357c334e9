"""Does a model answer the same twice? Randomness is refused; state that forward changes is reported."""

from __future__ import annotations

import random

import numpy as np
import torch

from deploy.backends.torch.reference import OperatorCall, PyTorchRunner
from deploy.core.errors import ModelError
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches
from deploy.support.state import unchanged

_OTHER_SEED = 20_231
_ROUNDING = 1e-3
"""Differences between two float64 runs, as a share of those between two float32 runs, that rounding explains: 2⁻²⁹ of
rounding errors remain, and all of a random number."""


def check_repeatable(model: Model, feeds: Feeds) -> tuple[str, ...]:
    """Run a model twice in its own precision and compare bit by bit; where that differs, find out why.

    Returns:
        A note that forward changes its own state and that the result depends on it, or nothing.

    Raises:
        ModelError: the model is random; the message names the operator and its module if one draws random numbers.
        BackendError: the model cannot be run.
    """
    runner = PyTorchRunner(model, model.precision)
    first, second, changes = runner.run_again(feeds)
    if _equal(first, second):
        return ()
    sources, generator = _sources(model, feeds)
    other = _reseeded(runner, feeds)
    differs = not _equal(first, other)
    if sources and (differs or generator):
        raise ModelError(
            f"{model.name} is random: it draws random numbers in {' and '.join(sources)}, and two runs on one input "
            "differ, so no file can be compared with it.",
            "remove the randomness from forward, or make it an input of the model",
        )
    if differs and _beyond_rounding(model, first, other, feeds):
        raise ModelError(
            f"{model.name} is random: two runs on one input differ by more than rounding. It draws no random numbers, "
            "so it may read uninitialized memory, the time or a global variable.",
            "make forward depend on its inputs only",
        )
    if not changes.names:
        return ()
    named = ", ".join(map(repr, changes.names[:3])) + (", …" if len(changes.names) > 3 else "")
    return (f"forward changes its own state ({named}); the file answers as a freshly built model does",)


def _equal(first: Fetches, second: Fetches) -> bool:
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and first[name].tobytes() == second[name].tobytes() for name in first
    )


def _reseeded(runner: PyTorchRunner, feeds: Feeds) -> Fetches:
    """Run from other states of the global random generators."""
    with unchanged(None):
        torch.manual_seed(_OTHER_SEED)
        random.seed(_OTHER_SEED)
        np.random.seed(_OTHER_SEED)
        return runner.run(feeds)


def _sources(model: Model, feeds: Feeds) -> tuple[list[str], bool]:
    """Return what draws random numbers in a run, and whether some are of a generator of the model's own."""
    found: dict[str, None] = {}
    own = False
    before, python, numpy = torch.get_rng_state(), random.getstate(), str(np.random.get_state())

    def add(call: OperatorCall) -> None:
        nonlocal own, before
        generator = any(isinstance(item, torch.Generator) for item in call.operands)
        now = torch.get_rng_state()
        if generator or not torch.equal(now, before):
            own, before = own or generator, now
            where = f"the module {call.module!r}" if call.module else "the model's forward"
            found[f"the operator {call.operator} in {where}"] = None
        if random.getstate() != python:
            found["Python's module random"] = None
        if str(np.random.get_state()) != numpy:
            found["numpy.random"] = None

    PyTorchRunner(model, model.precision, observe=add).run(feeds)
    return list(found), own


def _beyond_rounding(model: Model, first: Fetches, other: Fetches, feeds: Feeds) -> bool:
    wide = PyTorchRunner(model, "fp64")
    return _distance(wide.run(feeds), _reseeded(wide, feeds)) > _ROUNDING * _distance(first, other)


def _distance(first: Fetches, second: Fetches) -> float:
    """Return the root of the sum of squared differences; infinite where shapes differ."""
    if any(first[name].shape != second[name].shape for name in first):
        return float("inf")
    pairs = [(first[name].astype(np.float64), second[name].astype(np.float64)) for name in first]
    return float(np.sqrt(sum(np.nansum((a - b) ** 2) for a, b in pairs)))
