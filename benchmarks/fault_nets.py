"""Small seeded networks of every family, for `benchmarks.faults`.

`NETWORKS` gives for each factory its ``--input`` options, and a function that draws feeds for judging which are not the
probes of the product.
"""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Feeds = dict[str, NDArray[Any]]
Rng = np.random.Generator


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, pad: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        if pad is not None:
            scores = scores.masked_fill(pad[:, None, None, :], -1e4)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return result


class Vit(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        result: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return result


class ConvNorm(nn.Sequential):
    """Convolution, batch normalization with statistics, ReLU."""

    def __init__(self, channels: int, features: int, stride: int = 1) -> None:
        norm = nn.BatchNorm2d(features)
        statistics = dict(norm.named_buffers())
        statistics["running_mean"].normal_(0, 0.2)
        statistics["running_var"].uniform_(0.5, 1.5)
        super().__init__(nn.Conv2d(channels, features, 3, stride, 1), norm, nn.ReLU())


class Unet(nn.Module):
    """Works at every size: resizes to the size of the skip."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.a, self.b, self.c = ConvNorm(3, 8), ConvNorm(8, 16), ConvNorm(16, 16)
        self.d, self.e, self.out = ConvNorm(32, 16), ConvNorm(24, 8), nn.Conv2d(8, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.a(image)
        b = self.b(F.max_pool2d(a, 2, ceil_mode=True))
        c = self.c(F.avg_pool2d(b, 2, ceil_mode=True))
        c = F.interpolate(c, size=b.shape[2:], mode="bilinear", align_corners=False)
        d = F.interpolate(self.d(torch.cat((b, c), 1)), size=a.shape[2:], mode="bilinear", align_corners=False)
        result: Tensor = self.out(self.e(torch.cat((a, d), 1)))
        return result


class SegMap(nn.Module):
    """The class of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Unet(4)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.body(image).argmax(1)
        return result


class Recurrent(nn.Module):
    """An LSTM or GRU over a sequence, batch first."""

    def __init__(self, kind: type[nn.RNNBase], both: bool) -> None:
        super().__init__()
        self.rnn = kind(6, 16, 1, batch_first=True, bidirectional=both)  # type: ignore[arg-type]
        self.head = nn.Linear(32 if both else 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.rnn(x)[0])
        return result


class TimeFirst(nn.Module):
    """A tag for every step; the batch is the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(self.rnn(x)[0])
        return scores, scores.argmax(-1)


class Pair(nn.Module):
    """Two inputs, two outputs of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.mid = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 16)
        self.mean, self.spread = nn.Linear(16, 6), nn.Linear(16, 6)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.left(a)) * torch.sigmoid(self.right(b))
        x = F.elu(self.mid(x)) + x
        return self.mean(x), self.spread(x)


class Cnn(nn.Module):
    """Pools and pads of every kind, piecewise activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 5, 2, 2, padding_mode="reflect")
        self.second, self.norm = nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.depth, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)
        with torch.no_grad():  # centered scores, so that every class is the answer to some input
            scores = self.eval()(torch.randn(64, 3, 32, 32))
            self.head.weight /= scores.std(0)[:, None]
            self.head.bias.copy_((self.head.bias - scores.mean(0)) / scores.std(0))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.second(F.hardswish(self.first(image)))))
        x = F.leaky_relu(self.depth(F.avg_pool2d(x, 3, 2, 1)), 0.1)
        x = F.max_pool2d(F.silu(self.point(x)), 3, 2, ceil_mode=True)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Yolo(nn.Module):
    """Boxes in pixels beside scores in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(3, 12, 2), ConvNorm(12, 16, 2), ConvNorm(16, 16, 2))
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        f = self.body(image)
        box, score = self.box(f).sigmoid() * 640, self.score(f).sigmoid()
        result: Tensor = torch.cat((box.flatten(2), score.flatten(2)), 1)
        return result


class Argmax(nn.Module):
    """The class alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Cnn()

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.body(image).argmax(1)
        return result


class Both(nn.Module):
    """Scores and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Cnn()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.body(image)
        return scores, scores.argmax(1)


class Tokens(nn.Module):
    """A classifier of token sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(500, 32), nn.Embedding(64, 32)
        self.block, self.head = Block(), nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.block(self.words(ids) + self.positions(torch.arange(ids.shape[1]))).mean(1))
        return result


class Padded(nn.Module):
    """An encoder with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(16, 2), nn.Linear(16, 4)

    def forward(self, x: Tensor, pad: Tensor) -> Tensor:
        result: Tensor = self.head(self.block(x, pad))
        return result


