"""exp, sigmoid and tanh from FP64 +, -, x and / only, so that no libm decides a bit (SPEC T-1 to T-3).

Used by the ``fp32`` preset and, at lowering, to fill code tables; the BF16 tables are correctly rounded and shipped.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import inline

# ln 2 in two parts: HIGH has 21 trailing zero bits, so k * HIGH is exact for |k| < 2^21.
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
# 1/n! for n = 14 .. 0: the Taylor polynomial of exp on |r| <= ln(2)/2 has a remainder below 2^-60.
FACTORIALS = tuple(
    1.0 / f
    for f in (
        87178291200.0, 6227020800.0, 479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
        720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0,
    )
)  # fmt: skip


@inline
def exp64(x):
    """``exp(x)`` for -700 <= x <= 0: k = floor(x / ln2 + 1/2), Horner on r = x - k ln2, times 2^k by halving (SPEC T-1)."""
    k = np.int64(np.floor(x * INVERSE_LN2 + 0.5))
    r = (x - np.float64(k) * LN2_HIGH) - np.float64(k) * LN2_LOW
    y = FACTORIALS[0]
    for n in range(1, 15):
        y = y * r + FACTORIALS[n]
    factor = 0.5
    count = -k
    while count > 0:
        if count & 1:
            y = y * factor
        factor = factor * factor
        count >>= 1
    return y


@inline
def sigmoid64(x):
    """``1 / (1 + exp(-x))`` through exp of a value <= 0; saturates beyond |x| = 700; NaN stays (SPEC T-2)."""
    magnitude = np.float64(min(abs(np.float64(x)), 700.0))
    e = exp64(-magnitude)
    if x >= 0.0:
        return 1.0 / (1.0 + e)
    if x < 0.0:
        return e / (1.0 + e)
    return np.float64(np.nan)


@inline
def tanh64(x):
    """``(1 - e) / (1 + e)``, e = exp(-2|x|), with the sign of x, zero's too; below 2^-5 the odd series to x^11 (SPEC T-3)."""
    magnitude = abs(np.float64(x))
    if magnitude != magnitude:
        return np.float64(np.nan)
    if magnitude == 0.0:
        return np.float64(x)
    if magnitude < 0.03125:
        q = magnitude * magnitude
        series = -1382.0 / 155925.0
        series = series * q + 62.0 / 2835.0
        series = series * q + -17.0 / 315.0
        series = series * q + 2.0 / 15.0
        series = series * q + -1.0 / 3.0
        result = magnitude + magnitude * (q * series)
    else:
        e = exp64(-2.0 * min(magnitude, 300.0))
        result = (1.0 - e) / (1.0 + e)
    return -result if x < 0.0 else result
