"""The zoo's batch normalization, compared with PyTorch's and with its formulas."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from deploy.models.zoo.batchnorm import BatchNorm

CHANNELS = 5
SHAPES = [(7, CHANNELS), (3, CHANNELS, 4, 6)]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}

both_ranks = pytest.mark.parametrize("shape", SHAPES, ids=["fc", "conv"])
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def pair(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[BatchNorm, nn.BatchNorm1d | nn.BatchNorm2d]:
    """Return our layer and PyTorch's with the same random gamma, beta and moving statistics."""
    torch.manual_seed(0)
    ours = BatchNorm(CHANNELS).to(dtype)
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(CHANNELS).to(dtype)
    with torch.no_grad():
        ours.gamma.normal_()
        ours.beta.normal_()
        ours.moving_mean.normal_()
        ours.moving_var.uniform_(0.1, 4.0)
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    state = ours.state_dict()
    theirs.load_state_dict({name: state[our_name] for name, our_name in names.items()}, strict=False)
    return ours, theirs


def batch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a batch whose channels are neither centered nor of unit variance."""
    return torch.randn(shape, dtype=dtype) * 3 + 2


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality to the rounding of the tensors' precision."""
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=4 * tolerance)


def test_names_and_starting_values() -> None:
    """Gamma and beta are parameters, the moving statistics are buffers."""
    layer = BatchNorm(CHANNELS)
    assert {name for name, _ in layer.named_parameters()} == {"gamma", "beta"}
    assert {name for name, _ in layer.named_buffers()} == {"moving_mean", "moving_var"}
    ones, zeros = torch.ones(CHANNELS), torch.zeros(CHANNELS)
    assert torch.equal(layer.gamma, ones) and torch.equal(layer.moving_var, ones)
    assert torch.equal(layer.beta, zeros) and torch.equal(layer.moving_mean, zeros)


@both_ranks
@both_precisions
def test_prediction_equals_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """In evaluation mode the two layers agree to rounding."""
    ours, theirs = pair(shape, dtype)
    x = batch(shape, dtype)
    close(ours.eval()(x), theirs.eval()(x))


@both_ranks
@both_precisions
def test_training_output_and_gradients_equal_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """In training mode the outputs agree, and so do the gradients through the batch statistics."""
    ours, theirs = pair(shape, dtype)
    x = batch(shape, dtype)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    close(y_ours, y_theirs)
    weights = torch.randn(shape, dtype=dtype)
    (y_ours * weights).sum().backward()
    (y_theirs * weights).sum().backward()
    for actual, expected in [(x_ours, x_theirs), (ours.gamma, theirs.weight), (ours.beta, theirs.bias)]:
        assert actual.grad is not None and expected.grad is not None
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-5, atol=100 * TOLERANCE[dtype])


@both_ranks
@pytest.mark.parametrize("steps", [1, 3])
def test_running_variance_differs_by_the_documented_factor(shape: tuple[int, ...], steps: int) -> None:
    """PyTorch's running variance follows the unbiased variance: n / (n - 1) times ours; the means agree."""
    ours, theirs = BatchNorm(CHANNELS).double(), nn.BatchNorm2d(CHANNELS).double()
    torch.manual_seed(1)
    for _ in range(steps):
        x = batch(shape, torch.float64)
        ours(x)
        theirs(x if x.dim() == 4 else x[:, :, None, None])
    n = x[:, 0].numel()
    start = 0.9**steps  # remaining share of the initial variance of 1
    assert theirs.running_mean is not None and theirs.running_var is not None
    close(ours.moving_mean, theirs.running_mean)
    close(theirs.running_var - start, n / (n - 1) * (ours.moving_var - start))
    assert not torch.allclose(theirs.running_var, ours.moving_var, rtol=1e-3)


@both_ranks
def test_moving_statistics_follow_the_formula(shape: tuple[int, ...]) -> None:
    """Each training step gives moving = 0.9 * moving + 0.1 * batch, without a gradient."""
    layer, _ = pair(shape, torch.float64)
    mean, var = layer.moving_mean.clone(), layer.moving_var.clone()
    x = batch(shape, torch.float64).requires_grad_()
    layer(x)
    rows = x.detach().movedim(1, -1).reshape(-1, CHANNELS)
    batch_mean = rows.sum(0) / len(rows)
    batch_var = (rows - batch_mean).square().sum(0) / len(rows)
    close(layer.moving_mean, 0.9 * mean + 0.1 * batch_mean)
    close(layer.moving_var, 0.9 * var + 0.1 * batch_var)
    assert not layer.moving_mean.requires_grad and not layer.moving_var.requires_grad


@both_ranks
def test_prediction_ignores_the_batch(shape: tuple[int, ...]) -> None:
    """In evaluation mode a sample's output does not depend on the batch, and the statistics do not change."""
    layer, _ = pair(shape, torch.float32)
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = batch(shape, torch.float32)
    y = layer(x)
    assert torch.equal(layer(x[:1]), y[:1])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@both_ranks
def test_exported_graph_uses_the_moving_statistics(shape: tuple[int, ...]) -> None:
    """The exported graph reads both buffers, computes no batch statistics and accepts any batch size."""
    layer, _ = pair(shape, torch.float32)
    layer.eval()
    example = batch(shape, torch.float32)
    program = torch.export.export(layer, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert set(program.graph_signature.inputs_to_buffers.values()) == {"moving_mean", "moving_var"}
    assert not program.graph_signature.buffers_to_mutate
    used = {str(node.target) for node in program.graph.nodes}
    assert not any(word in name for name in used for word in ("aten.var", "aten.mean", "batch_norm"))
    x = batch((11, *shape[1:]), torch.float32)
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize("shape", [(CHANNELS,), (2, CHANNELS, 3), (2, CHANNELS, 3, 3, 3)], ids=str)
def test_other_ranks_are_refused(shape: tuple[int, ...]) -> None:
    """Inputs other than N x C and N x C x H x W are refused."""
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        BatchNorm(CHANNELS)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, CHANNELS), (1, CHANNELS, 1, 1)], ids=["fc", "conv"])
def test_a_single_value_per_channel_cannot_train(shape: tuple[int, ...]) -> None:
    """One value has no variance: training refuses it, as PyTorch does; evaluation accepts it."""
    layer = BatchNorm(CHANNELS)
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        layer(torch.zeros(shape))
    assert layer.eval()(torch.zeros(shape)).shape == shape


def test_printing_shows_the_settings() -> None:
    """`print(network)` shows the settings of a layer."""
    assert repr(BatchNorm(CHANNELS, eps=1e-3)) == "BatchNorm(5, eps=0.001, momentum=0.1)"
