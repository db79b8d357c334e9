"""Detectors: traced, with outputs whose length depends on the image."""

from collections.abc import Callable

import pytest

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_detector(run: Callable[..., Ran], name: str) -> None:
    done = run("export", name, "--weights", "none", "--json")
    assert done.code == 0, done.err
    assert {spec["name"] for spec in done.json["outputs"]} == {"boxes", "scores", "labels"}
    assert done.json["strategy"] == "trace" and len(done.json["notes"]) == 1
    assert done.json["parity"]["verdict"] == "pass" and done.json["parity"]["notes"]
