"""Batch normalization, implemented from its formulas.

Paper: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", 2015. `lenet_bn` in `lenet.py` uses it; this file defines no network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry


class BatchNorm(nn.Module):
    """Normalize each feature (N x C input) or each channel (N x C x H x W input) over the batch.

    In training mode the mean and variance are the batch's, and the moving statistics follow them:
    `moving = 0.9 * moving + 0.1 * batch`. In evaluation mode the moving statistics are used instead, so the
    output of a sample does not depend on the rest of the batch.

    **Differences from PyTorch.** The output equals that of `nn.BatchNorm1d` and `nn.BatchNorm2d` up to rounding,
    in evaluation and in training mode: both divide by the *biased* variance (the sum of squares over n). The
    moving variance differs: here it follows the biased variance, as in the formula above; PyTorch's `running_var`
    follows the unbiased one (the sum over n - 1). One training step from a new layer therefore gives
    `running_var - 0.9 = n / (n - 1) * (moving_var - 0.9)`, where n is the number of values per channel in the
    batch: N, or N * H * W.

    Attributes:
        gamma: Learned scale, shape (C,), initially 1; PyTorch's `weight`.
        beta: Learned shift, shape (C,), initially 0; PyTorch's `bias`.
        moving_mean: Buffer, shape (C,), initially 0; PyTorch's `running_mean`.
        moving_var: Buffer, shape (C,), initially 1; see above.
        eps: Added to the variance, to avoid a division by zero for constant channels.
        momentum: The weight of the new batch in the moving statistics, as in PyTorch.
    """

    gamma: nn.Parameter
    beta: nn.Parameter
    moving_mean: Tensor
    moving_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.gamma = nn.Parameter(torch.ones(num_features))
        self.beta = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("moving_mean", torch.zeros(num_features))
        self.register_buffer("moving_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and return a tensor of the same shape.

        Raises:
            ValueError: If `x` is neither N x C nor N x C x H x W, or has a single value per channel in training,
                which has no variance.
        """
        reduced: tuple[int, ...]
        shape: tuple[int, ...]
        if x.dim() == 2:
            reduced, shape = (0,), (1, -1)
        elif x.dim() == 4:
            reduced, shape = (0, 2, 3), (1, -1, 1, 1)
        else:
            raise ValueError(f"BatchNorm takes N x C or N x C x H x W input; got shape {tuple(x.shape)}")

        if self.training:
            if x[:, 0].numel() == 1:
                raise ValueError(f"training needs more than 1 value per channel; got shape {tuple(x.shape)}")
            mean = x.mean(dim=reduced)
            var = x.var(dim=reduced, correction=0)  # biased: divided by n
            with torch.no_grad():
                self.moving_mean.copy_((1 - self.momentum) * self.moving_mean + self.momentum * mean)
                self.moving_var.copy_((1 - self.momentum) * self.moving_var + self.momentum * var)
        else:
            mean = self.moving_mean
            var = self.moving_var

        x_hat = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + self.eps)
        return self.gamma.reshape(shape) * x_hat + self.beta.reshape(shape)

    def extra_repr(self) -> str:
        """Return the settings that `print(network)` shows for this layer."""
        return f"{self.gamma.numel()}, eps={self.eps}, momentum={self.momentum}"


ENTRIES: dict[str, ZooEntry] = {}
