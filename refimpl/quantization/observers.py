"""Observers: from the values that a tensor took in calibration to a range for 8 or 16 bits.

An observer counts every value by its BF16 pattern (the upper half of its FP32 word), so that what it finds does not depend on
how the values were cut up or ordered, and rare large values, which ranges are about, are never missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from refimpl.quantization.scheme import activation_format

Array = np.ndarray[Any, np.dtype[Any]]
METHODS = ("minmax", "percentile", "mse")

# What a clipped value's squared error counts, in rounded ones': a saturated peak is wrong in one direction, together with its
# neighbours, and the layers behind it make more of that than of the noise of rounding. Chosen among 1, 4, 16 and 64 by the
# SI-SDR improvement of the shipped network's presets (weights/HISTORY.md).
CLIPPED = 16.0

_PATTERNS = np.concatenate([np.arange(0xFF7F, 0x7FFF, -1), np.arange(0x7F80)])  # all finite values, ascending
# The middle of each pattern's values.
_VALUES = (_PATTERNS.astype(np.uint32) << 16 | 0x8000).view(np.float32).astype(np.float64)


class Observer:
    """The extremes of all values seen, and how many there were of each BF16 pattern."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self._counts = np.zeros(1 << 16, np.int64)

    def see(self, values: Array) -> None:
        """Count ``values``, float32 of any shape."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if len(flat):
            self.low = float(np.minimum(self.low, flat.min()))  # not min(): a NaN must stay one
            self.high = float(np.maximum(self.high, flat.max()))
            self._counts += np.bincount(flat.view(np.uint32) >> 16, minlength=1 << 16)

    @classmethod
    def of_all(cls, others: Iterable[Observer]) -> Observer:
        """One that has seen what all ``others`` have."""
        found = cls()
        for other in others:
            found.low, found.high = float(np.minimum(found.low, other.low)), float(np.maximum(found.high, other.high))
            found._counts += other._counts
        return found

    def range(self, method: str, bits: int) -> tuple[float, float]:
        """The range [low, high] for ``bits`` bits, which holds zero and lies within the extremes.

        ``minmax``: all values seen. ``percentile``: 0.01% cut off each side. ``mse``: the least squared error, rounding counted
        as scale^2 / 12 a value and clipping as ``CLIPPED`` times its square, among the 64ths of the extremes of either side.
        """
        counts = self._counts[_PATTERNS]
        if method == "minmax" or not counts.any() or not np.isfinite([self.low, self.high]).all():
            return self.low, self.high
        there = counts > 0
        counts, values = counts[there], np.maximum(np.minimum(_VALUES[there], self.high), self.low)
        if method == "percentile":
            cut = int(counts.sum()) // 10_000
            low, high = values[counts.cumsum() > cut][0], values[counts[::-1].cumsum()[::-1] > cut][-1]
            return min(float(low), 0.0), max(float(high), 0.0)
        low, high = self.low, self.high
        for _ in range(2):  # one side, then the other, twice: the error is smooth in each
            low = min((self.low * k / 64 for k in range(64, 3, -1)), key=lambda side: _cost(values, counts, side, high, bits))
            high = min((self.high * k / 64 for k in range(64, 3, -1)), key=lambda side: _cost(values, counts, low, side, bits))
        return low, high


def _cost(values: Array, counts: Array, low: float, high: float, bits: int) -> float:
    """The squared error of all values in the range [low, high], as :meth:`Observer.range` counts it."""
    beyond = np.maximum(values - high, 0.0) + np.minimum(values - low, 0.0)
    rounded = counts[beyond == 0].sum() * activation_format(low, high, bits).scale ** 2 / 12
    return float(rounded + CLIPPED * (counts * beyond**2).sum())
