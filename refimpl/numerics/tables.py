"""Lookup tables: the shipped ones, and code tables filled at lowering (SPEC B-6, F-1, F-2, T-4)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.numerics.jit import kernel
from refimpl.numerics.rounding import saturate
from refimpl.numerics.transcendental import sigmoid64, tanh64

FOLDER = Path(__file__).resolve().parent / "tables"
SIGMOID, TANH = 0, 1
Array = np.ndarray[Any, np.dtype[Any]]


@cache
def shipped(name: str) -> Array:
    """A shipped table, read-only: ``sigmoid_bf16``, ``tanh_bf16``, ``twiddle_q30`` or ``hann_q30``."""
    table: Array = np.load(FOLDER / f"{name}.npy")
    table.flags.writeable = False
    return table


@kernel
def _fill(function, low, in_scale, in_zero, out_inverse, out_zero, out_low, out_high, table):
    for index in range(table.size):
        x = np.float64(np.int64(low) + index - np.int64(in_zero)) * in_scale
        y = sigmoid64(x) if function == SIGMOID else tanh64(x)
        scaled = min(max(y * out_inverse, -(2.0**40)), 2.0**40)  # far beyond any code, and an integer in every machine
        table[index] = saturate(np.int64(np.rint(scaled)) + np.int64(out_zero), out_low, out_high)


def code_table(
    function: int, bits: int, scale: float, zero_point: int, out_bits: int, out_scale: float, out_zero_point: int
) -> Array:
    """``table[q - qmin] = saturate(round_half_even(f((q - zp) * scale) / out_scale) + out_zp)``, all in FP64 (SPEC T-4).

    256 or 65,536 entries, int8 or int16; codes are signed. The reciprocal of ``out_scale`` is rounded to FP64 once.
    """
    table = np.empty(1 << bits, np.int8 if out_bits == 8 else np.int16)
    half = 1 << (out_bits - 1)
    low = -(1 << (bits - 1))
    _fill(function, low, scale, zero_point, 1.0 / out_scale, out_zero_point, -half, half - 1, table)
    return table
