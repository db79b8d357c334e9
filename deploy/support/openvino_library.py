"""OpenVINO, imported so that it tells nobody.

Its import sends an event to its makers through a child process, which sometimes stays behind for good and takes time of
whatever is being timed. Where its telemetry package cannot be imported OpenVINO does without; so it cannot be here.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what the import system takes for "absent"

import openvino  # noqa: E402  (the line above must come first)

__all__ = ["openvino"]
