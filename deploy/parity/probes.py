"""Probes: seeded inputs of several kinds, at several sizes of every dynamic dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import UsageError
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import SizeRange, TensorSpec, size_ranges, symbols
from deploy.parity.kinds import GROUPS, SAFE_MASKS, Domain, Rng, domain_of, draw
from deploy.parity.sizes import BATCH, other_sizes

Level = Literal["quick", "standard", "thorough", "data"]
LEVELS = ("quick", "standard", "thorough")
"""How many probes a parity check runs."""

DATA = "data"
"""In place of a level: real samples only."""

MAX_REAL_SAMPLES = 16
"""Maximum number of real samples that are probed."""

SPOT_SAMPLES = 4
"""Number of samples that `probes_at` draws for one combination of sizes."""

POOL: Mapping[str, tuple[str, ...]] = {
    "quick": ("normal", "normal", "uniform", "zeros", "picture", "negative", "large", "large"),
    "standard": (
        *("normal", "normal", "uniform", "picture", "normalized", "constant"),
        *("zeros", "tiny", "positive", "negative", "large", "large"),
    ),
}
"""Kinds of the samples that all calls are made of; one normal sample of a fresh seed is added."""

BATCHES: Mapping[str, tuple[int, ...]] = {
    "quick": (2, 3, 5),
    "standard": (2, 3, 4, 5, 8, 13),
    "thorough": (2, 3, 4, 5, 6, 7, 8, 13, 16, 33),
    DATA: (1, 2, 3, 5, 8, 13),
}
"""Batch sizes, for seeded samples in addition to 1."""

DEPENDENT = (2, 3, 5, 8)
"""Batch sizes that are also run where the model mixes samples, so that every call needs a reference of its own. An
order of few samples is often its own inverse, so one batch is larger."""

ALL_POSITIVE = (2, 4, 8)
"""Sizes of batches that are made of `POSITIVE` kinds alone."""

POSITIVE = ("uniform", "picture", "constant", "bytes")
"""Kinds that are never negative."""

NEGATED = ("uniform", "picture", "normalized")
"""Kinds that are also run negated where a graph was traced."""

Sharing = Literal["any", "rows", "calls"]


@dataclass(frozen=True, slots=True)
class SamplePool:
    """Distinct samples of one shape, stacked on the first axis of every input, which all calls of a group are made of.

    The float64 outputs of a model that treats samples independently are computed once a sample, in chunks.
    """

    feeds: Feeds
    count: int
    _chunks: dict[tuple[int, int], Feeds] = field(default_factory=dict)

    def chunk(self, start: int, size: int) -> Feeds:
        """Return some consecutive samples; the same object for equal arguments."""
        key = (start, min(size, self.count - start))
        if key not in self._chunks:
            self._chunks[key] = {name: value[start : start + size] for name, value in self.feeds.items()}
        return self._chunks[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The inputs of one call of the model.

    Attributes:
        label: name for messages.
        groups: the group of each sample, or of the whole call where samples are not counted; see
            `deploy.parity.kinds.GROUPS`, and ``real``. Each group is judged separately.
        sizes: sizes of the dynamic dimensions.
        feeds: arrays by input name.
        samples: number of samples, which the first axis of every input counts; None where no axis is known to.
        pool: the samples that the call is made of; None if it shares none with other calls.
        members: positions of its samples in the pool.
        sharing: ``rows``: only for a model that treats samples independently; ``calls``: only for one that does not.
    """

    label: str
    groups: tuple[str, ...]
    sizes: Mapping[str, int]
    feeds: Feeds
    samples: int | None = None
    pool: SamplePool | None = None
    members: tuple[int, ...] = ()
    sharing: Sharing = "any"

    @property
    def values(self) -> int:
        """Number of values of all inputs."""
        return sum(value.size for value in self.feeds.values())


