"""Random layers and their lowering by refimpl, with formats that an FP32 file holds exactly.

Weights are ``code * d`` with ``d`` of 16 significant bits and a code of magnitude 127 in every channel, so that the lowering
finds exactly these codes and this ``d``; scales of activations are FP32 numbers. What an oracle is given (codes, scales,
integer biases) is chosen here; refimpl gets only floats, as from a container.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refimpl.numerics.requantize import LAW_RAW
from refimpl.presets import Preset
from refimpl.profiles import PROFILES, Profile
from refimpl.program import DTYPES, OPERATORS, Format, Step, Tensor
from refimpl.quantization.lowering import Builder
from tests.crosscheck.rows import Array

Random = np.random.Generator
FRAMES, BINS, INPUTS, OUTPUTS = 24, 12, 9, 11  # of every layer; primes and odd numbers show a mistaken axis


class FixedFormats(Builder):
    """The lowering, but for the formats: they are given, not found from ranges."""

    def __init__(self, weights: dict[str, Array], formats: dict[str, Format], profile: Profile) -> None:
        kinds = tuple((name, form.kind) for name, form in formats.items())
        super().__init__(weights, {}, Preset("crosscheck", (*kinds, ("*.weight", "int8"))), profile)
        self.formats = formats

    def tensor(self, name: str, shape: tuple[int, ...], kind: str | None = None, origin: str = "") -> Tensor:
        self.origin[name] = origin or name
        self.tensors[name] = Tensor(name, shape, self.formats[name])
        return self.tensors[name]


def execute(step: Step, *inputs: Array, shape: tuple[int, ...], form: Format) -> Array:
    """One step by refimpl's own kernel."""
    y = np.empty(shape, DTYPES[form.kind])
    OPERATORS[step.operator](*inputs, *step.constants, y)
    return y


def random_scale(rng: Random, low: float, high: float, bits: int = 24) -> float:
    """``2^[low, high)``, cut to ``bits`` significant bits: at most 24, FP32 holds it exactly."""
    fraction, exponent = np.frexp(2.0 ** rng.uniform(low, high))
    return float(np.ldexp(np.floor(fraction * 2.0**bits), int(exponent) - bits))


def random_zero_point(rng: Random, kind: str) -> int:
    return int(rng.integers(-128, 128)) if kind == "int8" else 0


def random_codes(rng: Random, shape: tuple[int, ...], kind: str) -> Array:
    """Codes over the whole range; one value in eight is an end of it."""
    half = 1 << (7 if kind == "int8" else 15)
    codes = rng.integers(-half, half, shape)
    ends = rng.choice(np.array([-half, half - 1]), shape)
    return np.where(rng.random(shape) < 0.125, ends, codes).astype(DTYPES[kind])


@dataclass(frozen=True)
class Layer:
    """A layer as an oracle takes it: ``codes`` [out, ...], one scale and one integer bias per output channel."""

    codes: Array
    scales: Array  # float64, of 16 significant bits
    bias: Array  # int64, in accumulator units
    x: Format
    y: Format
    relu: bool

    def floats(self) -> tuple[Array, Array]:
        """Weights [out, ...] and bias as FP32; lowering them gives ``codes``, ``scales`` and ``bias`` again."""
        shape = (-1, *[1] * (self.codes.ndim - 1))
        weight = (self.codes * self.scales.reshape(shape)).astype(np.float32)
        return weight, (self.bias * (self.x.scale * self.scales)).astype(np.float32)


@dataclass(frozen=True)
class Kind:
    """A layer with weights, as one convolution of [frames, bins, channels]: what refimpl calls it, and its geometry."""

    name: str  # refimpl's operator
    transposed: bool = False
    size: tuple[int, int] = (1, 1)  # time, frequency
    stride: int = 1  # along frequency
    relu: bool = False  # whether refimpl's operator can have one

    @property
    def weight(self) -> tuple[int, ...]:
        return (OUTPUTS, *self.size, INPUTS)

    @property
    def x(self) -> tuple[int, int, int]:
        """The input's shape, the past frames of a 3x3 kernel in front."""
        return (FRAMES + self.size[0] - 1, BINS, INPUTS)

    @property
    def y(self) -> tuple[int, int, int]:
        bins = BINS * self.stride if self.transposed else BINS // self.stride
        return (FRAMES, bins, OUTPUTS)

    @property
    def full(self) -> tuple[int, int, int]:
        """The output's shape of an unpadded transposed convolution: its margins are no output of refimpl's."""
        return (self.x[0] + self.size[0] - 1, self.y[1] + (self.size[1] - 1 if self.stride == 1 else 0), OUTPUTS)

    def inner(self, full: Array) -> Array:
        """Without those margins: two frames at each end, a bin at each end."""
        time, bins = self.size[0] - 1, (self.size[1] - 1) // 2 if self.stride == 1 else 0
        return full[time : full.shape[0] - time, bins : full.shape[1] - bins]


