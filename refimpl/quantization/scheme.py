"""Scales, zero points, multipliers: the float64 functions of lowering (SPEC Q-1, Q-2, Q-10, Q-12, Q-13, G-1, G-8, G-9).

Pure Python and NumPy float64 with only + - x /, rint, floor and frexp: the same constants on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl.errors import InputError, NotExpressible
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


def symmetric_format(low: float, high: float, bits: int, power_of_two: bool) -> Format:
    """Format with zero point 0 of the range [low, high] (SPEC Q-12): ``scale = max(|low|, |high|) / (2^(bits - 1) - 1)``.

    With ``power_of_two`` the next power of two that is not less. An empty range has scale 2^-bits.
    """
    largest = max(abs(low), abs(high))
    if not math.isfinite(high - low) or low > high:
        raise InputError(f"activation range [{low}, {high}] is not a range: calibrate again on finite audio")
    kind = {8: "int8", 16: "int16"}[bits]
    if largest < 2.0**-60:
        return Format(kind, 2.0**-bits, 0)
    scale = largest / float((1 << (bits - 1)) - 1)
    return Format(kind, next_power_of_two(scale) if power_of_two else scale, 0)


def next_power_of_two(value: float) -> float:
    """The least power of two that is not below ``value`` > 0, exact."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def quantize_layer(weight: Array, smallest: Array | float = 0.0) -> tuple[Array, float]:
    """INT8 codes and the one power-of-two scale of a layer (SPEC Q-13): ``d = next_power_of_two(max|w| / 127)``.

    d is at least ``smallest``'s largest entry, made a power of two as well; an all-zero layer has that d, or 1.
    """
    values = weight.astype(np.float64)
    least = max(float(np.abs(values).max()) / 127.0, float(np.max(smallest)))
    scale = next_power_of_two(least) if least > 0 else 1.0
    return np.ascontiguousarray(np.rint(values / scale).astype(np.int8)), scale


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


def sdk_multiplier(ratio: float, bits: int, largest_shift: int) -> tuple[int, int]:
    """:func:`frexp_multiplier`, and beyond its bits the integer nearest with shift 0 (SPEC G-4)."""
    multiplier, shift = frexp_multiplier(ratio, bits, largest_shift)
    return (multiplier, shift) if shift >= 0 else (math.floor(ratio + 0.5), 0)


def two_stage_constants(a: Format, b: Format, y: Format, bits: int, largest_shift: int) -> tuple[int, int, int, int, int]:
    """(Ma, na, Mo, no, bias) of SPEC E-1, a being the input of the larger scale.

    ``Ma / 2^na ~ Sa / Sb``, ``Mo / 2^no ~ Sb / So``, and the bias of the three zero points.
    """
    za, zb, zo = (form.zero_point + 128 for form in (a, b, y))
    first, second = a.scale / b.scale, b.scale / y.scale
    ma, na = sdk_multiplier(first, bits, largest_shift)
    mo, no = sdk_multiplier(second, bits, largest_shift)
    return ma, na, mo, no, int(np.rint(zo - second * (zb + first * za)))


def q31_multiplier(ratio: float) -> tuple[int, int]:
    """``ratio ~ M / 2^n`` with M in [2^30, 2^31), TFLite's QuantizeMultiplier (SPEC G-8); (0, 31) for ratios below 2^-32.

    ``mantissa, exponent = frexp(ratio)``; ``M = floor(mantissa * 2^31 + 1/2)`` (ties away from zero, as M > 0), halved where
    it is 2^31; ``n = 31 - exponent``. n below 1 (ratios of 2^30 and more) is the caller's to refuse.
    """
    mantissa, exponent = math.frexp(ratio)
    multiplier = math.floor(mantissa * 2.0**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    return (multiplier, 31 - exponent) if exponent >= -31 else (0, 31)


def q15_multiplier(ratio: float) -> tuple[int, int]:
    """:func:`q31_multiplier` reduced to 15 bits, as TFLite's 16x8 kernels do when they run (SPEC G-8)."""
    multiplier, shift = q31_multiplier(ratio)
    reduced = (multiplier + (1 << 15)) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF
    return reduced, shift - 16


def power_of_two_multiplier(ratio: float) -> tuple[int, int]:
    """``(1, n)`` with ``ratio = 2^-n``, exact where all scales are powers of two (SPEC G-9)."""
    mantissa, exponent = math.frexp(ratio)
    assert mantissa == 0.5, "only ratios of powers of two come here"
    return 1, 1 - exponent


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
                    raise NotExpressible(
                        f"{what}: 32 bits leave only multiplier {multiplier} for {ratio:.3g}; use 8 bits or another profile"
                    )
            return multipliers, n
    raise InputError(f"{what}: scale ratios {ratios} overflow 32 bits at every shift; calibrate again")


def largest_code(form: Format) -> int:
    """``max |q - zero_point|`` over the format's codes."""
    return max(form.highest - form.zero_point, form.zero_point - form.lowest)
