"""Operators and idioms of forward functions, each a function of a module and an input of shape [n, 8]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Case = Callable[["Bag", torch.Tensor], Any]
CASES: dict[str, Case] = {}
STATEFUL = torch.zeros(8)


class Bag(nn.Module):
    """Parameters, buffers and submodules for the cases."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))
        self.b = nn.Parameter(torch.randn(8))
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.line = nn.Parameter(torch.randn(4, 1, 3))
        self.cube = nn.Parameter(torch.randn(2, 1, 2, 2, 2))
        self.table = nn.Parameter(torch.randn(10, 8))
        self.fc = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.bn = nn.BatchNorm1d(8)
        self.gn = nn.GroupNorm(2, 8)
        self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 4)
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bilinear = nn.Bilinear(8, 8, 3)
        self.prelu = nn.PReLU(8)
        self.bag = nn.EmbeddingBag(10, 8)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("var", torch.rand(8) + 0.5)
        self.register_buffer("cache", torch.zeros(2, 40, 8))
        self.register_buffer("pe", torch.randn(40, 8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.tensor(0.3))
        self.register_buffer("freqs", torch.polar(torch.ones(4), torch.linspace(0.1, 3.0, 4)))
        self.register_buffer("mask", torch.ones(40, 40).tril().bool())
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)
        self.steps = 0
        self.script = torch.jit.script(Scripted())
        self.eval()

    def forward(self, x: torch.Tensor, case: Case) -> Any:
        return case(self, x)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(x.size(0), 8, dtype=x.dtype)
        y[:, 0:4] = x[:, 4:8]
        self.mean.mul_(0.5).add_(x.mean(0))
        return torch.tanh(self.fc(x)) + y + torch.ones(8) * 0.1 + self.mean


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x @ w) ** 2 + torch.ones(8) * 0.1


@torch.library.custom_op("precision_cases::shifted", mutates_args=())
def shifted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w + torch.full((8,), 0.1)


@torch.library.custom_op("precision_cases::bump", mutates_args={"buffer"})
def bump(x: torch.Tensor, buffer: torch.Tensor) -> None:
    buffer.add_(x.sum(0))


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def image(x: torch.Tensor) -> torch.Tensor:
    """Return [n, 2, 4, 4] made of the input."""
    return (x[:, :, None] * torch.linspace(-1, 1, 4)).reshape(-1, 2, 4, 4)


def heads(x: torch.Tensor) -> torch.Tensor:
    """Return [1, 2, n, 4]."""
    return x.reshape(1, -1, 2, 4).transpose(1, 2)


