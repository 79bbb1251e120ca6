"""Fixed-point short-time Fourier transform, its inverse, overlap-add, and PCM (SPEC F-3, F-4, F-9 to F-15).

Formats: PCM int16 (value p / 2^15); window and twiddles Q1.30; forward spectra are block fixed point, int32 mantissas with one
exponent per frame, real value ``m * 2^-(22 + e)``; inverse output is Q4.27, 1.0 being full scale.
The 256-point real transform is a radix-2 complex transform of 128 points and one split stage; each butterfly is one exact sum
of int64 products and one rounding half up.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import inline, kernel
from refimpl.numerics.rounding import (
    INT16_MAX,
    INT16_MIN,
    INT32_MAX,
    INT32_MIN,
    round_half_even_f32,
    saturate,
    shift_half_even,
    shift_half_up,
    shift_saturate_int32,
)

N_FFT = 256
HALF = 128
BINS = 129


@inline
def _bit_reverse_7(index):
    result = 0
    for _ in range(7):
        result = (result << 1) | (index & 1)
        index >>= 1
    return result


@inline
def _complex_fft_128(zr, zi, twiddle, sign):
    """In place, unscaled: decimation in time, 7 radix-2 stages on bit-reversed input; sign +1 forward, -1 inverse (SPEC F-3).

    ``t = (w * b) rounded half up at 2^30; b = a - t; a = a + t``. zr, zi int64 [128] holding int32 values.
    """
    for i in range(HALF):
        j = _bit_reverse_7(i)
        if j > i:
            zr[i], zr[j] = zr[j], zr[i]
            zi[i], zi[j] = zi[j], zi[i]
    size = 2
    while size <= HALF:
        half = size // 2
        for base in range(0, HALF, size):
            for j in range(half):
                c = np.int64(twiddle[j * (N_FFT // size), 0])
                s = np.int64(twiddle[j * (N_FFT // size), 1]) * np.int64(sign)
                a, b = base + j, base + j + half
                tr = shift_half_up(zr[b] * c - zi[b] * s, 30)
                ti = shift_half_up(zr[b] * s + zi[b] * c, 30)
                zr[b], zi[b] = zr[a] - tr, zi[a] - ti
                zr[a], zi[a] = zr[a] + tr, zi[a] + ti
        size *= 2


@kernel
def stft(frame, window, twiddle, mantissa, exponent):
    """PCM frames to spectra in block fixed point (SPEC F-4).

    frame int16 [T, 256]; window int32 [256] Q1.30; twiddle int32 [129, 2] Q1.30 (cos, -sin); mantissa int32 [T, 129, 2]
    (re, im); exponent int32 [T, 1].
    e is the number of left shifts (0 to 14) that bring max|frame| to [2^14, 2^15], 0 for a frame of zeros;
    ``v[n] = (frame[n] * 2^e * window[n])`` rounded half up at 2^23 (7 fraction bits); ``z[n] = v[2n] + j v[2n + 1]``.
    |X| <= sum|v| <= 2^30: nothing overflows int32.
    """
    zr, zi = np.empty(HALF, np.int64), np.empty(HALF, np.int64)
    for t in range(frame.shape[0]):
        peak = np.int64(0)
        for n in range(N_FFT):
            peak = max(peak, abs(np.int64(frame[t, n])))
        e = np.int64(0)
        while peak > 0 and (peak << e) < 16384:
            e += 1
        exponent[t, 0] = e
        for n in range(HALF):
            zr[n] = shift_half_up((np.int64(frame[t, 2 * n]) << e) * np.int64(window[2 * n]), 23)
            zi[n] = shift_half_up((np.int64(frame[t, 2 * n + 1]) << e) * np.int64(window[2 * n + 1]), 23)
        _complex_fft_128(zr, zi, twiddle, 1)
        for k in range(BINS):
            p, q = k % HALF, (HALF - k) % HALF
            c, s = np.int64(twiddle[k, 0]), np.int64(twiddle[k, 1])
            even_r, even_i = zr[p] + zr[q], zi[p] - zi[q]
            odd_r, odd_i = zi[p] + zi[q], zr[q] - zr[p]
            mantissa[t, k, 0] = shift_half_up((even_r << 30) + odd_r * c - odd_i * s, 31)
            mantissa[t, k, 1] = shift_half_up((even_i << 30) + odd_r * s + odd_i * c, 31)


@kernel
def istft(mantissa, exponent, window, twiddle, base_shift, head, tail):
    """Spectra in block fixed point to the windowed last 160 samples of each frame, Q4.27 (SPEC F-9).

    mantissa int32 [T, S, 129, 2] with |m| < 2^21; exponent int32 [T, S]; window int32 [160] (synthesis window, scaled as the
    lowering says); head int32 [T, S, 96]; tail int32 [T, S, 64]. The imaginary parts of bins 0 and 128 are not read.
    ``y[i] = x[96 + i] * window[i] * 2^-(base_shift + exponent)``, rounded half up once, saturated to int32.
    """
    zr, zi = np.empty(HALF, np.int64), np.empty(HALF, np.int64)
    for t in range(mantissa.shape[0]):
        for speaker in range(mantissa.shape[1]):
            x = mantissa[t, speaker]
            for k in range(HALF):
                q = HALF - k
                c, s = np.int64(twiddle[k, 0]), np.int64(twiddle[k, 1])
                kr, qr = np.int64(x[k, 0]), np.int64(x[q, 0])
                ki = np.int64(x[k, 1]) if k > 0 else np.int64(0)
                qi = np.int64(x[q, 1]) if k > 0 else np.int64(0)
                diff_r, diff_i = kr - qr, ki + qi
                zr[k] = shift_half_up(((kr + qr) << 30) - (diff_i * c - diff_r * s), 30)
                zi[k] = shift_half_up(((ki - qi) << 30) + (diff_r * c + diff_i * s), 30)
            _complex_fft_128(zr, zi, twiddle, -1)
            shift = np.int64(base_shift) + np.int64(exponent[t, speaker])
            for i in range(160):
                n = 96 + i
                value = zr[n // 2] if n % 2 == 0 else zi[n // 2]
                result = shift_saturate_int32(value * np.int64(window[i]), shift)
                if i < 96:
                    head[t, speaker, i] = result
                else:
                    tail[t, speaker, i - 96] = result


@kernel
def overlap_add(head, tail, y):
    """``y[i] = saturate32(head[i] + previous frame's tail[i])``, i < 64; ``head[i]`` beyond (SPEC F-10).

    head int32 [T, S, 96]; tail int32 [T, S, 64], of the frame before; y int32 [T, S, 96], Q4.27.
    """
    frames, speakers, hop = head.shape
    for t in range(frames):
        for s in range(speakers):
            for i in range(hop):
                total = np.int64(head[t, s, i])
                if i < tail.shape[2]:
                    total += np.int64(tail[t, s, i])
                y[t, s, i] = saturate(total, INT32_MIN, INT32_MAX)


@kernel
def to_pcm(x, pcm, clipped):
    """Q4.27 to PCM: ``saturate16(round_half_even(x / 2^12))``; ``clipped`` counts saturated samples (SPEC F-11).

    x int32 [T, S, 96]; pcm int16 [T, S, 96]; clipped int32 [T, S].
    """
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            count = 0
            for i in range(x.shape[2]):
                value = shift_half_even(np.int64(x[t, s, i]), 12)
                bounded = saturate(value, INT16_MIN, INT16_MAX)
                if bounded != value:
                    count += 1
                pcm[t, s, i] = bounded
            clipped[t, s] = count


@inline
def _complex_fft_128_f32(zr, zi, twiddle, sign):
    """:func:`_complex_fft_128` in FP32: every product, difference and sum rounded, in the order written (SPEC F-12)."""
    for i in range(HALF):
        j = _bit_reverse_7(i)
        if j > i:
            zr[i], zr[j] = zr[j], zr[i]
            zi[i], zi[j] = zi[j], zi[i]
    size = 2
    while size <= HALF:
        half = size // 2
        for base in range(0, HALF, size):
            for j in range(half):
                c = twiddle[j * (N_FFT // size), 0]
                s = twiddle[j * (N_FFT // size), 1] * np.float32(sign)
                a, b = base + j, base + j + half
                tr = zr[b] * c - zi[b] * s
                ti = zr[b] * s + zi[b] * c
                zr[b], zi[b] = zr[a] - tr, zi[a] - ti
                zr[a], zi[a] = zr[a] + tr, zi[a] + ti
        size *= 2


@kernel
def stft_f32(frame, window, twiddle, y):
    """FP32 forward transform, the structure of :func:`stft` (SPEC F-12): frame int16 [T, 256], y float32 [T, 129, 2].

    ``v[n] = fp32(frame[n]) * 2^-15 * window[n]``; window and twiddles are the Q1.30 tables as FP32; the final halving is exact.
    """
    zr, zi = np.empty(HALF, np.float32), np.empty(HALF, np.float32)
    for t in range(frame.shape[0]):
        for n in range(HALF):
            zr[n] = np.float32(frame[t, 2 * n]) * np.float32(2.0**-15) * window[2 * n]
            zi[n] = np.float32(frame[t, 2 * n + 1]) * np.float32(2.0**-15) * window[2 * n + 1]
        _complex_fft_128_f32(zr, zi, twiddle, 1)
        for k in range(BINS):
            p, q = k % HALF, (HALF - k) % HALF
            c, s = twiddle[k, 0], twiddle[k, 1]
            even_r, even_i = zr[p] + zr[q], zi[p] - zi[q]
            odd_r, odd_i = zi[p] + zi[q], zr[q] - zr[p]
            y[t, k, 0] = np.float32(0.5) * (even_r + (odd_r * c - odd_i * s))
            y[t, k, 1] = np.float32(0.5) * (even_i + (odd_r * s + odd_i * c))


@kernel
def istft_f32(x, re, im, window, twiddle, head, tail):
    """FP32 inverse, the structure of :func:`istft` (SPEC F-13): x float32 [T, 129, 2S]; head [T, S, 96]; tail [T, S, 64]."""
    zr, zi = np.empty(HALF, np.float32), np.empty(HALF, np.float32)
    for t in range(x.shape[0]):
        for speaker in range(re.size):
            for k in range(HALF):
                q = HALF - k
                c, s = twiddle[k, 0], twiddle[k, 1]
                kr, qr = x[t, k, re[speaker]], x[t, q, re[speaker]]
                ki = x[t, k, im[speaker]] if k > 0 else np.float32(0.0)
                qi = x[t, q, im[speaker]] if k > 0 else np.float32(0.0)
                diff_r, diff_i = kr - qr, ki + qi
                zr[k] = (kr + qr) - (diff_i * c - diff_r * s)
                zi[k] = (ki - qi) + (diff_r * c + diff_i * s)
            _complex_fft_128_f32(zr, zi, twiddle, -1)
            for i in range(160):
                n = 96 + i
                value = zr[n // 2] if n % 2 == 0 else zi[n // 2]
                result = value * np.float32(2.0**-8) * window[i]
                if i < 96:
                    head[t, speaker, i] = result
                else:
                    tail[t, speaker, i - 96] = result


@kernel
def overlap_add_f32(head, tail, y):
    """FP32 :func:`overlap_add`: one addition where two frames meet (SPEC F-14)."""
    frames, speakers, hop = head.shape
    for t in range(frames):
        for s in range(speakers):
            for i in range(hop):
                y[t, s, i] = head[t, s, i] + tail[t, s, i] if i < tail.shape[2] else head[t, s, i]


@kernel
def to_pcm_f32(x, pcm, clipped):
    """FP32 to PCM: ``saturate16(round_half_even(x * 2^15))``, the product exact; NaN gives 0 (SPEC F-15)."""
    for t in range(x.shape[0]):
        for s in range(x.shape[1]):
            count = 0
            for i in range(x.shape[2]):
                scaled = np.float32(x[t, s, i] * np.float32(32768.0))
                value = round_half_even_f32(scaled, -(1 << 23), 1 << 23)
                bounded = saturate(value, INT16_MIN, INT16_MAX)
                if bounded != value:
                    count += 1
                pcm[t, s, i] = bounded
            clipped[t, s] = count
