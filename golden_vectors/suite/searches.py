"""Inputs that show a bug, found by search: only the inputs, the expected values come from running the case."""

from __future__ import annotations

import numpy as np

from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array


def double_rounding_differs(m: int, n: int, p: int, count: int) -> list[int]:
    """The first accumulators where rounding at p and again at n - p is not rounding once at n, and as many where it is."""
    acc = np.arange(-(1 << 12), 1 << 12, dtype=np.int64)
    first = (acc + ((1 << p) >> 1)) >> p
    twice = (first * m + ((1 << (n - p)) >> 1)) >> (n - p)
    once = (acc * m + (1 << (n - 1))) >> n
    different, same = acc[twice != once], acc[twice == once]
    pick = [*different[:: max(len(different) // count, 1)][:count], *same[:: max(len(same) // count, 1)][:count]]
    return [int(v) for v in pick]


def products_that_round_twice(scale: float) -> Array:
    """Integers whose product with an FP32 ``scale`` differs after rounding to FP32 and then to BF16 from rounding once."""
    value = np.arange(1, 1 << 20)
    exact = value * scale  # at most 20 bits times 24 bits: exact in FP64
    ulp = 2.0 ** (np.frexp(exact)[1] - 8)
    found = value[np.rint(exact.astype(np.float32) / ulp) != np.rint(exact / ulp)]
    return np.concatenate([found[:16], -found[:4], found[:4] + 1])


def totals_that_round_twice(scale: float) -> Array:
    """Integers of 28 bits and more that must be rounded to FP32 before the product with ``scale`` to give the BF16 of Q-9."""
    value = Integers(15).between(1 << 28, (1 << 31) - 1, 1 << 18)
    late = (value * scale).astype(np.float32)  # the integer exact, the product rounded to FP32
    early = value.astype(np.float32) * np.float32(scale)
    ulp = 2.0 ** (np.frexp(early)[1] - 8)
    found = value[np.rint(late / ulp) != np.rint(early / ulp)]
    return np.concatenate([found[:12], -found[:4], found[:4] + 1])


def reciprocal_differs(scale: float) -> Array:
    """FP32 values near the ties of ``scale`` whose quotient and whose product with the reciprocal round apart."""
    tie = ((np.arange(-60, 60) + 0.5) * scale).astype(np.float32)
    near = np.unique(np.concatenate([np.nextafter(tie, np.float32(-1e9)), tie, np.nextafter(tie, np.float32(1e9))]))
    product = np.rint(near * np.float32(1.0 / scale))
    quotient = np.rint(near / np.float32(scale))
    return np.concatenate([near[product != quotient][:24], near[product == quotient][::40]])


def tie_pair(c: int, s: int, bits: int, limit: int) -> tuple[int, int]:
    """Even integers ``p, q`` of at most ``limit`` with ``p * c + q * s`` at a tie of ``bits``, negative, above an even integer.

    There half up gives another result than half to even, and than half away from zero. ``c`` or ``s`` is odd.
    """
    if s % 2 == 0:
        q, p = tie_pair(s, c, bits, limit)
        return p, q
    modulus = 1 << bits
    first = np.arange(-(limit // 2), limit // 2 + 1, dtype=np.int64) * 2
    second = (modulus // 2 - first * c) % modulus * pow(s, -1, modulus) % modulus
    second = (second + modulus // 2) % modulus - modulus // 2
    value = first * c + second * s
    good = (abs(second) <= limit) & (second % 2 == 0) & (value < 0) & ((value >> bits) % 2 == 0)
    found = int(np.flatnonzero(good)[0])
    return int(first[found]), int(second[found])
