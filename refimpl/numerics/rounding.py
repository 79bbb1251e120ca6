"""Named rounding laws, saturation and the widths that proofs speak of. All on int64 values (SPEC N-1 to N-8)."""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import inline

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
INT16_MIN, INT16_MAX = -(1 << 15), (1 << 15) - 1


@inline
def shift_floor(value, shift):
    """Arithmetic right shift: ``floor(value / 2^shift)``, shift >= 0 (SPEC N-1)."""
    return np.int64(value) >> np.int64(shift)


@inline
def shift_half_up(value, shift):
    """``floor(value / 2^shift + 1/2)``: ties toward +infinity; shift 0 is the identity (SPEC N-2, the SDK's ``norm``)."""
    if shift <= 0:
        return np.int64(value)
    return (np.int64(value) + (np.int64(1) << np.int64(shift - 1))) >> np.int64(shift)


@inline
def shift_half_even(value, shift):
    """``value / 2^shift`` to the nearest integer, ties to even, 0 <= shift; shifts of 63 and more give 0 (SPEC N-3)."""
    if shift <= 0:
        return np.int64(value)
    if shift >= 63:
        return np.int64(0)
    floor = np.int64(value) >> np.int64(shift)
    rest = np.int64(value) - (floor << np.int64(shift))
    half = np.int64(1) << np.int64(shift - 1)
    if rest > half or (rest == half and (floor & np.int64(1)) == 1):
        floor += np.int64(1)
    return floor


@inline
def shift_half_away(value, shift):
    """``value / 2^shift`` to the nearest integer, ties away from zero, 0 <= shift <= 62 (SPEC N-7, gemmlowp's division)."""
    if shift <= 0:
        return np.int64(value)
    half = np.int64(1) << np.int64(shift - 1)
    if value < 0:
        half -= np.int64(1)
    return (np.int64(value) + half) >> np.int64(shift)


@inline
def saturate(value, lowest, highest):
    """``min(max(value, lowest), highest)`` (SPEC N-4)."""
    return np.int64(min(max(np.int64(value), np.int64(lowest)), np.int64(highest)))


@inline
def doubling_high_half_up(a, b):
    """``floor(a * b / 2^31 + 1/2)`` of int32 a, b; the one product beyond int32, -2^31 squared, saturates (SPEC N-8)."""
    return saturate((np.int64(a) * np.int64(b) + (np.int64(1) << np.int64(30))) >> np.int64(31), INT32_MIN, INT32_MAX)


@inline
def shift_saturate_int32(value, shift):
    """``value * 2^-shift`` for any sign of ``shift``: half up to the right, saturated to int32 (SPEC N-5).

    |value| < 2^62. Right shifts of 63 and more give 0; a left shift saturates before it could overflow.
    """
    if shift >= 63:
        return np.int64(0)
    if shift >= 0:
        return saturate(shift_half_up(value, shift), INT32_MIN, INT32_MAX)
    bounded = saturate(value, INT32_MIN, INT32_MAX)
    return saturate(bounded << np.int64(min(-shift, 31)), INT32_MIN, INT32_MAX)


@inline
def round_half_even_f32(value, lowest, highest):
    """FP32 to the nearest integer, ties to even, saturated to [lowest, highest]; NaN gives 0 (SPEC N-6).

    Bounds are integers below 2^24 in magnitude, exact in FP32.
    """
    x = np.float32(value)
    if np.isnan(x):
        return np.int64(0)
    if x <= np.float32(lowest):
        return np.int64(lowest)
    if x >= np.float32(highest):
        return np.int64(highest)
    return np.int64(np.rint(x))
