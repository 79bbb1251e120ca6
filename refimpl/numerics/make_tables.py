"""Make the shipped tables from a multiple-precision library: ``python -m refimpl.numerics.make_tables`` (needs mpmath).

``sigmoid_bf16.npy``, ``tanh_bf16.npy``: uint16 [65536], correctly rounded (SPEC B-6).
``twiddle_q30.npy``: int32 [129, 2], round(2^30 cos), round(-2^30 sin) of 2 pi k / 256 (SPEC F-1).
``hann_q30.npy``: int32 [256], round(2^30 (1 - cos(2 pi n / 255)) / 2) (SPEC F-2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

from refimpl.numerics.tables import FOLDER

mpmath.mp.prec = 300


def round_to_bf16(value: Any) -> int:
    """Correctly rounded pattern of a finite multiple-precision value with |value| <= 2^127 (ties to even)."""
    sign = 0x8000 if value < 0 else 0
    value = abs(value)
    if value == 0:
        return sign
    exponent = max(int(mpmath.floor(mpmath.log(value, 2))), -126)
    if exponent > -126 and value < mpmath.ldexp(1, exponent):
        exponent -= 1
    units = int(mpmath.nint(mpmath.ldexp(value, 7 - exponent)))  # nint rounds half to even
    # A carry to 256 units, or subnormals below 128, both fall out of adding to the pattern of 2^exponent.
    return sign | ((((exponent + 127) << 7) + units - 128) if exponent > -126 or units >= 128 else units)


def bf16_table(function: Callable[[Any], Any], at_infinity: tuple[int, int]) -> np.ndarray:
    table = np.empty(65536, np.uint16)
    for pattern in range(65536):
        exponent, fraction = (pattern >> 7) & 255, pattern & 127
        if exponent == 255:
            table[pattern] = 0x7FC0 if fraction else at_infinity[pattern >> 15]
            continue
        units = fraction + (128 if exponent else 0)
        x = mpmath.ldexp(units, max(exponent, 1) - 127 - 7) * (-1 if pattern >> 15 else 1)
        table[pattern] = round_to_bf16(function(x))
    return table


def stable_sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x)) if x >= -20000 else mpmath.mpf(0)


def stable_tanh(x: Any) -> Any:
    # For tiny x the 300 bits of tanh's own evaluation are not enough; x - x^3/3 rounds as x does, toward zero of x.
    return x * (1 - mpmath.ldexp(1, -200)) if abs(x) < mpmath.ldexp(1, -60) else mpmath.tanh(min(max(x, -1000), 1000))


def main() -> None:
    np.save(FOLDER / "sigmoid_bf16.npy", bf16_table(stable_sigmoid, (0x3F80, 0x0000)))
    tanh = bf16_table(stable_tanh, (0x3F80, 0xBF80))
    tanh[0x8000] = 0x8000
    np.save(FOLDER / "tanh_bf16.npy", tanh)
    one = 1 << 30
    angle = [2 * mpmath.pi * k / 256 for k in range(129)]
    pairs = [(int(mpmath.nint(one * mpmath.cos(a))), int(mpmath.nint(-one * mpmath.sin(a)))) for a in angle]
    np.save(FOLDER / "twiddle_q30.npy", np.array(pairs, np.int32))
    hann = [int(mpmath.nint(one * (1 - mpmath.cos(2 * mpmath.pi * n / 255)) / 2)) for n in range(256)]
    np.save(FOLDER / "hann_q30.npy", np.array(hann, np.int32))


if __name__ == "__main__":
    main()
