"""Accumulator to output code: every requantization law of every profile, by number (SPEC G-2, G-3, G-6, G-7, Q-9).

A law is data: a profile's table names it, the lowering fills a :class:`Requantizer` with per-channel constants, and the
operators call :func:`requantize` without knowing which law it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refimpl.numerics.bfloat16 import bf16_encode
from refimpl.numerics.jit import inline
from refimpl.numerics.rounding import doubling_high_half_up, saturate, shift_half_away, shift_half_up

LAW_FOLDED = 0  # (acc * M + B) >> n : bias, output zero point and rounding constant all inside B
LAW_NORM_TWICE = 1  # norm(norm(acc + bias, p) * M, n - p), the zero point added after
LAW_BF16 = 2  # bf16(fp32(acc + bias) * scale)
LAW_RAW = 3  # acc + bias, int32: what a trace or a vector shows before the law
LAW_DOUBLE = 4  # doubling high product, half up; then the right shift, half away from zero
LAW_SINGLE = 5  # (acc + bias) * M / 2^n rounded half up, once, in 64 bits
LAW_NAMES = ("folded", "norm_twice", "bf16", "raw", "double", "single")


class Requantizer(NamedTuple):
    """Constants of one step's requantization; one entry per output channel in each array."""

    law: int
    pre_shift: int  # p of LAW_NORM_TWICE
    lowest: int  # saturation bounds before ``offset`` (a fused ReLU raises ``lowest`` to the zero point)
    highest: int
    offset: int  # added last: -128 from the device's unsigned code to the stored one; the zero point where it is not folded
    bias: np.ndarray[Any, np.dtype[np.int32]]
    multiplier: np.ndarray[Any, np.dtype[np.int32]]
    addend: np.ndarray[Any, np.dtype[np.int64]]  # B of LAW_FOLDED
    shift: np.ndarray[Any, np.dtype[np.int32]]
    scale: np.ndarray[Any, np.dtype[np.float32]]  # of LAW_BF16


@inline
def scale_by(value, multiplier, shift, law):
    """``value * M / 2^n`` by LAW_DOUBLE (SPEC G-6) or LAW_SINGLE (SPEC G-7); no zero point, no saturation to a code.

    LAW_DOUBLE: value * 2^max(31 - n, 0) fits int32 by proof. LAW_SINGLE: |value| < 2^31, M < 2^31, n <= 62, all in int64.
    """
    if law == LAW_SINGLE:
        return shift_half_up(np.int64(value) * np.int64(multiplier), shift)
    left, right = max(31 - np.int64(shift), np.int64(0)), max(np.int64(shift) - 31, np.int64(0))
    return shift_half_away(doubling_high_half_up(np.int64(value) << left, multiplier), right)


@inline
def requantize(accumulator, channel, rq):
    """One accumulator (int32, bias not yet added) to one stored code or BF16 pattern, int64 (SPEC G-2, G-3, G-6, G-7, Q-9)."""
    acc = np.int64(accumulator)
    if rq.law == LAW_BF16:
        total = np.float32(np.int32(acc + np.int64(rq.bias[channel])))
        return np.int64(bf16_encode(total * rq.scale[channel]))
    if rq.law == LAW_RAW:
        return acc + np.int64(rq.bias[channel])
    if rq.law == LAW_FOLDED:
        value = (acc * np.int64(rq.multiplier[channel]) + rq.addend[channel]) >> np.int64(rq.shift[channel])
    elif rq.law == LAW_DOUBLE or rq.law == LAW_SINGLE:
        value = scale_by(acc + np.int64(rq.bias[channel]), rq.multiplier[channel], rq.shift[channel], rq.law)
    else:
        value = shift_half_up(acc + np.int64(rq.bias[channel]), rq.pre_shift)
        value = shift_half_up(value * np.int64(rq.multiplier[channel]), rq.shift[channel] - rq.pre_shift)
    return saturate(value, rq.lowest, rq.highest) + np.int64(rq.offset)
