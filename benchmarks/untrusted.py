"""Repeat the tests of damage and interruption many times: processes killed at random, damaged manifests and options.

    python -m benchmarks.untrusted --part kills [--times 1000] [--minutes 30]
    python -m benchmarks.untrusted --part mutations [--times 200000]

``kills`` kills commands by SIGKILL at random moments, in turns, and after each kill compares the artifacts directory
with its digests; after every tenth kill of a command, the command must succeed and write the same files as an
undisturbed run. It ends early after the given minutes. ``mutations`` feeds damaged manifests, documents, shapes and
options to their parsers, which may only raise documented errors. Writes results/untrusted/PART.json with the counts,
and exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import write
from deploy.core.errors import DeployError
from deploy.tools.verify import verify
from tests.reliability import fuzz
from tests.reliability.conftest import EXPORTED
from tests.reliability.test_killed import COMMANDS, KILLED, same

SEED = 0


class CommandLine:
    """Runs commands in forks of one process that has imported everything (`tests.reliability._zygote`)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(fuzz.__file__).with_name("_zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> CommandLine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()

    def run(self, store: Path, words: tuple[str, ...], kill_after_s: float | None = None) -> int:
        """Return the status of a command, negative for a signal."""
        request = {"words": ["--artifacts", str(store), "-q", *words], "kill_after_s": kill_after_s, "memory": None}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Victim:
    """One command with an artifacts directory that survives its kills."""

    def __init__(self, name: str, line: CommandLine, folder: Path) -> None:
        self.name, self._line, self._words = name, line, COMMANDS[name][1]
        self._start, self._store = folder / "start", folder / "artifacts"
        self._start.mkdir(parents=True)
        self.counts: Counter[str] = Counter()
        if name not in ("export", "train"):
            self._succeed(self._start, EXPORTED)
        undisturbed = folder / "undisturbed"
        shutil.copytree(self._start, undisturbed)
        self._succeed(undisturbed, self._words)
        began = time.monotonic()
        self._succeed(undisturbed, self._words)  # again: what the first one imported is warm
        self._lasts_s = time.monotonic() - began
        self._expected = same(undisturbed)

    def _succeed(self, store: Path, words: tuple[str, ...]) -> None:
        if code := self._line.run(store, words):
            raise SystemExit(f"{' '.join(words)}: exit {code} without being disturbed")

    def kill(self, chance: random.Random) -> None:
        """Run the command, kill it, and look at what is left."""
        if self.counts["runs"] % 5 == 0:
            shutil.rmtree(self._store, ignore_errors=True)
            shutil.copytree(self._start, self._store)
        self.counts["runs"] += 1
        status = self._line.run(self._store, self._words, kill_after_s=chance.uniform(0, self._lasts_s))
        self.counts["killed"] += status == KILLED
        try:
            report = verify(self._store)
            self.counts["damaged"] += bool(report.problems)
            self.counts["unfinished"] += bool(report.unfinished)
        except DeployError:
            self.counts["damaged"] += 1
        if self.counts["runs"] % 10 == 0:
            self.counts["repeated"] += 1
            self.counts["not repeatable"] += self._line.run(self._store, self._words) != 0
            self.counts["other content"] += same(self._store) != self._expected


def kills(times: int, minutes: float) -> dict[str, Any]:
    """Kill until there were so many kills, or the time is over."""
    end, chance = time.monotonic() + 60 * minutes, random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch, CommandLine() as line:
        victims = [Victim(name, line, Path(scratch) / name.replace(" ", "-")) for name in COMMANDS]
        while sum(item.counts["killed"] for item in victims) < times and time.monotonic() < end:
            for victim in victims:
                victim.kill(chance)
        counts = {item.name: dict(item.counts) for item in victims}
    names = ("runs", "killed", "repeated", "unfinished", "damaged", "not repeatable", "other content")
    return {"planned": times, **{name: sum(item.get(name, 0) for item in counts.values()) for name in names}} | {
        "commands": counts,
        "found": sum(item.get(name, 0) for item in counts.values() for name in names[-3:]),
    }


def mutations(times: int) -> dict[str, Any]:
    """Feed damaged texts to all parsers; one that raises an undocumented error is kept."""
    chance, found = random.Random(SEED), []
    for _ in range(times):
        data = fuzz.mutated(chance)
        try:
            fuzz.one_input(data)
        except Exception as exc:  # any error that is not documented is what this looks for
            found.append({"input": repr(data), "error": repr(exc)})
    return {"inputs": times, "kinds": len(fuzz.SEEDS), "found": len(found), "first": found[:10]}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("kills", "mutations"), required=True)
    parser.add_argument("--times", type=int, help="Number of kills (default 1000) or inputs (default 200000).")
    parser.add_argument("--minutes", type=float, default=30.0, help="Limit on the duration of the kills.")
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.part == "kills":
        result = kills(chosen.times or 1000, chosen.minutes)
    else:
        result = mutations(chosen.times or 200_000)
    path = write(f"untrusted/{chosen.part}", {"seed": SEED, "seconds": round(time.monotonic() - began, 1), **result})
    sys.stdout.write(f"{path}: {result['found']} found\n")
    raise SystemExit(bool(result["found"]))


if __name__ == "__main__":
    main()
