"""Recurrent layers, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a, _: functional.elu(x, a),
    "hardsigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "leakyrelu": lambda x, a, _: functional.leaky_relu(x, a),
    "relu": lambda x, *_: torch.relu(x),
    "scaledtanh": lambda x, a, b: a * torch.tanh(b * x),
    "sigmoid": lambda x, *_: torch.sigmoid(x),
    "softplus": lambda x, *_: functional.softplus(x),
    "softsign": lambda x, *_: functional.softsign(x),
    "tanh": lambda x, *_: torch.tanh(x),
    "thresholdedrelu": lambda x, a, _: torch.where(x > a, x, torch.zeros_like(x)),
}
_ALPHA = {"affine": 1.0, "elu": 1.0, "hardsigmoid": 0.2, "leakyrelu": 0.01, "scaledtanh": 1.0, "thresholdedrelu": 1.0}
_BETA = {"affine": 0.0, "hardsigmoid": 0.5, "scaledtanh": 1.0}


def _activations(node: OnnxNode, names: tuple[str, ...], directions: int) -> Iterator[list[Activation]]:
    """Yield the activations of each direction; the lists of alphas and betas have an entry for each that takes one."""
    alphas, betas = iter(node.get("activation_alpha", ())), iter(node.get("activation_beta", ()))
    limit = node.get("clip")

    def made(name: str, clipped: bool) -> Activation:
        key = name.lower()
        alpha = next(alphas, _ALPHA[key]) if key in _ALPHA else 0.0
        beta = next(betas, _BETA[key]) if key in _BETA else 0.0
        function = _ACTIVATIONS[key]
        return lambda x: function(x.clamp(-limit, limit) if clipped else x, alpha, beta)

    stated = node.get("activations") or names * directions
    for start in range(0, len(stated), len(names)):
        # ONNX Runtime does not clip the cell, the input of the third activation
        yield [made(name, limit is not None and i < 2) for i, name in enumerate(stated[start : start + len(names)])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One direction of a layer: weights [G * H, ...], biases [G * H], peepholes [3 * H] and activations.

    Attributes:
        inner, outer: bias of the product with the state, and of that with the input.
    """

    node: OnnxNode
    recurrent: Tensor
    outer: Tensor
    inner: Tensor
    peepholes: Tensor | None
    activations: list[Activation]

    def lstm(self, x: Tensor, state: State) -> State:
        """Return H and C."""
        h, c = state
        f, g, last = self.activations
        i, o, forget, new = (x + functional.linear(h, self.recurrent, self.inner)).chunk(4, -1)
        pi, po, pf = (0.0, 0.0, 0.0) if self.peepholes is None else self.peepholes.chunk(3)
        i = f(i + pi * c)
        forget = 1 - i if self.node.get("input_forget", 0) else f(forget + pf * c)
        cell = forget * c + i * g(new)
        return f(o + po * cell) * last(cell), cell

    def gru(self, x: Tensor, state: State) -> State:
        """Return H."""
        (h,) = state
        f, g = self.activations
        size = h.shape[-1]
        weights, bias = self.recurrent, self.inner
        z, r = f(x[:, : 2 * size] + functional.linear(h, weights[: 2 * size], bias[: 2 * size])).chunk(2, -1)
        if self.node.get("linear_before_reset", 0):
            new = r * functional.linear(h, weights[2 * size :], bias[2 * size :])
        else:
            new = functional.linear(r * h, weights[2 * size :], bias[2 * size :])
        return ((1 - z) * g(x[:, 2 * size :] + new) + z * h,)

    def rnn(self, x: Tensor, state: State) -> State:
        """Return H."""
        return (self.activations[0](x + functional.linear(state[0], self.recurrent, self.inner)),)


def _run(
    step: Callable[[Tensor, State], State], x: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Return the results of all steps, 0 after the end of a sequence, and the state at its end."""
    results = []
    for time, part in enumerate(x):
        new = step(part, state)
        result = new[0]
        if lengths is not None:
            active = (time < lengths).unsqueeze(1)
            new = tuple(torch.where(active, after, before) for after, before in zip(new, state, strict=True))
            result = torch.where(active, result, torch.zeros_like(result))
        state = new
        results.append(result)
    return torch.stack(results), state


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return [T, B, ...] backward, each sequence within its length."""
    if lengths is None:
        return x.flip(0)
    times = torch.arange(x.shape[0]).unsqueeze(1)
    order = torch.where(times < lengths, lengths - 1 - times, times)
    return x.gather(0, order.unsqueeze(-1).expand(x.shape))


_NAMES = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_STEPS = {"LSTM": Layer.lstm, "GRU": Layer.gru, "RNN": Layer.rnn}


@operator("LSTM", "GRU", "RNN")
def recurrent(
    node: OnnxNode,
    x: Tensor,
    weights: Tensor,
    recurrences: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    *initial: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return all results, [T, D, B, H], and the last state or states, [D, B, H]; with ``layout`` 1 the batch first."""
    directions, gates, size = recurrences.shape
    peepholes = initial[2] if len(initial) > 2 else None
    batch_first = bool(node.get("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    lengths = None if lengths is None else lengths.to(torch.int64)
    states = []
    for index in range(2 if node.operator == "LSTM" else 1):
        given = initial[index] if index < len(initial) else None
        if given is None:
            given = torch.zeros((directions, x.shape[1], size), dtype=x.dtype)
        elif batch_first:
            given = given.transpose(0, 1)
        states.append(given)
    results, ends = [], []
    for way, activations in zip(range(directions), _activations(node, _NAMES[node.operator], directions), strict=True):
        outer, inner = (bias[way] if bias is not None else torch.zeros(2 * gates, dtype=x.dtype)).chunk(2)
        layer = Layer(
            node=node,
            recurrent=recurrences[way],
            outer=outer,
            inner=inner,
            peepholes=None if peepholes is None else peepholes[way],
            activations=activations,
        )
        backward = way == 1 or node.get("direction", "forward") == "reverse"
        projected = functional.linear(_reversed(x, lengths) if backward else x, weights[way], layer.outer)
        step = _STEPS[node.operator]
        result, state = _run(
            lambda part, before, step=step, layer=layer: step(layer, part, before),  # type: ignore[misc]
            projected,
            tuple(value[way] for value in states),
            lengths,
        )
        results.append(_reversed(result, lengths) if backward else result)
        ends.append(state)
    whole = torch.stack(results, dim=1)
    last = [torch.stack(parts) for parts in zip(*ends, strict=True)]
    if batch_first:
        whole, last = whole.permute(2, 0, 1, 3), [value.transpose(0, 1) for value in last]
    return whole, *last
