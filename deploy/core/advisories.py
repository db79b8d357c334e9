"""Versions of libraries that strangers' files can harm: below the floor, a file is warned of or not read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deploy.core.environment import version
from deploy.core.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Advisory:
    """What is known of every version of a package below ``floor``."""

    package: str
    floor: str
    what: str
    source: str

    def told(self, found: str) -> str:
        """One sentence about the version that was found."""
        return f"{self.package} {found} is older than {self.floor}: {self.what} ({self.source})."

    @property
    def fix(self) -> str:
        """The command that mends it."""
        return f"pip install '{self.package}>={self.floor}'"


ADVISORIES = (
    Advisory("torch", "2.10.0", "a checkpoint read with weights_only can corrupt memory", "CVE-2026-24747"),
    Advisory("torch", "2.6.0", "a checkpoint read with weights_only can run code", "CVE-2025-32434"),
    Advisory("onnx", "1.21.0", "external data is read through links from anywhere", "CVE-2026-27489, CVE-2026-34446"),
    Advisory("onnx", "1.16.0", "external data is read from outside the model's folder", "CVE-2024-27318"),
    Advisory("pillow", "10.3.0", "an image can overflow a buffer", "CVE-2024-28219"),
    Advisory("pillow", "10.0.1", "a WebP image can run code", "CVE-2023-4863"),
)
"""Of a package the newest floor first."""


def unsafe() -> list[tuple[Advisory, str]]:
    """What is installed below a floor, with its version; of each package the gravest, which is the oldest floor."""
    found: dict[str, tuple[Advisory, str]] = {}
    for advisory in ADVISORIES:
        have = version(advisory.package)
        if have and _release(have) < _release(advisory.floor):
            found[advisory.package] = (advisory, have)
    return list(found.values())


def refuse_pickles(path: object) -> None:
    """Refuse to read a pickled checkpoint with a PyTorch whose safe reader is known not to be safe.

    Raises:
        WeightsError: it is older than the floor.
    """
    for advisory, found in unsafe():
        if advisory.package == "torch":
            hint = f"{ADVISORIES[0].fix}; or give safetensors"
            raise WeightsError(f"{path}: not read, for {advisory.told(found)}", hint)


def _release(text: str) -> tuple[int, ...]:
    """``2.10.0`` of ``2.10.0+cu128``; three numbers."""
    numbers = [int(item) for item in re.findall(r"\d+", re.split(r"[^\d.]", text)[0])]
    return tuple((*numbers, 0, 0, 0)[:3])
