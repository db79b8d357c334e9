"""Normalization, recurrent layers, attention, signals and quantized tensors."""

import pytest

from tests.onnx_graph import conformance  # type: ignore[import-not-found,unused-ignore]

OPERATORS = """
BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization LpNormalization
MeanVarianceNormalization
LSTM GRU RNN Attention RotaryEmbedding
DFT STFT MelWeightMatrix
QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearMatMul
"""
EXCLUDED = {
    "*_training_mode": "training",
    "*e4m3fn*": "PyTorch does not compute with float8",
    "*e5m2*": "PyTorch does not compute with float8",
    "*float4*": "PyTorch does not have float4",
    "*int4*": "PyTorch does not have 4-bit integers",
    "*int2*": "PyTorch does not have 2-bit integers",
}


@pytest.mark.parametrize("operator", OPERATORS.split())
def test_official(operator: str) -> None:
    conformance.run(operator, EXCLUDED, double_steps=1 if operator == "DynamicQuantizeLinear" else 0)
