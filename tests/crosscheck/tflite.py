"""TFLite kernels against profiles tflite_double and tflite_single, layers from their float weights on.

Two engines: LiteRT (TFLite of today, ``ai-edge-litert``) and TensorFlow Lite for Microcontrollers (``tflite-micro``). The same
codes, FP32 scales and integer biases go to both sides; each finds its own multipliers. A kernel must give the bits of one
profile, and where the profiles can differ the data must tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refimpl.profiles import PROFILES
from refimpl.program import Format, Step
from refimpl.quantization.scheme import q31_multiplier
from tests.crosscheck.layers import (
    INPUTS,
    KINDS,
    OUTPUTS,
    FixedFormats,
    Kind,
    Layer,
    Random,
    accumulators,
    execute,
    lower,
    random_case,
    random_codes,
    random_scale,
    random_zero_point,
)
from tests.crosscheck.rows import DIFFERS, EQUAL, PACKAGES, Array, Oracle, Row, Tally, installed

DOUBLE, SINGLE = PROFILES["tflite_double"], PROFILES["tflite_single"]
PROFILES_OF_TFLITE = (DOUBLE, SINGLE)
CASES = 160  # random layers, or triples of scales, per row
ELEMENTS = (1, 64, 64)  # of each addition, product, change of codes


@dataclass(frozen=True)
class Engine:
    """``run(file, inputs)`` gives the output. What is known of its kernels, beside the profile tflite_double."""

    run: Callable[[bytes, list[Array]], Array]
    float_fully_connected: bool  # FULLY_CONNECTED computes with the scales themselves, in floats
    fp32_ratio: bool  # MUL's ratio of scales is found in FP32


def run_litert(seed: int) -> Iterator[Row]:
    """The reference kernels; then what an application gets by default, which only informs."""
    from ai_edge_litert.interpreter import OpResolverType

    reference = Engine(_litert(OpResolverType.BUILTIN_REF), True, True)
    yield from _all(np.random.default_rng(seed), reference)
    rng = np.random.default_rng(seed)
    for resolver, name in (
        (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, "optimized kernel"),
        (OpResolverType.AUTO, "XNNPACK"),
    ):
        engine = Engine(_litert(resolver), True, True)
        for kind in KINDS[:2]:
            tallies = [Tally(f"{_name(kind)} int8, {name}: {p.name}", None) for p in PROFILES_OF_TFLITE]
            _compare(rng, kind, "int8", engine, tallies)
            yield from (tally.row() for tally in tallies)


def run_micro(seed: int) -> Iterator[Row]:
    from tflite_micro.python.tflite_micro import runtime

    def run(content: bytes, inputs: list[Array]) -> Array:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 22)
        for index, values in enumerate(inputs):
            interpreter.set_input(values, index)
        interpreter.invoke()
        result: Array = interpreter.get_output(0)
        return result

    yield from _all(np.random.default_rng(seed), Engine(run, False, False))


def _litert(resolver: Any) -> Callable[[bytes, list[Array]], Array]:
    from ai_edge_litert.interpreter import Interpreter

    def run(content: bytes, inputs: list[Array]) -> Array:
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver, num_threads=1)
        interpreter.allocate_tensors()
        for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], values)
        interpreter.invoke()
        result: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return result

    return run


def _all(rng: Random, engine: Engine) -> Iterator[Row]:
    for kind in KINDS:
        for activations in ("int8", "int16"):
            if kind.size == (1, 1) and engine.float_fully_connected:
                yield from _float_layers(rng, kind, activations, engine)
            else:
                yield from _layers(rng, kind, activations, engine)
    for name in ("ADD", "MUL"):
        for activations in ("int8", "int16"):
            yield from _pairs(rng, name, activations, engine)
    yield from _changes(rng, ("int8", "int16"), engine)
    yield from _changes(rng, ("int16", "int8"), engine)


# -- layers -------------------------------------------------------------------------------------------------------------


def _layers(rng: Random, kind: Kind, activations: str, engine: Engine) -> Iterator[Row]:
    what = f"{_name(kind)} {'int8' if activations == 'int8' else '16x8'}"
    other = DIFFERS if activations == "int8" else EQUAL  # 16x8 has one rounding in both profiles
    tallies = [Tally(f"{what} = tflite_double"), Tally(f"{what} = tflite_single", other)]
    _compare(rng, kind, activations, engine, tallies)
    yield from (tally.row() for tally in tallies)


def _float_layers(rng: Random, kind: Kind, activations: str, engine: Engine) -> Iterator[Row]:
    """A kernel without integer multipliers: ``acc * (Sx * Sw / Sy)`` in FP64, rounded half away from zero."""
    what = f"{_name(kind)} {'int8' if activations == 'int8' else '16x8'}"
    floats = Tally(f"{what} = half away of acc * ratio in FP64")
    tallies = [Tally(f"{what}: {profile.name}", None) for profile in PROFILES_OF_TFLITE]
    for layer, x, theirs in _compare(rng, kind, activations, engine, tallies):
        real = accumulators(kind, layer, x) * (layer.x.scale * layer.scales / layer.y.scale)
        away = np.copysign(np.floor(np.abs(real) + 0.5), real).astype(np.int64) + layer.y.zero_point
        low = layer.y.zero_point if layer.relu else layer.y.lowest
        floats.add(np.clip(away, low, layer.y.highest), theirs)
    yield floats.row()
    yield from (tally.row() for tally in tallies)


def _compare(
    rng: Random, kind: Kind, activations: str, engine: Engine, tallies: list[Tally]
) -> list[tuple[Layer, Array, Array]]:
    """Random layers through the engine and both profiles; returns layer, input and the engine's output of each."""
    done = []
    for index in range(CASES):
        layer, x = random_case(rng, kind, activations, index)
        theirs = _theirs(kind, layer, x, engine)
        for tally, profile in zip(tallies, PROFILES_OF_TFLITE, strict=True):
            tally.add(execute(lower(kind, layer, profile), x, shape=kind.y, form=layer.y), theirs)
        done.append((layer, x, theirs))
    return done


