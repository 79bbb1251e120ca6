"""Diagnosis: devices that are wrong in one known way, computed here in plain NumPy, and what the kit says of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.diagnosis import Hypothesis, diagnose, fourier, products, search
from conformance.diagnosis.registry import families
from conformance.diagnosis.search import LEAST, words
from conformance.diagnosis.site import Site, site_of
from conformance.diagnosis.transform import MODELS as PLANS
from conformance.diagnosis.trial import MODELS, base
from golden_vectors.case import Case
from golden_vectors.suite.elementwise import pairwise, single
from golden_vectors.suite.making import chain, directed, folded, norm_twice, to_bf16
from golden_vectors.suite.operators import conv, conv_float, expansion, linear, linear_f32, strided
from golden_vectors.suite.transforms import istft
from refimpl.numerics.tables import SIGMOID, TANH, code_table, shipped
from refimpl.program import Format
from refimpl.quantization.lowering import analysis_window
from tests.conformance_devices import network_case, slice_case

Array = np.ndarray[Any, np.dtype[Any]]
Wrong = Callable[[], Array]
ROOT = Path(__file__).resolve().parent.parent


def golden(case: Case, name: str = "") -> Array:
    return case.tensors[name or case.steps[-1].outputs[0]].values


def diagnosed(case: Case, output: Array, name: str = "") -> list[Hypothesis]:
    """What is said of a device that wrote ``output`` for the last step's first output, or that of ``name``, in its dtype."""
    step = next(s for s in case.steps if not name or name in s.outputs)
    step = step if name else case.steps[-1]
    expected = golden(case, name)
    return diagnose(case, step.name, {name or step.outputs[0]: output.astype(expected.dtype, copy=False)})


def check(case: Case, output: Array, name: str) -> None:
    """The hypothesis ``name`` comes first, and is exact."""
    assert not np.array_equal(output.astype(golden(case).dtype), golden(case)), "this bug does not show"
    found = diagnosed(case, output)
    assert found, "unknown"
    assert (found[0].name, found[0].exact) == (name, True), found
    assert found[0].sentence
    assert found[0].rule
    assert found[0].explained == found[0].mismatched > 0
    assert found[0].broken == 0


# -- plain arithmetic ------------------------------------------------------------------------------------------------------


def half_up(v: Array, n: Any) -> Array:
    return np.asarray((v + ((np.int64(1) << n) >> 1)) >> n)


def floor(v: Array, n: Any) -> Array:
    return np.asarray(v >> n)


def half_even(v: Array, n: Any) -> Array:
    return np.asarray(np.rint(v / 2.0**n).astype(np.int64))


def toward_zero(v: Array, n: Any) -> Array:
    return np.asarray(np.trunc(v / 2.0**n).astype(np.int64))


def half_away(v: Array, n: Any) -> Array:
    return np.asarray((np.sign(v) * np.floor(np.abs(v) / 2.0**n + 0.5)).astype(np.int64))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def bits(value: Array) -> Array:
    return np.asarray(value, np.float32).view(np.uint32).astype(np.int64)


def to_pattern(value: Array) -> Array:
    b = bits(value)
    return np.asarray((b + 0x7FFF + ((b >> 16) & 1)) >> 16, np.uint16)


def real(pattern: Array) -> Array:
    return np.asarray((pattern.astype(np.uint32) << np.uint32(16)).view(np.float32))


# -- a layer of INT8 codes with the folded law -----------------------------------------------------------------------------


class Folded:
    """A layer over channels, [3, 5, 8] to [3, 5, 8], in plain NumPy; a ``large`` one has accumulators of more than 16 bits."""

    def __init__(self, large: bool = False, relu: bool = False) -> None:
        r = rng(1 + large)
        top, reach, inputs = (127, 128, 24) if large else (4, 40, 8)
        self.x = r.integers(-reach, reach, (3, 5, inputs))
        self.w = r.integers(-top, top + 1, (inputs, 8))
        self.zero_in, self.zero_out = -17, 5
        self.m = r.integers(150, 256, 8) if large else np.array([1, 2, 3, 5, 4, 1, 3, 2])
        self.n = np.full(8, 17) if large else np.array([3, 3, 3, 4, 4, 2, 3, 3])
        bias = r.integers(-30, 30, 8)
        self.total = bias - self.zero_in * self.w.sum(0) + ((self.zero_out + 128) << self.n) // self.m
        form_in, form_out = Format("int8", 2.0**-5, self.zero_in), Format("int8", 2.0**-4, self.zero_out)
        rq = folded(self.total, self.m, self.n, self.zero_out if relu else None)
        self.lowest = self.zero_out + 128 if relu else 0
        x = self.x.transpose(0, 2, 1)
        self.case = linear("channels", "plain", "plain", "bias_dropped", x, self.w.T, rq, form_in, form_out)

    def acc(self, x: Array | None = None, w: Array | None = None) -> Array:
        return np.asarray((self.x if x is None else x).astype(np.int64) @ (self.w if w is None else w))

    def codes(self, acc: Array | None = None, law: Callable[[Array, Any], Array] = half_up, **other: Any) -> Array:
        """Codes as the rule has them, ``other`` values of it replaced."""
        at = {"total": self.total, "m": self.m, "n": self.n, "low": self.lowest, "high": 255, **other}
        value = law(((self.acc() if acc is None else acc) + at["total"]) * at["m"], at["n"])
        return np.asarray((np.clip(value, at["low"], at["high"]) - 128).astype(np.int8))


@cache
def small(relu: bool = False) -> Folded:
    return Folded(relu=relu)


@cache
def large() -> Folded:
    return Folded(large=True)


def saturating(x: Array, w: Array, bits_: int) -> Array:
    top = 1 << (bits_ - 1)
    total = np.zeros((*x.shape[:-1], w.shape[1]), np.int64)
    for k in range(x.shape[-1]):
        total = np.clip(total + x[..., k : k + 1] * w[k], -top, top - 1)
    return total


FOLDED: dict[str, Wrong] = {
    "round_floor": lambda: small().codes(law=floor),
    "round_half_even": lambda: small().codes(law=half_even),
    "wraps": lambda: small().codes(low=-(10**6), high=10**6),
    "saturates_symmetric": lambda: small().codes(low=1),
    "saturates_early_high": lambda: small().codes(high=254),
    "saturates_late": lambda: small().codes(high=256),
    "bias_missing": lambda: small().codes(total=0),
    "bias_twice": lambda: small().codes(total=2 * small().total),
    "input_zero_point_missing": lambda: small().codes(total=small().total + small().zero_in * small().w.sum(0)),
    "input_zero_point_sign": lambda: small().codes(total=small().total + 2 * small().zero_in * small().w.sum(0)),
    "input_read_unsigned": lambda: small().codes(small().acc(x=small().x & 255)),
    "weights_read_unsigned": lambda: small().codes(small().acc(w=small().w & 255)),
    "weights_transposed": lambda: small().codes(small().acc(w=small().w.T)),
    "input_channels_reversed": lambda: small().codes(small().acc(x=small().x[..., ::-1])),
    "input_channels_swapped": lambda: small().codes(small().acc(x=small().x[..., [1, 0, 3, 2, 5, 4, 7, 6]])),
    "output_channels_reversed": lambda: small().codes()[..., ::-1],
    "multiplier_of_channel_0": lambda: small().codes(small().acc() * small().m[0] + small().total * (small().m - 1), m=1),
    "shift_off_by_one": lambda: small().codes(n=small().n + 1),
    "constants_of_channel_0": lambda: small().codes(total=small().total[0], m=small().m[0], n=small().n[0]),
    "relu_extra": lambda: np.maximum(small().codes(), small().zero_out),
    "output_unsigned": lambda: (small().codes().astype(int) + 128).astype(np.uint8).view(np.int8),
    "output_zero": lambda: 0 * small().codes(),
    "output_transposed": lambda: np.ascontiguousarray(small().codes().transpose(0, 2, 1)).reshape(3, 5, 8),
    "output_unfinished": lambda: small().codes() * (np.arange(8) < 6),
    "bin_shift": lambda: small().codes(small().acc(np.roll(small().x, 1, 1))),
    "frame_repeated": lambda: np.repeat(small().codes()[:1], 3, 0),
    "accumulator_wraps_16": lambda: large().codes(large().acc().astype(np.int16)),
    "accumulator_saturates_16": lambda: large().codes(saturating(large().x, large().w, 16)),
    "scale_per_tensor": lambda: small().codes(m=small().m[2], n=small().n[2]),
    "relu_missing": lambda: small(relu=True).codes(low=0),
    "relu_at_zero": lambda: small(relu=True).codes(low=128),
}


