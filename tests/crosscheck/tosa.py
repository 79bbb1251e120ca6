"""The TOSA reference model against profiles tflite_double and tflite_single: RESCALE alone, and behind a convolution.

TOSA takes multipliers and shifts as data: it gets refimpl's, so what is compared is the sum and the law. Layers are CONV2D or
TRANSPOSE_CONV2D (INT8: INT32 sums; INT16: INT48 sums), then a RESCALE per channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refimpl.numerics.requantize import LAW_DOUBLE, LAW_SINGLE
from refimpl.profiles import PROFILES
from tests.crosscheck.gemmlowp import scaled, scalings
from tests.crosscheck.layers import KINDS, OUTPUTS, Kind, Layer, Random, execute, lower, random_case
from tests.crosscheck.rows import DIFFERS, EQUAL, PACKAGES, Array, Oracle, Row, Tally, installed

CASES = 120
SCALINGS, VALUES = 2_000, 250  # pairs (M, n) of the RESCALE alone, and values for each
ROUNDING = {LAW_DOUBLE: "DOUBLE_ROUND", LAW_SINGLE: "SINGLE_ROUND"}


def run(seed: int) -> Iterator[Row]:
    rng = np.random.default_rng(seed)
    yield from _rescale(rng)
    for kind in KINDS:
        for activations in ("int8", "int16"):
            yield from _layers(rng, kind, activations)


def _rescale(rng: Random) -> Iterator[Row]:
    """INT32 to INT32, both modes, per channel."""
    value, multiplier, shift = (column.reshape(VALUES, -1) for column in scalings(rng, SCALINGS * VALUES))
    multiplier, shift = multiplier[0], np.maximum(shift[0], 2)  # TOSA's least shift
    top = np.minimum(shift - 1, 31)  # TOSA asks for |value| < 2^(shift - 1)
    bound = np.left_shift(1, top - rng.integers(0, top))
    value = rng.integers(-bound, bound, value.shape)
    results = {}
    for law, mode in ROUNDING.items():
        graph = Graph()
        x = graph.input(value.shape, "INT32")
        y = graph.rescale(x, "INT32", "INT32", value.shape, multiplier, shift, 0, mode)
        results[law] = graph.run(y, "INT32", [value.astype(np.int32)])
    ours = {law: np.empty(value.size, np.int64) for law in ROUNDING}
    for law, y in ours.items():
        scaled(value.ravel(), np.tile(multiplier, VALUES), np.tile(shift, VALUES), law, y)
    for law, other, expected in (
        (LAW_DOUBLE, LAW_DOUBLE, EQUAL),
        (LAW_SINGLE, LAW_SINGLE, EQUAL),
        (LAW_DOUBLE, LAW_SINGLE, DIFFERS),
    ):
        tally = Tally(f"RESCALE {ROUNDING[law]}, shifts 2 to 62 = {'G-6' if other == LAW_DOUBLE else 'G-7'}", expected)
        tally.add(ours[other].reshape(value.shape), results[law])
        yield tally.row()


def _layers(rng: Random, kind: Kind, activations: str) -> Iterator[Row]:
    name = f"{'TRANSPOSE_CONV2D' if kind.transposed else 'CONV2D'} {kind.size[0]}x{kind.size[1]}"
    name += f" stride {kind.stride}" if kind.stride > 1 else ""
    tallies = []
    for profile_name in ("tflite_double", "tflite_single"):
        profile = PROFILES[profile_name]
        mode = ROUNDING[profile.law_8 if activations == "int8" else profile.law_16]
        what = f"{name} {'int8' if activations == 'int8' else '16x8'}, RESCALE {mode} = {profile_name}"
        tallies.append((Tally(what), profile, mode))
    for index in range(CASES):
        layer, x = random_case(rng, kind, activations, index)
        for tally, profile, mode in tallies:
            step = lower(kind, layer, profile)
            ours = execute(step, x, shape=kind.y, form=layer.y)
            tally.add(ours, _theirs(kind, layer, x, step.constants[-1], mode))
    yield from (tally.row() for tally, _, _ in tallies)


def _theirs(kind: Kind, layer: Layer, x: Array, rq: Any, mode: str) -> Array:
    """The layer with the multipliers of ``rq``; a fused ReLU is TOSA's CLAMP after it."""
    graph = Graph()
    narrow, wide = ("INT8", "INT32") if layer.x.bits == 8 else ("INT16", "INT48")
    image = graph.input((1, *kind.x), narrow)
    sums = graph.convolution(kind, image, layer, narrow, wide)
    shape = (1, *(kind.full if kind.transposed else kind.y))
    scaling = rq.multiplier[:OUTPUTS], rq.shift[:OUTPUTS]  # a strided transposed convolution repeats them per tap
    y = graph.rescale(sums, wide, narrow, shape, *scaling, layer.y.zero_point, mode, layer.x.bits == 8)
    if layer.relu:
        y = graph.clamp(y, narrow, shape, layer.y.zero_point, layer.y.highest)
    whole = graph.run(y, narrow, [x[None]])[0]
    return kind.inner(whole) if kind.transposed else whole


