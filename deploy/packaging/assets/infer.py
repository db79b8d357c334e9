"""Classify images: python infer.py IMAGE ...  (needs numpy, pillow and onnxruntime only)."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).resolve().parent
TOP = 5
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Pillow decodes by content, not by name, and some of its other decoders start programs."""


def load() -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Check the digests of the model's files, then open it; return the session and the manifest."""
    manifest = json.loads(next(HERE.glob("*.onnx.json")).read_text(encoding="utf-8"))
    for file in manifest["files"]:
        if hashlib.sha256((HERE / file["file"]).read_bytes()).hexdigest() != file["sha256"]:
            sys.exit(f"{file['file']}: its digest differs from the manifest")
    model = HERE / manifest["files"][0]["file"]
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]), manifest


def prepare(path: str, recipe: dict[str, Any]) -> Any:
    """Preprocess one image file: float32 (1, channels, height, width)."""
    opened = Image.open(path, formats=FORMATS)
    if opened.mode.startswith(("I", "F")):
        sys.exit(f"{path}: more than 8 bits per channel; convert it first")
    image: Image.Image = opened.convert("L" if len(recipe["mean"]) == 1 else "RGB")
    (height, width), short = recipe["crop"], min(image.size)
    size: tuple[int, ...] = (width, height)
    if recipe["resize"]:  # the shorter side; the aspect ratio is kept
        size = tuple(recipe["resize"] if side == short else int(recipe["resize"] * side / short) for side in image.size)
    if size != image.size:
        image = image.resize((size[0], size[1]), Image.Resampling[recipe["interpolation"].upper()])
    missing = [max(0, want - have) for want, have in zip((width, height), image.size, strict=True)]
    left, top = (
        -(gap // 2) if gap else round((have - want) / 2)
        for gap, have, want in zip(missing, image.size, (width, height), strict=True)
    )
    image = image.crop((left, top, left + width, top + height))  # padded with black where the image is smaller
    values = np.asarray(image).reshape(height, width, -1).astype(np.float32) / np.float32(255)
    mean, std = np.float32(recipe["mean"]), np.float32(recipe["std"])
    return ((values - mean) / std).transpose(2, 0, 1)[None]


session, manifest = load()
labels = (HERE / "labels.txt").read_text(encoding="utf-8").split("\n")
for path in sys.argv[1:] or [str(HERE / "example.png")]:
    scores = session.run(None, {session.get_inputs()[0].name: prepare(path, manifest["preprocessing"])})[0][0]
    weights = np.exp(scores.astype(np.float64) - scores.max())
    print(path)
    for index in np.argsort(-weights, kind="stable")[:TOP]:
        print(f"  {weights[index] / weights.sum():.6f}  {labels[index]}")
