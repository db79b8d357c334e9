"""Fourteen small networks, one of which can be built with a fault."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inner: int, outer: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, **options)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return (x + F.relu(self.second(x))).mean((2, 3))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = conv(3, 8), conv(11, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, F.relu(self.first(x))), 1)
        return torch.cat((x, F.relu(self.second(x))), 1).amax((2, 3))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.three, self.five = nn.Conv2d(3, 4, 1), conv(3, 4), nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 3, 1, 1)
        return torch.cat((self.one(x), self.three(x), self.five(x), pooled), 1).relu().mean((2, 3))


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep, self.point, self.norm = conv(3, 3, groups=3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.norm(self.point(F.relu6(self.deep(x))))).mean((2, 3))


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = conv(3, 8), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        return (x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))).mean((2, 3))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 8, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.first(x)))
        mixed = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return torch.cat((x[:, :4], mixed[:, 4:]), 1).relu().mean((2, 3))


class Upsampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.query, self.key, self.value = nn.Conv2d(3, 8, 4, 4), *(nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 8**0.5, -1)
        return (x + weights @ self.value(x)).mean(1)


def plain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def residual():
    return Residual()


def dense():
    return Dense()


def branches():
    return Branches()


def separable():
    return Separable()


def squeeze():
    return Squeeze()


def shuffle():
    return Shuffle()


def upsampled():
    return Upsampled()


def attention():
    return Attention()


def chain():
    return plain(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU())


def gelu():
    return plain(conv(3, 8), nn.GELU(), conv(8, 8))


def leaky():
    return plain(conv(3, 8), nn.LeakyReLU(0.1), conv(8, 8), nn.PReLU())


def group_norm():
    return plain(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU())


def dilated():
    return plain(nn.Conv2d(3, 8, 3, dilation=2, bias=False), nn.BatchNorm2d(8), nn.ELU())


def averaged():
    return plain(nn.AvgPool2d(2), conv(3, 8), nn.Tanh(), nn.AvgPool2d(3, 2, 1, count_include_pad=False))


class Whole(nn.Module):
    """Normalizes its input, and has one of everything that can go wrong."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))
        self.first, self.norm, self.second = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        fault = self.fault
        if fault == "channels":
            x = x[:, [2, 1, 0]]
        if fault != "normalization":
            x = (x - self.mean) / 0.25
        x = self.first(x)
        if fault == "train mode":
            x = x - x.mean((0, 2, 3), keepdim=True)
            x = x / (x.square().mean((0, 2, 3), keepdim=True) + self.norm.eps).sqrt()
        elif fault != "no batch norm":
            x = self.norm(x)
        x = x if fault == "no activation" else F.relu(x)
        x = F.conv2d(x, self.second.weight, None if fault == "no bias" else self.second.bias, padding=1)
        x = F.max_pool2d(x, 2) if fault == "other pool" else F.avg_pool2d(x, 2)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=fault == "corners")
        x = x[..., :-3, :].mean((2, 3))
        weight = self.head.weight.T if fault == "transposed" else self.head.weight
        bias = self.head.bias[:1] if fault == "shape of a bias" else self.head.bias
        return F.linear(x, weight) + bias


def whole(fault: str = ""):
    torch.manual_seed(1 if fault == "stale weights" else 0)
    net = Whole(fault)
    if fault == "one stale weight":
        with torch.no_grad():
            net.second.weight[3, 2, 1, 1] += 0.05
    net.norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    net.norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(3))
    return net
