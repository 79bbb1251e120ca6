"""The random numbers of the vectors: SplitMix64, in integers only, so that no library's stream can change a byte.

Word ``k`` of seed ``s`` (both 64 bits, all arithmetic modulo 2^64)::

    z = s + (k + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    word = z ^ (z >> 31)

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
GAMMA, MIX_1, MIX_2 = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Integers:
    """A stream of words; the same seed gives the same stream on every machine."""

    def __init__(self, seed: int) -> None:
        self.seed, self.used = np.uint64(seed), 0

    def words(self, count: int) -> Array:
        """The next ``count`` words, uint64."""
        index = np.arange(self.used + 1, self.used + count + 1, dtype=np.uint64)
        self.used += count
        z = self.seed + index * GAMMA
        z = (z ^ (z >> np.uint64(30))) * MIX_1
        z = (z ^ (z >> np.uint64(27))) * MIX_2
        out: Array = z ^ (z >> np.uint64(31))
        return out

    def between(self, low: int, high: int, shape: tuple[int, ...] | int, dtype: Any = np.int64) -> Array:
        """Integers in [low, high]: ``low + ((word >> 32) * (high - low + 1) >> 32)``; high - low < 2^32."""
        shape = (shape,) if isinstance(shape, int) else shape
        span = np.uint64(high - low + 1)
        high_half = self.words(int(np.prod(shape, dtype=np.int64))) >> np.uint64(32)
        scaled = (high_half * span) >> np.uint64(32)
        out: Array = (scaled.astype(np.int64) + low).reshape(shape).astype(dtype)
        return out

    def fractions(self, shape: tuple[int, ...] | int, scale: float = 1.0) -> Array:
        """FP32 in [-scale, scale): 24-bit integers times a power of two times ``scale``; exact where scale is one."""
        whole = self.between(-(1 << 23), (1 << 23) - 1, shape)
        out: Array = (whole.astype(np.float64) * 2.0**-23 * scale).astype(np.float32)
        return out
