"""Convolution, pooling, resampling and selection of boxes."""

import pytest

from tests.onnx_graph import conformance  # type: ignore[import-not-found,unused-ignore]

OPERATORS = """
Conv ConvTranspose ConvInteger QLinearConv DeformConv Col2Im
MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool MaxUnpool RoiAlign LRN
Resize Upsample GridSample AffineGrid NonMaxSuppression
"""
EXCLUDED = {
    "test_resize_downsample_scales_*_align_corners": "divides by a length that is not rounded, unlike ONNX Runtime",
}


@pytest.mark.parametrize("operator", OPERATORS.split())
def test_official(operator: str) -> None:
    conformance.run(operator, EXCLUDED)
