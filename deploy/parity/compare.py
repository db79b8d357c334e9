"""Run the probes through the reference, the baseline and the candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.choices import Chooser
from deploy.parity.probes import Probe
from deploy.parity.tally import Tally
from deploy.parity.verdict import ParityReport


class Candidate(Protocol):
    """A runner that works while the reference is computed, such as `deploy.core.isolated.IsolatedRunner`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


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
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> ParityReport:
    """Judge a candidate against the model in float64 and PyTorch's own run in the candidate's precision.

    Probes have the model's input names; ``rename`` gives the candidate's where they differ. ``chooser`` compares the
    discrete choices behind the outputs. ``perturbed`` is PyTorch's own run with other roundings, for networks that may
    amplify them. ``advance`` is called after every probe with the number of probes done, their total, and the label of
    the probe.

    Raises:
        BackendError: the model itself cannot be run.
        BackendCrashedError: the candidate's process died.
    """
    tally = Tally(precision=precision, chooser=chooser, perturbed=perturbed)
    names = rename or {}
    for index, probe in enumerate(probes):
        candidate.submit({names.get(name, name): value for name, value in probe.feeds.items()})
        expected, own = reference.run(probe.feeds), baseline.run(probe.feeds)
        try:
            outputs = candidate.result()
        except BackendCrashedError:
            raise
        except BackendError as exc:
            where = ", ".join(f"{name} {size}" for name, size in probe.sizes.items()) or probe.label
            tally.errors[where] = exc.message
        else:
            tally.add(probe, expected, own, outputs)
        advance(index + 1, len(probes), probe.label)
    verdict, reasons, judged = tally.conclude(probes)
    symbols = probes[0].sizes if probes else ()
    return ParityReport(
        verdict=verdict,
        reasons=reasons,
        precision=precision,
        outputs=judged,
        dynamic={name: tuple(sorted({probe.sizes[name] for probe in probes})) for name in symbols},
        probes=len(probes),
        samples=max((item.samples for item in tally.accumulated.values()), default=0),
        seed=seed,
        notes=tuple(dict.fromkeys(tally.notes)),
    )
