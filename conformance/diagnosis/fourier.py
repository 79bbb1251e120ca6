"""The Fourier transforms in NumPy, integers and FP32, with a plan of what they do otherwise (SPEC F-3, F-4, F-9, F-12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.diagnosis import bf16
from conformance.diagnosis.models import shift_saturated
from conformance.diagnosis.roundings import HALF_UP, Law
from conformance.diagnosis.site import Array, Outputs
from conformance.diagnosis.trial import Trial

REVERSE_7 = np.array([int(f"{i:07b}"[::-1], 2) for i in range(128)])
Laws = tuple[Law, Law]  # of real and of imaginary parts; for windowed samples of even and of odd ones
RULE: Laws = (HALF_UP, HALF_UP)


@dataclass(frozen=True)
class Plan:
    """How a transform is computed; the defaults are the rule. ``flips`` names terms of the split stage of the wrong sign."""

    window: Laws = RULE  # windowed samples: before the forward transform, after the inverse one
    stage: Laws = RULE
    split: Laws = RULE
    apart: bool = False  # each product of a butterfly is rounded by itself
    split_apart: bool = False  # the turned half of the split stage is rounded before it is added
    halving: Law | None = None  # every stage is scaled by 1/2
    reversed_parts: str = "ri"  # which parts are brought into bit-reversed order
    stages: int = 7
    crossed: bool = False  # sum and difference exchanged
    stale: bool = False  # the imaginary product reads the real result
    turn: tuple[int, int] = (-1, 1)  # signs of the second products
    sign: int = 0  # 0: the rule's
    flips: frozenset[str] = frozenset()
    mirror: int = 128  # k and mirror - k belong together
    first: int = 0  # the bin that the split stage begins with
    split_shift: int = 31
    contraction: str = ""  # FP32: "first" or "second" product fused, or "double" for FP64
    double: bool = False  # FP32: FP64 throughout
    left_to_right: bool = False  # FP32 inverse: (a - b) + c instead of a - (b - c)
    imaginary: str = ""  # bins whose imaginary parts are read though they count as 0: "0", "N" or both
    shift: int = 0
    offset: int = 0  # the samples that are kept begin so much later
    swapped_samples: bool = False  # even and odd samples exchanged
    wraps: str = ""


def fft(zr: Array, zi: Array, twiddle: Array, sign: int, plan: Plan) -> tuple[Array, Array]:
    """F-3 on [..., 128] arrays."""
    zr = zr[..., REVERSE_7] if "r" in plan.reversed_parts else zr
    zi = zi[..., REVERSE_7] if "i" in plan.reversed_parts else zi
    for level in range(plan.stages):
        half = 1 << level
        c, s = twiddle[:128].reshape(half, -1, 2)[:, 0].T
        s = s * twiddle.dtype.type(plan.sign or sign)
        shape = (*zr.shape[:-1], 64 // half, 2, half)
        r, i = zr.reshape(shape), zi.reshape(shape)
        ar, ai, br, bi = r[..., 0, :], i[..., 0, :], r[..., 1, :], i[..., 1, :]
        tr, ti = _turned(br, bi, c, s, plan)
        order = (1, 0) if plan.crossed else (0, 1)
        zr = np.stack([(ar + tr, ar - tr)[k] for k in order], -2).reshape(zr.shape)
        zi = np.stack([(ai + ti, ai - ti)[k] for k in order], -2).reshape(zi.shape)
        if plan.halving is not None:
            zr, zi = plan.halving.shift(zr, 1), plan.halving.shift(zi, 1)
    return zr, zi


def _turned(br: Array, bi: Array, c: Array, s: Array, plan: Plan) -> tuple[Array, Array]:
    """A butterfly's second operand times the twiddle factor."""
    u, v = plan.turn
    if br.dtype.kind == "f":
        return _sum_of_products(br, c, bi, s * s.dtype.type(u), plan), _sum_of_products(br, s, bi, c * c.dtype.type(v), plan)
    law_r, law_i = plan.stage
    if plan.apart:
        tr, ti = law_r.shift(br * c, 30) + u * law_r.shift(bi * s, 30), law_i.shift(br * s, 30) + v * law_i.shift(bi * c, 30)
    else:
        tr = law_r.shift(br * c + u * bi * s, 30)
        ti = law_i.shift((tr if plan.stale else br) * s + v * bi * c, 30)
    return tr, ti


