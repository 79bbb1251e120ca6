"""What a program costs a device: operations, stored bytes, state, activation memory, and an estimate of the time on GAP9.

Pure functions of a lowered program; nothing is read or written. Execution is frame by frame, as firmware runs. Counted are
what the operators define; scratch memory of a device's kernels (tiles, im2col, accumulators) is its own affair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from inspect import signature
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from refimpl.networks.tf_mlpnet import Config, build, parameters
from refimpl.numerics.requantize import Requantizer
from refimpl.operators import convert, elementwise, fourier
from refimpl.presets import Preset, load_preset
from refimpl.profiles import GAP9, Profile
from refimpl.program import DTYPES, OPERATORS, Format, Program, Step

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
ALIGNMENT = 8  # of every buffer, bytes

# How often an operator applies all of its weights in a frame, by the shapes of input and output; padding taps count.
PLACES: Mapping[str, Callable[[Shape, Shape], int]] = {
    "fully_connected_frequency": lambda x, y: x[1],
    "fully_connected_channels": lambda x, y: x[0],
    "conv_causal": lambda x, y: y[0],
    "conv_transposed_causal": lambda x, y: y[0],
    "conv_strided": lambda x, y: y[0],
    "conv_strided_transposed": lambda x, y: x[0],
}
# Parts of the network, by what the names of their steps hold; the first that fits.
PARTS = (
    (".freq", "frequency mixing"),
    (".chan", "channel mixing"),
    (".lstm.", "lstm"),
    ("_linear", "linear"),
    (".compress", "compression"),
    (".expand", "compression"),
    ("", "encoder and decoder"),
)


def named_constants(step: Step) -> dict[str, Any]:
    """A step's constants by the names that its kernel gives them."""
    names = list(signature(_function(step)).parameters)[len(step.inputs) :]
    return dict(zip(names, step.constants, strict=False))


def _function(step: Step) -> Callable[..., None]:
    """The kernel's Python function: what the compiler wraps, or the kernel itself where there is no compiler."""
    kernel = OPERATORS[step.operator]
    function: Callable[..., None] = getattr(kernel, "py_func", kernel)
    return function


def is_elementwise(step: Step) -> bool:
    """True where output element i depends on input elements i alone, read before it is written."""
    home = _function(step).__module__
    return home == elementwise.__name__ or (home == convert.__name__ and "block" not in step.operator)


# -- operations ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A step with weights. ``arithmetic`` is the format of what its weights are multiplied with."""

    name: str
    operator: str
    arithmetic: str
    weight_format: str
    parameters: int
    macs: int


def layers(program: Program) -> tuple[Layer, ...]:
    """Every step with weights, with its parameters and multiply-accumulates per frame."""
    found = []
    for step in program.steps:
        constants = named_constants(step)
        if "weight" in constants:
            x, y = program.tensors[step.inputs[0].tensor], program.tensors[step.outputs[0]]
            weight = constants["weight"]
            operator = step.operator.removesuffix("_f32").removesuffix("_bf16")
            outputs = weight.shape[0] if operator == "fully_connected_frequency" else weight.shape[-1]
            stored = "int8" if weight.dtype == np.int8 else x.format.kind
            macs = weight.size * PLACES[operator](x.shape, y.shape)
            found.append(Layer(step.name, operator, x.format.kind, stored, weight.size + outputs, macs))
    return tuple(found)


def part(name: str) -> str:
    """The part of the network that a step belongs to."""
    return next(title for pattern, title in PARTS if pattern in name)


def macs_by(program: Program, key: Callable[[Layer], str]) -> dict[str, int]:
    """Multiply-accumulates of a frame, added up by ``key`` in order of appearance; no FFT, nothing elementwise."""
    total: Counter[str] = Counter()
    for layer in layers(program):
        total[key(layer)] += layer.macs
    return dict(total)


def elementwise_by_arithmetic(program: Program) -> dict[str, int]:
    """Elements that steps without weights write in a frame, the transforms aside, by the widest arithmetic of the step.

    A change of format is counted where the wider format is.
    """
    order = ("int8", "int16", "int32", "bf16", "f32")
    total: Counter[str] = Counter()
    for step in program.steps:
        if "weight" in named_constants(step) or _function(step).__module__ == fourier.__name__:
            continue
        names = (*(ref.tensor for ref in step.inputs), *step.outputs)
        kinds = {program.tensors[name].format.kind for name in names} - {"int32"}
        total[max(kinds, key=order.index)] += math.prod(program.tensors[step.outputs[0]].shape)
    return dict(total)


