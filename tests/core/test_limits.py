"""Limits: defaults, and environment variables that replace them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.core.errors import UsageError
from deploy.core.limits import Limits, limits


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    limits.cache_clear()
    yield
    limits.cache_clear()


def test_a_variable_replaces_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits() == Limits()
    limits.cache_clear()
    monkeypatch.setenv("DEPLOY_LIMIT_IMAGE_PIXELS", "5")
    assert limits() == Limits(image_pixels=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIXELS", "5"),
        ("IMAGE_PIXELS", "0"),
        ("IMAGE_PIXELS", "-1"),
        ("IMAGE_PIXELS", "1e9"),
        ("IMAGE_PIXELS", "9" * 99),
    ],
)
def test_other_variables_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DEPLOY_LIMIT_{name}", value)
    with pytest.raises(UsageError, match=f"DEPLOY_LIMIT_{name}"):
        limits()
