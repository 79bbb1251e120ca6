"""Operators level: the Fourier transform, its inverse, overlap-add and PCM (F-3, F-4, F-9 to F-15)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import Array, directed, f32
from golden_vectors.suite.searches import tie_pair
from refimpl.numerics.tables import shipped
from refimpl.program import Format
from refimpl.quantization.lowering import analysis_window, synthesis_window

PCM = Format("int16", 2.0**-15, 0)
EXPONENTS = ((60, 16383), (60, 16384), (200, -16384), (60, 8191), (200, -8192), (60, -32768))  # where the peak is, and it
Given = dict[str, tuple[Format | str, Array]]
Made = dict[str, tuple[Format | str, tuple[int, ...]]]


def cases() -> Iterator[Case]:
    yield from _forward()
    yield from _forward_ties()
    yield from _forward_f32()
    yield from _inverse()
    yield from _inverse_f32()
    yield from _overlap()
    yield from _pcm()


def _q30(table: Array) -> Array:
    """A Q1.30 table in FP32, as F-12 has it."""
    return (table.astype(np.float64) * 2.0**-30).astype(np.float32)


# -- forward (F-4, F-12) ------------------------------------------------------------------------------------------------


def _tone(k: int, peak: int) -> Array:
    """A cosine at bin ``k`` from the shipped table, integers only: cos(2 pi k n / 256) * peak, rounded down."""
    table = shipped("twiddle_q30")[:, 0].astype(np.int64)
    index = (k * np.arange(256)) % 256
    return (table[np.minimum(index, 256 - index)] * peak) >> 30


def _signals() -> dict[str, tuple[str, str, list[Array]]]:
    """Frames by case: comment, flags, frames of 256 samples."""
    zero = np.zeros(256, np.int64)
    one, impulse, alone = zero.copy(), zero.copy(), zero.copy()
    one[77], impulse[100], alone[128] = 1, 32767, -32768
    nyquist = np.where(np.arange(256) % 2 == 0, 32767, -32768)
    source = Integers(70)
    noise = source.between(-32768, 32767, (2, 256))
    return {
        "silence": (
            "silence between two frames of sound: exponent 0 and zeros, nothing carried over",
            "block_exponent",
            [noise[0], zero, one],
        ),
        "full_scale": (
            "every sample 32767, every sample -32768: the largest sums",
            "wraparound narrow_accumulator",
            [zero + 32767, zero - 32768],
        ),
        "alternating": (
            "full scale at half the sampling rate: all of it in the last bin",
            "bin_off_by_one wraparound",
            [nyquist],
        ),
        "impulse": (
            "one sample at an end of its range: every bin has the same magnitude, the phase shows the sign of sine",
            "conjugate_sign bin_off_by_one",
            [impulse, alone],
        ),
        "one_unit": ("a single last place: the exponent is 14", "block_exponent", [one, -one]),
        "tones": (
            "cosines at bins 1, 5 and 64",
            "conjugate_sign bin_off_by_one",
            [_tone(1, 30000), _tone(5, 1000), _tone(64, 20000)],
        ),
        "exponents": (
            "peaks on both sides of a change of exponent, at -32768, and in either half of the frame",
            "block_exponent",
            [np.where(np.arange(256) == at, peak, 3) for at, peak in EXPONENTS],
        ),
        "noise": (
            "noise at full scale: every butterfly rounds",
            "floor_for_round double_rounding",
            [*noise],
        ),
        "quiet_noise": (
            "noise of three units, scaled up by 2^13",
            "block_exponent floor_for_round tie_half_even tie_away",
            [source.between(-3, 3, 256)],
        ),
    }


def _forward() -> Iterator[Case]:
    rules = "F-4 F-3 F-1 F-2 N-2"
    for what, (comment, flags, frames) in _signals().items():
        given: Given = {"frame": (PCM, np.stack(frames))}
        count = len(frames)
        outputs: Made = {"mantissa": ("int32", (count, 129, 2)), "exponent": ("int32", (count, 1))}
        constants = (analysis_window("hann"), shipped("twiddle_q30"))
        seed = 70 if "noise" in what or what == "silence" else None
        yield directed("stft", what, comment, rules, flags, given, constants, outputs, seed=seed)
    given = {"frame": (PCM, np.stack([np.full(256, -32768), np.full(256, 32767)]))}
    outputs = {"mantissa": ("int32", (2, 129, 2)), "exponent": ("int32", (2, 1))}
    comment = "full scale through the rectangular window: the sum of bin 0 is exactly -2^30"
    constants = (analysis_window("rect"), shipped("twiddle_q30"))
    yield directed("stft", "rectangular", comment, rules, "wraparound narrow_accumulator", given, constants, outputs)


def _split_tie(k: int, imaginary: bool) -> Array:
    """A frame whose split stage is at a tie in bin ``k``, a multiple of four and one more, through the rectangular window.

    Only complex samples 0 and 32 are not zero: their transform is exact, ``wr`` and ``wi`` are 2^8 times the numbers found.
    """
    c, s = (int(v) for v in shipped("twiddle_q30")[k])
    frame = np.zeros(256, np.int64)
    pair = tie_pair(c, s, 23, 32767) if not imaginary else tie_pair(s, -c, 23, 32767)
    frame[1], frame[65] = pair
    frame[0] = 16384  # no shift: the numbers are what was searched for
    return frame


def _forward_ties() -> Iterator[Case]:
    c, s = (int(v) for v in shipped("twiddle_q30")[2])
    frame = np.zeros(256, np.int64)
    frame[0], (frame[2], frame[3]) = 16384, tie_pair(c, -s, 23, 32767)
    given: Given = {"frame": (PCM, np.stack([frame, _split_tie(1, False), _split_tie(9, True)]))}
    outputs: Made = {"mantissa": ("int32", (3, 129, 2)), "exponent": ("int32", (3, 1))}
    constants = (analysis_window("rect"), shipped("twiddle_q30"))
    comment = "exact negative ties: in a butterfly, in the real and in the imaginary part of the split stage"
    yield directed("stft", "ties", comment, "F-4 F-3 F-1 F-2 N-2", "tie_half_even tie_away", given, constants, outputs)


def _forward_f32() -> Iterator[Case]:
    signals = _signals()
    texts = {
        "full_scale": ("every sample 32767, every sample -32768", "float_width"),
        "impulse": ("one sample at an end of its range: the phase shows the sign of sine", "conjugate_sign bin_off_by_one"),
        "tones": ("cosines at bins 1, 5 and 64", "conjugate_sign bin_off_by_one float_width"),
        "noise": ("noise at full scale: every product and every sum rounds", "sum_order fused_multiply_add"),
        "silence": ("a frame of zeros between two of sound: where zeros have a sign", "signed_zero"),
    }
    for what, (comment, flags) in texts.items():
        frames = signals[what][2]
        given: Given = {"frame": (PCM, np.stack(frames))}
        outputs: Made = {"y": ("f32", (len(frames), 129, 2))}
        constants = (_q30(analysis_window("hann")), _q30(shipped("twiddle_q30")))
        seed = 70 if what in ("noise", "silence") else None
        yield directed("stft_f32", what, comment, "F-12 F-1 F-2", flags, given, constants, outputs, seed=seed)


# -- inverse (F-9, F-13) ------------------------------------------------------------------------------------------------


def _window(scale: float, power: int) -> Array:
    """The synthesis window times ``scale * 2^power``, rounded."""
    window: Array = np.rint(synthesis_window(analysis_window("hann")) * scale * 2.0**power).astype(np.int32)
    return window


def istft(what: str, comment: str, flags: str, mantissa: Any, exponent: Any, base: int = 10, seed: int | None = None) -> Case:
    """Mantissas [T, S, 129, 2] and exponents [T, S] through the window of F-17 for BF16 spectra."""
    mantissa, exponent = np.asarray(mantissa), np.asarray(exponent)
    frames, speakers = exponent.shape
    given: Given = {"mantissa": ("int32", mantissa), "exponent": ("int32", exponent)}
    outputs: Made = {"head": ("int32", (frames, speakers, 96)), "tail": ("int32", (frames, speakers, 64))}
    constants = (_window(1.0, 29), shipped("twiddle_q30"), base)
    return directed("istft", what, comment, "F-9 F-3 F-1 F-17 N-2 N-5", flags, given, constants, outputs, seed=seed)


def _inverse() -> Iterator[Case]:
    zero = np.zeros((1, 1, 129, 2), np.int64)
    impulses = np.tile(zero, (3, 2, 1, 1))
    impulses[0, 0, 5, 0] = impulses[0, 1, 5, 1] = impulses[1, 0, 0, 0] = impulses[1, 1, 128, 0] = 1 << 20
    impulses[2, 0, 127, 1] = impulses[2, 1, 64, 0] = -(1 << 20)
    exponents = np.full((3, 2), 19)
    comment = "one bin at a time, real and imaginary, two speakers: phase, direction, and which 160 samples are kept"
    flags = "conjugate_sign bin_off_by_one channel_order overlap_region"
    yield istft("single_bins", comment, flags, impulses, exponents)
    edge = zero.copy()
    edge[0, 0, 0], edge[0, 0, 128], edge[0, 0, 3] = (1000, 2000000), (-1000, -2000000), (70000, -50000)
    comment = "imaginary parts at bins 0 and 128 are not read"
    yield istft("imaginary_ends", comment, "bin_off_by_one conjugate_sign", edge, [[15]])
    source = Integers(71)
    random = source.between(-(1 << 21) + 1, (1 << 21) - 1, (2, 2, 129, 2))
    comment = "random spectra of full size with four exponents"
    flags = "block_exponent floor_for_round double_rounding narrow_accumulator"
    yield istft("random", comment, flags, random, [[27, 20], [24, 18]], seed=71)
    loud = np.tile(random[:1, :1], (1, 8, 1, 1))
    comment = "full size with small and negative exponents: left shifts, saturation, and shifts of the word's width and more"
    flags = "saturation_high saturation_low wraparound shift_range"
    yield istft("saturation", comment, flags, loud, [[0, -20, -107, 146, 53, 52, 11, 12]], seed=71)
    small = np.tile(zero, (1, 2, 1, 1))
    small[0, 0, 1], small[0, 1, 2] = (1, 0), (-3, 2)
    comment = "spectra of a few units: every rounding in every stage is large beside them"
    yield istft("units", comment, "floor_for_round double_rounding", small, [[9, 10]])
    comment = "spectra of a few units and a last shift of one: odd products are ties"
    yield istft("window_ties", comment, "tie_half_even tie_away", small, [[-9, -9]])
    ties = np.tile(zero, (1, 2, 1, 1))
    c, s = (int(v) for v in shipped("twiddle_q30")[3])
    ties[0, 0, 3] = tie_pair(s, -c, 30, 1 << 20)
    ties[0, 1, 3] = tie_pair(c, s, 30, 1 << 20)
    comment = "one bin whose split stage is exactly at a negative tie, in the real and in the imaginary part"
    yield istft("split_ties", comment, "tie_half_even tie_away", ties, [[19, 19]])
    scale = 23 / 255
    power = 30 - math.frexp(float(synthesis_window(analysis_window("hann")).max()) * scale)[1]
    codes = source.between(-128, 127, (1, 2, 129, 2)) * (1 << 13)
    given: Given = {"mantissa": ("int32", codes), "exponent": ("int32", np.zeros((1, 2)))}
    outputs: Made = {"head": ("int32", (1, 2, 96)), "tail": ("int32", (1, 2, 64))}
    comment = "codes of 8 bits: the scale is in the window, the exponent is 0"
    constants = (_window(scale, power), shipped("twiddle_q30"), power + 13 - 19)
    rules, flags = "F-9 F-3 F-1 F-17 N-2 N-5", "block_exponent saturation_high saturation_low"
    yield directed("istft", "codes", comment, rules, flags, given, constants, outputs, seed=71)


def _inverse_f32() -> Iterator[Case]:
    source = Integers(72)
    synthesis = synthesis_window(analysis_window("hann")).astype(np.float32)
    orders = {"speaker_major": (np.array([0, 2]), np.array([1, 3])), "real_first": (np.array([0, 1]), np.array([2, 3]))}
    x = source.fractions((2, 129, 4), 8.0)
    impulse = np.zeros((1, 129, 4), np.float32)
    impulse[0, 5, 0] = impulse[0, 0, 1] = impulse[0, 128, 3] = 1.0
    impulse[0, 127, 1], impulse[0, 64, 2] = -1.0, -0.0
    for what, (re, im) in orders.items():
        for name, values, seed in (("random", x, 72), ("bins", impulse, None)):
            given: Given = {"x": ("f32", values)}
            count = len(values)
            outputs: Made = {"head": ("f32", (count, 2, 96)), "tail": ("f32", (count, 2, 64))}
            constants = (re, im, synthesis, _q30(shipped("twiddle_q30")))
            text = {"random": "random spectra", "bins": "single bins; imaginary parts at bins 0 and 128 are not read"}[name]
            comment = f"{text}, channels {what.replace('_', ' ')}"
            flags = {
                "random": "sum_order fused_multiply_add channel_order",
                "bins": "conjugate_sign bin_off_by_one signed_zero",
            }[name]
            yield directed(
                "istft_f32", f"{name}_{what}", comment, "F-13 F-12 F-16 F-1 M-11", flags, given, constants, outputs, seed=seed
            )


# -- overlap-add and PCM (F-10, F-11, F-14, F-15) -----------------------------------------------------------------------


def _overlap() -> Iterator[Case]:
    head = np.tile(np.arange(96) * 1000, (3, 2, 1)) + np.arange(6).reshape(3, 2, 1) * 100000
    tail = np.tile(np.arange(64) * -7, (3, 2, 1)) + np.arange(1, 7).reshape(3, 2, 1) * 10000000
    past = np.full((1, 2, 64), 5555) * np.array([1, -1]).reshape(1, 2, 1)
    comment = "numbered samples: the tail of the frame before, for 64 samples, speaker by speaker"
    flags = "stale_state frame_off_by_one overlap_region channel_order"
    state = {"tail": (1, False, past)}
    given: Given = {"head": ("int32", head), "tail": ("int32", tail)}
    outputs: Made = {"y": ("int32", (3, 2, 96))}
    yield directed("overlap_add", "frames", comment, "F-10 N-4 P-1", flags, given, (), outputs, state)
    top, bottom = (1 << 31) - 1, -(1 << 31)
    head, tail = np.zeros((1, 1, 96), np.int64), np.zeros((1, 1, 64), np.int64)
    head[0, 0, :8] = [top, top, top - 1, bottom, bottom, bottom + 1, top, bottom]
    tail[0, 0, :8] = [1, top, 1, -1, bottom, -1, bottom, top]
    head[0, 0, 95] = top
    given = {"head": ("int32", head), "tail": ("int32", np.zeros_like(tail))}
    outputs = {"y": ("int32", (1, 1, 96))}
    comment = "sums of 33 bits saturate at both ends"
    flags = "saturation_high saturation_low wraparound"
    yield directed("overlap_add", "saturation", comment, "F-10 N-4 P-1", flags, given, (), outputs, {"tail": (1, False, tail)})
    source = Integers(73)
    for what, scale in (("frames", 1.0), ("large", 3e38)):
        head, tail, past = (source.fractions(shape, scale) for shape in ((2, 2, 96), (2, 2, 64), (1, 2, 64)))
        given = {"head": ("f32", head), "tail": ("f32", tail)}
        outputs = {"y": ("f32", (2, 2, 96))}
        comment = {"frames": "one addition where two frames meet", "large": "sums beyond the largest value are infinite"}[what]
        flags = {"frames": "stale_state overlap_region frame_off_by_one", "large": "float_width"}[what]
        state = {"tail": (1, False, past)}
        yield directed("overlap_add_f32", what, comment, "F-14 P-1", flags, given, (), outputs, state, 73)
    zeros = f32([[[0x80000000] * 96]])
    past = f32([[[0x80000000, 0x00000000] * 32]])
    given = {"head": ("f32", zeros), "tail": ("f32", np.zeros((1, 1, 64), np.float32))}
    outputs = {"y": ("f32", (1, 1, 96))}
    comment = "minus zero plus zero is zero; beyond 64 samples -0 stays"
    state = {"tail": (1, False, past)}
    yield directed("overlap_add_f32", "zeros", comment, "F-14 P-1", "signed_zero overlap_region", given, (), outputs, state)


def _samples(values: Any) -> Array:
    """Values [S, n] as one frame of 96 samples, zeros behind them."""
    rows = np.asarray(values)
    frame = np.zeros((1, len(rows), 96), rows.dtype)
    frame[0, :, : rows.shape[1]] = rows
    return frame


def _pcm() -> Iterator[Case]:
    outputs: Made = {"pcm": (PCM, (1, 2, 96)), "clipped": ("int32", (1, 2))}
    half = 1 << 11
    ties = [half, 3 * half, 5 * half, -half, -3 * half, half - 1, half + 1, -half - 1, -half + 1, 2 * half, 0, 4095]
    edges = [
        134217727,
        -134217728,
        134213632,
        134215679,
        134215680,
        -134219776,
        -134219777,
        -134221824,
        (1 << 31) - 1,
        -(1 << 31),
        1 << 27,
        0,
    ]
    given: Given = {"x": ("int32", _samples([ties, edges]))}
    comment = "ties of both signs in one speaker; both ends of 16 bits in the other, each sample that changes is counted"
    flags = "tie_half_up tie_away floor_for_round truncation saturation_high saturation_low wraparound clip_count"
    yield directed("to_pcm", "ties_and_ends", comment, "F-11 N-3 N-4", flags, given, (), outputs)
    loud = np.zeros((2, 2, 96), np.int64)
    loud[0, 0], loud[0, 1], loud[1, 1, 95] = 1 << 30, 1 << 26, -(1 << 31)
    given = {"x": ("int32", loud)}
    made: Made = {"pcm": (PCM, (2, 2, 96)), "clipped": ("int32", (2, 2))}
    comment = "a count for each frame and each speaker: 96, 0, 0 and 1"
    yield directed("to_pcm", "counts", comment, "F-11 N-3 N-4", "clip_count channel_order", given, (), made)
    source = Integers(74)
    given = {"x": ("int32", source.between(-(1 << 27), 1 << 27, (1, 2, 96)))}
    yield directed(
        "to_pcm", "random", "samples at random", "F-11 N-3 N-4", "floor_for_round endianness", given, (), outputs, seed=74
    )
    unit = 2.0**-15
    ties_f32 = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, -0.50000006, 0.0, -0.0, 1e-30, 32766.5, -32767.5], np.float32)
    special = f32([0x3F800000, 0xBF800000, 0x3F7FFF00, 0x3F7FFF80, 0xBF800080, 0xBF800100, 0x7FC00000, 0x7F800000, 0xFF800000])
    rows = np.zeros((2, 12), np.float32)
    rows[0], rows[1, :9] = ties_f32 * np.float32(unit), special
    rows[1, 9:] = [200.0, 300.0, -1e30]
    given = {"x": ("f32", _samples(rows))}
    comment = "ties, full scale, values beyond 2^23 units, infinities, and NaN, which is not counted"
    flags = "tie_half_up tie_away truncation saturation_high saturation_low wraparound nan_to_integer clip_count"
    yield directed("to_pcm_f32", "ties_and_ends", comment, "F-15 N-6 N-4", flags, given, (), outputs)
    given = {"x": ("f32", source.fractions((1, 2, 96), 1.2))}
    comment = "samples at random, some of them beyond full scale"
    yield directed("to_pcm_f32", "random", comment, "F-15 N-6 N-4", "clip_count endianness", given, (), outputs, seed=74)
