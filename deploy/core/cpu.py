"""Kinds of CPUs, by how they add products of INT8 values.

CPUs with VNNI or its like add them in 32 bits. Others multiply two pairs of uint8 and int8 and add both products in 16
bits, which saturates (``vpmaddubsw``): with weights of eight bits, layers answer wrongly and nothing reports it. With
weights of seven bits, no sum can be too large.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from deploy.core.environment import cpu_features

WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "amx_int8"})
"""Features of CPUs that add INT8 products in 32 bits."""

CPUS: Mapping[str, frozenset[str]] = {"avx2": frozenset({"avx2"}), "vnni": frozenset({"avx512_vnni"})}
"""Kinds of CPUs that an INT8 file can be made for, and features of each: without and with one of `WIDE_SUMS`."""


def saturates(features: Collection[str]) -> bool:
    """Return whether a CPU with these features saturates sums of INT8 products."""
    return WIDE_SUMS.isdisjoint(features)


def this_cpu() -> str:
    """Return the kind of this machine's CPU; ``avx2``, which is right everywhere, if its features are not known."""
    return "avx2" if saturates(cpu_features()) else "vnni"


def unfit(cpu: object) -> str:
    """Return why an INT8 file for a kind of CPU is wrong on this machine, or ''."""
    known = cpu_features()
    if cpu == "vnni" and known and saturates(known):
        return "made for CPUs with VNNI, and this one has none: sums of its INT8 products saturate here"
    return ""