CASES |= {  # operators with weights
    "matmul": lambda m, x: x @ m.w,
    "matmul_left": lambda m, x: m.w @ x.T,
    "mm": lambda m, x: torch.mm(x, m.w),
    "addmm": lambda m, x: torch.addmm(m.b, x, m.w, beta=0.5, alpha=2),
    "mv": lambda m, x: m.w.mv(x[0]),
    "dot": lambda m, x: torch.dot(m.b, x[0]),
    "outer": lambda m, x: torch.outer(m.b, x[0]),
    "bmm": lambda m, x: torch.bmm(x[:, None], m.w.expand(len(x), 8, 8)),
    "baddbmm": lambda m, x: torch.baddbmm(m.b, x[:, None], m.w.expand(len(x), 8, 8)),
    "einsum": lambda m, x: torch.einsum("ni,ij,j->nj", x, m.w, m.b),
    "tensordot": lambda m, x: torch.tensordot(x, m.w, dims=([1], [0])),
    "linear": lambda m, x: F.linear(x, m.w, m.b),
    "fc": lambda m, x: m.fc(x),
    "bilinear": lambda m, x: m.bilinear(x, x),
    "cdist": lambda m, x: torch.cdist(x, m.w),
    "pairwise_distance": lambda m, x: F.pairwise_distance(x, m.b),
    "cosine_similarity": lambda m, x: F.cosine_similarity(x, m.b[None]),
    "kron": lambda m, x: torch.kron(x, m.b),
    "cross": lambda m, x: torch.linalg.cross(x[:, :3], m.b[None, :3]),
    "conv1d": lambda m, x: F.conv1d(x[:, None], m.line, padding=1, stride=2),
    "conv2d": lambda m, x: F.conv2d(image(x), m.kernel, padding="same"),
    "conv2d_groups": lambda m, x: F.conv2d(image(x), m.kernel[:, :1], groups=2, dilation=1),
    "conv3d": lambda m, x: F.conv3d(x.reshape(-1, 1, 2, 2, 2), m.cube, padding=1),
    "conv_transpose1d": lambda m, x: F.conv_transpose1d(x.reshape(-1, 4, 2), m.line, stride=2),
    "conv_transpose2d": lambda m, x: F.conv_transpose2d(image(x).repeat(1, 2, 1, 1), m.kernel, stride=2),
    "unfold": lambda m, x: F.unfold(image(x), 3, padding=1),
    "fold": lambda m, x: F.fold(F.unfold(image(x), 3, padding=1), (4, 4), 3, padding=1),
    "channels_last": lambda m, x: F.conv2d(image(x).to(memory_format=torch.channels_last), m.kernel),
    "embedding": lambda m, x: F.embedding((x * 3).long().abs() % 10, m.table),
    "embedding_onehot": lambda m, x: F.one_hot((x[:, 0] * 3).long().abs() % 10, 10).to(m.table.dtype) @ m.table,
    "embedding_bag": lambda m, x: m.bag((x * 3).long().abs() % 10),
    "embedding_max_norm": lambda m, x: F.embedding((x * 3).long().abs() % 10, m.table, max_norm=1.0) @ m.table.T,
    "index_select": lambda m, x: m.table.index_select(0, (x[0] * 3).long().abs() % 10),
    "gather": lambda m, x: m.table[: len(x)].gather(1, (x[: len(m.table)] * 9).long().abs() % 8),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, x.argsort(1), 1) * m.b,
    "layer_norm": lambda m, x: m.norm(x),
    "layer_norm_functional": lambda m, x: F.layer_norm(x, (8,), m.b, m.mean),
    "rms_norm": lambda m, x: F.rms_norm(x, (8,), m.b),
    "batch_norm": lambda m, x: m.bn(x),
    "batch_norm_training": lambda m, x: (
        F.batch_norm(x.repeat(2, 1), m.mean, m.var, m.b, training=True) + m.mean + m.var
    ),
    "instance_norm": lambda m, x: F.instance_norm(image(x), m.mean[:2], m.var[:2], use_input_stats=True) + m.mean[1],
    "group_norm": lambda m, x: m.gn(x),
    "local_response_norm": lambda m, x: F.local_response_norm(image(x), 2),
    "normalize": lambda m, x: F.normalize(x * m.b, dim=1),
    "weight_norm": lambda m, x: m.weighted(x),
    "spectral_norm": lambda m, x: m.spectral(x),
    "lstm": lambda m, x: m.lstm(x[None])[0],
    "lstm_states": lambda m, x: m.lstm(x[None], (torch.zeros(2, 1, 4), torch.ones(2, 1, 4)))[1][1],
    "gru": lambda m, x: m.gru(x[None])[0],
    "packed": lambda m, x: (
        m.lstm(nn.utils.rnn.pack_padded_sequence(x.expand(2, *x.shape), torch.tensor([len(x), 1]), batch_first=True))[
            0
        ].data
    ),
    "mha": lambda m, x: m.mha(x[None], x[None], x[None])[0],
    "mha_no_weights": lambda m, x: m.mha(x[None], x[None], x[None], need_weights=False)[0],
    "mha_mask": lambda m, x: m.mha(x[None], x[None], x[None], attn_mask=~m.mask[: len(x), : len(x)])[0],
    "encoder": lambda m, x: m.encoder(x[None]),
    "encoder_causal": lambda m, x: m.encoder(x[None], nn.Transformer.generate_square_subsequent_mask(len(x))),
    "prelu": lambda m, x: m.prelu(x),
    "scripted": lambda m, x: m.script(x),
    "scripted_twice": lambda m, x: m.script(x) + m.script(x * 2),
}
CASES |= {  # attention
    "sdpa": lambda m, x: F.scaled_dot_product_attention(heads(x), heads(x @ m.w), heads(x)),
    "sdpa_causal": lambda m, x: F.scaled_dot_product_attention(heads(x), heads(x), heads(x), is_causal=True),
    "sdpa_bool": lambda m, x: F.scaled_dot_product_attention(heads(x), heads(x), heads(x), m.mask[: len(x), : len(x)]),
    "sdpa_float": lambda m, x: F.scaled_dot_product_attention(
        heads(x), heads(x), heads(x), torch.zeros(len(x), len(x)).masked_fill(~m.mask[: len(x), : len(x)], -math.inf)
    ),
    "sdpa_scale": lambda m, x: F.scaled_dot_product_attention(heads(x), heads(x), heads(x), scale=0.1),
    "attention_min": lambda m, x: (
        (x @ x.T).masked_fill(~m.mask[: len(x), : len(x)], torch.finfo(x.dtype).min).softmax(-1) @ x
    ),
    "alibi": lambda m, x: (x @ x.T - torch.arange(len(x))[None] * 2 ** -(torch.arange(1.0, 2.0))).softmax(-1) @ x,
}
ACTIVATIONS = (
    "relu relu6 gelu silu mish elu selu celu hardswish hardsigmoid hardtanh softplus softsign tanhshrink leaky_relu "
    "logsigmoid softshrink hardshrink"
)
UNARY = (
    "exp expm1 log1p sin cos tan tanh sinh asinh atan erf erfc sigmoid sqrt rsqrt square abs neg sign floor ceil round "
    "trunc frac reciprocal lgamma digamma i0 sinc exp2 log2 log10 isnan isfinite"
)
OF_ROWS = (
    "cumsum cumprod logcumsumexp softmax log_softmax logsumexp mean var std sum prod amax amin median norm sort argmax "
    "argsort unbind nansum cummax"
)
for _name in ACTIVATIONS.split():
    CASES[f"F.{_name}"] = lambda m, x, name=_name: getattr(F, name)(x * m.b)
