"""Measure the cost of the parity check: ``deploy export resnet18`` relative to a script that only exports.

    python -m benchmarks.overhead [ROUNDS] [MODEL]

Whole processes; each round runs both in seeded random order. The result is the median ratio over rounds. Writes
results/overhead.json.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import interval, time_interleaved, write

TARGET = 1.6
BARE = """
import sys, torch, torchvision
torch.manual_seed(0)
model = torchvision.models.get_model(sys.argv[1], weights=None).eval()
torch.onnx.export(model, (torch.randn(2, 3, 224, 224),), sys.argv[2], dynamo=True, verbose=False,
                  dynamic_shapes=({0: "batch"},), external_data=False)
"""


def main() -> None:
    """Run all rounds and write the results."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    model = sys.argv[2] if len(sys.argv) > 2 else "resnet18"
    with tempfile.TemporaryDirectory() as folder:
        command = str(Path(sys.executable).with_name("deploy"))
        deploy = [command, "--artifacts", folder, "export", model, "--weights", "none"]
        cases = {
            "bare": [sys.executable, "-c", BARE, model, f"{folder}/bare.onnx"],
            "deploy": [*deploy, "--format", "onnx"],
        }
        times_s = time_interleaved(cases, rounds)
    ratios = [mine / bare for mine, bare in zip(times_s["deploy"], times_s["bare"], strict=True)]
    result = {
        "model": model,
        "rounds": rounds,
        "median_s": {name: statistics.median(times) for name, times in times_s.items()},
        "ratio": statistics.median(ratios),
        "ratio_interval": interval(ratios),
        "target": TARGET,
        "samples_s": times_s,
    }
    print({key: value for key, value in result.items() if key != "samples_s"})
    write("overhead", result)


if __name__ == "__main__":
    main()
