"""The sum inside every layer: ``acc[j] += sum_k coefficient[k] * rows[k, j]``.

Four terms a pass keep the accumulators in registers. The integer sum is exact, so its order is free; the FP32 sum is written so
that each element still adds its products one by one with k ascending, each product and each sum rounded (SPEC L-3).
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import inline


@inline
def accumulate(acc, coefficient, rows):
    """Exact integer sum into int32 ``acc`` [J]; coefficient int8/int16 [K], rows int8/int16 [K, J]; widths proven at load."""
    count = coefficient.shape[0]
    k = 0
    while k + 4 <= count:
        a, b = np.int32(coefficient[k]), np.int32(coefficient[k + 1])
        c, d = np.int32(coefficient[k + 2]), np.int32(coefficient[k + 3])
        for j in range(acc.shape[0]):
            first = a * np.int32(rows[k, j]) + b * np.int32(rows[k + 1, j])
            second = c * np.int32(rows[k + 2, j]) + d * np.int32(rows[k + 3, j])
            acc[j] += first + second
        k += 4
    while k < count:
        a = np.int32(coefficient[k])
        for j in range(acc.shape[0]):
            acc[j] += a * np.int32(rows[k, j])
        k += 1


@inline
def accumulate_f32(acc, coefficient, rows):
    """FP32 sum into ``acc`` [J], k ascending: ``acc = acc + coefficient[k] * rows[k]``, product and sum rounded each."""
    count = coefficient.shape[0]
    k = 0
    while k + 4 <= count:
        a, b, c, d = coefficient[k], coefficient[k + 1], coefficient[k + 2], coefficient[k + 3]
        for j in range(acc.shape[0]):
            total = acc[j] + a * rows[k, j]
            total = total + b * rows[k + 1, j]
            total = total + c * rows[k + 2, j]
            acc[j] = total + d * rows[k + 3, j]
        k += 4
    while k < count:
        a = coefficient[k]
        for j in range(acc.shape[0]):
            acc[j] = acc[j] + a * rows[k, j]
        k += 1
