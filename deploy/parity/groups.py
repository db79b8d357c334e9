"""How each group of probes is judged."""

from __future__ import annotations

from dataclasses import dataclass

UNIT = "unit"
"""The group of ordinary inputs. It lends its signal to the others, and a comparison that it does not allow is
inconclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPolicy:
    """Rules for one group of probes.

    Attributes:
        envelope: how many times the rounding error of PyTorch's own run a candidate may have.
        gross: noise-to-signal ratio below which noise does not fail the group.
        steady: own noise-to-signal ratio of PyTorch above which noise does not fail the group.
        magnitude: the output's own magnitude counts as signal too.
        decides: an inconclusive comparison makes the verdict inconclusive.
        lenient: choices and integers do not count.
    """

    envelope: float = 4.0
    gross: float = 0.0
    steady: float = 1.0
    magnitude: bool = False
    decides: bool = False
    lenient: bool = False


ORDINARY = GroupPolicy()
"""Rules for groups that are not named in `POLICIES`."""

AMPLIFIED = 3e-5
"""Noise-to-signal ratio of PyTorch's own run, 500 roundings of float32, above which a network amplifies rounding."""

POLICIES = {
    UNIT: GroupPolicy(decides=True),
    "real": GroupPolicy(decides=True),
    # Every position has the same rounding error, which sums over positions do not average out, so two correct
    # implementations differ by more (7.5 times on regnet_y_128gf at 384²). Normalization divides the error of a
    # constant by a variance of 0, so small errors do not count.
    "constant": GroupPolicy(envelope=32.0, gross=1e-3, steady=AMPLIFIED, magnitude=True),
    # What varies is tiny beside what the biases make of every position, so this is like a constant: the rounding of a
    # folded weight counts at every position (11 times on a correct fasterrcnn_mobilenet_v3_large_320_fpn). Where a
    # network amplifies rounding, few values make up most of the noise, and the limit is passed by chance (a correct
    # fasterrcnn_mobilenet_v3_large_fpn, by one side of one box).
    "tiny": GroupPolicy(envelope=32.0, steady=AMPLIFIED),
    # Far outside the range it was trained on, a gated network can amplify rounding by any factor (correct exports of
    # EfficientNets: PyTorch's own run 7e-6, ONNX Runtime 1.5), so only gross errors on steady networks count.
    "large": GroupPolicy(envelope=32.0, gross=0.1, steady=1e-3, lenient=True),
    # Further from zero than gates were made for, rounding counts for more, and some networks amplify it.
    "shifted": GroupPolicy(envelope=8.0, steady=1e-3),
    # Inputs that were searched for, where rounding may count for more (a correct export of MobileNet v3: 8 times).
    "directed": GroupPolicy(envelope=32.0, gross=0.1, steady=1e-3, magnitude=True, lenient=True),
}


def policy(group: str) -> GroupPolicy:
    """Return the rules for a group."""
    return POLICIES.get(group, ORDINARY)
