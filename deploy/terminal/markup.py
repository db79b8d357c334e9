"""Text within Rich's markup."""

from __future__ import annotations

import rich.markup

from deploy.core.text import visible


def escape(text: str) -> str:
    """Text as it is: no markup in it counts, and a terminal obeys nothing in it."""
    return rich.markup.escape(visible(text))