def _name(kind: Kind) -> str:
    if kind.size == (1, 1):
        return "FULLY_CONNECTED"
    name = "TRANSPOSE_CONV" if kind.transposed else "CONV_2D"
    return f"{name} {kind.size[0]}x{kind.size[1]}{f' stride {kind.stride}' if kind.stride > 1 else ''}"


def _theirs(kind: Kind, layer: Layer, x: Array, engine: Engine) -> Array:
    """The layer as one TFLite operator, per-channel scales; the bias is INT32, in 16x8 INT64."""
    from ai_edge_litert import schema_py_generated as schema

    from tests.crosscheck import tflite_file as file

    activation = schema.ActivationFunctionType.RELU if layer.relu else schema.ActivationFunctionType.NONE
    same, valid = schema.Padding.SAME, schema.Padding.VALID
    wide = np.int32 if layer.x.bits == 8 else np.int64
    bias = file.constant(layer.bias.astype(wide), (layer.x.scale * layer.scales).astype(np.float32))
    weight = file.constant(layer.codes, layer.scales)

    def call(name: str, version: int, options: Any, operands: list[file.Operand], shape: tuple[int, ...]) -> Array:
        out = file.quantized(np.empty(shape, layer.y.kind), layer.y)
        inputs = [operand.values for operand in operands if not operand.constant]
        return engine.run(file.model(name, version, options, operands, out), inputs)

    if kind.size == (1, 1):
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=activation)
        flat = file.quantized(x.reshape(-1, INPUTS), layer.x)
        weight = file.constant(layer.codes.reshape(OUTPUTS, INPUTS), layer.scales)
        return call("FULLY_CONNECTED", 12, options, [flat, weight, bias], (flat.values.shape[0], OUTPUTS)).reshape(kind.y)
    image = file.quantized(x[None], layer.x)
    if kind.transposed:
        options = schema.TransposeConvOptionsT(padding=valid, strideW=kind.stride, strideH=1)
        extent = file.constant(np.array((1, *kind.full), np.int32))
        return kind.inner(call("TRANSPOSE_CONV", 3, options, [extent, weight, image, bias], (1, *kind.full))[0])
    padded = kind.stride == 1
    options = schema.Conv2DOptionsT(same if padded else valid, kind.stride, 1, activation)
    y = call("CONV_2D", 5, options, [image, weight, bias], (1, kind.x[0], *kind.y[1:]))[0]
    return y[1:-1] if padded else y  # SAME pads time too: the first and the last row are no frames of ours


# -- element by element -------------------------------------------------------------------------------------------------