# -- a layer along frequency of INT16 codes, with two roundings --------------------------------------------------------------


class Twice:
    """[2, 9, 4] to [2, 6, 4] in plain NumPy: law G-3, pre-shift 8, output zero point -3000."""

    def __init__(self, relu: bool = False, narrow: bool = False) -> None:
        r = rng(3)
        self.x = r.integers(-128, 128, (2, 9, 4)) if narrow else r.integers(-32768, 32768, (2, 9, 4))
        self.w = r.integers(-127, 128, (6, 9))
        self.bias = r.integers(-(10**7), 10**7, 6)
        self.m, self.n = r.integers(100, 256, 6), np.array([17, 16, 17, 17, 15, 16])
        form_in, form_out = Format("int16", 2.0**-12, 1234), Format("int16", 2.0**-12, -3000)
        self.low, self.high = 0 if relu else -32768 + 3000, 32767 + 3000
        rq = norm_twice(self.bias, self.m, self.n, form_out, 8, relu)
        self.case = linear("frequency", "plain", "plain", "single_rounding", self.x, self.w, rq, form_in, form_out)

    def acc(self, x: Array | None = None) -> Array:
        return np.asarray(np.einsum("gf,tfc->tgc", self.w, self.x if x is None else x))

    def value(
        self, acc: Array | None = None, first: Any = half_up, last: Any = half_up, bias: Any = None, pre: int = 8
    ) -> Array:
        bias = self.bias if bias is None else bias
        early = first((self.acc() if acc is None else acc) + np.asarray(bias)[..., None], pre)
        return np.asarray(last(early * self.m[:, None], self.n[:, None] - pre))

    def codes(self, zero: int = -3000, low: int | None = None, high: int | None = None, **other: Any) -> Array:
        bounded = np.clip(self.value(**other), self.low if low is None else low, self.high if high is None else high)
        return (bounded + zero).astype(np.int16)


@cache
def twice(relu: bool = False) -> Twice:
    return Twice(relu)


def one_rounding() -> Array:
    t = twice()
    value = half_up((t.acc() + t.bias[:, None]) * t.m[:, None], t.n[:, None])
    return (np.clip(value, t.low, t.high) - 3000).astype(np.int16)


TWICE: dict[str, Wrong] = {
    "round_floor": lambda: twice().codes(last=floor),
    "round_toward_zero": lambda: twice().codes(last=toward_zero),
    "first_round_floor": lambda: twice().codes(first=floor),
    "first_round_toward_zero": lambda: twice().codes(first=toward_zero),
    "both_round_floor": lambda: twice().codes(first=floor, last=floor),
    "single_rounding": one_rounding,
    "pre_shift": lambda: twice().codes(pre=7),
    "zero_point_missing": lambda: twice().codes(zero=0),
    "zero_point_sign": lambda: twice().codes(zero=3000),
    "zero_point_twice": lambda: twice().codes(zero=-6000),
    "saturates_before_zero_point": lambda: twice().codes(low=-32768, high=32767),
    "wraps": lambda: twice().codes(low=-(10**9), high=10**9),
    "bias_missing": lambda: twice().codes(bias=np.zeros(6, np.int64)),
    "bias_sign": lambda: twice().codes(bias=-twice().bias),
    "bias_after_first_shift": lambda: twice().codes(acc=half_up(twice().acc(), 8) << 8, bias=half_up(twice().bias, 8) << 8),
    "output_big_endian": lambda: twice().codes().byteswap(),
    "input_big_endian": lambda: twice().codes(acc=twice().acc(twice().x.astype(np.int16).byteswap().astype(np.int64))),
    "input_low_byte": lambda: twice().codes(acc=twice().acc(twice().x.astype(np.int8).astype(np.int64))),
    "input_bins_reversed": lambda: twice().codes(acc=twice().acc(twice().x[:, ::-1])),
    "product_wraps_24": lambda: product_of_24_bits(),
    "relu_missing": lambda: twice(relu=True).codes(low=-32768 + 3000),
    "relu_at_zero": lambda: twice(relu=True).codes(low=3000),
}


def product_of_24_bits() -> Array:
    t = twice()
    product = half_up(t.acc() + t.bias[:, None], 8) * t.m[:, None]
    wrapped = ((product + (1 << 23)) % (1 << 24)) - (1 << 23)
    return (np.clip(half_up(wrapped, t.n[:, None] - 8), t.low, t.high) - 3000).astype(np.int16)


# -- into BF16 -----------------------------------------------------------------------------------------------------------


@cache
def into_bf16() -> tuple[Case, Array, Array, Array]:
    """The case, accumulators, bias and scale."""
    r = rng(4)
    x, w, bias = r.integers(-128, 128, (2, 6, 20)), r.integers(-127, 128, (4, 6)), r.integers(-9000, 9000, 4)
    scale = np.array([1e-4, 3e-3, 0.25, 2.0**-10], np.float32)
    case = linear("channels", "bf16", "plain", "truncation", x, w, to_bf16(bias, scale), Format("int8", 2.0**-5, -17))
    return case, x.transpose(0, 2, 1) @ w.T, bias, scale


def scaled(way: Callable[[Array, Array, Array], Array]) -> Array:
    _, acc, bias, scale = into_bf16()
    return way(acc, bias, scale)


BF16: dict[str, Wrong] = {
    "bf16_truncated": lambda: scaled(lambda a, b, s: bits((a + b).astype(np.float32) * s) >> 16),
    "bf16_half_away": lambda: scaled(lambda a, b, s: (bits((a + b).astype(np.float32) * s) + 0x8000) >> 16),
    "bias_missing": lambda: scaled(lambda a, b, s: to_pattern(a.astype(np.float32) * s)),
    "scale_of_channel_0": lambda: scaled(lambda a, b, s: to_pattern((a + b).astype(np.float32) * s[0])),
    "sum_in_bf16": lambda: scaled(lambda a, b, s: to_pattern(real(to_pattern((a + b).astype(np.float32))) * s)),
    "output_negated": lambda: scaled(lambda a, b, s: to_pattern(-((a + b).astype(np.float32) * s))),
}


# -- causal convolutions ---------------------------------------------------------------------------------------------------