for _name in UNARY.split():
    CASES[_name] = lambda m, x, name=_name: getattr(torch, name)((x * m.b).abs() + 0.1 + m.scale)
for _name in OF_ROWS.split():
    CASES[_name] = lambda m, x, name=_name: getattr(x * m.b, name)(dim=-1)
CASES |= {  # shapes, selection and reductions
    "where": lambda m, x: torch.where(x > m.mean, x, m.b),
    "where_scalar": lambda m, x: torch.where(x > 0, x, 0.1),
    "where_constant": lambda m, x: torch.where(x > 0, x, torch.tensor(0.1)),
    "clamp": lambda m, x: x.clamp(m.scale, m.scale + 1),
    "clip": lambda m, x: torch.clip(x, -0.1, 0.1),
    "lerp": lambda m, x: torch.lerp(x, m.b.expand_as(x), m.scale),
    "addcmul": lambda m, x: torch.addcmul(m.b, x, m.mean, value=0.1),
    "addcdiv": lambda m, x: torch.addcdiv(m.b, x, m.var, value=0.1),
    "pow": lambda m, x: m.var**x,
    "pow_scalar": lambda m, x: 0.1**x,
    "rpow": lambda m, x: 10000 ** (torch.arange(0, 8, 2) / 8) + x[:, :4],
    "fmod": lambda m, x: torch.fmod(x, m.var),
    "remainder": lambda m, x: x % m.var,
    "floor_divide": lambda m, x: x // m.var,
    "atan2": lambda m, x: torch.atan2(x, m.b),
    "hypot": lambda m, x: torch.hypot(x, m.b),
    "maximum": lambda m, x: torch.maximum(x, m.b) + torch.fmin(x, m.mean),
    "xlogy": lambda m, x: torch.special.xlogy(x, m.var),
    "logaddexp": lambda m, x: torch.logaddexp(x, m.b),
    "copysign": lambda m, x: torch.copysign(x, m.b),
    "heaviside": lambda m, x: torch.heaviside(x, m.b),
    "nextafter": lambda m, x: torch.nextafter(x, m.b),
    "cat": lambda m, x: torch.cat([x, m.w, m.mean[None]]),
    "cat_constant": lambda m, x: torch.cat([x, torch.ones(1, 8) * 0.1]),
    "stack": lambda m, x: torch.stack([x[0], m.b, m.mean]),
    "concat_zeros": lambda m, x: torch.cat([torch.zeros(len(x), 1), x], 1),
    "split": lambda m, x: sum(m.w.split(2, 1)) @ torch.ones(2) + x.sum(),
    "chunk": lambda m, x: x.chunk(2, 1)[0] * m.b.chunk(2)[1],
    "repeat": lambda m, x: m.b.repeat(len(x), 1) * x,
    "repeat_interleave": lambda m, x: m.b.repeat_interleave(2)[:8] * x,
    "tile": lambda m, x: torch.tile(m.b, (2, 2)),
    "roll": lambda m, x: torch.roll(x, 1, 1) * m.b,
    "pad": lambda m, x: F.pad(m.w, (1, 1), value=0.1),
    "reflect": lambda m, x: F.pad(x[None], (2, 2), mode="reflect"),
    "tril": lambda m, x: m.w.tril() @ x.T,
    "diag": lambda m, x: torch.diag(m.b) @ x.T,
    "diag_embed": lambda m, x: torch.diag_embed(x) @ m.w,
    "meshgrid": lambda m, x: torch.meshgrid(m.b, x[0], indexing="ij")[1] * 0.1,
    "broadcast_tensors": lambda m, x: torch.broadcast_tensors(m.b, x)[0],
    "topk": lambda m, x: (x * m.b).topk(3).values,
    "kthvalue": lambda m, x: (x * m.b).kthvalue(2).values,
    "quantile": lambda m, x: torch.quantile(x, 0.3, dim=1),
    "quantiles": lambda m, x: torch.quantile(x, torch.tensor([0.1, 0.3])),
    "unique": lambda m, x: torch.unique(m.b),
    "bincount": lambda m, x: torch.bincount((x.flatten() * 3).long().abs(), x.flatten()),
    "histc": lambda m, x: torch.histc(x, 5, -1, 1),
    "searchsorted": lambda m, x: torch.searchsorted(m.var.cumsum(0), x.contiguous()),
    "bucketize": lambda m, x: torch.bucketize(x, torch.linspace(-1, 1, 5)),
    "nonzero": lambda m, x: x[(x > m.scale).nonzero(as_tuple=True)],
    "masked_select": lambda m, x: x.masked_select(x > m.b),
    "std_mean": lambda m, x: torch.stack(torch.std_mean(m.w, 1)),
    "cov": lambda m, x: torch.cov(m.w),
    "count_nonzero": lambda m, x: torch.count_nonzero(x > m.b),
    "equal": lambda m, x: torch.tensor(torch.equal(m.b, m.b.clone())) * x,
    "allclose": lambda m, x: x * float(torch.allclose(m.b, m.b + 1e-12, rtol=0, atol=1e-9)),
    "max_pool": lambda m, x: F.max_pool2d(image(x), 2),
    "max_pool_indices": lambda m, x: F.max_unpool2d(*F.max_pool2d(image(x), 2, return_indices=True), 2),
    "avg_pool": lambda m, x: F.avg_pool2d(image(x), 3, 1, 1, count_include_pad=False),
    "adaptive_avg_pool": lambda m, x: F.adaptive_avg_pool2d(image(x), 3),
    "lp_pool": lambda m, x: F.lp_pool2d(image(x), 2, 2),
    "bilinear_resize": lambda m, x: F.interpolate(image(x), scale_factor=1.7, mode="bilinear"),
    "bicubic_resize": lambda m, x: F.interpolate(image(x), (5, 7), mode="bicubic", align_corners=True),
    "antialias": lambda m, x: F.interpolate(image(x), (3, 3), mode="bilinear", antialias=True),
    "nearest_resize": lambda m, x: F.interpolate(image(x), scale_factor=2) * m.scale,
    "grid_sample": lambda m, x: F.grid_sample(
        image(x), F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3) * 0.7, [len(x), 2, 3, 3]), align_corners=False
    ),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(image(x).reshape(-1, 4, 2, 4), 2),
    "losses": lambda m, x: F.mse_loss(x, m.b.expand_as(x)) + F.smooth_l1_loss(x, m.mean.expand_as(x)),
    "cross_entropy": lambda m, x: F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), m.var),
    "softmin": lambda m, x: F.softmin(x * m.b, -1),
    "diff": lambda m, x: torch.diff(x * m.b),
    "flip": lambda m, x: (x * m.b).flip(-1),
    "glu": lambda m, x: F.glu(x * m.b),
    "threshold": lambda m, x: F.threshold(x, 0.1, 0.2),
    "dropout_eval": lambda m, x: F.dropout(x, 0.5, training=m.training) * m.b,
    "inverse": lambda m, x: torch.linalg.inv(m.w @ m.w.T + torch.eye(8)),
    "solve": lambda m, x: torch.linalg.solve(m.w @ m.w.T + torch.eye(8), x.T),
    "cholesky": lambda m, x: torch.linalg.cholesky(m.w @ m.w.T + torch.eye(8)),
    "svd": lambda m, x: torch.linalg.svdvals(m.w),
    "qr": lambda m, x: torch.linalg.qr(m.w)[1].abs(),
    "eigh": lambda m, x: torch.linalg.eigvalsh(m.w @ m.w.T),
    "det": lambda m, x: torch.linalg.det(m.w) + torch.logdet(m.w @ m.w.T),
    "matrix_exp": lambda m, x: torch.matrix_exp(m.w * 0.1),
    "linalg_norm": lambda m, x: torch.linalg.norm(m.w, dim=1) + torch.linalg.vector_norm(x),
    "renorm": lambda m, x: torch.renorm(m.w, 2, 0, 1.0),
    "rfft": lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(m.b), n=8),
    "fft_abs": lambda m, x: torch.fft.fft(x).abs() + torch.fft.fft2(m.w).angle()[0],
    "fftfreq": lambda m, x: torch.fft.fftfreq(8) * x,
    "stft": lambda m, x: torch.stft(x, 4, 2, window=torch.hann_window(4), return_complex=True).abs(),
    "rotary_complex": lambda m, x: torch.view_as_real(torch.view_as_complex(x.reshape(-1, 4, 2)) * m.freqs.conj()),
    "polar": lambda m, x: torch.polar(x.abs(), m.b.expand_as(x)).real,
    "complex": lambda m, x: (torch.complex(x, m.b.expand_as(x)) * 1j).imag,
    "view_as_real": lambda m, x: torch.view_as_real(torch.complex(x, x * 0.1)).sum(-1),
    "vmap": lambda m, x: torch.func.vmap(lambda row: row @ m.w + torch.ones(8) * 0.1)(x),
    "vmap_buffers": lambda m, x: torch.func.vmap(lambda row, bias: row * bias, (None, 0))(x[0], m.w),
    "jacobian": lambda m, x: torch.func.jacrev(lambda row: (row @ m.w).tanh())(x[0]),
    "functional_call": lambda m, x: torch.func.functional_call(m.fc, {"weight": m.w, "bias": m.b}, x),
    "custom_function": lambda m, x: Square.apply(x, m.w),
    "custom_operator": lambda m, x: shifted(x, m.w),
    "custom_operator_packet": lambda m, x: torch.ops.precision_cases.shifted(x, m.w),
    "aten_packet": lambda m, x: torch.ops.aten.addmm(m.b, x, m.w) + torch.ops.aten.mul.Tensor(x, m.scale),
    "sparse": lambda m, x: torch.sparse.mm(m.w.relu().to_sparse(), x.T),
    "cond": lambda m, x: torch.cond(x.mean() > 0, lambda x: m.fc(x) * 0.1, lambda x: F.linear(x, m.w, m.b), (x,)),
    "checkpoint": lambda m, x: torch.utils.checkpoint.checkpoint(m.fc, x, use_reentrant=False),
}
CASES |= {  # factories and dtypes
    "zeros": lambda m, x: torch.zeros(8) + x,
    "ones": lambda m, x: torch.ones(8) * 0.1 * x,
    "full": lambda m, x: torch.full((8,), 0.1) + x,
    "tensor": lambda m, x: torch.tensor([0.1, 0.2] * 4) * x,
    "as_tensor": lambda m, x: torch.as_tensor([0.1] * 8) * x,
    "scalar_tensor": lambda m, x: torch.tensor(0.1) * x.sum(),
    "arange": lambda m, x: torch.arange(0.0, 0.8, 0.1)[:8] * x,
    "arange_int": lambda m, x: torch.arange(8) / 3 * x,
    "linspace": lambda m, x: torch.linspace(-1, 1, 8) * x,
    "logspace": lambda m, x: torch.logspace(-1, 1, 8) * x,
    "eye": lambda m, x: torch.eye(8) @ x.T,
    "empty": lambda m, x: torch.empty(8).fill_(0.1) * x,
    "window": lambda m, x: torch.hamming_window(8) * torch.kaiser_window(8) * x,
    "zeros_like": lambda m, x: torch.zeros_like(m.b) + 0.1 + x,
    "full_like": lambda m, x: torch.full_like(m.b, 0.1) * x,
    "empty_like": lambda m, x: torch.empty_like(m.w).fill_(0.1) @ x.T,
    "new_zeros": lambda m, x: m.b.new_zeros(8) + x,
    "new_full": lambda m, x: m.b.new_full((8,), 0.1) * x,
    "new_tensor": lambda m, x: m.b.new_tensor([0.1] * 8) * x,
    "like_dtype": lambda m, x: torch.zeros(8, dtype=m.w.dtype) + torch.ones(8, dtype=x.dtype) * 0.1 * x,
    "default_dtype": lambda m, x: torch.full((8,), 0.1, dtype=torch.get_default_dtype()) * x,
    "finfo": lambda m, x: x.clamp(min=torch.finfo(m.w.dtype).eps),
    "iinfo": lambda m, x: x * (m.count + torch.iinfo(torch.int32).max),
    "promote": lambda m, x: m.b.to(torch.promote_types(m.b.dtype, x.dtype)) * x,
    "result_type": lambda m, x: torch.full((8,), 0.1, dtype=torch.result_type(m.b, x)) * x,
    "to_other": lambda m, x: torch.arange(8).to(m.b) * 0.1 * x,
    "to_dtype": lambda m, x: torch.arange(8).to(m.b.dtype) * 0.1 * x,
    "type_as": lambda m, x: torch.arange(8).type_as(m.b) * 0.1 * x,
    "type_string": lambda m, x: torch.arange(8).type(m.b.type()) * 0.1 * x,
    "to_device": lambda m, x: torch.arange(8).to("cpu", m.b.dtype) * 0.1 * x,
    "int_division": lambda m, x: torch.arange(8) / 7 + x,
    "int_mean": lambda m, x: torch.arange(8).to(x.dtype).mean() / 3 + x,
    "bool_sum": lambda m, x: (x > 0).sum(1, keepdim=True) / 3 + x,
    "int_sqrt": lambda m, x: torch.arange(8).sqrt() * x,
    "int_exp": lambda m, x: torch.exp(torch.arange(8) * 0.1) * x,
    "bool_to": lambda m, x: (x > m.b).to(x) * 0.1,
    "item": lambda m, x: x * m.scale.item() + (x > m.b.max().item()),
    "tolist": lambda m, x: x * torch.tensor(m.b.tolist()),
    "float_scalar": lambda m, x: x * float(m.scale) + torch.tensor(float(x.sum())),
    "size_as_float": lambda m, x: x / math.sqrt(x.shape[-1]) * torch.tensor(1 / 3),
    "element_size": lambda m, x: x * m.b.element_size(),
    "is_floating_point": lambda m, x: x * (0.1 if m.b.is_floating_point() else 1),
    "numpy": lambda m, x: torch.from_numpy(m.w.detach().numpy() * 0.1) @ x.T,
    "numpy_input": lambda m, x: torch.from_numpy(np.tanh(x.detach().numpy())) * m.b,
    "numpy_array": lambda m, x: torch.tensor(np.array(m.mean.detach())) * x,
    "detach": lambda m, x: m.b.detach().clone() * x,
    "data": lambda m, x: m.b.data * x + m.w.data.T[0],
    "contiguous": lambda m, x: m.w.T.contiguous() @ x.T,
    "view_dtype": lambda m, x: x * m.b.sign().long().view(torch.int64),
    "requires_grad": lambda m, x: x * float(m.b.requires_grad),
    "autocast": lambda m, x: _autocast(m, x),
    "default_in_comprehension": lambda m, x: sum(torch.tensor(0.1 * i) * x[:, i] for i in range(8)),
    "set_default_dtype": lambda m, x: torch.zeros(8).dtype.is_floating_point * x,
}


