"""Activation tables of a device: exact, the GAP SDK's two published variants, or the user's own (SPEC T-4 to T-6, B-6).

A function of a BF16 value is a table of 65,536 patterns, of an 8-bit code one of 256 codes, whatever a device computes inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from refimpl.numerics.bfloat16 import bf16_encode
from refimpl.numerics.jit import kernel
from refimpl.numerics.rounding import saturate
from refimpl.numerics.tables import SIGMOID, TANH, code_table, shipped
from refimpl.numerics.transcendental import sigmoid64

Array = np.ndarray[Any, np.dtype[Any]]
VARIANTS = ("exact", "sdk_fast", "sdk_table")
NAMES = {SIGMOID: "sigmoid", TANH: "tanh"}
CLIP = 6.0  # sdk_fast clips its argument
CANONICAL_NAN = 0x7FC0


@dataclass(frozen=True)
class ActivationTables:
    """The tables of one device. ``name`` says whose; ``bf16`` by function; ``codes`` by function and step, "" for all steps."""

    name: str
    bf16: Mapping[int, Array]
    codes: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)
    own: frozenset[int] = frozenset()  # functions whose ``bf16`` was handed in

    def of_codes(self, function: int, step: str) -> Array | None:
        """The user's own 256-entry table of a step, if there is one."""
        tables = self.codes.get(function, {})
        return tables.get(step, tables.get(""))

    @property
    def digest(self) -> str:
        """SHA-256 over all tables: what a dump or a state was made with."""
        found = hashlib.sha256()
        for function in sorted(self.bf16):
            found.update(self.bf16[function].astype("<u2").tobytes())
        for function in sorted(self.codes):
            for step in sorted(self.codes[function]):
                found.update(f"{function} {step}\0".encode() + self.codes[function][step].astype("i1").tobytes())
        return found.hexdigest()


@cache
def variant(name: str) -> ActivationTables:
    """One of :data:`VARIANTS`; read-only arrays uint16 [65536], indexed by the input's pattern."""
    if name == "exact":
        return ActivationTables(name, {SIGMOID: shipped("sigmoid_bf16"), TANH: shipped("tanh_bf16")})
    make = {"sdk_fast": _sdk_fast, "sdk_table": _sdk_table}[name]
    tables = {function: make(function) for function in (SIGMOID, TANH)}
    for table in tables.values():
        table.flags.writeable = False
    return ActivationTables(name, tables)


def patterns() -> Array:
    """All BF16 patterns, in order, as FP32 values [65536]."""
    values: Array = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    return values


@kernel
def _encode(values, nan, table):
    for i in range(values.size):
        table[i] = np.uint16(CANONICAL_NAN) if nan[i] else bf16_encode(values[i])


def _to_bf16(values: Array, source: Array) -> Array:
    table = np.empty(len(values), np.uint16)
    _encode(np.ascontiguousarray(values, np.float32), np.isnan(source), table)
    return table


def _sdk_fast(function: int) -> Array:
    """Exponentials by writing a half's bits (SPEC T-5): ``E(x, f) = bits_to_half(int16(half(x) * f + half(15360)))``.

    sigmoid = a / (a + b) with f = 512 / ln 2, tanh = (a - b) / (a + b) with f = 1024 / ln 2; a = E(x, f), b = E(-x, f); x cut
    to [-6, 6]; every operation one FP16 operation, not fused; int16 truncates. NaN gives the canonical NaN.
    """
    x = patterns()
    half = np.clip(np.where(np.isnan(x), np.float32(0), x), -CLIP, CLIP).astype(np.float16)
    factor = np.float16((512.0 if function == SIGMOID else 1024.0) / 0.6931471805599453)
    a, b = (((v * factor) + np.float16(15360)).astype(np.int16).view(np.float16) for v in (half, -half))
    y = a / (a + b) if function == SIGMOID else (a - b) / (a + b)
    return _to_bf16(y.astype(np.float32), x)


@kernel
def _fill_steps(table):
    for k in range(table.size):
        table[k] = np.float32(sigmoid64(np.float64(k) / 32.0))


def _sdk_table(function: int) -> Array:
    """256 steps of the sigmoid (SPEC T-6): ``s[k] = fp32(sigmoid(k / 32))``, k = floor(|x| * 4096) >> 7, 1 beyond the last.

    tanh takes ``>> 6`` and 2s - 1; x < 0 mirrors: 1 - s, or -(2s - 1). NaN gives the canonical NaN.
    """
    x = patterns()
    steps = np.empty(256, np.float32)
    _fill_steps(steps)
    beyond = 8.0 if function == SIGMOID else 4.0
    magnitude = np.minimum(np.abs(np.where(np.isnan(x), np.float32(0), x)).astype(np.float64), beyond)
    k = (magnitude * 4096.0).astype(np.int64) >> (7 if function == SIGMOID else 6)
    s = np.where(k > 255, np.float32(1), steps[np.minimum(k, 255)])
    negative = np.signbit(x)
    if function == SIGMOID:
        y = np.where(negative, np.float32(1) - s, s)
    else:
        y = np.float32(2) * s - np.float32(1)
        y = np.where(negative, -y, y)
    return _to_bf16(y, x)


@kernel
def _fill_codes(bf16, low, scale, zero_point, out_inverse, out_zero, lowest, highest, table):
    for index in range(table.size):
        x = np.float32(np.float64(np.int64(low) + index - np.int64(zero_point)) * scale)
        y = np.float64(bf16[np.int64(bf16_encode(x))])
        scaled = min(max(y * out_inverse, -(2.0**40)), 2.0**40)  # beyond any code, and an integer in every machine
        table[index] = saturate(np.int64(np.rint(scaled)) + np.int64(out_zero), lowest, highest)


def device_code_table(
    tables: ActivationTables,
    function: int,
    bits: int,
    scale: float,
    zero_point: int,
    out_bits: int,
    out_scale: float,
    out_zero_point: int,
) -> Array:
    """The table of codes of a device whose function of BF16 values is given (SPEC T-7; ours); an exact function: SPEC T-4.

    ``table[q - qmin] = saturate(round_half_even(f(bf16(fp32((q - zp) * scale))) / out_scale) + out_zp)``.
    """
    if tables.bf16[function] is variant("exact").bf16[function]:
        return code_table(function, bits, scale, zero_point, out_bits, out_scale, out_zero_point)
    values = (tables.bf16[function].astype(np.uint32) << np.uint32(16)).view(np.float32)
    table = np.empty(1 << bits, np.int8 if out_bits == 8 else np.int16)
    half = 1 << (out_bits - 1)
    low = -(1 << (bits - 1))
    _fill_codes(values, low, scale, zero_point, 1.0 / out_scale, out_zero_point, -half, half - 1, table)
    return table
