"""Residual add, gate arithmetic, tables: one value in, one value out (SPEC E-1 to E-11).

Arrays are C-contiguous and of one shape; the kernels walk them flat. Integer kernels read signed codes.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.bfloat16 import bf16_add, bf16_mul
from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import scale_by
from refimpl.numerics.rounding import saturate, shift_half_up
from refimpl.numerics.transcendental import sigmoid64, tanh64


@kernel
def add_two_stage(large, other, ma, na, mo, no, add_bias, y):
    """``y = sat8u(norm((norm(a * Ma, na) + b) * Mo, no) + add_bias)`` on unsigned codes (SPEC E-1; SDK residual add).

    ``large`` int8 is the input with the larger scale (a), ``other`` int8 is b; a code plus 128 is the unsigned code.
    """
    a, b, out = large.ravel(), other.ravel(), y.ravel()
    for i in range(a.size):
        scaled = shift_half_up((np.int64(a[i]) + 128) * np.int64(ma), na)
        total = shift_half_up((scaled + np.int64(b[i]) + 128) * np.int64(mo), no)
        out[i] = saturate(total + np.int64(add_bias), 0, 255) - 128


@kernel
def add_joint(a, b, za, zb, ma, mb, n, zero_point, lowest, highest, y):
    """``y = sat((((a - za) * Ma + (b - zb) * Mb + 2^(n-1)) >> n) + zp)``: one rounding, int32 by proof (SPEC E-2; ours)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        total = (np.int64(p[i]) - za) * np.int64(ma) + (np.int64(q[i]) - zb) * np.int64(mb)
        out[i] = saturate(shift_half_up(total, n) + np.int64(zero_point), lowest, highest)


@kernel
def add_scaled(a, b, za, zb, law, left, ma, na, mb, nb, mo, no, zero_point, lowest, highest, y):
    """``y = sat(law(law((a - za) << left, Ma, na) + law((b - zb) << left, Mb, nb), Mo, no) + zp)`` (SPEC E-10; TFLite).

    Both inputs to their common scale, the sum to the output's: three roundings, each by LAW_DOUBLE or LAW_SINGLE; int32 by
    proof between them.
    """
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        first = scale_by((np.int64(p[i]) - za) << np.int64(left), ma, na, law)
        second = scale_by((np.int64(q[i]) - zb) << np.int64(left), mb, nb, law)
        out[i] = saturate(scale_by(first + second, mo, no, law) + np.int64(zero_point), lowest, highest)


@kernel
def multiply(a, b, za, zb, m, n, zero_point, lowest, highest, y):
    """``y = sat((((a - za) * (b - zb) * M + 2^(n-1)) >> n) + zp)``: one rounding, int32 by proof (SPEC E-3; ours)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        product = (np.int64(p[i]) - za) * (np.int64(q[i]) - zb) * np.int64(m)
        out[i] = saturate(shift_half_up(product, n) + np.int64(zero_point), lowest, highest)


@kernel
def multiply_scaled(a, b, za, zb, law, m, n, zero_point, lowest, highest, y):
    """``y = sat(law((a - za) * (b - zb), M, n) + zp)``, LAW_DOUBLE or LAW_SINGLE (SPEC E-11; TFLite)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        product = (np.int64(p[i]) - za) * (np.int64(q[i]) - zb)
        out[i] = saturate(scale_by(product, m, n, law) + np.int64(zero_point), lowest, highest)


@kernel
def lookup(x, table, first, start, y):
    """``y[t, f, c] = table[x[t, f, start + c] - first]``: any activation of an 8- or 16-bit value (SPEC E-4).

    x int8/int16 codes (``first`` = lowest code) or uint16 BF16 patterns (``first`` = 0); y takes channels start onward.
    """
    frames, bins, channels = y.shape
    for t in range(frames):
        for f in range(bins):
            for c in range(channels):
                y[t, f, c] = table[np.int64(x[t, f, start + c]) - np.int64(first)]


@kernel
def add_bf16(a, b, y):
    """``y = bf(a + b)`` on BF16 patterns (SPEC E-5, B-3)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        out[i] = bf16_add(p[i], q[i])


@kernel
def multiply_bf16(a, b, y):
    """``y = bf(a * b)`` on BF16 patterns (SPEC E-6, B-4)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        out[i] = bf16_mul(p[i], q[i])


@kernel
def add_f32(a, b, y):
    """``y = a + b``, one FP32 addition (SPEC E-7)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        out[i] = p[i] + q[i]


@kernel
def multiply_f32(a, b, y):
    """``y = a * b``, one FP32 multiplication (SPEC E-8)."""
    p, q, out = a.ravel(), b.ravel(), y.ravel()
    for i in range(p.size):
        out[i] = p[i] * q[i]


@kernel
def activate_f32(x, function, start, y):
    """``y[t, f, c] = fp32(g(fp64(x[t, f, start + c])))``, g = sigmoid (0) or tanh (1) of SPEC T-2, T-3 (SPEC E-9)."""
    frames, bins, channels = y.shape
    for t in range(frames):
        for f in range(bins):
            for c in range(channels):
                value = np.float64(x[t, f, start + c])
                y[t, f, c] = np.float32(sigmoid64(value) if function == 0 else tanh64(value))
