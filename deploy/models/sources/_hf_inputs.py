"""The inputs of a model of transformers, from its signature and its configuration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from deploy.core.errors import InputSpecError
from deploy.core.tensors import Dim, SizeRange, TensorSpec, with_ranges

SIDE = 224
"""Side in pixels of an image where the configuration has none."""
TOKENS = 16
"""Number of tokens of a text, and its dimension."""
SEQUENCE = "sequence"

_POSITIONS = re.compile(r"(^|\.)(\w*position_embeddings?|wpe|embed_positions)$")


def describe(module: torch.nn.Module, config: Any) -> tuple[tuple[TensorSpec, ...], dict[str, int], tuple[str, ...]]:
    """Return the inputs, a size for each dimension, and the dimensions that are dynamic by default.

    Raises:
        InputSpecError: it takes neither images nor texts.
    """
    takes = inspect.signature(module.forward).parameters
    kinds: Any = getattr(module, "input_modalities", "text")
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    specs: list[TensorSpec] = []
    sizes = {"batch": 2}
    if "text" in kinds and "input_ids" in takes:
        specs += _text(module, config, takes)
        sizes[SEQUENCE] = min([TOKENS, *(item.max for spec in specs for item in spec.ranges if item.max)])
    if "pixel_values" in takes and ({"image", "video"} & {*kinds} or not specs):
        image, sides = _image(config, video="image" not in kinds and hasattr(config, "num_frames"))
        specs.append(image)
        sizes |= sides
    if not specs:
        name = type(module).__name__
        raise InputSpecError(f"{name} takes neither images nor texts.", "add --input name:shape for each of its inputs")
    return with_ranges(specs), sizes, ("batch", SEQUENCE) if SEQUENCE in sizes else ("batch",)


def _text(module: torch.nn.Module, config: Any, takes: Mapping[str, Any]) -> Iterator[TensorSpec]:
    part = getattr(config, "text_config", None) or config
    counts = {
        "input_ids": getattr(part, "vocab_size", None),
        "attention_mask": 2,
        "token_type_ids": getattr(part, "type_vocab_size", None),
    }
    limit = _longest(module)
    ranges = () if limit is None else (SizeRange(dim=SEQUENCE, max=limit),)
    for name, count in counts.items():
        if name in takes and (name != "token_type_ids" or (count or 0) > 1):
            bounds = None if count is None else (0, count)
            yield TensorSpec(name=name, dtype="int64", shape=("batch", SEQUENCE), bounds=bounds, ranges=ranges)


def _longest(module: torch.nn.Module) -> int | None:
    """Return the number of tokens that the table of positions has room for; None if there is no table."""
    tables = [
        part
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Embedding) and _POSITIONS.search(name)
    ]
    # positions start after the one of padding, where the table has one; those of BART skip ``offset`` rows
    rooms = [
        table.num_embeddings - getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        for table in tables
    ]
    return min(rooms, default=None)


def _image(config: Any, *, video: bool) -> tuple[TensorSpec, dict[str, int]]:
    part = getattr(config, "vision_config", None) or config
    backbone = getattr(part, "backbone_config", None) or part
    channels = next((n for item in (part, backbone) if (n := getattr(item, "num_channels", None))), 3)
    height, width = next(
        (s for item in (part, backbone) if (s := _side(getattr(item, "image_size", None)))), (SIDE, SIDE)
    )
    shape: tuple[Dim, ...] = (channels, "height", "width")
    if video:
        shape = (int(getattr(part, "num_frames", 8)), *shape)
    return (
        TensorSpec(name="pixel_values", dtype="float32", shape=("batch", *shape)),
        {"height": height, "width": width},
    )


def _side(value: Any) -> tuple[int, int] | None:
    """Return height and width from a number, a pair or a dictionary."""
    if isinstance(value, Mapping):
        value = [value["height"], value["width"]] if {"height", "width"} <= {*value} else None
    if isinstance(value, int):
        value = (value, value)
    return (int(value[0]), int(value[1])) if value else None
