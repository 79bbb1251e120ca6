"""Fully connected layers as tiles of exact 32-bit sums, requantized in the registers (SPEC L-1, L-2).

Along channels, positions are the rows of a tile and output channels its columns; along frequency, output bins are the rows and
channels the columns. Signed activations x enter byte products as ``x + 128``; ``-128 * sum(w)`` is where those sums start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from refimpl.fast.native import (
    FOLDER,
    VIEWS,
    Array,
    Call,
    Entry,
    Operator,
    Word,
    aligned,
    carray,
    entry,
    flat,
    replaces,
    shaped,
)
from refimpl.fast.vector import BYTES, COLUMNS, ROWS, make_interleave, make_tile, pointer
from refimpl.numerics.jit import inline, inline_as, kernel_in
from refimpl.numerics.requantize import LAW_BF16, LAW_FOLDED, LAW_NORM_TWICE, Requantizer, requantize
from refimpl.operators import linear

SIZES = {"int8": 1, "int16": 2, "bf16": 2, "int32": 4}
STAGED = 8 * ROWS  # rows of activations that are prepared at once: they stay in the first cache

# -- laws in 32-bit lanes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lanes:
    """A law as the tile computes it: ``max((((start + sum) >> shift) * M + addend) >> second, lowest)``, or ``bf16``."""

    output: str
    table: Array  # int32: start, M, addend, second; or start and FP32 scale; or start
    shift: int = 0
    lowest: int = 0

    @property
    def words(self) -> tuple[Word, ...]:
        return (self.table, self.table.strides[0], self.shift, self.lowest)


def _fits(*values: Any) -> bool:
    return all(np.all((v >= -(1 << 31)) & (v < (1 << 31))) for v in values)


def lanes(rq: Requantizer, y: Array, low: Array, high: Array, start: Array, multiple: int) -> Lanes:
    """The law ``rq`` in 32-bit lanes where it is known and every value provably fits, else the bare sums.

    low, high, start int64 [channel]: bounds of the sums, and what they start from; the table is padded to ``multiple``.
    """
    name, known = {np.int8: "int8", np.int16: "int16", np.uint16: "bf16"}.get(y.dtype.type, ""), None
    if name == "bf16":
        if rq.law == LAW_BF16 and np.all(np.isfinite(rq.scale)):
            known = Lanes(name, _table((start + rq.bias, rq.scale.view(np.int32)), multiple))
    elif name and rq.law == LAW_FOLDED:
        known = _affine(name, rq, (low, high), start, 0, rq.addend, rq.shift, multiple)
    elif name and rq.law == LAW_NORM_TWICE:
        first = max(int(rq.pre_shift), 0)
        second = np.maximum(rq.shift.astype(np.int64) - int(rq.pre_shift), 0)
        bias = rq.bias.astype(np.int64) + ((1 << first) >> 1)
        if first < 32 and np.all(second < 32):
            addend = (np.int64(1) << second) >> 1
            known = _affine(name, rq, (low + bias, high + bias), start + bias, first, addend, second, multiple)
    return known or Lanes("int32", _table((start,), multiple))


def _affine(
    name: str, rq: Requantizer, ends: tuple[Array, Array], start: Array, first: int, addend: Array, second: Array, multiple: int
) -> Lanes | None:
    info, offset = np.iinfo(name), int(rq.offset)
    lowest = int(rq.lowest) + offset
    if (first and name == "int8") or int(rq.highest) + offset != info.max or lowest < info.min:
        return None
    if np.any(second < 0) or np.any(second > 31):
        return None
    m, moved = rq.multiplier.astype(np.int64), addend + (np.int64(offset) << second.astype(np.int64))
    products = [(end >> first) * m for end in ends]
    if not _fits(*ends, *products, addend, moved, *(product + moved for product in products), lowest):
        return None
    return Lanes(name, _table((start, m, moved, second), multiple), first, lowest)


def _table(rows: Sequence[Array], multiple: int) -> Array:
    count = len(rows[0])
    table = aligned((len(rows), padded(count, multiple)), np.int32)
    for line, row in zip(table, rows, strict=True):
        line[:count] = row.astype(np.int64).astype(np.uint32).view(np.int32)  # sums are exact modulo 2^32
    return table


def padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def bounds(codes: Array, dtype: Any) -> tuple[Array, Array]:
    """The least and the largest sum of ``codes`` int64 [channel, k] times activations of ``dtype``."""
    info = np.iinfo(dtype)
    positive, negative = np.maximum(codes, 0).sum(1), np.minimum(codes, 0).sum(1)
    return positive * info.min + negative * info.max, positive * info.max + negative * info.min


# -- positions by output channels -------------------------------------------------------------------------------------------


@cache
def _stage(size: int) -> Any:
    """Rows of activations to the left operand of tiles: bytes made unsigned, or words, rows padded."""
    wide = size == 2 or not BYTES
    source_type = np.int8 if size == 1 else np.int16
    target_type = np.int16 if wide else np.uint8
    flip = 0 if wide else 128

    def stage(source, stride_x, k, rows, target, stride_a):
        width = stride_a // (2 if wide else 1)
        step = stride_x // size
        x = carray(pointer(source), (rows - 1) * step + k, source_type)
        a = carray(pointer(target), rows * width, target_type)
        if width == k and step == k:
            for i in range(rows * k):
                a[i] = x[i] ^ flip
        else:
            for r in range(rows):
                for i in range(k):
                    a[r * width + i] = x[r * step + i] ^ flip

    return inline_as(f"stage_{8 * size}")(stage)


@inline
def copy_part(out, stride_out, scratch, stride_scratch, rows, count):
    to = carray(pointer(out), (rows - 1) * stride_out + count, np.uint8)
    of = carray(pointer(scratch), rows * stride_scratch, np.uint8)
    for r in range(rows):
        for i in range(count):
            to[r * stride_out + i] = of[r * stride_scratch + i]


def _positions(size: int, output: str) -> Any:
    """Rows of x by columns of weights; words in the order of :func:`positions`. ``k`` 0: x is staged already."""
    stage, bytes_out = _stage(size), SIZES[output]
    tile = make_tile(size == 1 and BYTES, False, output)

    def run(p):
        x, stride_x, k, rows, staged, stride_a, packed, steps = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
        out, stride_out, outputs, scratch = p[8], p[9], p[10], p[11]
        table, stride_table, shift, lowest = p[12], p[13], p[14], p[15]
        for first in range(0, rows, STAGED):
            stop = min(first + STAGED, rows)
            base = staged
            if k > 0:
                stage(x + first * stride_x, stride_x, k, stop - first, staged, stride_a)
            else:
                base = x + first * stride_a
            for block in range(0, outputs, COLUMNS):
                valid = min(COLUMNS, outputs - block)
                for regular in range(first, stop, ROWS):
                    # The last tile reaches back over rows that are done: a whole tile needs no copy.
                    row = max(min(regular, stop - ROWS), first)
                    here = min(ROWS, stop - row)
                    target, stride = out + row * stride_out + block * bytes_out, stride_out
                    if here < ROWS or valid < COLUMNS:
                        target, stride = scratch, COLUMNS * bytes_out
                    tile(
                        base + (row - first) * stride_a, stride_a, packed + 4 * block * steps, steps,
                        table + 4 * block, stride_table, target, stride, shift, lowest,
                    )  # fmt: skip
                    if target == scratch:
                        to = out + row * stride_out + block * bytes_out
                        copy_part(to, stride_out, scratch, stride, here, valid * bytes_out)

    return inline_as(f"positions_{8 * size}_{output}")(run)


_p11, _p12, _p1b, _p14 = (_positions(1, output) for output in SIZES)
_p21, _p22, _p2b, _p24 = (_positions(2, output) for output in SIZES)


@entry
def positions_8_to_8(p):
    _p11(p)


@entry
def positions_8_to_16(p):
    _p12(p)


@entry
def positions_8_to_bf16(p):
    _p1b(p)


@entry
def positions_8_to_32(p):
    _p14(p)


@entry
def positions_16_to_8(p):
    _p21(p)


@entry
def positions_16_to_16(p):
    _p22(p)


@entry
def positions_16_to_bf16(p):
    _p2b(p)


@entry
def positions_16_to_32(p):
    _p24(p)


POSITIONS: dict[tuple[int, str], Entry] = {
    (1, "int8"): positions_8_to_8,
    (1, "int16"): positions_8_to_16,
    (1, "bf16"): positions_8_to_bf16,
    (1, "int32"): positions_8_to_32,
    (2, "int8"): positions_16_to_8,
    (2, "int16"): positions_16_to_16,
    (2, "bf16"): positions_16_to_bf16,
    (2, "int32"): positions_16_to_32,
}


def _second(bits: int, by_row: bool) -> Any:
    """Sums int32 [T, G, C] to codes by any law, the channel in the middle (``by_row``) or last."""
    view = VIEWS[f"i{bits}", 3]

    def run(p):
        total, y = _i32x3(p, 0), view(p, 4)
        rq = Requantizer(
            p[8], p[9], p[10], p[11], p[12], _i32(p, 13), _i32(p, 15), _i64(p, 17), _i32(p, 19), _f32(p, 21)
        )  # fmt: skip
        for t in range(total.shape[0]):
            for g in range(total.shape[1]):
                for c in range(total.shape[2]):
                    y[t, g, c] = requantize(total[t, g, c], g if by_row else c, rq)

    return inline_as(f"second_{bits}_{'rows' if by_row else 'columns'}")(run)


_i32x3, _i32, _i64, _f32 = (VIEWS[key] for key in (("i32", 3), ("i32", 1), ("i64", 1), ("f32", 1)))
_r8, _r16, _k8, _k16 = _second(8, True), _second(16, True), _second(8, False), _second(16, False)


@entry
def rows_to_8(p):
    _r8(p)


@entry
def rows_to_16(p):
    _r16(p)


@entry
def columns_to_8(p):
    _k8(p)


@entry
def columns_to_16(p):
    _k16(p)


SECOND = {(1, True): rows_to_8, (2, True): rows_to_16, (1, False): columns_to_8, (2, False): columns_to_16}


@kernel_in(FOLDER)
def requantize_all(total, rq, y, by_row):
    """As the entries above, for any type of y."""
    for t in range(total.shape[0]):
        for g in range(total.shape[1]):
            for c in range(total.shape[2]):
                y[t, g, c] = requantize(total[t, g, c], g if by_row else c, rq)


def second_pass(total: Array, rq: Requantizer, y: Array, by_row: bool) -> Call | Callable[[], None]:
    """The sums [T, G, C] that a tile left, requantized by the operators' own rule."""
    if y.dtype not in (np.int8, np.int16):
        return lambda: requantize_all(total, rq, y, by_row)
    numbers = (int(v) for v in rq[:5])
    arrays = (np.ascontiguousarray(values) for values in rq[5:])
    words = (*shaped(total), *shaped(y), *numbers, *(word for values in arrays for word in flat(values)))
    return Call(SECOND[y.itemsize, by_row], words)


