"""Fixed-point STFT and inverse against float64: signal-to-noise ratio, perfect reconstruction, block formats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.numerics.tables import shipped
from refimpl.operators import convert, fourier
from refimpl.quantization.lowering import analysis_window, synthesis_window
from tests import oracle_float64 as oracle

TWIDDLE = shipped("twiddle_q30")
RE, IM = np.array([0]), np.array([1])


def signal(kind: str, level_db: float, frames: int = 40) -> np.ndarray:
    """PCM frames int16 [T, 256] of a tone or of noise with the given peak level."""
    peak = 32768 * 10 ** (level_db / 20)
    n = np.arange(frames * 256)
    rng = np.random.Generator(np.random.PCG64(5))
    x = peak * np.sin(2 * np.pi * 0.0371 * n) if kind == "tone" else rng.uniform(-peak, peak, len(n))
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16).reshape(frames, 256)


def forward(frames: np.ndarray, window: str) -> tuple[np.ndarray, np.ndarray]:
    mantissa, exponent = np.empty((len(frames), 129, 2), np.int32), np.empty((len(frames), 1), np.int32)
    fourier.stft(frames, analysis_window(window), TWIDDLE, mantissa, exponent)
    return mantissa, exponent


def decibels(reference: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((np.abs(reference) ** 2).sum() / (np.abs(got - reference) ** 2).sum()))


@pytest.mark.parametrize("window", ["hann", "rect"])
@pytest.mark.parametrize("level", [0, -6, -60])
@pytest.mark.parametrize("kind", ["tone", "noise"])
def test_forward_snr(kind: str, level: float, window: str) -> None:
    """At least 80 dB on forward bins at every level (measured: above 125); the oracle is numpy's float64 transform."""
    frames = signal(kind, level)
    mantissa, exponent = forward(frames, window)
    parts = mantissa * 2.0 ** (-22 - exponent[:, :, None].astype(np.float64))
    reference = np.fft.rfft(frames / 32768 * oracle.analysis_window(window))
    assert decibels(reference, parts[..., 0] + 1j * parts[..., 1]) >= 120


@pytest.mark.parametrize("window", ["hann", "rect"])
@pytest.mark.parametrize("level", [0, -6, -60])
@pytest.mark.parametrize("kind", ["tone", "noise"])
def test_inverse_snr_before_pcm(kind: str, level: float, window: str) -> None:
    """At least 80 dB on the inverse of the same BF16 spectrum, before PCM rounding (measured: above 105)."""
    frames = signal(kind, level)
    spectrum = np.fft.rfft(frames / 32768 * oracle.analysis_window(window))
    real = np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)
    patterns = np.empty(real.shape, np.uint16)
    convert.narrow_bf16(real, patterns)
    mantissa = np.empty((len(frames), 1, 129, 2), np.int32)
    exponent = np.empty((len(frames), 1), np.int32)
    convert.bf16_to_block(patterns, RE, IM, mantissa, exponent)
    assert np.abs(mantissa).max() < 1 << 21
    synthesis = synthesis_window(analysis_window(window))
    head, tail = np.empty((len(frames), 1, 96), np.int32), np.empty((len(frames), 1, 64), np.int32)
    fourier.istft(mantissa, exponent, np.rint(synthesis * 2.0**29).astype(np.int32), TWIDDLE, 10, head, tail)
    values = (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    reference = np.fft.irfft(values[..., 0] + 1j * values[..., 1], 256)[:, 96:] * synthesis
    assert decibels(reference, np.concatenate([head[:, 0], tail[:, 0]], 1) / 2.0**27) >= 100


@pytest.mark.parametrize("window", ["hann", "rect"])
def test_windows_equal_the_oracle(window: str) -> None:
    assert np.abs(analysis_window(window) / 2.0**30 - oracle.analysis_window(window)).max() <= 2.0**-31
    mine = synthesis_window(analysis_window(window))
    assert np.allclose(mine, oracle.synthesis_window(oracle.analysis_window(window)), rtol=1e-7, atol=2e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=256, max_size=256), st.sampled_from(["hann", "rect"]))
