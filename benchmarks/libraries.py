r"""Export and check networks of other libraries, with random weights.

    pip install --no-deps --target FOLDER segmentation-models-pytorch monai einops kornia kornia_rs facenet-pytorch \
        ultralytics opencv-python-headless psutil pyyaml polars polars-runtime-32 requests urllib3 certifi idna \
        charset-normalizer matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six
    python -m benchmarks.libraries --packages FOLDER [--only PATTERN] [--again]

Needs timm. A module with a function that builds the network is written, and ``deploy export FILE:build --weights none``
with an open batch runs in a new process. Results go to results/libraries.json after every model, so that an interrupted
run resumes. Ultralytics is licensed AGPL: it is used here, from outside, and is no dependency.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.architectures import exported
from benchmarks.common import load, write

TIMEOUT_S = 1200.0
SMP = "import segmentation_models_pytorch as smp"
MONAI = "from monai.networks import nets"
KORNIA = "import kornia"
TASKS = "from ultralytics.nn import tasks"
LIBRARIES = ("segmentation-models-pytorch", "monai", "kornia", "facenet-pytorch", "ultralytics")
IMAGE = "image:batch,3,64,64"
PATCH = "patch:batch,1,32,32"

NETWORKS: dict[str, tuple[str, str, str]] = {
    **{
        f"smp {name}": (SMP, f"smp.{name}('resnet18', encoder_weights=None, classes=3)", IMAGE)
        for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "DeepLabV3", "DeepLabV3Plus", "UPerNet")
    },
    "smp PAN": (SMP, "smp.PAN('resnet18', encoder_weights=None, classes=3)", "image:batch,3,128,128"),
    "smp PSPNet": (SMP, "smp.PSPNet('mobilenet_v2', encoder_weights=None, classes=3)", IMAGE),
    "smp Segformer": (SMP, "smp.Segformer('mit_b0', encoder_weights=None, classes=3)", IMAGE),
    "monai UNet": (
        MONAI,
        "nets.UNet(spatial_dims=2, in_channels=3, out_channels=2, channels=(8, 16, 32), strides=(2, 2))",
        IMAGE,
    ),
    "monai BasicUNet": (MONAI, "nets.BasicUNet(spatial_dims=2, in_channels=3, out_channels=2)", IMAGE),
    "monai AttentionUnet": (
        MONAI,
        "nets.AttentionUnet(spatial_dims=2, in_channels=3, out_channels=2, channels=(8, 16, 32), strides=(2, 2))",
        IMAGE,
    ),
    "monai SegResNet": (MONAI, "nets.SegResNet(spatial_dims=2, in_channels=3, out_channels=2)", IMAGE),
    "monai DynUNet": (
        MONAI,
        "nets.DynUNet(2, 3, 2, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2])",
        IMAGE,
    ),
    "monai VNet": (MONAI, "nets.VNet(spatial_dims=3, in_channels=1, out_channels=2)", "volume:batch,1,32,32,32"),
    "monai UNETR": (
        MONAI,
        "nets.UNETR(1, 2, img_size=32, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, spatial_dims=2)",
        PATCH,
    ),
    "monai SwinUNETR": (MONAI, "nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2)", "image:batch,1,64,64"),
    "monai DenseNet121": (MONAI, "nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=4)", IMAGE),
    "monai SEResNet50": (MONAI, "nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=4)", IMAGE),
    "kornia HardNet": (KORNIA, "kornia.feature.HardNet(pretrained=False)", PATCH),
    "kornia SOSNet": (KORNIA, "kornia.feature.SOSNet(pretrained=False)", PATCH),
    "kornia HyNet": (KORNIA, "kornia.feature.HyNet(pretrained=False)", PATCH),
    "kornia TFeat": (KORNIA, "kornia.feature.TFeat(pretrained=False)", PATCH),
    "kornia DexiNed": ("from kornia.models.dexined import DexiNed", "DexiNed(pretrained=False)", IMAGE),
    "facenet InceptionResnetV1": (
        "from facenet_pytorch import InceptionResnetV1",
        "InceptionResnetV1(classify=True, num_classes=10)",
        "face:batch,3,160,160",
    ),
    **{
        f"ultralytics {name}": (TASKS, f"tasks.{kind}('{name}.yaml', verbose=False)", IMAGE)
        for name, kind in {
            "yolov3-tiny": "DetectionModel",
            "yolov5n": "DetectionModel",
            "yolov8n": "DetectionModel",
            "yolov8n-cls": "ClassificationModel",
            "yolov8n-pose": "PoseModel",
            "yolov8n-seg": "SegmentationModel",
            "yolov10n": "DetectionModel",
            "yolo11n": "DetectionModel",
            "yolo11n-obb": "OBBModel",
            "yolo12n": "DetectionModel",
            "yolo26n": "DetectionModel",
        }.items()
    },
}
"""By name: the import, the expression that builds the network, and its input."""


def main() -> None:
    """Measure the networks without a result, then print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="Folder that the libraries are installed in.")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching networks.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    arguments = parser.parse_args()
    rows: dict[str, Any] = load("libraries").get("rows", {})
    inherited = [item for item in (os.environ.get("PYTHONPATH"), str(arguments.packages)) if item]
    os.environ["PYTHONPATH"] = os.pathsep.join(inherited)
    for name in fnmatch.filter(NETWORKS, arguments.only):
        if name in rows and not arguments.again:
            continue
        rows[name] = measure(*NETWORKS[name])
        print(name, rows[name], flush=True)
        counts = dict(Counter(row["result"] for row in rows.values()))
        write("libraries", {"rows": rows, "counts": counts, "libraries": dict(_versions(arguments.packages))})


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the libraries that are installed in a folder, with their versions."""
    for found in metadata.distributions(path=[str(folder)]):
        name = found.name.replace("_", "-")
        if name in LIBRARIES:
            yield name, found.version


def measure(library: str, expression: str, given: str) -> dict[str, Any]:
    """Export one network; ``result`` is the verdict, or ``no file``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.py"
        file.write_text(f"{library}\n\n\ndef build():\n    return {expression}\n", encoding="utf-8")
        return exported(folder, f"{file}:build", "--input", given, timeout=TIMEOUT_S)


if __name__ == "__main__":
    main()
