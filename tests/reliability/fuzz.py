"""A fuzz target for the parsers of untrusted text: manifests, documents with checksums, shapes, options.

    python tests/reliability/fuzz.py [SECONDS] [SEED]

Feeds random bytes and mutations of valid texts until the time is over; it stops at an input that raises an undocumented
error. `one_input` is the entry point for atheris: ``atheris.Setup(sys.argv, one_input)``.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deploy.core.artifact import Manifest, Payload
from deploy.core.checked import dump_checked
from deploy.core.errors import DeployError
from deploy.core.model import Preprocessing, Weights
from deploy.core.tensors import TensorSpec, parse_input
from deploy.core.text import visible
from deploy.models.request import parse_options

MANIFEST = Manifest(
    model="zoo/net",
    slug="net",
    format="onnx",
    precision="fp32",
    files=(Payload(file="net.onnx", sha256="0" * 64, bytes=1),),
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 3)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    weights=Weights(source="untrained", trained=False, seed=0),
    preprocessing=Preprocessing(crop=(8, 8), mean=(0.5,), std=(0.5,)),
)
SEEDS = (
    MANIFEST.to_json(),
    dump_checked({"schema": 1}),
    "tokens:batch,length=16:int64:0..30522",
    "image:batch,3,224,224",
    "num_classes=10",
)


def one_input(data: bytes) -> None:
    """Everything that parses, on one input; only documented errors may come of it."""
    text = data.decode("utf-8", errors="surrogateescape")
    _documented(lambda: Manifest.from_json(text, Path("x.json")))
    _documented(lambda: Manifest.from_json(_resealed(text), Path("x.json")))
    _documented(lambda: parse_input(text))
    _documented(lambda: parse_options((text,)))
    shown = visible(text)
    assert visible(shown) == shown and shown.isascii() >= text.isascii()


def _resealed(text: str) -> str:
    """As by somebody who can write manifests: the dump_checked holds, the content is anything."""
    import json

    try:
        document = json.loads(text)
        return dump_checked(document) if isinstance(document, dict) else text
    except (ValueError, RecursionError):
        return text


def _documented(work: Callable[[], object]) -> None:
    with suppress(DeployError):
        work()


def mutated(chance: random.Random) -> bytes:
    """Something that was right, with a few bytes changed, cut, doubled or put between."""
    data = bytearray(chance.choice(SEEDS).encode())
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        action = chance.randrange(4)
        if action == 0:
            data[place:place] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 2, 8))))
        elif action == 1 and data:
            data[min(place, len(data) - 1)] = chance.choice(b'0123456789-.,:="{}[]\\eEnul\xc2\xb2\xff\x00')
        elif action == 2:
            del data[place : min(end, place + 20)]
        else:
            data[place:place] = data[place : min(end, place + 40)]
    return bytes(data)


def main() -> None:
    """Fuzz for so many seconds."""
    seconds, seed = (float(sys.argv[1]) if len(sys.argv) > 1 else 60.0), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    chance, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(chance)
        try:
            one_input(data)
        except BaseException:
            sys.stdout.write(f"after {count} inputs: {data!r}\n")
            raise
        count += 1
    sys.stdout.write(f"{count} inputs, nothing found\n")


if __name__ == "__main__":
    main()
