"""Quantize, dequantize and change of format (SPEC Q-4 to Q-8, Q-11). Arrays are C-contiguous and of one shape."""

from __future__ import annotations

import numpy as np

from refimpl.numerics.bfloat16 import bf16_decode, bf16_encode, bf16_from_scaled
from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import scale_by
from refimpl.numerics.rounding import round_half_even_f32, saturate, shift_half_even, shift_half_up


@kernel
def quantize_f32(x, inverse_scale, zero_point, lowest, highest, y):
    """``y = saturate(round_half_even(fp32(x * inverse_scale)) + zp)``; NaN gives the zero point (SPEC Q-4)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        scaled = source[i] * np.float32(inverse_scale)
        out[i] = round_half_even_f32(scaled, lowest - zero_point, highest - zero_point) + np.int64(zero_point)


@kernel
def quantize_bf16(x, inverse_scale, zero_point, lowest, highest, y):
    """SPEC Q-4 on a decoded BF16 pattern: one FP32 product, one rounding to integer (SPEC Q-5)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        scaled = bf16_decode(source[i]) * np.float32(inverse_scale)
        out[i] = round_half_even_f32(scaled, lowest - zero_point, highest - zero_point) + np.int64(zero_point)


@kernel
def dequantize_f32(x, scale, zero_point, y):
    """``y = fp32(fp32(q - zp) * scale)`` (SPEC Q-6)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        out[i] = np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale)


@kernel
def dequantize_bf16(x, scale, zero_point, y):
    """``y = bf16(fp32(fp32(q - zp) * scale))``, patterns out (SPEC Q-7)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        out[i] = bf16_encode(np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale))


@kernel
def requantize_codes(x, in_zero, m, n, zero_point, lowest, highest, y):
    """``y = sat((((q - zp_in) * M + 2^(n-1)) >> n) + zp_out)``: one rounding, int32 by proof (SPEC Q-8; ours)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        value = shift_half_up((np.int64(source[i]) - in_zero) * np.int64(m), n)
        out[i] = saturate(value + np.int64(zero_point), lowest, highest)


@kernel
def requantize_codes_scaled(x, in_zero, law, m, n, zero_point, lowest, highest, y):
    """``y = sat(law(q - zp_in, M, n) + zp_out)``, LAW_DOUBLE or LAW_SINGLE (SPEC Q-11; TFLite)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        value = scale_by(np.int64(source[i]) - in_zero, m, n, law)
        out[i] = saturate(value + np.int64(zero_point), lowest, highest)


@kernel
def narrow_bf16(x, y):
    """FP32 to BF16 patterns (SPEC B-1)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        out[i] = bf16_encode(source[i])


@kernel
def widen_bf16(x, y):
    """BF16 patterns to FP32, exact (SPEC B-2)."""
    source, out = x.ravel(), y.ravel()
    for i in range(source.size):
        out[i] = bf16_decode(source[i])


@kernel
def block_to_bf16(mantissa, exponent, y):
    """Block fixed point ``m * 2^-(22 + e)`` to BF16 with one rounding (SPEC F-5, B-5).

    mantissa int32 [T, F, 2]; exponent int32 [T, 1]; y uint16 [T, F, 2].
    """
    frames, bins, parts = mantissa.shape
    for t in range(frames):
        for f in range(bins):
            for p in range(parts):
                y[t, f, p] = bf16_from_scaled(mantissa[t, f, p], -22 - np.int64(exponent[t, 0]))


@kernel
def block_to_code(mantissa, exponent, m, n, zero_point, lowest, highest, y):
    """Block fixed point to a code: ``sat(round_half_even(m * M / 2^(n + e)) + zp)``, one rounding (SPEC F-6).

    mantissa int32 [T, F, 2]; M at most 2^24, so the product is at most 2^55; y int8/int16 [T, F, 2].
    """
    frames, bins, parts = mantissa.shape
    for t in range(frames):
        shift = np.int64(n) + np.int64(exponent[t, 0])
        for f in range(bins):
            for p in range(parts):
                value = shift_half_even(np.int64(mantissa[t, f, p]) * np.int64(m), shift)
                y[t, f, p] = saturate(value + np.int64(zero_point), lowest, highest)


@kernel
def bf16_to_block(x, re, im, mantissa, exponent):
    """BF16 spectra to block fixed point ``X = m * 2^-p`` per frame and speaker (SPEC F-7).

    x uint16 [T, F, 2S]; ``re``, ``im`` int [S]: the channel of each speaker's part; mantissa int32 [T, S, F, 2];
    exponent int32 [T, S]: p = 147 - E with E the largest exponent field (at least 1) of the frame, so |m| < 2^21; values
    are rounded half to even at 2^-p. NaN counts as +0, infinity as the largest finite value. An all-zero frame has p = 0.
    """
    frames, bins, _ = x.shape
    for t in range(frames):
        for s in range(re.size):
            largest = np.int64(0)
            for f in range(bins):
                for p in range(2):
                    magnitude = np.int64(x[t, f, re[s] if p == 0 else im[s]]) & np.int64(0x7FFF)
                    if magnitude <= 0x7F80:
                        largest = max(largest, min(magnitude, np.int64(0x7F7F)))
            top = max(largest >> np.int64(7), np.int64(1))
            exponent[t, s] = 147 - top if largest > 0 else 0
            for f in range(bins):
                for p in range(2):
                    pattern = np.int64(x[t, f, re[s] if p == 0 else im[s]])
                    magnitude = pattern & np.int64(0x7FFF)
                    if magnitude > 0x7F80:
                        magnitude = np.int64(0)
                    magnitude = min(magnitude, np.int64(0x7F7F))
                    field = magnitude >> np.int64(7)
                    units = (magnitude & np.int64(127)) + (np.int64(128) if field > 0 else np.int64(0))
                    # The unit in the last place of field E is 2^(E - 134); top's 8 bits sit at 2^13 .. 2^20.
                    value = shift_half_even(units << np.int64(13), top - max(field, np.int64(1)))
                    mantissa[t, s, f, p] = -value if pattern >= 0x8000 else value


@kernel
def code_to_block(x, re, im, zero_point, shift, mantissa, exponent):
    """Code spectra to block fixed point: ``m = (q - zp) * 2^shift``, exact, exponent 0 (SPEC F-8).

    x int8/int16 [T, F, 2S]; shift 13 (INT8) or 5 (INT16), so |m| < 2^21; shapes as :func:`bf16_to_block`. The scale is
    part of the synthesis constants.
    """
    frames, bins, _ = x.shape
    for t in range(frames):
        for s in range(re.size):
            exponent[t, s] = 0
            for f in range(bins):
                mantissa[t, s, f, 0] = (np.int64(x[t, f, re[s]]) - zero_point) << np.int64(shift)
                mantissa[t, s, f, 1] = (np.int64(x[t, f, im[s]]) - zero_point) << np.int64(shift)
