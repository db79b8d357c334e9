"""Operators that torch.onnx translates wrongly or not at all, in files that are judged against PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from deploy import export_model


class Attention(nn.Module):
    """A mask per sample, which may leave nothing: bool, or minus infinity where it is false."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).unflatten(2, (2, 12)).transpose(1, 2).chunk(3, 3)
        seen = mask[:, None, None, :]
        if self.kind == "infinite":
            seen = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, float("-inf"))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """PyTorch's own layer, whose mask is true where nothing is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).unflatten(2, (2, 12)).transpose(1, 2).chunk(3, 3)
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3).transpose(1, 2).flatten(2)


class Checked(nn.Module):
    """Checks values as transformers does, and uses both conditions in its result too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch._check_tensor_all(x.isfinite())
        y = self.head(x)
        every, some = torch._is_all_true(x > -1), torch._is_any_true(x > 1)
        return torch.where(every, y, -y), torch.where(some, y * 2, y)


MASKED = ("x:batch,length=5,8", "mask:batch,length=5:bool")


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Attention("bool"), MASKED),
        (Attention("infinite"), MASKED),
        (Layer(), MASKED),
        (Causal(), ("x:batch,length=5,8",)),
        (Checked(), ("x:batch,8",)),
    ],
)
def test_translations_are_right(tmp_path: Path, module: nn.Module, inputs: tuple[str, ...]) -> None:
    report = export_model(module.eval(), inputs=inputs, artifacts=tmp_path, strategy="export", name="net")
    assert report.verdict == "pass", report.parity.reasons


@pytest.mark.parametrize("module", [Attention("bool"), Causal()])
def test_attention_of_later_operator_sets(tmp_path: Path, module: nn.Module) -> None:
    inputs = MASKED if isinstance(module, Attention) else ("x:batch,length=5,8",)
    report = export_model(
        module.eval(), inputs=inputs, artifacts=tmp_path, strategy="export", name="net", probes="quick", opset=23
    )
    assert report.verdict == "pass", report.parity.reasons
    operators = [node.op_type for node in onnx.load(str(report.artifact.path)).graph.node]
    assert ("Attention" in operators) == isinstance(module, Causal)


def test_checks_leave_nothing_in_the_file(tmp_path: Path) -> None:
    class Guarded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._check_tensor_all(x < 1e9)
            return x * 2

    report = export_model(
        Guarded(), inputs="x:batch,8", artifacts=tmp_path, strategy="export", name="net", probes="quick"
    )
    nodes = onnx.load(str(report.artifact.path)).graph.node
    assert [node.op_type for node in nodes] == ["Mul"]