class Conv:
    """[2 + 3, 6, 2] to [3, 6, 3], INT8 accumulators alone, padding 1 below, zero point 9, in plain NumPy."""

    def __init__(self, below: int = 1) -> None:
        r = rng(5)
        self.x, self.w = r.integers(-128, 128, (5, 6, 2)), r.integers(-127, 128, (3, 3, 2, 3))
        total = -9 * self.w.sum((0, 1, 2))
        self.m, self.n, self.total = np.array([11, 7, 13]), np.array([14, 13, 14]), total + 3000
        self.below = below
        form, out = Format("int8", 2.0**-5, 9), Format("int8", 2.0**-2, -20)
        self.case = conv(
            False, "plain", "plain", "padding_side", self.x, self.w, folded(self.total, self.m, self.n), below, form, out
        )

    def codes(self, frames: Array | None = None, w: Array | None = None, padding: Any = 9, below: int | None = None) -> Array:
        """``frames`` [3, 3, 6, 2]: what is read on each of three frames, oldest first."""
        frames = self.frames() if frames is None else frames
        w, below = self.w if w is None else w, self.below if below is None else below
        how: dict[str, Any] = {"mode": padding} if isinstance(padding, str) else {"constant_values": padding}
        wide = np.pad(frames, ((0, 0), (0, 0), (below, 2 - below), (0, 0)), **how)
        acc = sum(np.einsum("tkfi,kio->tfo", wide[:, :, j : j + 6], w[:, j]) for j in range(3))
        return np.asarray(np.clip(half_up((acc + self.total) * self.m, self.n), 0, 255) - 128)

    def frames(self, line: Array | None = None) -> Array:
        line = self.x if line is None else line
        return np.stack([line[t : t + 3] for t in range(3)])

    def after(self, update: Callable[[list[Array], Array], list[Array]]) -> Array:
        """What is read where the past is kept by ``update``."""
        past, out = list(self.x[:2]), []
        for frame in self.x[2:]:
            out.append(np.stack([*past, frame]))
            past = update(past, frame)
        return np.stack(out)


@cache
def convolution() -> Conv:
    return Conv()


def past_filled(value: int) -> Array:
    line = convolution().x.copy()
    line[:2] = value
    return convolution().frames(line)


CONVOLUTION: dict[str, Wrong] = {
    "kernel_flipped_time": lambda: convolution().codes(w=convolution().w[::-1]),
    "kernel_flipped_frequency": lambda: convolution().codes(w=convolution().w[:, ::-1]),
    "taps_rotated_frequency": lambda: convolution().codes(w=np.roll(convolution().w, 1, 1)),
    "padding_side": lambda: convolution().codes(below=2),
    "padding_zero": lambda: convolution().codes(padding=0),
    "padding_edge": lambda: convolution().codes(padding="edge"),
    "past_frames_swapped": lambda: convolution().codes(convolution().frames()[:, [1, 0, 2]]),
    "past_zero": lambda: convolution().codes(past_filled(0)),
    "past_start_value": lambda: convolution().codes(past_filled(9)),
    "past_reversed": lambda: convolution().codes(convolution().frames(convolution().x[[1, 0, 2, 3, 4]])),
    "state_not_updated": lambda: convolution().codes(convolution().after(lambda past, frame: past)),
    "state_newest_overwritten": lambda: convolution().codes(convolution().after(lambda past, frame: [past[0], frame])),
    "state_oldest_overwritten": lambda: convolution().codes(convolution().after(lambda past, frame: [frame, past[1]])),
    "past_late": lambda: convolution().codes(convolution().frames()[:, [1, 2, 2]]),
    "past_is_current": lambda: convolution().codes(convolution().frames()[:, [2, 2, 2]]),
    "weights_transposed": lambda: convolution().codes(w=convolution().w.transpose(1, 0, 2, 3)),
    "input_channels_reversed": lambda: convolution().codes(w=convolution().w[:, :, ::-1]),
    "frame_late": lambda: convolution().codes(convolution().frames(convolution().x[[0, 0, 1, 2, 3]])),
}


class FloatConv:
    """[2 + 2, 12, 2] to [2, 12, 16]: 18 products whose large ones cancel, so that every order of the sum gives other bits."""

    def __init__(self, kind: str) -> None:
        r = rng(6)
        self.kind, self.x = kind, to_pattern(1 + r.integers(0, 2, (4, 12, 2)).astype(np.float32) / 4)
        self.w = real(to_pattern(r.standard_normal((3, 3, 2, 16)).astype(np.float32)))
        self.w[0, 1, 0], self.w[2, 1, 1] = 2.0**14, -(2.0**14)
        self.bias = real(to_pattern(r.standard_normal(16).astype(np.float32)))
        x = self.x if kind == "bf16" else real(self.x)
        self.case = conv_float(False, kind, "plain", "plain", "sum_order", x, self.w, self.bias)

    def terms(self) -> Iterator[tuple[Array, Array]]:
        wide = np.pad(real(self.x), ((0, 0), (1, 1), (0, 0)))
        for k, j, i in np.ndindex(3, 3, 2):
            yield wide[k : k + 2, j : j + 12, i, None], self.w[k, j, i]

    def out(self, total: Array) -> Array:
        return to_pattern(total) if self.kind == "bf16" else total

    def summed(self, step: int = 1, last: bool = False, each: Callable[[Array], Array] = lambda v: v) -> Array:
        total = np.broadcast_to(np.float32(0) if last else self.bias, (2, 12, 16)).astype(np.float32)
        for x, w in list(self.terms())[::step]:
            total = each(total + x * w)
        return self.out(total + self.bias if last else total)

    def fused(self) -> Array:
        total = np.broadcast_to(self.bias, (2, 12, 16)).astype(np.float32)
        for x, w in self.terms():
            total = (x.astype(np.longdouble) * w + total).astype(np.float32)
        return self.out(total)

    def tree(self) -> Array:
        parts = [x * w for x, w in self.terms()]
        while len(parts) > 1:
            parts = [sum(parts[i : i + 2][1:], parts[i]) for i in range(0, len(parts), 2)]
        return self.out(parts[0] + self.bias)

    def double(self) -> Array:
        total = sum((x.astype(np.float64) * w for x, w in self.terms()), self.bias.astype(np.float64))
        return self.out(np.asarray(total).astype(np.float32))


@cache
def conv_bf16() -> FloatConv:
    return FloatConv("bf16")


@cache
def conv_f32() -> FloatConv:
    return FloatConv("f32")


CONVOLUTION_BF16: dict[str, Wrong] = {
    "sum_in_bf16": lambda: conv_bf16().summed(each=lambda v: real(to_pattern(v))),
    "sum_reversed": lambda: conv_bf16().summed(-1),
    "bias_last": lambda: conv_bf16().summed(last=True),
    "sum_pairwise": lambda: conv_bf16().tree(),
    "sum_in_double": lambda: conv_bf16().double(),
    "bf16_truncated": lambda: bits(conv_f32().summed()) >> 16,
}
CONVOLUTION_F32: dict[str, Wrong] = {
    "sum_reversed": lambda: conv_f32().summed(-1),
    "bias_last": lambda: conv_f32().summed(last=True),
    "sum_pairwise": lambda: conv_f32().tree(),
    "result_in_bf16": lambda: real(to_pattern(conv_f32().summed())),
}


@cache
def plain_f32() -> tuple[Case, Array, Array, Array]:
    r = rng(8)
    x, w, bias = (r.standard_normal(shape).astype(np.float32) for shape in ((2, 9, 10), (6, 9), (6,)))
    return linear_f32("channels", "plain", "plain", "sum_order", x, w, bias, True), x.transpose(0, 2, 1), w, bias


def layer_f32(way: Callable[[Array, Array, Array], Array], relu: bool = True) -> Array:
    _, x, w, bias = plain_f32()
    total = np.broadcast_to(bias, (2, 10, 6)).astype(np.float32)
    for k in range(9):
        total = way(x[..., k, None], w[:, k], total)
    return np.maximum(total, 0) if relu else total


LAYER_F32: dict[str, Wrong] = {
    "fused_multiply_add": lambda: layer_f32(lambda a, b, t: (a.astype(np.longdouble) * b + t).astype(np.float32)),
    "products_in_bf16": lambda: layer_f32(lambda a, b, t: t + real(to_pattern(a * b))),
    "relu_missing": lambda: layer_f32(lambda a, b, t: t + a * b, relu=False),
}


