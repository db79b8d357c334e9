"""Untrained weights: the run that sets statistics."""

from __future__ import annotations

import torch
from torch import nn

from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.untrained import set_batch_norm_statistics


def test_it_ends_behind_the_last_layer_with_statistics() -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    module, whole = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1)).eval(), nn.Sequential(*body).eval()
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 12, 12))
    model = Model(
        name="net", slug="net", module=module, inputs=(spec,), sizes={"batch": 2},
        weights=Weights(source="untrained", trained=False, seed=0),
    )  # fmt: skip
    runs: list[str] = []
    for name, part in module.named_children():
        part.register_forward_hook(lambda *_, name=name: runs.append(name))  # type: ignore[misc]
    set_batch_norm_statistics(model, seed=0)
    assert runs == ["0", "1", "2", "3"]
    x = torch.randn(64, 3, 12, 12)
    assert all(part.running_var.dtype is torch.float32 for part in body if isinstance(part, nn.BatchNorm2d))
    with torch.no_grad():
        shift = whole(x).mean((0, 2, 3)) - body[-1].bias  # type: ignore[operator]
    assert float(shift.abs().max()) < 0.3
    assert not torch.allclose(body[1].running_mean, torch.zeros(4))  # type: ignore[arg-type]