def unit(size: int) -> int:
    """How many values of x a step takes: 4 bytes or 2 words."""
    return 4 if size == 1 and BYTES else 2


def pack_columns(codes: Array, size: int) -> Array:
    """Weights int8 [K, N] as the right operand: [N / COLUMNS][K / unit][COLUMNS][unit], zeros around."""
    each, (k, n) = unit(size), codes.shape
    full = np.zeros((padded(k, each), padded(n, COLUMNS)), np.int8 if each == 4 else np.int16)
    full[:k, :n] = codes
    grid = full.reshape(-1, each, full.shape[1] // COLUMNS, COLUMNS).transpose(2, 0, 3, 1)
    result = aligned(grid.shape, full.dtype)
    result[:] = grid
    return result


def positions(
    x: Array, rows: int, stride_x: int, codes: Array, rq: Requantizer, y: Array, staged: bool = False, size: int = 0
) -> list[Call | Callable[[], None]]:
    """Calls for ``y[r, n] = law(sum_k codes[k, n] * x[r, k])``: y [rows, N] contiguous, rows of x ``stride_x`` bytes apart.

    ``staged``: x is the left operand already, made for activations of ``size`` bytes (:func:`left`).
    """
    k, n = codes.shape
    size = size or x.dtype.itemsize
    each = unit(size)
    wide = codes.T.astype(np.int64)
    start = -128 * wide.sum(1) if each == 4 else np.zeros(n, np.int64)
    law = lanes(rq, y, *bounds(wide, np.int8 if size == 1 else np.int16), start, COLUMNS)
    packed = pack_columns(codes, size)
    a = x if staged else left(STAGED, k, size)
    out = np.empty((rows, n), np.int32) if law.output == "int32" else y
    scratch = aligned((ROWS, COLUMNS), np.int32)
    words = (
        x, stride_x, 0 if staged else k, rows, a, a.strides[0], packed, packed.shape[1],
        out, n * out.itemsize, n, scratch, *law.words,
    )  # fmt: skip
    calls: list[Call | Callable[[], None]] = [Call(POSITIONS[size, law.output], words)]
    if law.output == "int32":
        calls.append(second_pass(out[None], rq, y.reshape(1, rows, n), False))
    return calls


def left(rows: int, k: int, size: int) -> Array:
    """Room for ``rows`` rows of activations of ``size`` bytes as the left operand, whole tiles of them."""
    each = unit(size)
    return aligned((padded(rows, ROWS), padded(k, each)), np.uint8 if each == 4 else np.int16)


# -- output bins by channels ------------------------------------------------------------------------------------------------


@cache
def _pack_frame(size: int) -> Any:
    """One frame [F, C] to the right operand [C / COLUMNS][F / unit][COLUMNS][unit]."""
    wide = size == 2 or not BYTES
    each = 2 if wide else 4
    source_type, target_type = (np.int8 if size == 1 else np.int16), (np.int16 if wide else np.uint8)
    flip = 0 if wide else 128
    direct = size == 2 or BYTES
    interleave = make_interleave(size, BYTES and size == 1)

    def pack(source, bins, channels, target, steps):
        stride = channels * size
        if direct and channels % COLUMNS == 0:
            for block in range(channels // COLUMNS):
                for step in range(steps):
                    first = step * each
                    at = source + first * stride + block * COLUMNS * size
                    interleave(at, stride, bins - first, target + (block * steps + step) * 4 * COLUMNS)
            return
        x = carray(pointer(source), (bins, channels), source_type)
        blocks = (channels + COLUMNS - 1) // COLUMNS
        b = carray(pointer(target), (blocks, steps, COLUMNS, each), target_type)
        for f in range(bins):
            for c in range(channels):
                b[c // COLUMNS, f // each, c % COLUMNS, f % each] = x[f, c] ^ flip

    return inline_as(f"pack_{8 * size}")(pack)


def _frequency(size: int, output: str) -> Any:
    pack, bytes_out = _pack_frame(size), SIZES[output]
    tile = make_tile(size == 1 and BYTES, True, output)

    def run(p):
        x, frames, bins, channels, weight, stride_a, outputs, packed = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]
        steps, out, scratch = p[8], p[9], p[10]
        table, stride_table, shift, lowest = p[11], p[12], p[13], p[14]
        stride_out = channels * bytes_out
        for t in range(frames):
            pack(x + t * bins * channels * size, bins, channels, packed, steps)
            for block in range(0, channels, COLUMNS):
                valid = min(COLUMNS, channels - block)
                for regular in range(0, outputs, ROWS):
                    row = max(min(regular, outputs - ROWS), 0)
                    here = min(ROWS, outputs - row)
                    to = out + (t * outputs + row) * stride_out + block * bytes_out
                    target, stride = to, stride_out
                    if here < ROWS or valid < COLUMNS:
                        target, stride = scratch, COLUMNS * bytes_out
                    tile(
                        weight + row * stride_a, stride_a, packed + 4 * block * steps, steps,
                        table + 4 * row, stride_table, target, stride, shift, lowest,
                    )  # fmt: skip
                    if target == scratch:
                        copy_part(to, stride_out, scratch, stride, here, valid * bytes_out)

    return inline_as(f"frequency_{8 * size}_{output}")(run)


_f11, _f12, _f14 = (_frequency(1, output) for output in ("int8", "int16", "int32"))
_f21, _f22, _f24 = (_frequency(2, output) for output in ("int8", "int16", "int32"))


@entry
def frequency_8_to_8(p):
    _f11(p)


@entry
def frequency_8_to_16(p):
    _f12(p)


@entry
def frequency_8_to_32(p):
    _f14(p)


@entry
def frequency_16_to_8(p):
    _f21(p)


@entry
def frequency_16_to_16(p):
    _f22(p)


@entry
def frequency_16_to_32(p):
    _f24(p)


FREQUENCY: dict[tuple[int, str], Entry] = {
    (1, "int8"): frequency_8_to_8,
    (1, "int16"): frequency_8_to_16,
    (1, "int32"): frequency_8_to_32,
    (2, "int8"): frequency_16_to_8,
    (2, "int16"): frequency_16_to_16,
    (2, "int32"): frequency_16_to_32,
}


@replaces(linear.fully_connected_frequency)
def fully_connected_frequency(x: Array, weight: Array, rq: Requantizer, y: Array) -> Sequence[Call | Callable[[], None]] | None:
    """SPEC L-1."""
    if x.dtype not in (np.int8, np.int16) or weight.dtype != np.int8:
        return None
    size, (frames, bins, channels), outputs = x.itemsize, x.shape, len(weight)
    each = unit(size)
    wide = weight.astype(np.int64)
    start = -128 * wide.sum(1) if each == 4 else np.zeros(outputs, np.int64)
    law = lanes(rq, y, *bounds(wide, x.dtype), start, ROWS)
    if law.output == "bf16":  # no network has it
        law = Lanes("int32", _table((start,), ROWS))
    a = aligned((padded(outputs, ROWS), padded(bins, each)), np.int8 if each == 4 else np.int16)
    a[:outputs, :bins] = weight
    steps = a.shape[1] // each
    packed = aligned((padded(channels, COLUMNS) // COLUMNS, steps, COLUMNS, each), np.uint8 if each == 4 else np.int16)
    out = np.empty(y.shape, np.int32) if law.output == "int32" else y
    scratch = aligned((ROWS, COLUMNS), np.int32)
    words = (x, frames, bins, channels, a, a.strides[0], outputs, packed, steps, out, scratch, *law.words)
    calls: list[Call | Callable[[], None]] = [Call(FREQUENCY[size, law.output], words)]
    if law.output == "int32":
        calls.append(second_pass(out, rq, y, True))
    return calls


@replaces(linear.fully_connected_channels)
def fully_connected_channels(x: Array, weight: Array, rq: Requantizer, y: Array) -> Sequence[Call | Callable[[], None]] | None:
    """SPEC L-2."""
    if x.dtype not in (np.int8, np.int16) or weight.dtype != np.int8:
        return None
    frames, bins, channels = x.shape
    return positions(x, frames * bins, channels * x.itemsize, weight, rq, y)


KERNELS: tuple[Operator, ...] = (fully_connected_frequency, fully_connected_channels)
