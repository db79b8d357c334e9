"""Where things are by default."""

from __future__ import annotations

import os
from pathlib import Path


def default_root() -> Path:
    """The artifacts directory: ``$DEPLOY_ARTIFACTS``, else ``./artifacts``."""
    return Path(os.environ.get("DEPLOY_ARTIFACTS") or "artifacts")
