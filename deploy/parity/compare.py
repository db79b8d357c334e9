"""Run the probes through the reference, the baseline and the candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from deploy.core.errors import BackendCrashedError, BackendError, BackendMemoryError
from deploy.core.limits import PREFIX
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.parity.choices import Chooser
from deploy.parity.probes import Probe
from deploy.parity.repeated import Call, Candidate
from deploy.parity.rows import SharedRows
from deploy.parity.tally import Original, Tally
from deploy.parity.verdict import ParityReport

STRIDE = 6
"""After every so many probes, the check ends if the candidate fails in any case."""

CERTAIN = 0.02
"""Margin below which more probes cannot turn a failure into a pass."""


class CachedRunner(Runner):
    """A runner that runs each feeds object once and returns the same outputs afterwards."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._cache: dict[int, tuple[Feeds, Fetches]] = {}

    def run(self, feeds: Feeds) -> Fetches:
        """Return the outputs for ``feeds``, looked up by object identity."""
        if id(feeds) not in self._cache:
            self._cache[id(feeds)] = (feeds, self.inner.run(feeds))  # a reference to feeds keeps its id from reuse
        return self._cache[id(feeds)][1]


def compare(
    reference: Runner,
    baseline: Runner,
    candidate: Candidate,
    probes: Sequence[Probe],
    *,
    precision: str = "fp32",
    seed: int = 0,
    rename: Mapping[str, str] | None = None,
    chooser: Chooser | None = None,
    perturbed: Runner | None = None,
    original: Original | None = None,
    in_place: bool = False,
    ran: list[Probe] | None = None,
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> ParityReport:
    """Judge a candidate against the model in float64 and PyTorch's own run in the candidate's precision.

    Probes have the model's input names; ``rename`` gives the candidate's where they differ. ``chooser`` compares the
    discrete choices behind the outputs. ``perturbed`` is PyTorch's own run with other roundings, for networks that may
    amplify them; ``original`` is the reference's own run in the candidate's runtime, where it is a file. With
    ``in_place``, rows whose number depends on the data are not matched, since all runs were given the same choices. The
    probes that are run are added to ``ran``. ``advance`` is called after every probe with the number of probes done,
    their total, and the label of the probe.

    Where the model treats samples independently, every distinct sample is computed once (`SharedRows`). A size that the
    model itself refuses is reported, and is no fault of the candidate. A size for which the candidate is refused memory
    is left out, and so are larger ones. The check ends early if the candidate fails by a wide margin.

    Raises:
        BackendError: the model itself cannot be run on any probe.
        BackendMemoryError: the candidate was refused memory on every probe.
        BackendCrashedError: the candidate's process died.
    """
    tally = Tally(precision=precision, chooser=chooser, perturbed=perturbed, original=original, in_place=in_place)
    loop = _Loop(SharedRows(reference, baseline), candidate, tally, dict(rename or {}))
    for index, probe in enumerate(probes):
        if loop.wanted(probe):
            loop.run(probe)
        advance(index + 1, len(probes), probe.label)
        if (index + 1) % STRIDE == 0 and loop.certain(index + 1 < len(probes)):
            break
    if ran is not None:
        ran.extend(loop.done)
    return loop.report(probes, seed)


class _Loop:
    """Runs probes one by one and collects what happened."""

    def __init__(self, rows: SharedRows, candidate: Candidate, tally: Tally, names: Mapping[str, str]) -> None:
        self.rows, self.candidate, self.tally, self.names = rows, candidate, tally, names
        self.done: list[Probe] = []
        self.refused: dict[str, str] = {}
        self.refused_sizes: dict[str, set[int]] = {}
        self.error: BackendError | None = None
        self.too_large: dict[str, None] = {}
        self.short: dict[str, None] = {}
        self.memory: BackendMemoryError | None = None
        self.least_short = math.inf
        self.stopped = False
        self.smallest: Call | None = None

    def wanted(self, probe: Probe) -> bool:
        """Return whether a probe is to be run, given how the model treats samples and how much memory it needs."""
        shares = any(self.rows.independent.values())
        if probe.sharing == "rows":
            assert probe.pool is not None
            shares = self.rows.shares(probe.pool)
        if (probe.sharing, shares) in (("rows", False), ("calls", True)):
            return False
        if probe.values >= self.least_short:
            self.short[_where(probe)] = None
            return False
        if self.rows.fits(probe) or self._moves(probe):
            return True
        self.too_large[_where(probe)] = None
        return False

    def _moves(self, probe: Probe) -> bool:
        """Return whether no probe was run yet at another size of one of the dimensions."""
        ran = [{done.sizes[name] for done in self.done} for name in probe.sizes]
        return any(len(sizes | {size}) == 2 > len(sizes) for sizes, size in zip(ran, probe.sizes.values(), strict=True))

    def run(self, probe: Probe) -> None:
        """Run one probe, and compare the outputs."""
        feeds = {self.names.get(name, name): value for name, value in probe.feeds.items()}
        self.candidate.submit(feeds)
        try:
            expected, own = self.rows.run(probe)
        except BackendError as exc:  # the model itself refuses these inputs, so they say nothing about the candidate
            self._refuse(probe, exc)
            self._discard()
            return
        except BaseException:
            self._discard()
            raise
        try:
            outputs = self.candidate.result()
        except BackendMemoryError as exc:
            self.short[_where(probe)] = None
            self.memory, self.least_short = exc, min(self.least_short, probe.values)
            return
        except BackendCrashedError:
            raise
        except BackendError as exc:
            self.done.append(probe)
            self.tally.errors[_where(probe)] = exc.message
        else:
            self.done.append(probe)
            expected, own = self.rows.recheck(probe, expected, own, outputs)
            self.tally.add(probe, expected, own, outputs)
            if self.smallest is None or probe.values < self.smallest.values:
                self.smallest = Call(values=probe.values, feeds=feeds, expected=expected, own=own, outputs=outputs)

    def _refuse(self, probe: Probe, exc: BackendError) -> None:
        self.refused[_where(probe)] = exc.message
        self.error = exc
        for name, size in probe.sizes.items():
            self.refused_sizes.setdefault(name, set()).add(size)

    def _discard(self) -> None:
        """Take the reply of the candidate, which would otherwise be taken for that to the next request."""
        try:
            self.candidate.result()
        except BackendMemoryError:
            pass
        except BackendCrashedError:
            raise
        except BackendError:
            pass

    def certain(self, more: bool) -> bool:
        """Return whether the candidate fails by so much that no further probe can change it."""
        if self.tally.errors:
            return False
        verdict, _, judged = self.tally.so_far(self.done)
        clear = any(item.verdict == "fail" and item.margin < CERTAIN for item in judged)
        self.stopped = more and verdict == "fail" and clear
        return self.stopped

    def report(self, probes: Sequence[Probe], seed: int) -> ParityReport:
        """Conclude.

        Raises:
            BackendError: the model refused every probe.
        """
        if not self.done and (self.error or self.memory):
            raise self.error or self.memory  # type: ignore[misc]
        if self.smallest is not None:
            self.tally.faults += self.smallest.repeat(self.candidate, self.tally.precision)
        verdict, reasons, judged = self.tally.conclude(self.done)
        symbols = probes[0].sizes if probes else ()
        ran = {name: {probe.sizes[name] for probe in self.done} for name in symbols}
        refused = {name: tuple(sorted(sizes - ran[name])) for name, sizes in self.refused_sizes.items()}
        fixed = [name for name, sizes in ran.items() if self.memory and len(sizes) == 1]
        if fixed and verdict == "pass":
            verdict = "inconclusive"
            reasons = (f"{' and '.join(map(repr, fixed))} was run at one size only: {self.memory}",)
        return ParityReport(
            verdict=verdict,
            reasons=reasons,
            precision=self.tally.precision,
            outputs=judged,
            dynamic={name: tuple(sorted(sizes)) for name, sizes in ran.items()},
            refused={name: sizes for name, sizes in refused.items() if sizes},
            probes=len(self.done),
            samples=max((item.samples for item in self.tally.accumulated.values()), default=0),
            seed=seed,
            notes=tuple(dict.fromkeys([*self.tally.notes, *self._notes(len(probes))])),
        )

    def _notes(self, total: int) -> list[str]:
        notes = []
        if self.refused:
            where, why = "; ".join(self.refused), next(iter(self.refused.values()))
            notes.append(f"the model itself refuses {where}, so the file was not judged there: {why}")
        if self.memory is not None:
            notes.append(f"not run: {'; '.join(self.short)}: {self.memory.message} ({self.memory.hint})")
        if self.too_large:
            notes.append(
                f"not run: {'; '.join(self.too_large)}, since a run in float64 would take, by estimate, more memory "
                f"than {self.rows.memory.limit / 2**30:.1f} GiB; {PREFIX}PROBE_MEMORY_BYTES changes the limit"
            )
        if self.stopped:
            notes.append(f"the check ended after {len(self.done)} of {total} probes, since the file fails in any case")
        return notes


def _where(probe: Probe) -> str:
    return ", ".join(f"{name} {size}" for name, size in probe.sizes.items()) or probe.label
