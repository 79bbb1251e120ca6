"""BF16 as uint16 bit patterns: 1 sign, 8 exponent, 7 fraction bits; subnormals kept, NaN canonical 0x7FC0 (SPEC B-*).

Addition and multiplication are one FP32 operation and one rounding to nearest even: FP32 carries 24 significant bits,
more than 2 * 8 + 2, so the double rounding is innocuous; SPEC B-4 says why
for subnormals too. A fused multiply-add is not the same and never used.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import inline

NAN = 0x7FC0
INFINITY = 0x7F80
SIGN = 0x8000


@inline
def bf16_encode(value):
    """FP32 to BF16, round to nearest even; overflow gives infinity, any NaN gives 0x7FC0 (SPEC B-1)."""
    bits = np.int64(np.float32(value).view(np.uint32))
    if (bits & np.int64(0x7FFFFFFF)) > np.int64(0x7F800000):
        return np.uint16(NAN)
    return np.uint16((bits + np.int64(0x7FFF) + ((bits >> np.int64(16)) & np.int64(1))) >> np.int64(16))


@inline
def bf16_decode(pattern):
    """BF16 to FP32, exact: the pattern is the high half of the FP32 word (SPEC B-2)."""
    return np.uint32(np.int64(pattern) << np.int64(16)).view(np.float32)


@inline
def bf16_add(a, b):
    """``encode(decode(a) + decode(b))``: one FP32 addition, one rounding (SPEC B-3)."""
    return bf16_encode(bf16_decode(a) + bf16_decode(b))


@inline
def bf16_mul(a, b):
    """``encode(decode(a) * decode(b))``: one FP32 multiplication, one rounding (SPEC B-4)."""
    return bf16_encode(bf16_decode(a) * bf16_decode(b))


@inline
def bf16_from_scaled(mantissa, exponent):
    """``mantissa * 2^exponent`` (int32, int) to BF16 with one rounding to nearest even (SPEC B-5).

    The int32 is not exact in FP32, so it is rounded to 8 significant bits first, as an integer. Results stay in the normal
    range: -126 <= exponent and exponent + 32 <= 127.
    """
    magnitude = abs(np.int64(mantissa))
    if magnitude == 0:
        return np.uint16(0)
    width = 0
    while (magnitude >> np.int64(width)) > 0:
        width += 1
    drop = max(width - 8, 0)
    kept = magnitude >> np.int64(drop)
    rest = magnitude - (kept << np.int64(drop))
    if drop > 0:
        half = np.int64(1) << np.int64(drop - 1)
        if rest > half or (rest == half and (kept & np.int64(1)) == 1):
            kept += np.int64(1)
    kept = kept << np.int64(8 - min(width, 8))
    # kept is now in [128, 256]; 256 carries into the exponent through the addition below.
    biased = np.int64(width - 1 + exponent + 127)
    pattern = (biased << np.int64(7)) + (kept - np.int64(128))
    if mantissa < 0:
        pattern |= np.int64(SIGN)
    return np.uint16(pattern)
