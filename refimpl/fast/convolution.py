"""Convolutions: integer ones as fully connected layers over gathered taps, BF16 ones with bins side by side (SPEC C-1 to C-8).

A BF16 sum keeps its order: bias, then time tap, frequency tap, input channel. Only sums of different outputs run in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.fast.elementwise import are
from refimpl.fast.linear import left, padded, positions
from refimpl.fast.native import VIEWS, Array, Call, Operator, aligned, carray, entry, replaces, shaped
from refimpl.fast.vector import BYTES, TAPS_LINE, TAPS_ROWS, f32_of, pointer, taps
from refimpl.numerics.jit import inline, inline_as
from refimpl.numerics.requantize import Requantizer
from refimpl.operators import convolution

Calls = Sequence[Any] | None
_u16x3 = VIEWS["u16", 3]

# -- integers ---------------------------------------------------------------------------------------------------------------


def _gather(size: int) -> Any:
    """Taps of every position, time then bin, as rows of the left operand."""
    wide = size == 2 or not BYTES
    source_type, target_type = (np.int8 if size == 1 else np.int16), (np.int16 if wide else np.uint8)
    flip = 0 if wide else 128

    def run(p):
        frames, bins, inputs, below, padding, transposed, width = p[1], p[2], p[3], p[4], p[5], p[6], p[8]
        x = carray(pointer(p[0]), (frames + 2, bins, inputs), source_type)
        a = carray(pointer(p[7]), (frames * bins, width), target_type)
        outside = source_type(padding) ^ flip
        for t in range(frames):
            for f in range(bins):
                row = a[t * bins + f]
                for k in range(3):
                    for j in range(3):
                        time = t + 2 - k if transposed else t + k
                        at = f - j + below if transposed else f + j - below
                        first = (3 * k + j) * inputs
                        if 0 <= at < bins:
                            for i in range(inputs):
                                row[first + i] = x[time, at, i] ^ flip
                        else:
                            for i in range(inputs):
                                row[first + i] = outside

    return inline_as(f"gather_{8 * size}")(run)


_g8, _g16 = _gather(1), _gather(2)


@entry
def gather_8(p):
    _g8(p)


@entry
def gather_16(p):
    _g16(p)


def _integer(x: Array, weight: Array, below: int, padding: int, rq: Requantizer, y: Array, transposed: bool) -> Calls:
    if x.dtype not in (np.int8, np.int16) or weight.dtype != np.int8 or not _holds(x.dtype, padding):
        return None
    frames, bins, _ = y.shape
    inputs, size = x.shape[2], x.itemsize
    a = left(frames * bins, 9 * inputs, size)
    words = (x, frames, bins, inputs, int(below), int(padding), int(transposed), a, a.shape[1])
    codes = weight.reshape(9 * inputs, -1)
    layer = positions(a, frames * bins, 0, codes, rq, y, staged=True, size=size)
    return [Call(gather_8 if size == 1 else gather_16, words), *layer]


def _holds(dtype: Any, value: int) -> bool:
    return bool(np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max)


@replaces(convolution.conv_causal)
def conv_causal(x: Array, weight: Array, below: int, padding: int, rq: Requantizer, y: Array) -> Calls:
    """SPEC C-1."""
    return _integer(x, weight, below, padding, rq, y, False)


@replaces(convolution.conv_transposed_causal)
def conv_transposed_causal(x: Array, weight: Array, below: int, padding: int, rq: Requantizer, y: Array) -> Calls:
    """SPEC C-2."""
    return _integer(x, weight, below, padding, rq, y, True)


# -- BF16 -------------------------------------------------------------------------------------------------------------------


@inline
def planes_of(x, planes, width):
    """x uint16 [T, F, I] to planes FP32 [T * I, width]: bins side by side from position 2 on."""
    for t in range(x.shape[0]):
        for f in range(x.shape[1]):
            for i in range(x.shape[2]):
                planes[(t * x.shape[2] + i) * width + f + 2] = f32_of(x[t, f, i])


@entry
def taps_bf16(p):
    x, y = _u16x3(p, 0), _u16x3(p, 4)
    planes, width, where, count, weight, padded_outputs, bias = p[8], p[9], p[10], p[11], p[12], p[13], p[14]
    planes_of(x, carray(pointer(planes), x.shape[0] * x.shape[2] * width, np.float32), width)
    frames, bins, outputs = y.shape
    result = carray(pointer(p[15]), (padded_outputs, width), np.uint16)
    for t in range(frames):
        base = planes + 4 * t * x.shape[2] * width
        for o in range(0, padded_outputs, TAPS_ROWS):
            for f in range(0, bins, TAPS_LINE):
                out = p[15] + 2 * (o * width + f)
                taps(base + 4 * f, where, count, weight + 4 * o, 4 * padded_outputs, bias + 4 * o, out, 2 * width)
        for f in range(bins):
            for o in range(outputs):
                y[t, f, o] = result[o, f]


def _bf16(x: Array, weight: Array, bias: Array, below: int, y: Array, transposed: bool) -> Calls:
    if not (are(np.uint16, x, y) and are(np.float32, weight, bias)) or not 0 <= below <= 2:
        return None
    (_, bins, outputs), inputs = y.shape, x.shape[2]
    width = padded(bins, TAPS_LINE) + 4
    planes = aligned((x.shape[0] * inputs * width,), np.float32)
    where = np.empty((3, 3, inputs), np.int64)
    for k, j, i in np.ndindex(where.shape):
        time, shift = (2 - k, below - j) if transposed else (k, j - below)
        where[k, j, i] = (time * inputs + i) * width + 2 + shift
    rows = aligned((9 * inputs, padded(outputs, TAPS_ROWS)), np.float32)
    rows[:, :outputs] = weight.reshape(9 * inputs, outputs)
    first = aligned((rows.shape[1],), np.float32)
    first[:outputs] = bias
    result = aligned((rows.shape[1], width), np.uint16)
    words = (*shaped(x), *shaped(y), planes, width, where, where.size, rows, rows.shape[1], first, result)
    return [Call(taps_bf16, words)]


@replaces(convolution.conv_causal_bf16)
def conv_causal_bf16(x: Array, weight: Array, bias: Array, below: int, y: Array) -> Calls:
    """SPEC C-5."""
    return _bf16(x, weight, bias, int(below), y, False)


@replaces(convolution.conv_transposed_causal_bf16)
def conv_transposed_causal_bf16(x: Array, weight: Array, bias: Array, below: int, y: Array) -> Calls:
    """SPEC C-6."""
    return _bf16(x, weight, bias, int(below), y, True)


# -- compression and expansion: every group of bins is one position ---------------------------------------------------------


@replaces(convolution.conv_strided)
def conv_strided(x: Array, weight: Array, rq: Requantizer, y: Array) -> Calls:
    """SPEC C-7."""
    stride, inputs, outputs = weight.shape
    frames, groups, _ = y.shape
    if x.dtype not in (np.int8, np.int16) or weight.dtype != np.int8:
        return None
    codes = weight.reshape(stride * inputs, outputs)
    if stride * groups == x.shape[1]:
        return positions(x, frames * groups, stride * inputs * x.itemsize, codes, rq, y)
    calls: list[Any] = []
    for t in range(frames):  # bins are left over: the rows of two frames are not evenly spaced
        calls += positions(x[t], groups, stride * inputs * x.itemsize, codes, rq, y[t])
    return calls


KERNELS: tuple[Operator, ...] = (
    conv_causal,
    conv_transposed_causal,
    conv_causal_bf16,
    conv_transposed_causal_bf16,
    conv_strided,
)