KINDS = (
    Kind("fully_connected_channels", relu=True),
    Kind("conv_causal", size=(3, 3)),
    Kind("conv_transposed_causal", True, (3, 3)),
    Kind("conv_strided", size=(1, 4), stride=4, relu=True),
    Kind("conv_strided_transposed", True, (1, 4), 4),
)


def lower(kind: Kind, layer: Layer, profile: Profile) -> Step:
    """The layer by refimpl's lowering, from its float weights in the container's axes."""
    weight, bias = layer.floats()
    if kind.size == (1, 1):
        weight = weight.reshape(OUTPUTS, INPUTS)
    else:
        weight = weight.transpose((3, 0, 1, 2) if kind.transposed else (0, 3, 1, 2))
        weight = weight[:, :, 0] if kind.size[0] == 1 else weight
    builder = FixedFormats({"k.weight": weight, "k.bias": bias}, {"x": layer.x, "y": layer.y}, profile)
    x = builder.tensor("x", (BINS, INPUTS))
    if kind.size == (1, 1):
        builder.fully_connected("y", x, "k", "channels", layer.relu)
    elif kind.stride == 1:
        builder.conv_causal("y", x, "k", 1, kind.transposed)
    elif kind.transposed:
        builder.conv_strided_transposed("y", x, "k", kind.y[1])
    else:
        builder.conv_strided("y", x, "k", layer.relu)
    return builder.steps[0]


def random_case(rng: Random, kind: Kind, activations: str, index: int) -> tuple[Layer, Array]:
    """A layer and its input; of every four layers two are full of exact ties, and two have a ReLU where the kind can."""
    relu = kind.relu and index % 2 == 1
    layer = (tied_layer if index % 4 >= 2 else random_layer)(rng, kind.weight, activations, relu)
    x = random_codes(rng, kind.x, activations)
    if index % 4 >= 2:
        x[..., 0] = layer.x.zero_point
    return layer, x


def random_layer(rng: Random, shape: tuple[int, ...], kind: str, relu: bool) -> Layer:
    """Weights ``shape`` [out, ...]; the output's scale is such that most codes fall inside, and some saturate."""
    codes = rng.integers(-127, 128, shape)
    flat = codes.reshape(shape[0], -1)
    flat[:, rng.integers(flat.shape[1])] = rng.choice(np.array([-127, 127]), shape[0])
    centre = rng.uniform(-9, 3)
    scales = np.array([random_scale(rng, centre - 1, centre + 1, 16) for _ in range(shape[0])])
    x = Format(kind, random_scale(rng, -12, 4), random_zero_point(rng, kind))
    spread = 73.0 * np.sqrt(flat.shape[1]) * (74.0 if kind == "int8" else 18900.0)  # of the accumulator, in its units
    target = np.log2(x.scale * 2.0**centre * spread / (127.0 if kind == "int8" else 32767.0))
    y = Format(kind, random_scale(rng, target - 0.5, target + 2.5), random_zero_point(rng, kind))
    limit = min(int(spread), 1 << 22)  # FP32 holds it to less than half a unit, and Q-2 leaves the scale alone
    bias = rng.integers(-limit, limit + 1, shape[0])
    return Layer(codes.astype(np.int8), scales, bias, x, y, relu)


def tied_layer(rng: Random, shape: tuple[int, ...], kind: str, relu: bool) -> Layer:
    """All scales powers of two, ratios from 1/2 to 1/16, so that many sums lie half-way between two codes.

    Code 127 stands at input 0 alone, whose activations are to be the zero point; the others are -1, 0, 1.
    """
    codes = rng.integers(-1, 2, shape)
    codes[..., 0] = 0
    codes.reshape(shape[0], -1)[:, 0] = 127
    x = Format(kind, 2.0 ** int(rng.integers(-12, 4)), random_zero_point(rng, kind))
    scales = 2.0 ** rng.integers(-9, -6, shape[0])
    y = Format(kind, x.scale * 2.0 ** int(rng.integers(-6, -4)), random_zero_point(rng, kind))
    return Layer(codes.astype(np.int8), scales, rng.integers(-99, 100, shape[0]), x, y, relu)


def accumulators(kind: Kind, layer: Layer, x: Array) -> Array:
    """The exact sums with their bias, int64, by refimpl's own operator before any requantization."""
    step = lower(kind, layer, PROFILES["tflite_double"])
    rq = step.constants[-1]
    y = np.empty(kind.y, np.int64)
    OPERATORS[step.operator](x, *step.constants[:-1], rq._replace(law=LAW_RAW), y)
    return y