class Bytes(nn.Module):
    """Pictures in bytes, channels last, prepared within."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Cnn()

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).to(self.body.head.weight.dtype) / 255
        result: Tensor = self.body((x - 0.45) / 0.22)
        return result


class Points(nn.Module):
    """Scores and a label for every point of a cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 16), nn.Linear(32, 6)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(points).relu()
        scores = self.head(torch.cat((hidden, hidden.mean(0, keepdim=True).expand_as(hidden)), 1))
        return scores, scores.argmax(1)


class TopK(nn.Module):
    """The 20 best of 64 boxes with their scores and classes, best first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(3, 12, 2), ConvNorm(12, 16, 2), ConvNorm(16, 16, 2))
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 6, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f = self.body(image)
        boxes = (self.box(f).sigmoid() * 64).flatten(2).transpose(1, 2)
        scores, labels = self.score(f).sigmoid().flatten(2).transpose(1, 2).max(-1)
        best, index = scores.topk(20, dim=1)
        return boxes.gather(1, index[..., None].expand(-1, -1, 4)), best, labels.gather(1, index)


def _image(size: int, *, channels: int = 3) -> Callable[[Rng], list[Feeds]]:
    def feeds(rng: Rng) -> list[Feeds]:
        normal = rng.standard_normal((4, channels, size, size)).astype(np.float32)
        return [
            {"image": normal},
            {"image": rng.random((3, channels, size, size), np.float32)},
            {"image": normal[:1] * 3},
        ]

    return feeds


def _open_image(rng: Rng) -> list[Feeds]:
    shapes = ((2, 3, 32, 32), (1, 3, 37, 44), (3, 3, 20, 25))
    return [{"image": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]


def _sequence(*, time_first: bool = False) -> Callable[[Rng], list[Feeds]]:
    def feeds(rng: Rng) -> list[Feeds]:
        shapes = [(9, 2, 6), (4, 3, 6)] if time_first else [(2, 9, 6), (3, 4, 6)]
        return [{"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]

    return feeds


def _pair(rng: Rng) -> list[Feeds]:
    return [{name: rng.standard_normal((3, 12)).astype(np.float32) for name in "ab"} for _ in range(3)]


def _tokens(rng: Rng) -> list[Feeds]:
    return [{"ids": rng.integers(0, 500, (3, length))} for length in (16, 7, 30)]


def _padded(rng: Rng) -> list[Feeds]:
    drawn = []
    for length in (8, 13):
        pad = np.arange(length)[None] >= np.array([[length], [length // 2], [1]])
        drawn.append({"x": rng.standard_normal((3, length, 16)).astype(np.float32), "pad": pad})
    return drawn


def _bytes(rng: Rng) -> list[Feeds]:
    return [{"image": rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)} for _ in range(2)]


def _points(rng: Rng) -> list[Feeds]:
    return [{"points": rng.standard_normal((count, 3)).astype(np.float32)} for count in (64, 31)]


NETWORKS: Mapping[str, tuple[tuple[str, ...], Callable[[Rng], list[Feeds]]]] = {
    "vit": (("image:batch,3,32,32",), _image(32)),
    "unet": (("image:batch,3,h=32,w=32",), _open_image),
    "segmap": (("image:batch,3,h=32,w=32",), _open_image),
    "lstm": (("x:batch,n=8,6",), _sequence()),
    "gru": (("x:batch,n=8,6",), _sequence()),
    "time_first": (("x:n=8,batch,6",), _sequence(time_first=True)),
    "pair": (("a:batch,12", "b:batch,12"), _pair),
    "cnn": (("image:batch,3,32,32",), _image(32)),
    "yolo": (("image:batch,3,64,64",), _image(64)),
    "topk": (("image:batch,3,64,64",), _image(64)),
    "argmax": (("image:batch,3,32,32",), _image(32)),
    "both": (("image:batch,3,32,32",), _image(32)),
    "tokens": (("ids:batch,n=16:int64:0..500",), _tokens),
    "padded": (("x:batch,n=8,16", "pad:batch,n=8:bool"), _padded),
    "bytes": (("image:batch,32,32,3:uint8",), _bytes),
    "points": (("points:n=64,3",), _points),
}
"""Options ``--input`` and feeds for judging, by factory."""

_CLASSES: Mapping[str, Callable[[], nn.Module]] = {
    "vit": Vit,
    "unet": Unet,
    "segmap": SegMap,
    "lstm": lambda: Recurrent(nn.LSTM, True),
    "gru": lambda: Recurrent(nn.GRU, False),
    "time_first": TimeFirst,
    "pair": Pair,
    "cnn": Cnn,
    "yolo": Yolo,
    "topk": TopK,
    "argmax": Argmax,
    "both": Both,
    "tokens": Tokens,
    "padded": Padded,
    "bytes": Bytes,
    "points": Points,
}


def build(kind: str, seed: int = 0) -> nn.Module:
    """Return a network with seeded weights in evaluation mode: ``-o kind=vit -o seed=1``."""
    torch.manual_seed(seed)
    return _CLASSES[kind]().eval()