def make_probes(
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    samples: Fetches | None = None,
    negated: bool = False,
    domains: Mapping[str, Domain] | None = None,
    fresh: int | None = None,
    level: str = "standard",
) -> list[Probe]:
    """Make the probes of a parity check, in a fixed order.

    Args:
        inputs: symbolic dimensions are probed at several sizes within their ranges.
        sizes: those of the example inputs.
        seed: seed of the random values.
        samples: real samples by name of the input, first axis samples; probed in addition.
        negated: add negated inputs of ordinary amplitude: a traced graph may contain only one branch of the model's
            control flow, and the sign of an input often decides the branch of a whole call.
        domains: values of the inputs, where more is known than their specifications say.
        fresh: seed of one more sample, such as a digest of the file: a file cannot be right for one seed only.
        level: one of `LEVELS`, or ``data`` for the real samples only.
    """
    drawn = _Draw(inputs, sizes, seed, fresh, level, domains or {})
    probes = [] if level == DATA else drawn.probes(negated)
    if samples is not None:
        probes.extend(_real(inputs, drawn.base, samples, BATCHES[DATA] if level == DATA else (1,)))
    return probes


def check_level(level: str, has_samples: bool) -> None:
    """Refuse an unknown level, and ``data`` without samples.

    Raises:
        UsageError: see above.
    """
    if level not in (*LEVELS, DATA):
        raise UsageError(f"--probes {level}: not one of {', '.join((*LEVELS, DATA))}.")
    if level == DATA and not has_samples:
        raise UsageError("--probes data needs samples.", "add --data PATH")


def can_negate(inputs: Sequence[TensorSpec]) -> bool:
    """Return whether any input is a float without bounds, so that it may be negative."""
    return any(domain_of(spec).signed for spec in inputs)


def sample_axis(inputs: Sequence[TensorSpec]) -> str | None:
    """Return the symbol that counts samples: ``batch``, or else the first dimension of every input; None if none."""
    leading = {spec.shape[0] if spec.shape else None for spec in inputs}
    name = leading.pop() if len(leading) == 1 else None
    if not isinstance(name, str) or any(name in spec.shape[1:] for spec in inputs):
        return None
    return name if name == BATCH or BATCH not in symbols(inputs) else None


