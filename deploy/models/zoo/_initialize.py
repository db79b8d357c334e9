"""The starting weights of the zoo's networks with rectified linear units."""

from __future__ import annotations

from torch import nn


def he_normal_(network: nn.Module) -> None:
    """Draw every convolution and linear weight from He's normal distribution and set their biases to zero.

    The variance is 2 / fan_in, which keeps the size of the signal through a stack of relu layers (He, Zhang,
    Ren, Sun, "Delving Deep into Rectifiers", 2015, equation 10). PyTorch's own default is a sixth of that:
    in a deep network without batch normalization the answer to the input then drowns in the biases, and the
    network neither trains nor, untrained, tells one exported copy of itself from another.

    Args:
        network: Changed in place; uses torch's global generator.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
