"""The transforms and PCM without a way through Python: the operators' own code (SPEC F-4, F-9 to F-11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refimpl.fast.elementwise import are
from refimpl.fast.native import VIEWS, Array, Call, Operator, entry, replaces, shaped
from refimpl.operators import fourier

Calls = Sequence[Call] | None
_i16x2, _i16x3, _i32x1, _i32x2, _i32x3, _i32x4 = (
    VIEWS[key] for key in (("i16", 2), ("i16", 3), ("i32", 1), ("i32", 2), ("i32", 3), ("i32", 4))
)  # fmt: skip


@entry
def forward(p):
    fourier.stft(_i16x2(p, 0), _i32x1(p, 3), _i32x2(p, 5), _i32x3(p, 8), _i32x2(p, 12))


@replaces(fourier.stft)
def stft(frame: Array, window: Array, twiddle: Array, mantissa: Array, exponent: Array) -> Calls:
    """SPEC F-4."""
    if not (are(np.int16, frame) and are(np.int32, window, twiddle, mantissa, exponent)):
        return None
    return [Call(forward, (*shaped(frame), *shaped(window), *shaped(twiddle), *shaped(mantissa), *shaped(exponent)))]


@entry
def inverse(p):
    fourier.istft(_i32x4(p, 0), _i32x2(p, 5), _i32x1(p, 8), _i32x2(p, 10), p[21], _i32x3(p, 13), _i32x3(p, 17))


@replaces(fourier.istft)
def istft(mantissa: Array, exponent: Array, window: Array, twiddle: Array, base_shift: int, head: Array, tail: Array) -> Calls:
    """SPEC F-9."""
    arrays = (mantissa, exponent, window, twiddle, head, tail)
    if not are(np.int32, *arrays):
        return None
    return [Call(inverse, (*(word for array in arrays for word in shaped(array)), int(base_shift)))]


@entry
def overlap(p):
    fourier.overlap_add(_i32x3(p, 0), _i32x3(p, 4), _i32x3(p, 8))


@replaces(fourier.overlap_add)
def overlap_add(head: Array, tail: Array, y: Array) -> Calls:
    """SPEC F-10."""
    return [Call(overlap, (*shaped(head), *shaped(tail), *shaped(y)))] if are(np.int32, head, tail, y) else None


@entry
def pcm_out(p):
    fourier.to_pcm(_i32x3(p, 0), _i16x3(p, 4), _i32x2(p, 8))


@replaces(fourier.to_pcm)
def to_pcm(x: Array, pcm: Array, clipped: Array) -> Calls:
    """SPEC F-11."""
    if not (are(np.int32, x, clipped) and are(np.int16, pcm)):
        return None
    return [Call(pcm_out, (*shaped(x), *shaped(pcm), *shaped(clipped)))]


KERNELS: tuple[Operator, ...] = (stft, istft, overlap_add, to_pcm)