def _sum_of_products(a: Array, b: Array, c: Array, d: Array, plan: Plan) -> Array:
    """``a * b + c * d`` in FP32, or contracted as compilers do."""
    if plan.contraction == "first":
        return bf16.fused(a.astype(np.float64) * b, c * d)
    if plan.contraction == "second":
        return bf16.fused(c.astype(np.float64) * d, a * b)
    if plan.contraction == "double":
        return (a.astype(np.float64) * b + c.astype(np.float64) * d).astype(np.float32)
    out: Array = a * b + c * d
    return out


def _flip(plan: Plan, name: str) -> int:
    return -1 if name in plan.flips else 1


def _odd(rc: Array, is_: Array, rs: Array, ic: Array, plan: Plan) -> tuple[Array, Array]:
    """The turned half of the split stage from its four products; signs may be wrong."""
    real = rc - _flip(plan, "second") * is_
    imaginary = _flip(plan, "first") * rs + ic
    return _flip(plan, "odd") * _flip(plan, "odd_r") * real, _flip(plan, "odd") * _flip(plan, "odd_i") * imaginary


# -- forward ---------------------------------------------------------------------------------------------------------------


def exponent(frame: Array) -> Array:
    return normalized(np.abs(frame).max(1), 1 << 14)


def normalized(peak: Array, least: int) -> Array:
    """The smallest shift that brings ``peak`` to ``least``; 0 for nothing but zeros."""
    reached = (peak[:, None] << np.arange(16)) >= least
    return np.where(peak > 0, reached.argmax(1), 0)


def forward(t: Trial, plan: Plan, choose: Callable[[Array], Array] | None = None) -> Outputs:
    """F-4, with another choice of the exponent where that is given."""
    frame, table, twiddle = (a.astype(np.int64) for a in (t.inputs[0], t.constant("window"), t.constant("twiddle")))
    e = (choose or exponent)(frame)
    even, odd = plan.window
    v = (frame << e[:, None]) * table
    zr, zi = fft(even.shift(v[:, 0::2], 23), odd.shift(v[:, 1::2], 23), twiddle, 1, plan)
    ur, ui, wr, wi, c, s = _split_operands(zr, zi, twiddle, plan)
    odd_r, odd_i = _odd(wr * c, wi * s, wr * s, wi * c, plan)
    real, imaginary = plan.split
    if plan.split_apart:
        re, im = real.shift(ur + real.shift(odd_r, 30), 1), imaginary.shift(ui + imaginary.shift(odd_i, 30), 1)
    else:
        re = real.shift((ur << 30) + odd_r, plan.split_shift)
        im = imaginary.shift((ui << 30) + odd_i, plan.split_shift)
    names = t.site.step.outputs
    return {names[0]: np.stack([re, im], -1).astype(np.int32), names[1]: e[:, None].astype(np.int32)}


def _split_operands(zr: Array, zi: Array, twiddle: Array, plan: Plan) -> tuple[Array, Array, Array, Array, Array, Array]:
    k = np.arange(129)
    p, q = (k + plan.first) % 128, (plan.mirror - k - plan.first) % 128
    c, s = twiddle.T
    one: Any = zr.dtype.type
    ui, wr, wi = zi[:, p] - one(_flip(plan, "ui")) * zi[:, q], zi[:, p] + one(_flip(plan, "wr")) * zi[:, q], zr[:, q] - zr[:, p]
    return zr[:, p] + zr[:, q], ui, wr, one(_flip(plan, "wi")) * wi, c, s * twiddle.dtype.type(_flip(plan, "s"))