# -- bytes that are stored ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """Non-volatile bytes. ``nominal`` counts every parameter in its layer's weight format, as the paper does."""

    nominal: int
    weights: Mapping[str, int]  # by format
    biases: int
    requantization: int  # multipliers, shifts and FP32 scales, per channel
    scalars: int  # all other constants, 4 bytes each
    transform_tables: int  # windows and twiddles, each once
    activation_tables: int  # sigmoid and tanh, each once

    @property
    def total(self) -> int:
        rest = self.biases + self.requantization + self.scalars + self.transform_tables + self.activation_tables
        return sum(self.weights.values()) + rest

    @property
    def without_activation_tables(self) -> int:
        """The total of a device that computes sigmoid and tanh."""
        return self.total - self.activation_tables


def storage(program: Program, bias_bits: int = 32) -> Storage:
    """What a device stores: arrays of the program in their formats, biases of integer layers in ``bias_bits``; a multiplier in
    the least of 1, 2 or 4 bytes that holds the layer's, none where all are 1."""
    found = layers(program)
    formats = {layer.name: layer.weight_format for layer in found}
    weights: Counter[str] = Counter()
    once: dict[str, dict[bytes, int]] = {"table": {}, "transform": {}}
    biases = requantization = scalars = 0
    for step in program.steps:
        for name, constant in named_constants(step).items():
            if isinstance(constant, Requantizer):
                biases += constant.bias.size * bias_bits // 8
                requantization += _requantizer_bytes(constant)
            elif name == "weight":
                kind = formats[step.name]
                weights[kind] += constant.size * _itemsize(Format(kind))
            elif name == "bias":
                biases += constant.size * _itemsize(Format(formats[step.name]))
            elif name in ("table", "window", "twiddle"):
                once["table" if name == "table" else "transform"][constant.tobytes()] = constant.nbytes
            else:
                scalars += 4 * np.size(constant)
    nominal = sum(layer.parameters * _itemsize(Format(layer.weight_format)) for layer in found)
    transform, tables = sum(once["transform"].values()), sum(once["table"].values())
    return Storage(nominal, dict(weights), biases, requantization, scalars, transform, tables)


def _requantizer_bytes(rq: Requantizer) -> int:
    """Of one step: multiplier and shift of an integer law, the FP32 scale of a law that has one."""
    largest = int(rq.multiplier.max())
    width = 0 if largest == 1 else 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    integer = rq.multiplier.size * (width + 1) if rq.multiplier.any() else 0
    return integer + (4 * rq.scale.size if rq.scale.any() else 0)


def _itemsize(form: Format) -> int:
    return np.dtype(DTYPES[form.kind]).itemsize


# -- bytes that change --------------------------------------------------------------------------------------------------


def state_bytes(program: Program) -> int:
    """What a stream keeps from frame to frame: past frames that steps read, and the input that the next frame shares."""
    kept = sum(array.nbytes for array in program.start().values())
    source, hop = program.tensors[program.source], program.tensors[program.results[0]].shape[-1]
    return kept + (source.shape[0] - hop) * _itemsize(source.format)


@dataclass(frozen=True)
class Buffer:
    """Memory of one tensor, or of several that take each other's place, over steps ``first`` to ``last``, both included.

    A buffer with ``frames`` holds a tensor that later frames read: it lives always, in the region of the state, and the
    producing step moves its frames up by one and writes the last.
    """

    tensors: tuple[str, ...]
    size: int
    first: int
    last: int
    offset: int
    frames: int = 0

    def meets(self, other: Buffer) -> bool:
        """True where both live during some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Two regions: ``state`` buffers one after the other, and ``arena`` buffers whose memory is used again and again."""

    state: tuple[Buffer, ...]
    arena: tuple[Buffer, ...]
    state_bytes: int
    arena_bytes: int
    least_bytes: int  # the most that lives during one step: no plan of these buffers needs less


