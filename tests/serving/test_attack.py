"""A short run of the attacks of `benchmarks.serve_attack`, beside requests whose answers are checked."""

from __future__ import annotations

from pathlib import Path

from benchmarks import serve_attack


def test_under_attack_every_request_is_answered_rightly(served: Path) -> None:
    found, stop = serve_attack.run(served, seconds=4, requests=400, connections=60)
    assert found["answered"] == 400 and found["wrong"] == found["lost"] == 0 and found["health_failed"] == {}
    assert sum(found["attacks"].values()) > 60
    assert stop["exit_code"] == 0 and stop["lost"] == 0 and stop["clients"]["refused"] == 32