def probes_at(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, seed: int = 0) -> list[Probe]:
    """Make probes of ordinary amplitude at one combination of sizes, with `SPOT_SAMPLES` samples or one batch."""
    count = sizes.get(BATCH, 1)
    domains = {spec.name: dataclasses.replace(domain_of(spec), patterns=SAFE_MASKS) for spec in inputs}
    drawn = _Draw(inputs, sizes, seed, None, "standard", domains)
    kinds = [("normal", "uniform")[index % 2] for index in range(count)]
    return [
        dataclasses.replace(drawn.call(kinds, sizes), label=f"probe {call}")
        for call in range(-(-SPOT_SAMPLES // count))
    ]


def make_probe(
    inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, seed: int, domains: Mapping[str, Domain]
) -> Probe:
    """Make one probe of ordinary amplitude at one combination of sizes."""
    drawn = _Draw(inputs, sizes, seed, None, "standard", domains)
    return drawn.call(("normal", "uniform"), drawn.base)


class _Draw:
    """Draws probes of one set of inputs."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        sizes: Mapping[str, int],
        seed: int,
        fresh: int | None,
        level: str,
        domains: Mapping[str, Domain],
    ) -> None:
        self.inputs, self.level = inputs, level
        self.domains = {spec.name: domains.get(spec.name) or domain_of(spec) for spec in inputs}
        self.rng = np.random.default_rng(seed)
        self.fresh = self.rng if fresh is None else np.random.default_rng(fresh)
        self.base = {symbol: sizes.get(symbol, 2) for symbol in symbols(inputs)}
        self.axis = sample_axis(inputs)
        self.turn = 0
        self.signed = any(domain.signed for domain in self.domains.values())
        self.real = any(domain.role in ("floats", "bytes") for domain in self.domains.values())

    def probes(self, negated: bool) -> list[Probe]:
        """Return all probes but the real samples."""
        allowed = size_ranges(self.inputs).get(str(self.axis))
        pooled = allowed is not None and allowed.allows(1)
        found = self._pooled(allowed, negated) if pooled and allowed is not None else []
        if not pooled or self.axis != BATCH:
            found += self._alike(negated, "calls" if pooled else "any")
        moving = [symbol for symbol in self.base if symbol != BATCH or not pooled]
        for place, at in enumerate(other_sizes(self.inputs, self.base, moving, self.level)):
            batch = {BATCH: 1 if place == 1 else 2} if pooled and self.axis == BATCH else {}
            found.append(self.call(("normal", "uniform"), {**self.base, **at, **batch}))
        return found

    def kinds(self) -> list[str]:
        """Return the kinds of the samples that these inputs can have; the last one is of the fresh seed."""
        if not self.real:
            return ["normal"] * len(POOL["quick" if self.level == "quick" else "standard"])
        pixels = any(domain.pixels for domain in self.domains.values())
        wanted = [*POOL["quick" if self.level == "quick" else "standard"], *(("bytes", "bytes") if pixels else ())]
        known = wanted if self.signed else [kind for kind in wanted if kind not in ("large", "normalized")]
        return [*(known * 2 if self.level == "thorough" else known), "normal"]

    def call(self, kinds: Sequence[str], at: Mapping[str, int], rng: Rng | None = None) -> Probe:
        """Return one call with values of its own: a kind a sample, or all of the first kind."""
        counted = self.axis == BATCH
        if counted:
            kinds = [kinds[index % len(kinds)] for index in range(at[BATCH])]
            feeds = self._samples(kinds, at, rng or self.rng)
            for spec in self.inputs:
                spec.concrete(at)  # refuses sizes that a range excludes
        else:
            kinds = kinds[:1]
            feeds = {
                spec.name: self._values(spec, kinds[0], spec.concrete(at), rng or self.rng) for spec in self.inputs
            }
            self.turn += 1
        return Probe(
            label=_label(kinds, at),
            groups=tuple(GROUPS[kind] for kind in kinds),
            sizes=dict(at),
            feeds=feeds,
            samples=len(kinds) if counted else None,
        )

    def _values(self, spec: TensorSpec, kind: str, shape: tuple[int, ...], rng: Rng) -> np.ndarray:
        return draw(spec, self.domains[spec.name], kind, self.turn, shape, rng)

    def _samples(self, kinds: Sequence[str], at: Mapping[str, int], rng: Rng) -> Fetches:
        rows: dict[str, list[np.ndarray]] = {spec.name: [] for spec in self.inputs}
        for kind in kinds:
            for spec in self.inputs:
                shape = tuple(at[dim] if isinstance(dim, str) else dim for dim in spec.shape[1:])
                rows[spec.name].append(self._values(spec, kind, shape, rng))
            self.turn += 1
        return {name: np.stack(values) for name, values in rows.items()}

    def _negative(self, feeds: Feeds) -> Fetches:
        return {name: -value if self.domains[name].signed else value for name, value in feeds.items()}

    def _pooled(self, allowed: SizeRange, negated: bool) -> list[Probe]:
        """Return calls on one pool of samples: every kind alone, and batches of all sizes."""
        kinds = self.kinds()
        parts = [self._samples(kinds[:-1], self.base, self.rng), self._samples(kinds[-1:], self.base, self.fresh)]
        labels = [*kinds[:-1], "fresh"]
        if negated and self.signed:
            flipped = [labels.index(kind) for kind in NEGATED if kind in labels]
            parts.append(self._negative({name: value[flipped] for name, value in parts[0].items()}))
            labels += [f"negative {kinds[index]}" for index in flipped]
            kinds += [kinds[index] for index in flipped]
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        pool = SamplePool(feeds=values, count=len(kinds))
        always: Sharing = "any" if self.axis == BATCH else "rows"

        def add(members: Sequence[int], sharing: Sharing) -> Probe:
            chosen = list(members)
            at = {**self.base, str(self.axis): len(chosen)}
            return Probe(
                label=_label([labels[index] for index in chosen], at),
                groups=tuple(GROUPS[kinds[index]] for index in chosen),
                sizes=at,
                feeds={name: value[chosen] for name, value in values.items()},
                samples=len(chosen),
                pool=pool,
                members=tuple(chosen),
                sharing=sharing,
            )

        usual = [index for index, label in enumerate(labels) if self.real and label in labels[:index]]
        repeated = {index for index in usual if GROUPS[kinds[index]] == "unit"}
        alone = [1, *(index for index in range(len(kinds)) if index != 1 and index not in repeated)]
        probes = [add([index], always) for index in alone]
        positive = [index for index, label in enumerate(labels) if label in POSITIVE]
        ordinary = [index for index, label in enumerate(labels) if label != "large"]
        for size in filter(allowed.allows, BATCHES[self.level]):
            among = positive if size in ALL_POSITIVE and positive else ordinary
            members = [among[(index + size) % len(among)] for index in range(size)]
            probes.append(add(members, always if size in DEPENDENT else "rows"))
        # batches with one pattern of a mask: a model may treat a batch that is padded at the end in its own way
        masks = [len(domain.patterns) for domain in self.domains.values() if domain.role == "mask"]
        for turn in range(min(masks, default=0)):
            members = list(range(turn, len(kinds), masks[0]))[:3]
            probes += [add(members, always)] if allowed.allows(len(members)) else []
        return probes

    def _alike(self, negated: bool, sharing: Sharing) -> list[Probe]:
        """Return calls of a single kind at the traced sizes, for models without an axis of samples."""
        kinds = self.kinds()
        for kind in [kind for kind in ("normal", "picture") if self.real and kinds[:-1].count(kind) > 1]:
            kinds.remove(kind)
        probes = [self.call((kind,), self.base) for kind in kinds[:-1]]
        probes.append(self.call(kinds[-1:], self.base, self.fresh))
        if negated and self.signed:
            for kind in NEGATED:
                probe = next((item for item in probes if item.label.startswith(kind)), None)
                if probe is not None:
                    label = f"negative {probe.label}"
                    probes.append(dataclasses.replace(probe, label=label, feeds=self._negative(probe.feeds)))
        return [dataclasses.replace(probe, sharing=sharing) for probe in probes]


def _label(kinds: Sequence[str], at: Mapping[str, int]) -> str:
    where = ", ".join(f"{name} {size}" for name, size in at.items()) or "fixed sizes"
    return f"{'+'.join(dict.fromkeys(kinds))} at {where}"


def _rows(values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    """Return some samples; a value without dimensions is that of every sample."""
    return values[start:stop] if values.ndim else values


def _real(
    inputs: Sequence[TensorSpec], base: Mapping[str, int], samples: Fetches, batches: Sequence[int]
) -> list[Probe]:
    """Probe at most `MAX_REAL_SAMPLES` samples: in batches of four, or of the fixed batch size, and of ``batches``."""
    first = next(spec.shape[0] for spec in inputs if spec.shape)
    count = min(MAX_REAL_SAMPLES, *(len(value) for value in samples.values() if value.ndim))
    feeds = {spec.name: _rows(samples[spec.name], 0, count).astype(spec.dtype) for spec in inputs}
    sizes = {dim: size for spec in inputs for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)}
    at = {**base, **{dim: size for dim, size in sizes.items() if isinstance(dim, str)}}
    axis = sample_axis(inputs)
    pool = SamplePool(feeds=feeds, count=count) if axis else None
    if isinstance(first, int):
        parts = [range(start, start + first) for start in range(0, count - first + 1, first)]
    else:
        parts = [range(min(size, count)) for size in batches]
        parts += [range(start, min(start + 4, count)) for start in range(0, count, 4)]
    return [
        Probe(
            label=f"samples {part[0]} to {part[-1]}",
            groups=("real",) * len(part),
            sizes={**at, first: len(part)} if isinstance(first, str) else at,
            feeds={name: _rows(value, part.start, part.stop) for name, value in feeds.items()},
            samples=len(part) if axis == BATCH else None,
            pool=pool,
            members=tuple(part),
        )
        for part in dict.fromkeys(parts)
    ]
