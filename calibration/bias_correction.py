"""Empirical bias correction: the mean error of each output channel moves into the bias, layer by layer.

Rounding weights and activations shifts the mean of a layer's output, since the inputs of a layer behind a ReLU are not
centered. The shift is measured on calibration samples, with all earlier layers corrected, and subtracted (Nagel, van
Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section
4.2 and appendix D). A mean over few samples is itself uncertain: its correction is shrunk by the positive-part rule of
James and Stein, so that a channel whose error is not distinguishable from zero is left alone.
"""

from __future__ import annotations

import numpy as np

from calibration.adjustment import Adjustment
from calibration.graph import attribute
from calibration.walk import Visit, along


def correct(visit: Visit) -> None:
    """Add the mean error of the visited layer to its bias; a product without a bias input is left alone."""
    factor = attribute(visit.node, "beta", 1.0)
    if visit.node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not factor:
        return
    mean, uncertainty = visit.error()
    shift = mean * np.maximum(0.0, 1.0 - uncertainty**2 / np.maximum(mean**2, np.finfo(np.float64).tiny))
    bias = np.zeros(len(shift)) if visit.bias is None else visit.bias
    if not shift.any() or bias.size not in (1, len(shift)):
        return
    weight = None if visit.adjustment is None else visit.adjustment.weight
    visit.adjustment = Adjustment(weight=weight, bias=(bias.reshape(-1) + shift / factor).astype(np.float32))
    axis = visit.channel_axis
    visit.actual = [value + along(shift, axis, value.ndim).astype(np.float32) for value in visit.actual]
