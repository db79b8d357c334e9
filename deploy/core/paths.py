"""Default locations."""

from __future__ import annotations

import os
from pathlib import Path


def default_root() -> Path:
    """Return the default artifacts directory: ``$DEPLOY_ARTIFACTS``, else ``./artifacts``."""
    return Path(os.environ.get("DEPLOY_ARTIFACTS") or "artifacts")