def plan_buffers(program: Program) -> Plan:
    """Offsets for every tensor of a frame: greedy by size, each at the lowest free offset while it lives."""
    state = _state_buffers(program)
    loose = _merged(program, {name for buffer in state for name in buffer.tensors})
    placed: list[Buffer] = []
    for buffer in sorted(loose, key=lambda b: (-b.size, b.first, b.tensors)):
        placed.append(_placed(buffer, [other for other in placed if other.meets(buffer)]))
    live = [sum(b.size for b in placed if b.first <= i <= b.last) for i in range(len(program.steps))]
    top = max((buffer.offset + buffer.size for buffer in placed), default=0)
    size = sum(buffer.size for buffer in state)
    return Plan(state, tuple(sorted(placed, key=lambda b: (b.first, b.offset))), size, top, max(live))


def _placed(buffer: Buffer, others: Sequence[Buffer]) -> Buffer:
    """The buffer at the lowest offset that none of ``others`` overlaps."""
    offset = 0
    for other in sorted(others, key=lambda b: b.offset):
        if offset + buffer.size <= other.offset:
            break
        offset = max(offset, other.offset + other.size)
    return Buffer(buffer.tensors, buffer.size, buffer.first, buffer.last, offset)


def _state_buffers(program: Program) -> tuple[Buffer, ...]:
    """A buffer per tensor with a past: one frame more than the past where some step reads the past after the tensor is made."""
    made = {name: index for index, step in enumerate(program.steps) for name in step.outputs}
    found, offset = [], 0
    for name, past in program.past.items():
        if past:
            readers = [i for i, step in enumerate(program.steps) for ref in step.inputs if ref.tensor == name and ref.past]
            frames = past + (max(readers) > made.get(name, -1))
            size = _aligned(frames * _tensor_bytes(program, name))
            found.append(Buffer((name,), size, 0, len(program.steps) - 1, offset, frames))
            offset += size
    return tuple(found)


def _merged(program: Program, kept: set[str]) -> list[Buffer]:
    """A buffer for every tensor outside ``kept``, those together that one memory can hold; offsets are not set."""
    home = {name: [name] for name in {program.source} - kept}
    first = dict.fromkeys(home, 0)
    for index, step in enumerate(program.steps):
        for name in step.outputs:
            if name in kept:
                continue
            first[name] = index
            inputs = _replaceable(program, step, index, name, kept)
            # The memory that is longest in use goes on being used: the stream of residual adds stays where it is.
            home[name] = min((home[x] for x in inputs), key=lambda names: first[names[0]], default=[])
            home[name].append(name)
    last = {name: program.last.get(name, index) for name, index in first.items()}
    last.update({name: len(program.steps) - 1 for name in program.results if name in first})
    groups = {id(names): names for names in home.values()}.values()
    return [
        Buffer(
            tuple(names),
            _aligned(max(_tensor_bytes(program, name) for name in names)),
            min(first[name] for name in names),
            max(last[name] for name in names),
            0,
        )
        for names in groups
    ]


def _replaceable(program: Program, step: Step, index: int, name: str, kept: set[str]) -> list[str]:
    """The inputs whose place an elementwise step's output can take as it goes: of one shape, not narrower, not read later."""
    y, found = program.tensors[name], []
    for ref in step.inputs if is_elementwise(step) else ():
        x = program.tensors[ref.tensor]
        free = ref.tensor not in kept and program.last[ref.tensor] == index and ref.tensor not in program.results
        if free and x.shape == y.shape and _itemsize(x.format) >= _itemsize(y.format):
            found.append(ref.tensor)
    return found


def _tensor_bytes(program: Program, name: str) -> int:
    tensor = program.tensors[name]
    return math.prod(tensor.shape) * _itemsize(tensor.format)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# -- the time on GAP9, an estimate ----------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What the time on GAP9 is explained by, per frame."""

    int8_macs: int
    int16_macs: int
    float_operations: int
    calls: int


UNITS = ("MAC, 8-bit activations", "MAC, 16-bit activations", "BF16 operation", "operator call")
ASSUMPTIONS = (
    "time = sum of count x time per unit over four kinds of work; nothing overlaps, no unit depends on a layer's shape",
    "a call is a step of the program, whatever its size: tiling, transfers and integer elementwise work are all in it",
    "a BF16 operation is a multiply-accumulate, or an element that an elementwise BF16 step writes",
)


