"""Import OpenVINO without its telemetry.

OpenVINO's import sends a telemetry event from a child process, which sometimes never ends and competes with benchmarks
for the CPU. OpenVINO works without its telemetry package, so this module makes the package unimportable.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes an import fail

import openvino  # noqa: E402  (the line above must come first)

__all__ = ["openvino"]