def _pairs(rng: Random, name: str, kind: str, engine: Engine) -> Iterator[Row]:
    """ADD and MUL of two tensors of one kind."""
    from ai_edge_litert import schema_py_generated as schema

    options = schema.AddOptionsT(potScaleInt16=False) if name == "ADD" else schema.MulOptionsT()
    fp32 = name == "MUL" and engine.fp32_ratio
    what = f"{name} {kind}{', ratio of scales in FP32,' if fp32 else ''}"
    # ADD works on values shifted left by 20 or 15 bits: its roundings hardly ever show in the output.
    tallies = [Tally(f"{what} = tflite_double"), Tally(f"{what} = tflite_single", DIFFERS if name == "MUL" else None)]
    exact = Tally(f"{name} {kind}: tflite_double as it is, ratio in FP64", None)
    for _ in range(CASES):
        forms = _formats(rng, kind, name)
        codes = [random_codes(rng, ELEMENTS, kind) for _ in range(2)]
        theirs = _element(name, 4, options, codes, forms, engine)
        for tally, profile in zip(tallies, PROFILES_OF_TFLITE, strict=True):
            builder = FixedFormats({}, dict(zip("aby", forms, strict=True)), profile)
            tensors = [builder.tensor(which, ELEMENTS[1:]) for which in "ab"]
            (builder.add if name == "ADD" else builder.multiply)("y", *tensors)
            step = builder.steps[0]
            if fp32:
                if profile is DOUBLE:
                    exact.add(execute(step, *codes, shape=ELEMENTS, form=forms[2]), theirs)
                step = _with_fp32_ratio(step, forms)
            tally.add(execute(step, *codes, shape=ELEMENTS, form=forms[2]), theirs)
    yield from (tally.row() for tally in (*tallies, *([exact] if fp32 else [])))


def _formats(rng: Random, kind: str, name: str) -> list[Format]:
    """Of two inputs and the output: scales within a factor of 16; a product's near the inputs' product."""
    centre = rng.uniform(-10, 2)
    scales = [random_scale(rng, centre - 2, centre + 2) for _ in range(3)]
    if name == "MUL":
        middle = np.log2(scales[0] * scales[1] * (64.0 if kind == "int8" else 16384.0))
        scales[2] = random_scale(rng, middle - 2, middle + 2)
    return [Format(kind, scale, random_zero_point(rng, kind)) for scale in scales]


def _with_fp32_ratio(step: Step, forms: list[Format]) -> Step:
    """SPEC E-11's step, its multiplier from ``fp32(fp32(Sa * Sb) / Sy)``."""
    a, b, y = (np.float32(form.scale) for form in forms)
    pair = q31_multiplier(float(a * b / y))
    return replace(step, constants=(*step.constants[:3], *pair, *step.constants[5:]))


def _changes(rng: Random, kinds: tuple[str, str], engine: Engine) -> Iterator[Row]:
    """QUANTIZE of codes of one kind to the other's scale."""
    from ai_edge_litert import schema_py_generated as schema

    what = f"QUANTIZE {kinds[0]} to {kinds[1]}"
    finer = 8.0 if kinds[1] == "int16" else -8.0
    # To the finer code no shift to the right is left: both laws are the same function.
    other = EQUAL if kinds[1] == "int16" else DIFFERS
    tallies = [Tally(f"{what} = tflite_double"), Tally(f"{what} = tflite_single", other)]
    for _ in range(CASES):
        scale = random_scale(rng, -10, 2)
        middle = np.log2(scale) - finer
        scales = (scale, random_scale(rng, middle - 1.5, middle + 1.5))
        forms = [Format(kind, s, random_zero_point(rng, kind)) for kind, s in zip(kinds, scales, strict=True)]
        codes = random_codes(rng, ELEMENTS, kinds[0])
        theirs = _element("QUANTIZE", 3, schema.QuantizeOptionsT(), [codes], forms, engine)
        for tally, profile in zip(tallies, PROFILES_OF_TFLITE, strict=True):
            builder = FixedFormats({}, {"x": forms[0], "y": forms[1]}, profile)
            builder.convert("y", builder.tensor("x", ELEMENTS[1:]))
            tally.add(execute(builder.steps[0], codes, shape=ELEMENTS, form=forms[1]), theirs)
    yield from (tally.row() for tally in tallies)


def _element(name: str, version: int, options: Any, codes: list[Array], forms: list[Format], engine: Engine) -> Array:
    """One operator on codes; ``forms`` of the inputs, then of the output."""
    from tests.crosscheck import tflite_file as file

    operands = [file.quantized(c, f) for c, f in zip(codes, forms[:-1], strict=True)]
    out = file.quantized(np.empty(ELEMENTS, forms[-1].kind), forms[-1])
    return engine.run(file.model(name, version, options, operands, out), codes)


LITERT = Oracle("litert", PACKAGES, installed("ai-edge-litert"), run_litert)
MICRO = Oracle("tflite-micro", PACKAGES, installed("tflite-micro", "ai-edge-litert"), run_micro)  # the schema is LiteRT's