def forward_f32(t: Trial, plan: Plan) -> Outputs:
    """F-12."""
    width: Any = np.float64 if plan.double else np.float32
    table, twiddle = t.constant("window").astype(width), t.constant("twiddle").astype(width)
    v = t.inputs[0].astype(width) * width(2.0**-15) * table
    zr, zi = fft(v[:, 0::2], v[:, 1::2], twiddle, 1, plan)
    ur, ui, wr, wi, c, s = _split_operands(zr, zi, twiddle, plan)
    one = width(_flip(plan, "odd"))
    re = width(0.5) * (ur + one * _sum_of_products(wr, c, wi, -s, plan))
    im = width(0.5) * (ui + one * _sum_of_products(wr, s, wi, c, plan))
    return t.output(np.stack([re, im], -1))


# -- inverse ---------------------------------------------------------------------------------------------------------------


def _imaginary(im: Array, plan: Plan) -> Array:
    im = im.copy()
    for at, name in ((0, "0"), (128, "N")):
        if name not in plan.imaginary:
            im[..., at] = 0
    return im


def inverse(t: Trial, plan: Plan) -> Outputs:
    """F-9."""
    x, table, twiddle = (a.astype(np.int64) for a in (t.inputs[0], t.constant("window"), t.constant("twiddle")))
    re, im = x[..., 0], _imaginary(x[..., 1], plan)
    k = np.arange(128)
    c, s = twiddle[:128, 0], twiddle[:128, 1] * _flip(plan, "s")
    mirrored = _flip(plan, "im") * im[..., 128 - k]
    dr, di = re[..., k] - re[..., 128 - k], im[..., k] + _flip(plan, "di") * mirrored
    odd_r, odd_i = _odd(di * c, dr * s, di * s, dr * c, plan)
    even_r, even_i = re[..., k] + re[..., 128 - k], im[..., k] - _flip(plan, "even_i") * mirrored
    real, imaginary = plan.split
    if plan.split_apart:
        zr, zi = even_r - real.shift(odd_r, 30), even_i + imaginary.shift(odd_i, 30)
    else:
        zr, zi = real.shift((even_r << 30) - odd_r, 30), imaginary.shift((even_i << 30) + odd_i, 30)
    samples = _samples(*fft(zr, zi, twiddle, -1, plan), plan)
    amount = (int(t.constant("base_shift")) + plan.shift + t.inputs[1].astype(np.int64))[..., None]
    value = shift_saturated(samples * table, np.broadcast_to(amount, samples.shape), plan.window[0], plan.wraps)
    return _halves(t, value.astype(np.int32))


def _samples(zr: Array, zi: Array, plan: Plan) -> Array:
    """The 160 samples that are kept."""
    parts = [zi, zr] if plan.swapped_samples else [zr, zi]
    samples = np.stack(parts, -1).reshape(*zr.shape[:-1], 256)
    return np.roll(samples, -(96 + plan.offset), -1)[..., :160]


def _halves(t: Trial, value: Array) -> Outputs:
    names = t.site.step.outputs
    return {names[0]: np.ascontiguousarray(value[..., :96]), names[1]: np.ascontiguousarray(value[..., 96:])}


def inverse_f32(t: Trial, plan: Plan) -> Outputs:
    """F-13."""
    width: Any = np.float64 if plan.double else np.float32
    x = t.inputs[0].astype(width).transpose(0, 2, 1)
    re, im = x[:, t.constant("re")], _imaginary(x[:, t.constant("im")], plan)
    table, twiddle = t.constant("window").astype(width), t.constant("twiddle").astype(width)
    k = np.arange(128)
    c, s = twiddle[:128, 0], twiddle[:128, 1] * width(_flip(plan, "s"))
    mirrored = width(_flip(plan, "im")) * im[..., 128 - k]
    kr, qr = re[..., k], re[..., 128 - k]
    dr, di, one = kr - qr, im[..., k] + mirrored, width(_flip(plan, "odd"))
    if plan.left_to_right:
        zr, zi = kr + qr - di * c + dr * s, im[..., k] - mirrored + dr * c + di * s
    else:
        zr = (kr + qr) - one * _sum_of_products(di, c, dr, -s, plan)
        zi = (im[..., k] - mirrored) + one * _sum_of_products(dr, c, di, s, plan)
    samples = _samples(*fft(zr, zi, twiddle, -1, plan), plan)
    return _halves(t, (samples * width(2.0 ** (plan.shift - 8)) * table).astype(np.float32))
