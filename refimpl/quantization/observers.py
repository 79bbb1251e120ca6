"""Observers: from the values that a tensor took in calibration to a range for 8 or 16 bits.

An observer sees float values in pieces and keeps the extremes and a bounded, deterministic sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.quantization.scheme import activation_format, fake_quantize

Array = np.ndarray[Any, np.dtype[Any]]
METHODS = ("minmax", "percentile", "mse")
SAMPLE = 1 << 16


class Observer:
    """The extremes of all values seen, and every ``stride``-th value, the stride doubling when the sample is full."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self._stride, self._offset = 61, 0
        self._parts: list[Array] = []
        self._held = 0

    def see(self, values: Array) -> None:
        flat = values.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        part = flat[self._offset :: self._stride].astype(np.float64)
        self._offset = (self._offset - len(flat)) % self._stride
        self._parts.append(part)
        self._held += len(part)
        if self._held > SAMPLE:
            kept = np.concatenate(self._parts)[::2]
            self._parts, self._held, self._stride = [kept], len(kept), self._stride * 2

    def range(self, method: str, bits: int) -> tuple[float, float]:
        """``minmax``: all values seen. ``percentile``: 0.01% cut off each side. ``mse``: the shrunk range whose quantization
        has the least mean squared error on the sample, searched over 16 steps per side down to 30% of the extremes."""
        if method == "minmax" or self._held == 0:
            return self.low, self.high
        sample = np.concatenate(self._parts)
        if method == "percentile":
            low, high = np.percentile(sample, [0.01, 99.99])
            return min(float(low), 0.0), max(float(high), 0.0)
        low, high = self.low, self.high
        for _ in range(2):  # one side, then the other, twice: the error is smooth in each
            low = self._best(sample, bits, [(self.low * k / 20, high) for k in range(6, 21)])[0]
            high = self._best(sample, bits, [(low, self.high * k / 20) for k in range(6, 21)])[1]
        return low, high

    @staticmethod
    def _best(sample: Array, bits: int, choices: list[tuple[float, float]]) -> tuple[float, float]:
        errors = []
        for low, high in choices:
            difference = fake_quantize(sample, activation_format(low, high, bits)) - sample
            errors.append(float(np.mean(difference * difference)))
        # Of equal errors the widest range: it saturates least on what was not seen.
        best = min(errors)
        return choices[max(i for i, error in enumerate(errors) if error == best)]