def test_forward_error_is_bounded_for_any_frame(samples: list[int], window: str) -> None:
    """Any int16 frame: no overflow, exponent as specified, each bin within 40 units of the block's last place."""
    frame = np.array([samples], np.int16)
    mantissa, exponent = forward(frame, window)
    peak = int(np.abs(frame.astype(np.int64)).max())
    e = int(exponent[0, 0])
    assert 0 <= e <= 14 and (peak == 0 or (peak << e) >= 1 << 14) and (e == 0 or peak << e <= 1 << 15)
    reference = np.fft.rfft(frame[0] / 32768 * oracle.analysis_window(window)) * 2.0 ** (22 + e)
    got = mantissa[0, :, 0] + 1j * mantissa[0, :, 1]
    assert np.abs(got - reference).max() <= 40 + 2.0**-29 * np.abs(reference).sum()


def test_extreme_frames_do_not_wrap() -> None:
    """The loudest inputs reach the proven bound 2^30 and stay int32: constant, alternating and impulse at -32768."""
    n = np.arange(256)
    for frame in (np.full(256, -32768), np.where(n % 2, -32768, 32767), np.where(n == 0, -32768, 0)):
        mantissa, _ = forward(frame[None].astype(np.int16), "rect")
        reference = np.fft.rfft(frame / 32768) * 2.0**22
        assert np.abs(mantissa[0, :, 0] + 1j * mantissa[0, :, 1] - reference).max() < 64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), min_size=258, max_size=258))
def test_bf16_to_block_is_the_rounded_value(patterns: list[int]) -> None:
    """``m * 2^-p`` is the value rounded half to even at 2^-p, for any patterns at all (NaN 0, infinity largest finite)."""
    x = np.array(patterns, np.uint16).reshape(1, 129, 2)
    mantissa, exponent = np.empty((1, 1, 129, 2), np.int32), np.empty((1, 1), np.int32)
    convert.bf16_to_block(x, RE, IM, mantissa, exponent)
    values = []
    for pattern in patterns:
        magnitude = pattern & 0x7FFF
        magnitude = 0 if magnitude > 0x7F80 else min(magnitude, 0x7F7F)
        field, fraction = magnitude >> 7, magnitude & 127
        value = Fraction(fraction + (128 if field else 0)) * Fraction(2) ** (max(field, 1) - 134)
        values.append(-value if pattern >> 15 else value)
    p = int(exponent[0, 0])
    assert [round(v * Fraction(2) ** p) for v in values] == mantissa.reshape(-1).tolist()
    top = max(abs(v) for v in values)
    assert top == 0 or top * Fraction(2) ** p < 1 << 21


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=96, max_size=96))
def test_pcm_rounds_half_even_and_counts_clipping(values: list[int]) -> None:
    x = np.array(values, np.int32).reshape(1, 1, 96)
    pcm, clipped = np.empty((1, 1, 96), np.int16), np.empty((1, 1), np.int32)
    fourier.to_pcm(x, pcm, clipped)
    exact = [round(Fraction(v, 4096)) for v in values]
    assert pcm.reshape(-1).tolist() == [min(max(v, -32768), 32767) for v in exact]
    assert clipped[0, 0] == sum(not -32768 <= v <= 32767 for v in exact)


def test_overlap_add_saturates_and_starts_with_one_frame() -> None:
    head = np.full((2, 1, 96), 2**31 - 1, np.int32)
    tail = np.stack([np.zeros((1, 64), np.int32), np.full((1, 64), 5, np.int32)])
    out = np.empty((2, 1, 96), np.int32)
    fourier.overlap_add(head, tail, out)
    assert (out == 2**31 - 1).all()
    fourier.overlap_add(-head, tail, out)
    assert (out[1, 0, :64] == -(2**31) + 6).all() and (out[1, 0, 64:] == -(2**31) + 1).all()