def _autocast(m: Bag, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.fc(x) @ m.w


@case
def positional_table(m: Bag, x: torch.Tensor) -> torch.Tensor:
    position, div = torch.arange(len(x))[:, None], torch.exp(torch.arange(0, 8, 2) * (-math.log(10000.0) / 8))
    pe = torch.zeros(len(x), 8)
    pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div), torch.cos(position * div)
    return x + pe


@case
def slice_assignment(m: Bag, x: torch.Tensor) -> torch.Tensor:
    canvas = torch.zeros(len(x), 16)
    canvas[:, 0::2], canvas[:, 1::2] = x @ m.w, m.b
    return canvas


@case
def index_put(m: Bag, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(8, 8).index_put_((torch.arange(8), torch.arange(8)), m.b, accumulate=True)
    y[torch.tensor([0, 2])] = x[0]
    return y + m.mean.index_put((torch.tensor([1]),), x[0, 0])


@case
def scatter(m: Bag, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x).scatter_add_(1, x.argsort(1), x * m.b)
    return y.scatter_reduce(1, x.argsort(1), m.b.expand_as(x).contiguous(), "mean") + torch.ones(8).index_add(
        0, torch.arange(8), m.b
    )


@case
def masked_fill(m: Bag, x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.masked_fill_(x > 0, 0.1)
    y[x < -1] = m.scale
    m.mean.masked_fill_(x[0] > 0, m.scale)
    return y.masked_scatter_(x > 0.5, x * m.b) + m.mean


@case
def out_argument(m: Bag, x: torch.Tensor) -> torch.Tensor:
    torch.add(m.b, x[0], out=m.mean)
    y = torch.empty(len(x), 8)
    torch.matmul(x, m.w, out=y)
    return y * m.mean


@case
def out_resizes(m: Bag, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty(0)
    torch.mul(x, m.b, out=y)
    return y


@case
def ema(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean.mul_(0.9).add_(0.1 * x.mean(0))
    return m.fc(x - m.mean)


@case
def ema_data(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean.data.lerp_(x.mean(0), 0.1)
    return x - m.mean


@case
def augmented_assignment(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean += x.mean(0)
    m.var *= 0.9
    m.mean[1:3] /= 3
    y = x.clone()
    y -= m.mean
    y **= 2
    return y * m.var


@case
def reassigned_buffer(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean = 0.9 * m.mean + 0.1 * x.mean(0)
    return x - m.mean


@case
def copied_buffer(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean.copy_(x[0])
    before = m.mean.clone()
    m.mean.zero_()
    return before + m.mean + x


@case
def counter(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.count += 1
    m.steps += 1
    return x / m.count * m.steps * 0.1


@case
def cache_view(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.cache[:, : len(x)].copy_(x)
    m.cache[1, 0, 0] = 0.1
    return m.cache[:, : len(x)].sum(0)


@case
def view_before_the_write(m: Bag, x: torch.Tensor) -> torch.Tensor:
    row = m.cache[0]
    m.cache[0, 0].add_(x[0])
    column = m.cache.view(-1)[:8]
    m.cache.mul_(3)
    return row[0] + column


@case
def write_through_views(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.pe.T[0].add_(0.1)
    m.pe.view(-1)[3:5].mul_(x[0, 0])
    m.pe.unflatten(1, (2, 4)).transpose(0, 1)[1].sub_(1 / 3)
    first, second = m.pe.chunk(2)
    second.copy_(first / 3)
    return m.pe[: len(x)] + m.pe[-len(x) :]


@case
def written_parameter(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.w.data.clamp_(min=0.0).div_(3)
    m.b[0].fill_(0.1)
    m.b.detach()[1:3] = x[0, 1:3]
    return x @ m.w + m.b


@case
def replaced_data(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.w.data = torch.renorm(m.w.data, 2, 0, 0.3)
    m.mean.data = x[0] * 3
    return x @ m.w + m.mean


@case
def shape_in_place(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.w.data.t_()
    m.mean.unsqueeze_(0)
    m.var.resize_(4)
    return (x @ m.w)[:, :4] * m.var + m.mean.shape[0] + m.mean.sum()


@case
def swapped(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean, m.var = m.var, m.mean
    return x * m.mean + m.var


@case
def numpy_write(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.mean.numpy()[:] = x[0].numpy() / 3
    return x + m.mean


@case
def numpy_shared(m: Bag, x: torch.Tensor) -> torch.Tensor:
    array = np.zeros(8)
    shared = torch.from_numpy(array)
    shared += x[0]
    return x + torch.from_numpy(array)


@case
def inputs_in_place(m: Bag, x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.mul_(2).add_(m.b)
    x[0, 0] = 0.1
    return x


@case
def relu_in_place(m: Bag, x: torch.Tensor) -> torch.Tensor:
    return F.relu(m.fc(x), inplace=True).add_(0.1).clamp_(max=m.scale)


@case
def loop(m: Bag, x: torch.Tensor) -> torch.Tensor:
    state, outputs = torch.zeros(8), torch.zeros(len(x), 8)
    for i in range(len(x)):
        state = torch.tanh(x[i] @ m.w + state)
        outputs[i] = state
    return outputs


@case
def list_of_states(m: Bag, x: torch.Tensor) -> torch.Tensor:
    states = [torch.zeros(8) for _ in range(2)]
    for row in x:
        states[0] = states[0] + row / 3
        states[1].add_(states[0])
    return torch.stack(states)


@case
def cached_attribute(m: Bag, x: torch.Tensor) -> torch.Tensor:
    if not hasattr(m, "rope"):
        m.rope = torch.outer(torch.arange(40) / 3, 1 / 10000 ** (torch.arange(0, 8) / 8)).cos()
    return x * m.rope[: len(x)]


@case
def registered_in_forward(m: Bag, x: torch.Tensor) -> torch.Tensor:
    m.register_buffer("fresh", torch.full((8,), 0.1), persistent=False)
    m.fresh += x[0]
    return x * m.fresh


@case
def data_dependent_branch(m: Bag, x: torch.Tensor) -> torch.Tensor:
    return x * m.b if x.mean() > m.scale else x / 3 + torch.tensor(0.1)


@case
def forces(m: Bag, x: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        energy = (x @ m.w.detach()).tanh().sum()
        return torch.autograd.grad(energy, x)[0]


@case
def custom_operator_writes(m: Bag, x: torch.Tensor) -> torch.Tensor:
    bump(x, m.mean)
    return x + m.mean


@case
def foreach(m: Bag, x: torch.Tensor) -> torch.Tensor:
    torch._foreach_mul_([m.mean, m.var], 1 / 3)
    return sum(torch._foreach_add([m.mean, m.var], 0.1)) * x


@case
def compiled(m: Bag, x: torch.Tensor) -> torch.Tensor:
    return torch.compile(lambda x: F.linear(x, m.w, m.b) + torch.ones(8) * 0.1, backend="eager")(x)


@case
def deep_copied(m: Bag, x: torch.Tensor) -> torch.Tensor:
    import copy

    state = copy.deepcopy(m.mean)
    state += x[0]
    return x * state + m.mean


@case
def tensor_keys(m: Bag, x: torch.Tensor) -> torch.Tensor:
    totals = {name: value.sum() for name, value in m.fc.state_dict().items()}
    return x * totals["weight"] + totals["bias"]


@case
def converted_in_forward(m: Bag, x: torch.Tensor) -> torch.Tensor:
    return m.fc.to(x.dtype)(x) + m.norm.to(x)(x)


@case
def while_loop(m: Bag, x: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.while_loop import while_loop as loop_until

    return loop_until(
        lambda i, y: i < 3, lambda i, y: (i + 1, torch.tanh(y @ m.w + torch.ones(8) * 0.1)), (torch.tensor(0), x)
    )[1]


@case
def mapped(m: Bag, x: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.map import map as map_rows

    return map_rows(lambda row: row @ m.w + torch.ones(8) * 0.1, x)


@case
def scanned(m: Bag, x: torch.Tensor) -> torch.Tensor:
    from torch._higher_order_ops.scan import scan

    return scan(lambda carry, row: (carry + row @ m.w, carry * 1), torch.zeros(8), x)[1]


@case
def flex(m: Bag, x: torch.Tensor) -> torch.Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(heads(x), heads(x), heads(x), score_mod=lambda score, b, h, q, k: score + (q - k) * m.scale)