def work(program: Program) -> Work | None:
    """The kinds of work of a frame; None for a program with FP32 layers, which no published row tells the time of."""
    macs, elements = macs_by(program, lambda layer: layer.arithmetic), elementwise_by_arithmetic(program)
    if "f32" in macs:
        return None
    return Work(macs.get("int8", 0), macs.get("int16", 0), macs.get("bf16", 0) + elements.get("bf16", 0), len(program.steps))


@dataclass(frozen=True)
class Fit:
    """Non-negative least squares: ``factors`` per unit, the model's value for each row, and the value that a fit to all other
    rows gives it."""

    factors: tuple[Fraction, ...]
    fitted: tuple[Fraction, ...]
    left_out: tuple[Fraction, ...]
    freedom: int  # rows less factors that are not zero

    def predict(self, counts: Sequence[int | Fraction]) -> float:
        return float(_dot(self.factors, counts))


def fit(rows: Sequence[Sequence[int | Fraction]], targets: Sequence[Fraction]) -> Fit:
    """Exact in rational numbers: the same figures on every machine. Fewer rows than factors are refused by ValueError."""
    if len(rows) <= len(rows[0]):
        raise ValueError(f"{len(rows)} rows leave nothing to judge {len(rows[0])} factors by")
    factors = least_squares(rows, targets)
    left_out = []
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        left_out.append(_dot(least_squares([rows[j] for j in others], [targets[j] for j in others]), row))
    fitted = tuple(_dot(factors, row) for row in rows)
    return Fit(factors, fitted, tuple(left_out), len(rows) - sum(factor > 0 for factor in factors))


def least_squares(rows: Sequence[Sequence[int | Fraction]], targets: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The non-negative x of least ``|rows x - targets|^2``: the best of all sets of columns whose free solution has no sign
    against it. For a handful of columns; of equal ones the set with fewer."""
    columns = len(rows[0])
    best, least = (Fraction(0),) * columns, sum((t * t for t in targets), Fraction(0))
    for count in range(1, columns + 1):
        for chosen in combinations(range(columns), count):
            solution = _normal_solution([[Fraction(row[c]) for c in chosen] for row in rows], targets)
            if solution is None or min(solution) < 0:
                continue
            x = [Fraction(0)] * columns
            for c, value in zip(chosen, solution, strict=True):
                x[c] = value
            error = sum(((_dot(x, row) - t) ** 2 for row, t in zip(rows, targets, strict=True)), Fraction(0))
            if error < least:
                best, least = tuple(x), error
    return best


def _normal_solution(a: Sequence[Sequence[Fraction]], b: Sequence[Fraction]) -> list[Fraction] | None:
    """x of ``A^T A x = A^T b`` by elimination; None where A's columns depend on each other."""
    count = len(a[0])
    matrix = [[_dot([row[i] for row in a], [row[j] for row in a]) for j in range(count)] for i in range(count)]
    for i in range(count):
        matrix[i].append(_dot([row[i] for row in a], b))
    for i in range(count):
        pivot = next((r for r in range(i, count) if matrix[r][i] != 0), None)
        if pivot is None:
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        matrix[i] = [value / matrix[i][i] for value in matrix[i]]
        for r in range(count):
            if r != i:
                matrix[r] = [value - matrix[r][i] * top for value, top in zip(matrix[r], matrix[i], strict=True)]
    return [row[-1] for row in matrix]


def _dot(a: Sequence[int | Fraction], b: Sequence[int | Fraction]) -> Fraction:
    return sum((Fraction(x) * y for x, y in zip(a, b, strict=True)), Fraction(0))


# -- programs to count on -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def blank_program(config: Config, preset: str | Preset, profile: Profile = GAP9) -> Program:
    """A program of that shape and those formats with weights of zero and ranges of [-1, 1]: for counting, not for running."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in parameters(config).items()}
    wanted = load_preset(preset) if isinstance(preset, str) else preset
    floating = build(config, zeros, {}, load_preset("fp32"), GAP9)
    unit = dict.fromkeys(floating.tensors, (-1.0, 1.0))
    return floating if wanted.is_float else build(config, zeros, {8: unit, 16: unit}, wanted, profile)