class Graph:
    """A TOSA graph built with tosa-tools' serializer; tensors are named by strings."""

    def __init__(self) -> None:
        import tosa_serializer

        self.ts: Any = tosa_serializer
        self.ser = tosa_serializer.TosaSerializer("")
        self.shapes: dict[str, tuple[int, ...]] = {}

    def input(self, shape: tuple[int, ...], kind: str) -> str:
        self.ser.addInputTensor(self.ts.TosaSerializerTensor("x", list(shape), self._type(kind)))
        return "x"

    def constant(self, values: Array, kind: str) -> str:
        name: str = self.ser.addConst(list(values.shape), self._type(kind), values).name
        return name

    def convolution(self, kind: Kind, x: str, layer: Layer, narrow: str, wide: str) -> str:
        """CONV2D padded along frequency only, or TRANSPOSE_CONV2D without a pad."""
        ts, attribute = self.ts, self.ts.TosaSerializerAttribute()
        margin = (kind.size[1] - 1) // 2 if kind.stride == 1 else 0
        if kind.transposed:
            attribute.TransposeConv2dAttribute([0, 0, 0, 0], [1, kind.stride], False, self._type(wide))
        else:
            attribute.Conv2dAttribute([0, 0, margin, margin], [1, kind.stride], [1, 1], False, self._type(wide))
        zero = np.array([layer.x.zero_point], np.int8 if layer.x.bits == 8 else np.int16)
        operands = [
            x,
            self.constant(layer.codes, "INT8"),
            self.constant(layer.bias.astype(np.int32 if layer.x.bits == 8 else np.int64), wide),
            self.constant(zero, narrow),
            self.constant(np.zeros(1, np.int8), "INT8"),
        ]
        shape = (1, *(kind.full if kind.transposed else kind.y))
        return self._operator(ts.Op.TRANSPOSE_CONV2D if kind.transposed else ts.Op.CONV2D, operands, wide, shape, attribute)

    def rescale(
        self,
        x: str,
        source: str,
        target: str,
        shape: tuple[int, ...],
        multiplier: Array,
        shift: Array,
        zero_point: int,
        mode: str,
        scale32: bool = True,
    ) -> str:
        """RESCALE per channel, of the last axis."""
        dtypes = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT48": np.int64}
        attribute = self.ts.TosaSerializerAttribute()
        attribute.RescaleAttribute(scale32, getattr(self.ts.RoundingMode, mode), True, False, False)
        operands = [
            x,
            self.constant(multiplier.astype(np.int32 if scale32 else np.int16), "INT32" if scale32 else "INT16"),
            self.constant(shift.astype(np.int8), "INT8"),
            self.constant(np.zeros(1, dtypes[source]), source),
            self.constant(np.array([zero_point], dtypes[target]), target),
        ]
        return self._operator(self.ts.Op.RESCALE, operands, target, shape, attribute)

    def clamp(self, x: str, kind: str, shape: tuple[int, ...], low: int, high: int) -> str:
        attribute = self.ts.TosaSerializerAttribute()
        dtype = np.int8 if kind == "INT8" else np.int16
        ends = [list(np.array([end], dtype).tobytes()) for end in (low, high)]
        attribute.ClampAttribute(*ends, self.ts.NanPropagationMode.PROPAGATE)
        return self._operator(self.ts.Op.CLAMP, [x], kind, shape, attribute)

    def run(self, y: str, kind: str, inputs: list[Array]) -> Array:
        """The graph's one output is a copy of ``y``."""
        import tosa_reference_model

        shape = self.shapes[y]
        attribute = self.ts.TosaSerializerAttribute()
        attribute.IdentityAttribute()
        out = self.ser.addOutput(list(shape), self._type(kind))
        self.ser.addOperator(self.ts.Op.IDENTITY, [y], [out.name], attribute)
        outputs, status = tosa_reference_model.run(self.ser.serialize(), inputs)
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise RuntimeError(f"the TOSA reference model says {status.name}")
        result: Array = outputs[0].reshape(shape)
        return result

    def _operator(self, operator: Any, operands: list[str], kind: str, shape: tuple[int, ...], attribute: Any) -> str:
        name: str = self.ser.addIntermediate(list(shape), self._type(kind)).name
        self.shapes[name] = shape
        self.ser.addOperator(operator, operands, [name], attribute)
        return name

    def _type(self, kind: str) -> Any:
        return getattr(self.ts.DType, kind)


ORACLE = Oracle("tosa", PACKAGES, installed("tosa-tools"), run)