# -- strided convolutions --------------------------------------------------------------------------------------------------


@cache
def expanded() -> tuple[Case, Callable[..., Array]]:
    """Groups [2, 4, 3] to 14 bins of two channels, stride 3: constants for each of six (tap, channel)."""
    r = rng(9)
    x, w = r.integers(-128, 128, (2, 4, 3)), r.integers(-127, 128, (3, 3, 2))
    total = (17 * w.sum(1) + r.integers(9000, 30000, (3, 2))).ravel()
    m, n = np.array([17, 63, 99, 127, 255, 33]), np.array([12, 13, 13, 14, 15, 12])
    rq, out = folded(total, m, n), Format("int8", 2.0**-4, 0)
    case = expansion("plain", "plain", "plain", x, w, 14, rq, Format("int8", 2.0**-5, -17), out)

    def codes(tap_of: Callable[[int], int] = lambda f: f % 3, first: Any = None, beyond: Any = -17) -> Array:
        y = np.zeros((2, 14, 2), np.int64)
        for f in range(14):
            column = x[:, f // 3] if f < 12 else np.broadcast_to(beyond, (2, 3))
            tap = tap_of(f)
            at = (tap if first is None else first) * 2 + np.arange(2)
            y[:, f] = np.clip(half_up((column @ w[tap] + total[at]) * m[at], n[at]), 0, 255) - 128
        return y

    return case, codes


@cache
def compressed() -> tuple[Case, Callable[..., Array]]:
    """Bins [2, 14, 2] in groups of three to [2, 4, 5], two bins left over."""
    r = rng(10)
    x, w = r.integers(-128, 128, (2, 14, 2)), r.integers(-127, 128, (3, 2, 5))
    total, m, n = r.integers(15000, 30000, 5), np.array([31, 77, 255, 99, 12]), np.array([13, 14, 16, 14, 11])
    case = strided("plain", "plain", "plain", x, w, folded(total, m, n), Format("int8", 2.0**-5, 0), Format("int8", 2.0**-4, 0))

    def codes(start: int = 0, step: int = 1) -> Array:
        groups = x[:, start : start + 12].reshape(2, 4, 3, 2)
        acc = np.einsum("tgki,kio->tgo", groups, w[::step])
        return np.clip(half_up((acc + total) * m, n), 0, 255) - 128

    return case, codes


EXPANSION: dict[str, Wrong] = {
    "taps_reversed": lambda: expanded()[1](lambda f: 2 - f % 3),
    "constants_of_tap_0": lambda: expanded()[1](first=0),
    "padding_zero": lambda: expanded()[1](beyond=0),
    "padding_edge": lambda: expanded()[1](beyond=golden(expanded()[0], "x")[:, 3]),
}
COMPRESSION: dict[str, Wrong] = {
    "taps_reversed": lambda: compressed()[1](step=-1),
    "bins_left_over": lambda: compressed()[1](start=2),
    "bin_shift": lambda: compressed()[1](start=1),
}


# -- element by element ----------------------------------------------------------------------------------------------------


@cache
def sums() -> tuple[Case, Array, Array]:
    r = rng(11)
    a, b = r.integers(-128, 128, (2, 4, 20)), r.integers(-128, 128, (2, 4, 20))
    forms = Format("int8", 4 / 255, -64), Format("int8", 0.9 / 255, 14), Format("int8", 4.4 / 255, -53)
    return (
        pairwise("add_two_stage", "plain", "plain", "E-1", "x", (forms[0], a), (forms[1], b), (71, 4, 209, 10, -12), forms[2]),
        a,
        b,
    )


def added(
    first: int = 0, second: int = 1, origin: int = 128, bias: int = -12, law: Any = half_up, early: bool = False
) -> Array:
    both = [v + origin for v in sums()[1:]]
    value = half_up((law(both[first] * 71, 4) + both[second]) * 209, 10)
    return ((np.clip(value, 0, 255) + bias if early else np.clip(value + bias, 0, 255)) - 128).astype(np.int8)


def added_once() -> Array:
    a, b = (v + 128 for v in sums()[1:])
    return np.asarray(np.clip(half_up((a * 71 + (b << 4)) * 209, 14) - 12, 0, 255) - 128)


ADDITION: dict[str, Wrong] = {
    "operands_swapped": lambda: added(1, 0),
    "operand_twice": lambda: added(0, 0),
    "first_round_floor": lambda: added(law=floor),
    "single_rounding": added_once,
    "bias_missing": lambda: added(bias=0),
    "saturates_before_zero_point": lambda: added(early=True),
    "operand_missing": lambda: sums()[2],
}
JOINT = (-64, 40, 192, 64, 9, -13, -128, 127)


@cache
def joint() -> tuple[Case, Array, Array]:
    r = rng(12)
    a, b = r.integers(-128, 128, (2, 4, 20)), r.integers(-128, 128, (2, 4, 20))
    forms = Format("int8", 4 / 255, -64), Format("int8", 0.9 / 255, 40), Format("int8", 4.4 / 255, -13)
    return pairwise("add_joint", "plain", "plain", "E-2", "x", (forms[0], a), (forms[1], b), JOINT, forms[2]), a, b


def jointly(law: Any = half_up, za: int = -64, zb: int = 40, zero: int = -13, apart: bool = False) -> Array:
    _, a, b = joint()
    first, second = (a - za) * 192, (b - zb) * 64
    value = half_up(first, 9) + half_up(second, 9) if apart else law(first + second, 9)
    return np.asarray(np.clip(value + zero, -128, 127))


JOINT_ADDITION: dict[str, Wrong] = {
    "round_floor": lambda: jointly(floor),
    "round_half_even": lambda: jointly(half_even),
    "round_half_away": lambda: jointly(half_away),
    "double_rounding": lambda: jointly(apart=True),
    "input_zero_point_missing": lambda: jointly(zb=0),
    "input_zero_point_sign": lambda: jointly(za=64),
    "zero_point_missing": lambda: jointly(zero=0),
}


@cache
def product() -> tuple[Case, Array, Array]:
    """A gate times the state of the frame before: [3, 4, 6] and a past of one frame."""
    r = rng(13)
    f, c = r.integers(-128, 128, (3, 4, 6)), r.integers(-128, 128, (4, 4, 6))
    form: Any = Format("int8", 2.0**-5, 9)
    given = {"f": (Format("int8", 1 / 255, -128), f), "c": (form, c[1:])}
    constants = (-128, 9, 32897, 23, 9, -128, 127)
    outputs: Any = {"y": (form, (3, 4, 6))}
    case = directed("multiply", "plain", "plain", "E-3", "x", given, constants, outputs, {"c": (1, False, c[:1])})
    return case, f, c


def times(past: Array | None = None, law: Any = half_up, zf: int = -128, zero: int = 9) -> Array:
    _, f, c = product()
    value = law((f - zf) * ((c[:3] if past is None else past) - 9) * 32897, 23)
    return np.asarray(np.clip(value + zero, -128, 127))


PRODUCT: dict[str, Wrong] = {
    "round_floor": lambda: times(law=floor),
    "round_toward_zero": lambda: times(law=toward_zero),
    "input_zero_point_missing": lambda: times(zf=0),
    "zero_point_missing": lambda: times(zero=0),
    "state_of_current_frame": lambda: times(product()[2][1:]),
    "state_two_frames_old": lambda: times(np.concatenate([np.full((1, 4, 6), 9), product()[2][:2]])),
    "state_not_updated": lambda: times(product()[2][[0, 0, 0]]),
    "past_zero": lambda: times(np.concatenate([np.zeros((1, 4, 6), int), product()[2][1:3]])),
    "state_always_start": lambda: times(np.full((3, 4, 6), 9)),
}


@cache
def cell() -> Case:
    """f * c + i * g in BF16, three steps."""
    r = rng(14)
    inputs: Any = {name: ("bf16", to_pattern(r.standard_normal((2, 3, 40)).astype(np.float32))) for name in "fcig"}
    outputs: Any = [{name: ("bf16", (2, 3, 40))} for name in ("fc", "ig", "y")]
    calls = (
        ("multiply_bf16", ("f", "c"), (), outputs[0]),
        ("multiply_bf16", ("i", "g"), (), outputs[1]),
        ("add_bf16", ("fc", "ig"), (), outputs[2]),
    )
    return chain("operators/add_bf16/plain", "plain", "E-5", "x", inputs, calls)


def operand(name: str) -> Array:
    return real(golden(cell(), name))


CELL: dict[str, Wrong] = {
    "fused_multiply_add": lambda: to_pattern(
        (operand("f").astype(np.longdouble) * operand("c") + operand("ig")).astype(np.float32)
    ),
    "intermediate_not_rounded": lambda: to_pattern(operand("f") * operand("c") + operand("i") * operand("g")),
    "bf16_half_away": lambda: (bits(operand("fc") + operand("ig")) + 0x8000) >> 16,
    "operand_negated": lambda: to_pattern(operand("fc") - operand("ig")),
    "operand_missing": lambda: golden(cell(), "fc"),
    "wrong_operand": lambda: to_pattern(operand("fc") + operand("g")),
}


@cache
def subnormals() -> tuple[Case, Array, Array]:
    r = rng(15)
    a, b = (r.integers(0, 0x180, (1, 4, 16)) | (r.integers(0, 2, (1, 4, 16)) << 15) for _ in range(2))
    return pairwise("add_bf16", "plain", "plain", "E-5", "x", ("bf16", a), ("bf16", b), (), "bf16"), a, b


def flushed(values: Array) -> Array:
    return np.asarray(np.where(values & 0x7F80, values, values & 0x8000), np.uint16)


def flushing(results: bool) -> Array:
    a, b = (v.astype(np.uint16) if results else flushed(v) for v in subnormals()[1:])
    total = to_pattern(real(a) + real(b))
    return flushed(total) if results else total


SUBNORMALS: dict[str, Wrong] = {
    "bf16_flushes_results": lambda: flushing(True),
    "bf16_flushes_inputs": lambda: flushing(False),
}


# -- conversions and tables --------------------------------------------------------------------------------------------------


@cache
def quantized() -> tuple[Case, Array]:
    x = to_pattern((rng(16).standard_normal((2, 4, 30)) * 1.5).astype(np.float32))
    form = Format("int8", 4.4 / 255, -64)
    constants = (np.float32(255 / 4.4), -64, -128, 127)
    return single("quantize_bf16", "plain", "plain", "Q-5", "x", "bf16", x, constants, form), real(x) * constants[0]


QUANTIZATION: dict[str, Wrong] = {
    "round_toward_zero": lambda: np.clip(np.trunc(quantized()[1]) - 64, -128, 127),
    "round_floor": lambda: np.clip(np.floor(quantized()[1]) - 64, -128, 127),
    "saturates_before_zero_point": lambda: (np.clip(np.rint(quantized()[1]), -128, 127) - 64).astype(np.int64),
    "zero_point_sign": lambda: np.clip(np.rint(quantized()[1]) + 64, -128, 127),
    "wraps": lambda: (np.rint(quantized()[1]) - 64).astype(np.int64),
}


@cache
def dequantized() -> tuple[Case, Array]:
    q, form = rng(17).integers(-128, 128, (2, 3, 30)), Format("int8", 0.1, -3)
    return single("dequantize_bf16", "plain", "plain", "Q-7", "x", form, q, (np.float32(0.1), -3), "bf16"), q


DEQUANTIZATION: dict[str, Wrong] = {
    "zero_point_missing": lambda: to_pattern(dequantized()[1].astype(np.float32) * np.float32(0.1)),
    "bf16_truncated": lambda: bits((dequantized()[1] + 3).astype(np.float32) * np.float32(0.1)) >> 16,
    "scale_in_bf16": lambda: to_pattern((dequantized()[1] + 3).astype(np.float32) * real(to_pattern(np.array([0.1])))),
}


@cache
def gates() -> Case:
    """The second of four gates of 16 channels, through a sigmoid of INT8 codes."""
    x = rng(18).integers(-128, 128, (2, 6, 64))
    form, out = Format("int8", 0.05, -10), Format("int8", 2.0**-8, -128)
    table = code_table(SIGMOID, 8, 0.05, -10, 8, 2.0**-8, -128)
    given: Any = {"x": (form, x)}
    return directed("lookup", "plain", "plain", "E-4", "x", given, (table, -128, 16), {"y": (out, (2, 6, 16))})


def looked_up(start: int = 16, by: int = 0, table: Array | None = None, signed: bool = False) -> Array:
    table = code_table(SIGMOID, 8, 0.05, -10, 8, 2.0**-8, -128) if table is None else table
    at = golden(gates(), "x")[..., start : start + 16].astype(int)
    return np.asarray(table[np.clip((at & 255) if signed else at + 128 + by, 0, 255)])


def codes_of(function: Callable[[Array], Array]) -> Array:
    real_values = (golden(gates(), "x")[..., 16:32].astype(np.float64) + 10) * 0.05
    return np.asarray(np.clip(np.rint(function(real_values) * 256) - 128, -128, 127))


def straight_lines(x: Array) -> Array:
    nodes = np.linspace(-8, 8, 17)
    return np.interp(x, nodes, 1 / (1 + np.exp(-nodes)))


LOOKUP: dict[str, Wrong] = {
    "gate_order": lambda: looked_up(32),
    "table_off_by_one": lambda: looked_up(by=1),
    "table_index_sign": lambda: looked_up(signed=True),
    "other_function": lambda: looked_up(table=code_table(TANH, 8, 0.05, -10, 8, 2.0**-8, -128)),
    "table_interpolated": lambda: codes_of(straight_lines),
    "hard_sigmoid": lambda: codes_of(lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "gates_interleaved": lambda: code_table(SIGMOID, 8, 0.05, -10, 8, 2.0**-8, -128)[
        golden(gates(), "x")[..., 1::4].astype(int) + 128
    ],
}


# -- Fourier transform -------------------------------------------------------------------------------------------------------


@cache
def frames() -> tuple[Case, Array]:
    x = rng(19).integers(-9000, 9000, (2, 256))
    given: Any = {"frame": (Format("int16", 2.0**-15, 0), x)}
    outputs: Any = {"mantissa": ("int32", (2, 129, 2)), "exponent": ("int32", (2, 1))}
    constants = (analysis_window("hann"), shipped("twiddle_q30"))
    return directed("stft", "plain", "plain", "F-4", "x", given, constants, outputs), x


def transformed(
    window: Array | None = None, shift: int = 0, law: Callable[[int, int], int] | None = None, bin_: int = 0, turned: int = 1
) -> Array:
    """F-4 sample by sample on Python's integers."""
    window = analysis_window("hann") if window is None else window
    table = [[int(v) for v in row] for row in shipped("twiddle_q30")]
    return np.array(
        [_bins([int(v) for v in frame], [int(v) for v in window], table, shift, law, bin_, turned) for frame in frames()[1]]
    )


def _norm(v: int, n: int) -> int:
    return (v + (1 << (n - 1))) >> n


def _fft(zr: list[int], zi: list[int], table: list[list[int]], sign: int, stage: Any = _norm) -> tuple[list[int], list[int]]:
    """F-3."""
    order = [int(f"{i:07b}"[::-1], 2) for i in range(128)]
    zr, zi = [zr[i] for i in order], [zi[i] for i in order]
    for level in range(7):
        half = 1 << level
        for a in (a for a in range(128) if not a & half):
            b, (c, s) = a + half, table[(a % half) * 128 // half]
            tr, ti = stage(zr[b] * c - zi[b] * s * sign, 30), stage(zr[b] * s * sign + zi[b] * c, 30)
            zr[a], zi[a], zr[b], zi[b] = zr[a] + tr, zi[a] + ti, zr[a] - tr, zi[a] - ti
    return zr, zi


def _bins(
    frame: list[int], window: list[int], table: list[list[int]], shift: int, law: Any, bin_: int, turned: int
) -> list[list[int]]:
    stage, e = law or _norm, shift
    while max(map(abs, frame)) << (e - shift) < 1 << 14:
        e += 1
    v = [_norm((s << e) * w, 23) for s, w in zip(frame, window, strict=True)]
    zr, zi = _fft(v[0::2], v[1::2], table, 1, stage)
    out = []
    for k in range(129):
        p, q, (c, s) = (k + bin_) % 128, (128 - k - bin_) % 128, table[k]
        ur, ui, wr, wi = zr[p] + zr[q], zi[p] - zi[q], zi[p] + zi[q], zr[q] - zr[p]
        out.append([_norm((ur << 30) + turned * (wr * c - wi * s), 31), _norm((ui << 30) + wr * s + wi * c, 31)])
    return out


FORWARD: dict[str, Wrong] = {
    "window_off_by_one": lambda: transformed(np.roll(analysis_window("hann"), 1)),
    "window_missing": lambda: transformed(np.full(256, 1 << 30)),
    "butterfly_round_floor": lambda: transformed(law=lambda v, n: v >> n),
    "bin_shift": lambda: transformed(bin_=1),
    "split_sign": lambda: transformed(turned=-1),
    "mantissa_off_by_one": lambda: 2 * golden(frames()[0], "mantissa"),
    "conjugated": lambda: golden(frames()[0], "mantissa") * [1, -1],
    "re_im_swapped": lambda: golden(frames()[0], "mantissa")[..., ::-1],
    "nyquist_missing": lambda: golden(frames()[0], "mantissa") * (np.arange(129) < 128)[:, None],
}


@cache
def spectra() -> tuple[Case, Array]:
    """Two speakers in one frame, exponent 27; imaginary parts at bins 0 and 128 that do not count."""
    x = rng(23).integers(-(1 << 20), 1 << 20, (1, 2, 129, 2))
    return istft("plain", "plain", "x", x, np.full((1, 2), 27)), x


def inverse(
    first: int = 96, edges: bool = False, sign: int = 1, by: int = 37, parts: slice = slice(None), mirrored: int = 1
) -> Array:
    """F-9 sample by sample on Python's integers: the 96 samples of the head; the window is that of the case."""
    table = [[int(v) for v in row] for row in shipped("twiddle_q30")]
    window = [int(v) for v in spectra()[0].steps[0].constants[0]]
    out = []
    for bins in spectra()[1][0, :, :, parts].tolist():
        re, im = [b[0] for b in bins], [sign * b[1] for b in bins]
        im[0], im[128] = (im[0], im[128]) if edges else (0, 0)
        zr, zi = [], []
        for k in range(128):
            q, (c, s) = 128 - k, table[k]
            dr, di = re[k] - re[q], im[k] + im[q]
            zr.append(_norm(((re[k] + re[q]) << 30) - (di * c - dr * s), 30))
            zi.append(_norm(((im[k] - mirrored * im[q]) << 30) + (dr * c + di * s), 30))
        zr, zi = _fft(zr, zi, table, -1)
        x = [v for pair in zip(zr, zi, strict=True) for v in pair]
        out.append([_norm(x[(first + i) % 256] * window[i], by) for i in range(96)])
    return np.array([out])


INVERSE: dict[str, Wrong] = {
    "samples_misplaced": lambda: inverse(first=0),
    "samples_off_by_one": lambda: inverse(first=97),
    "split_sign": lambda: inverse(mirrored=-1),
    "edge_imaginary_read": lambda: inverse(edges=True),
    "conjugated": lambda: inverse(sign=-1),
    "re_im_swapped": lambda: inverse(parts=slice(None, None, -1)),
    "shift_off_by_one": lambda: inverse(by=38),
    "exponent_missing": lambda: np.clip(inverse(by=10), -(1 << 31), (1 << 31) - 1),
    "speakers_swapped": lambda: inverse()[:, ::-1],
}


@cache
def blocks() -> Case:
    """BF16 patterns [2, 6, 4] over twenty powers of two, channels re, im, re, im."""
    r = rng(24)
    x = (r.integers(0, 2, (2, 6, 4)) << 15) | (r.integers(110, 130, (2, 6, 4)) << 7) | r.integers(0, 128, (2, 6, 4))
    x[:, :, 2:] -= 3 << 7
    given: Any = {"x": ("bf16", x)}
    outputs: Any = {"mantissa": ("int32", (2, 2, 6, 2)), "exponent": ("int32", (2, 2))}
    constants = (np.array([0, 2]), np.array([1, 3]))
    return directed("bf16_to_block", "plain", "plain", "F-7", "x", given, constants, outputs)


def mantissas(order: tuple[int, ...] = (0, 1, 2, 3), joint: bool = False, law: Any = half_even) -> Array:
    """F-7 on real values: by powers of two, which FP64 holds."""
    values = real(golden(blocks(), "x")[..., list(order)]).astype(np.float64).reshape(2, 6, 2, 2).transpose(0, 2, 1, 3)
    largest = np.frexp(np.abs(values).max((1, 2, 3) if joint else (2, 3), keepdims=True))[1]
    units = np.abs(values) * 2.0 ** (60 - largest)
    return np.asarray(np.sign(values) * law(units.astype(np.int64), 39), np.int64)


BLOCKS: dict[str, Wrong] = {
    "channel_order": lambda: mantissas((0, 2, 1, 3)),
    "re_im_swapped": lambda: mantissas((1, 0, 3, 2)),
    "exponent_joint": lambda: mantissas(joint=True),
    "round_floor": lambda: mantissas(law=floor),
}


@cache
def block_codes() -> tuple[Case, Array, Array]:
    m, e = rng(25).integers(-(1 << 29), 1 << 29, (2, 40, 2)), np.array([[3], [0]])
    given: Any = {"mantissa": ("int32", m), "exponent": ("int32", e)}
    outputs: Any = {"y": (Format("int8", 0.9, -28), (2, 40, 2))}
    return directed("block_to_code", "plain", "plain", "F-6", "x", given, (10485760, 45, -28, -128, 127), outputs), m, e


def coded(law: Any = half_even, more: Any = 0, zero: int = -28) -> Array:
    _, m, e = block_codes()
    return np.asarray(np.clip(law(m * 10485760, 45 + e[:, :, None] + more) + zero, -128, 127))


BLOCK_CODES: dict[str, Wrong] = {
    "round_floor": lambda: coded(floor),
    "round_toward_zero": lambda: coded(toward_zero),
    "exponent_missing": lambda: coded(more=-block_codes()[2][:, :, None]),
    "exponent_off_by_one": lambda: coded(more=1),
    "zero_point_sign": lambda: coded(zero=28),
    "re_im_swapped": lambda: coded()[..., ::-1],
}


@cache
def overlap() -> tuple[Case, Array, Array]:
    r = rng(20)
    head, tail = r.integers(-(1 << 27), 1 << 27, (3, 2, 96)), r.integers(-(1 << 27), 1 << 27, (4, 2, 64))
    given: Any = {"head": ("int32", head), "tail": ("int32", tail[1:])}
    outputs: Any = {"y": ("int32", (3, 2, 96))}
    case = directed("overlap_add", "plain", "plain", "F-10", "x", given, (), outputs, {"tail": (1, False, tail[:1])})
    return case, head, tail


def overlapped(tail: Array, at: int = 0) -> Array:
    out = overlap()[1].copy()
    out[..., at : at + 64] += tail
    return out


OVERLAP: dict[str, Wrong] = {
    "tail_misplaced": lambda: overlapped(overlap()[2][:3], 32),
    "tail_reversed": lambda: overlapped(overlap()[2][:3, :, ::-1]),
    "state_not_updated": lambda: overlapped(overlap()[2][[0, 0, 0]]),
    "state_of_current_frame": lambda: overlapped(overlap()[2][1:]),
    "operand_missing": lambda: overlap()[1],
    "speakers_swapped": lambda: overlapped(overlap()[2][:3])[:, ::-1],
}


@cache
def samples() -> tuple[Case, Array]:
    x = rng(21).integers(-(1 << 28), 1 << 28, (2, 2, 96))
    outputs: Any = {"pcm": (Format("int16", 2.0**-15, 0), (2, 2, 96)), "clipped": ("int32", (2, 2))}
    given: Any = {"x": ("int32", x)}
    return directed("to_pcm", "plain", "plain", "F-11", "x", given, (), outputs), x


PCM: dict[str, Wrong] = {
    "wraps": lambda: half_even(samples()[1], 12),
    "round_floor": lambda: np.clip(samples()[1] >> 12, -32768, 32767),
    "saturates_symmetric": lambda: np.clip(half_even(samples()[1], 12), -32767, 32767),
    "output_big_endian": lambda: golden(samples()[0], "pcm").byteswap(),
}

GROUPS: dict[str, tuple[Callable[[], Case], dict[str, Wrong]]] = {
    "folded": (lambda: small().case, FOLDED),
    "twice": (lambda: twice().case, TWICE),
    "bf16": (lambda: into_bf16()[0], BF16),
    "convolution": (lambda: convolution().case, CONVOLUTION),
    "convolution_bf16": (lambda: conv_bf16().case, CONVOLUTION_BF16),
    "convolution_f32": (lambda: conv_f32().case, CONVOLUTION_F32),
    "layer_f32": (lambda: plain_f32()[0], LAYER_F32),
    "expansion": (lambda: expanded()[0], EXPANSION),
    "compression": (lambda: compressed()[0], COMPRESSION),
    "addition": (lambda: sums()[0], ADDITION),
    "joint": (lambda: joint()[0], JOINT_ADDITION),
    "product": (lambda: product()[0], PRODUCT),
    "cell": (cell, CELL),
    "subnormals": (lambda: subnormals()[0], SUBNORMALS),
    "quantization": (lambda: quantized()[0], QUANTIZATION),
    "dequantization": (lambda: dequantized()[0], DEQUANTIZATION),
    "lookup": (gates, LOOKUP),
    "forward": (lambda: frames()[0], FORWARD),
    "inverse": (lambda: spectra()[0], INVERSE),
    "blocks": (blocks, BLOCKS),
    "block_codes": (lambda: block_codes()[0], BLOCK_CODES),
    "overlap": (lambda: overlap()[0], OVERLAP),
    "pcm": (lambda: samples()[0], PCM),
}
OTHER_CASES = {
    ("folded", "relu_missing"): lambda: small(relu=True).case,
    ("folded", "relu_at_zero"): lambda: small(relu=True).case,
    ("folded", "accumulator_wraps_16"): lambda: large().case,
    ("folded", "accumulator_saturates_16"): lambda: large().case,
    ("twice", "relu_missing"): lambda: twice(relu=True).case,
    ("twice", "relu_at_zero"): lambda: twice(relu=True).case,
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, (_, wrong) in GROUPS.items() for name in wrong])
def test_a_wrong_device_is_named_first(group: str, name: str) -> None:
    case = OTHER_CASES.get((group, name), GROUPS[group][0])()
    check(case, GROUPS[group][1][name](), name)


RIGHT: dict[str, Wrong] = {
    "folded": lambda: small().codes(),
    "twice": lambda: twice().codes(),
    "convolution": lambda: convolution().codes(),
    "convolution_bf16": lambda: conv_bf16().summed(),
    "convolution_f32": lambda: conv_f32().summed(),
    "expansion": lambda: expanded()[1](),
    "compression": lambda: compressed()[1](),
    "addition": lambda: added(),
    "joint": lambda: jointly(),
    "product": lambda: times(),
    "lookup": lambda: looked_up(),
    "forward": lambda: transformed(),
    "inverse": lambda: inverse(),
    "blocks": lambda: mantissas(),
    "block_codes": lambda: coded(),
    "overlap": lambda: overlapped(overlap()[2][:3]),
}


@pytest.mark.parametrize("group", GROUPS)
def test_golden_output_is_never_diagnosed(group: str) -> None:
    """Nor is what the plain arithmetic of this file gives where nothing in it is wrong: it is the golden output."""
    case = GROUPS[group][0]()
    assert diagnosed(case, golden(case)) == []
    if group in RIGHT:
        assert np.array_equal(RIGHT[group]().astype(golden(case).dtype), golden(case))
        assert diagnosed(case, RIGHT[group]()) == []


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("count", [1, 3, 40, -1])
def test_random_corruption_is_unknown(group: str, count: int) -> None:
    case = GROUPS[group][0]()
    output, r = golden(case).copy(), rng(30)
    count = output.size // 2 if count < 0 else count
    noise = r.integers(1, 128, (count, output.itemsize), np.uint8)
    at = r.choice(output.size, count, replace=False)
    output.view(np.uint8).reshape(-1, output.itemsize)[at] ^= noise
    assert diagnosed(case, output) == []


def one_weight() -> Array:
    w = small().w.copy()
    w[2, 1] += 3
    return small().codes(small().acc(w=w))


def other_addend() -> Array:
    total = small().total.copy()
    total[3] = total[2]
    return small().codes(total=total)


def moved_entries() -> Array:
    at = np.arange(256)
    at[128:136] += 9
    return looked_up(table=code_table(SIGMOID, 8, 0.05, -10, 8, 2.0**-8, -128)[at])


def exchanged_window() -> Array:
    window = analysis_window("hann").copy()
    window[[100, 101]] = window[[101, 100]]
    return transformed(window)


def flipped_bits() -> Array:
    value = added().astype(int)
    at = np.arange(value.size).reshape(value.shape)
    return np.where((value & 15 == 9) & (at % 7 == 3), value ^ 4, value)


@pytest.mark.parametrize(
    ("group", "output"),
    [
        ("folded", one_weight),
        ("folded", other_addend),
        ("lookup", moved_entries),
        ("forward", exchanged_window),
        ("addition", flipped_bits),
    ],
)
def test_what_no_hypothesis_covers_is_unknown(group: str, output: Wrong) -> None:
    case = GROUPS[group][0]()
    assert not np.array_equal(output().astype(golden(case).dtype), golden(case))
    assert diagnosed(case, output()) == []


# -- what is said where there is more to say than one name -----------------------------------------------------------------


def test_all_exact_explanations_are_named() -> None:
    """Codes of the folded law are not negative before they saturate: toward zero and toward minus infinity are the same."""
    found = diagnosed(small().case, small().codes(law=floor))
    assert len(found) > 1
    assert all(h.exact for h in found)
    assert [h.name for h in found[:2]] == ["round_floor", "round_toward_zero"]
    assert len({h.name for h in found}) == len(found)


def test_two_bugs_at_once_are_named_together() -> None:
    output = small().codes(law=floor, low=-(10**6), high=10**6)
    found = diagnosed(small().case, output)
    assert found[0].exact
    assert set(found[0].name.split("+")) == {"round_floor", "wraps"}
    assert {"N-4", "G-2"} == set(found[0].rule.split(", "))


def test_a_partial_explanation_says_how_much_it_explains() -> None:
    output, r = small().codes(law=floor), rng(31)
    wrong = int((output != small().codes()).sum())
    output[r.random(output.shape) < 0.05] ^= 0x40
    found = diagnosed(small().case, output)
    best = found[0]
    assert best.name == "round_floor"
    assert not best.exact
    assert 0.7 * wrong < best.explained <= wrong
    assert best.explained < best.mismatched
    assert best.broken < best.explained / 4
    assert all("+" not in h.name for h in found), "what explains no more than one bug alone is no pair"


def test_a_few_elements_are_no_evidence() -> None:
    right, wrong = jointly(), jointly(half_even)
    at = np.flatnonzero(right != wrong)
    output = right.copy()
    output.flat[at[: LEAST - 1]] = wrong.flat[at[: LEAST - 1]]
    assert len(at) > 2 * LEAST
    assert diagnosed(joint()[0], output) == []


def test_the_devices_own_inputs_replace_the_golden_ones() -> None:
    case, step = small().case, small().case.steps[0]
    own = (small().x[::-1] // 2).astype(np.int8)
    actual = {step.outputs[0]: small().codes(small().acc(x=own), floor)}
    assert [h.exact for h in diagnose(case, step.name, actual)] == []
    found = diagnose(case, step.name, actual, {"x": own})
    assert (found[0].name, found[0].exact) == ("round_floor", True)


def test_one_of_several_outputs_is_enough() -> None:
    case = samples()[0]
    counts = golden(case, "clipped")
    assert counts[0].any()
    assert diagnosed(case, counts, "clipped") == []
    assert diagnosed(case, counts.cumsum(0), "clipped")[0].name == "clipped_accumulates"


def test_arrays_that_do_not_fit_are_not_diagnosed() -> None:
    case, output = small().case, small().codes()
    step = case.steps[0].name
    for wrong in (output[:2], output[..., :4], output.astype(np.int16), np.zeros(0, np.int8)):
        assert diagnose(case, step, {"y": wrong}) == []
    assert diagnose(case, step, {}) == []
    assert diagnose(case, "no such step", {"y": output}) == []
    assert diagnose(network_case(), "encoder", {"encoder": output}) == []


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("folded", "round_floor"),
        ("folded", "frame_repeated"),
        ("product", "state_not_updated"),
        ("product", "round_toward_zero"),
        ("convolution", "past_frames_swapped"),
        ("convolution", "padding_zero"),
        ("convolution_f32", "sum_reversed"),
        ("lookup", "table_interpolated"),
        ("overlap", "tail_reversed"),
    ],
)
def test_of_many_frames_a_part_is_searched_and_all_are_judged(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, output = GROUPS[group][0](), GROUPS[group][1][name]()
    whole = diagnosed(case, output)
    monkeypatch.setattr(search, "LARGE", 1)  # one frame
    monkeypatch.setattr(products, "LARGEST", 4000)  # two frames of the FP32 sums are too many products
    found = diagnosed(case, output)
    assert found[0] == whole[0]
    assert found[0].exact
    assert found[0].mismatched == int((output.astype(golden(case).dtype) != golden(case)).sum())


def test_what_only_a_part_of_the_frames_shows_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LARGE", 1)
    output = small().codes(law=floor)
    output[1] = small().codes()[1]
    found = diagnosed(small().case, output)
    assert [h.exact for h in found] == [False] * len(found)
    assert len(diagnosed(small().case, np.concatenate([output[:1], small().codes()[1:]]))) == 0


def test_own_inputs_of_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LARGE", 1)
    x, past = convolution().x.copy(), convolution().x[:2]
    x[2:] //= 3
    actual = {"y": convolution().codes(convolution().frames(x)[:, [1, 0, 2]]).astype(np.int8)}
    own = {"x": x[2:].astype(np.int8), "x.past": past.astype(np.int8)}
    assert diagnose(convolution().case, "y", actual) == []
    assert diagnose(convolution().case, "y", actual, own)[0].name == "past_frames_swapped"


# -- the families themselves -----------------------------------------------------------------------------------------------


def sites() -> list[Site]:
    """One step of each operator and law, of small networks of five presets."""
    found: dict[tuple[str, str], Site] = {}
    for preset in ("int8", "mixlstm", "mixmlp", "fullmlp", "fp32"):
        case = slice_case(preset)
        for step in case.steps:
            site = site_of(case, step.name, {name: case.tensors[name].values for name in step.outputs}, None)
            assert site is not None
            found.setdefault((step.operator, site.law), site)
    return list(found.values())


def test_models_without_a_change_are_the_golden_operators() -> None:
    seen = set()
    for site in sites():
        models = [MODELS[site.operator]] if site.operator in MODELS else []
        models += [lambda t: PLANS[t.site.operator](t, fourier.Plan())] if site.operator in PLANS else []
        for model in models:
            for name, values in model(base(site)).items():
                assert words(values.astype(site.golden[name].dtype)).tolist() == words(site.golden[name]).tolist(), (
                    site.operator
                )
            seen.add(site.operator)
    assert {"fully_connected_channels", "add_joint", "add_two_stage", "block_to_code", "stft", "istft_f32"} <= seen


def test_every_hypothesis_has_a_name_a_sentence_and_a_rule_and_can_be_computed() -> None:
    rules = set(re.findall(r"^### ([A-Z]-[0-9]+) ", (ROOT / "conformance" / "SPEC.md").read_text(encoding="utf-8"), re.M))
    names = set()
    for site in sites():
        for function in families(site):
            for edit in function(site):
                assert re.fullmatch(r"[a-z0-9_]+", edit.name)
                assert edit.rule in rules, (edit.name, edit.rule)
                assert edit.sentence[0].islower(), edit.sentence
                assert not edit.sentence.endswith("."), edit.sentence
                names.add(edit.name)
                computed = edit.apply(base(site)).predict()
                shapes = {n: (a.shape, a.dtype) for n, a in computed.items()}
                assert shapes == {n: (a.shape, a.dtype) for n, a in site.golden.items()}, (site.operator, edit.name)
    assert len(names) > 400


# -- what only a network's steps show ----------------------------------------------------------------------------------------


def shown(preset: str, step: str, output: Callable[[Case], Array]) -> Hypothesis:
    case = slice_case(preset)
    name = next(s for s in case.steps if s.name == step).outputs[0]
    found = diagnosed(case, output(case), name)
    assert found[0].exact
    return found[0]


def test_gates_in_another_order() -> None:
    """The gates i, f, g, o of a layer as i, g, f, o, and the state of another gate in a product."""

    def other_gates(case: Case) -> Array:
        i, f, g, o = np.split(golden(case, "block1.lstm.ih"), 4, axis=-1)
        return np.concatenate([i, g, f, o], axis=-1)

    def other_gate(case: Case) -> Array:
        product_ = real(golden(case, "block1.lstm.f")) * real(golden(case, "block1.lstm.g"))
        return to_pattern(product_)

    assert shown("mixmlp", "block1.lstm.ih", other_gates).name == "gate_order"
    assert shown("mixmlp", "block1.lstm.ig", other_gate).name == "gate_swapped"


def test_the_output_of_another_step() -> None:
    found = shown("int8", "block1.lstm.tanh_c", lambda case: golden(case, "block1.lstm.o"))
    assert found.name == "copy_of_tensor"
    assert "block1.lstm.o" in found.sentence
