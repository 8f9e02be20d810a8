"""Seeds that depend on what they are for, and on nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


def hash_name(name: str) -> int:
    """A number that depends on the name alone (Python's own hash differs between processes)."""
    value = 0
    for byte in name.encode():
        value = (value * 131 + byte) % 2**61
    return value


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look random of numbers that do not: SplitMix64 (Steele et al. 2014,
    doi:10.1145/2660193.2660195)."""
    x = words * np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
