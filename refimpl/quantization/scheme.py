"""Scales, zero points, multipliers: the float64 functions of lowering (SPEC Q-1, Q-2, Q-10, G-1).

Pure Python and NumPy float64 with only + - x /, rint, floor and frexp: the same constants on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl.errors import InputError
from refimpl.program import Format

Array = np.ndarray[Any, np.dtype[Any]]


def activation_format(low: float, high: float, bits: int) -> Format:
    """Asymmetric per-tensor format of the range [low, high], widened to hold zero (SPEC Q-1).

    ``scale = (high - low) / (2^bits - 1)``; unsigned zero point ``round_half_even(-low / scale)``, stored minus
    ``2^(bits - 1)``. An empty range (nothing but zero was seen) has scale 2^-bits and the unsigned zero point 0.
    """
    if not math.isfinite(high - low) or low > high:
        raise InputError(f"activation range [{low}, {high}] is not a range: calibrate again on finite audio")
    low, high = min(low, 0.0), max(high, 0.0)
    kind = {8: "int8", 16: "int16"}[bits]
    if high - low < 2.0**-60:
        return Format(kind, 2.0**-bits, -(1 << (bits - 1)))
    scale = (high - low) / float((1 << bits) - 1)
    return Format(kind, scale, int(np.rint(-low / scale)) - (1 << (bits - 1)))


def quantize_weights(weight: Array, axis: int, smallest: Array | float = 0.0) -> tuple[Array, Array]:
    """Symmetric INT8 codes and scales per output channel: ``d = max|w| / 127``, ``q = round_half_even(w / d)`` (SPEC Q-2).

    weight float [...]; returns int8 codes of the same shape in [-127, 127] and float64 scales [shape[axis]]. d is at least
    ``smallest`` (per channel or for all), below which the profile could not shift; an all-zero channel has d = 1, zero codes.
    """
    moved = np.moveaxis(weight.astype(np.float64), axis, 0)
    largest = np.abs(moved.reshape(len(moved), -1)).max(1)
    scale = np.where(largest > 0, np.maximum(largest / 127.0, smallest), 1.0)
    codes = np.rint(moved / scale.reshape(-1, *[1] * (moved.ndim - 1)))
    return np.ascontiguousarray(np.moveaxis(codes, 0, axis).astype(np.int8)), scale


def fake_quantize(values: Array, form: Format) -> Array:
    """``dequantize(quantize(x))`` in float64 (SPEC Q-4, Q-6 without FP32): for observers and for judging ranges."""
    codes = np.clip(np.rint(values / form.scale) + form.zero_point, form.lowest, form.highest)
    result: Array = (codes - form.zero_point) * form.scale
    return result


def frexp_multiplier(ratio: float, bits: int, largest_shift: int) -> tuple[int, int]:
    """``ratio ~ M / 2^n`` by the SDK's search (SPEC G-1): M of at most ``bits`` bits, odd or 1, n <= ``largest_shift``.

    ``mantissa, exponent = frexp(ratio)``; ``M = floor(mantissa * 2^b + 1/2)``, ``n = b - exponent``; while b > 0 and (M is
    even, M = 2^b, or n > largest_shift) b is one less; but an M that fits stays where n = 0. n may come out negative, or too
    large at b = 0: the caller judges.
    """
    mantissa, exponent = math.frexp(ratio)
    b = bits
    while True:
        multiplier = math.floor(mantissa * 2.0**b + 0.5)
        shift = b - exponent
        final = b == 0 or (shift == 0 and multiplier < 1 << bits)
        if final or not (multiplier % 2 == 0 or multiplier == 1 << b or shift > largest_shift):
            return multiplier, shift
        b -= 1


def largest_multipliers(ratios: tuple[float, ...], bounds: tuple[int, ...], what: str) -> tuple[tuple[int, ...], int]:
    """Common-shift multipliers ``M_i = round_half_even(ratio_i * 2^n)`` with the largest n <= 30 that int32 takes (SPEC Q-10).

    The bound proven: ``sum M_i * bound_i + 2^(n - 1) < 2^31``, ``bound_i`` the largest magnitude that M_i multiplies. Refused
    where a multiplier is off by more than 1/64 of its ratio and by more than half a code at full scale.
    """
    for n in range(30, -1, -1):
        multipliers = tuple(int(np.rint(ratio * 2.0**n)) for ratio in ratios)
        total = sum(m * bound for m, bound in zip(multipliers, bounds, strict=True)) + ((1 << n) >> 1)
        if total < 1 << 31:
            for ratio, multiplier, bound in zip(ratios, multipliers, bounds, strict=True):
                error = abs(multiplier / 2.0**n - ratio)
                if error > ratio / 64 and error * bound > 0.5:
                    raise InputError(f"{what}: 32 bits leave only multiplier {multiplier} for {ratio:.3g}; use 8-bit formats")
            return multipliers, n
    raise InputError(f"{what}: scale ratios {ratios} overflow 32 bits at every shift; calibrate again")


def largest_code(form: Format) -> int:
    """``max |q - zero_point|`` over the format's codes."""
    return max(form.highest - form.zero_point, form.zero_point - form.lowest)
