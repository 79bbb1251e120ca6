"""TF-MLPNet whose forward pass is the golden model's integer arithmetic and whose backward pass trains it.

:class:`QuantizedTFMLPNet` holds the float parameters and the activation ranges. Every forward pass lowers them with refimpl's
own :func:`refimpl.networks.tf_mlpnet.build` and then carries out the steps of that program in PyTorch, for many mixtures at
once and on any device. All scales, zero points, codes, multipliers, shifts and tables are the program's: no rule of lowering is
written here a second time, and every tensor equals the golden model's bit for bit.

**Values.** Tensors are ``[T, N, F, C]``: time, mixtures, bins, channels. A code (INT8, INT16) is an integer held in FP32; a
BF16 value is ``torch.bfloat16`` inside a step and held in FP32 between steps. Every **gradient is with respect to the real
value** ``(q - zp) * S`` that a stored value stands for, so it needs no scale where it passes from step to step.

**Exactness.** A sum of products of codes is an FP32 matrix product where sum|w| * max|q| < 2^24: every partial sum is then an
integer that FP32 holds, in any order, with or without fused multiply-add. INT16 inputs are split into two bytes; the program's
proof that the accumulator fits 32 bits (sum|w| * 2^15 < 2^31) is the proof that each byte's sum stays below 2^24. What follows
(join, multiplier, rounding constant, shift) is FP64: integers below 2^31 scaled by powers of two, all their bits within 53.
BF16 additions and products are PyTorch's own: one FP32 operation, rounded to nearest even. A BF16 convolution adds its terms
one after the other in the golden model's order, so it is exact as well and not an ulp off as a library's would be; the product
of two BF16 numbers is exact in FP32 (if not below 2^-126), so a fused multiply-add changes no bit.

**Gradients** are those of the straight-through estimator on rounding alone (FQSE): with the output range [low, high] of n bits
and d = (high - low) / (2^n - 1),

    y = d * clip(round((x - low) / d), 0, 2^n - 1) + low

inside:       dy/dx = 1,  dy/dhigh = r / (2^n - 1),  dy/dlow = -r / (2^n - 1),  r = round(u) - u,  u = (x - low) / d
clipped:      dy/dx = 0,  dy/dhigh or dy/dlow = 1
weights:      y = d * round(w / d), d = max|w| / 127 per output channel: the largest weight of a channel also moves d

A fused ReLU passes nothing below zero, neither to its input nor to ``low``. A table has its function's slope at the dequantized
input. BF16 roundings are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd import Function

from refimpl.errors import InputError
from refimpl.networks import tf_mlpnet
from refimpl.numerics.requantize import LAW_BF16, LAW_FOLDED, LAW_NORM_TWICE, Requantizer
from refimpl.presets import MORE, NAMES, Preset, load_preset
from refimpl.profiles import Profile, profile_named
from refimpl.program import DTYPES, Format, Program, Step
from refimpl.quantization.offsets import residual_streams, without_offset
from refimpl.session import frames_of
from refimpl.weights_io import Container
from weights.train import fused
from weights.train.model import TFMLPNet

Array = np.ndarray[Any, np.dtype[Any]]
Ends = tuple[Any, Any]  # gradients of (low, high): numbers from a CPU, tensors where reading one would wait for the device
Made = tuple[Tensor, Tensor | None]  # stored values, and round(u) - u in codes where they are codes and gradients are wanted
HEAD = ("stft", "block_to_bf16", "block_to_code")
TAIL = ("bf16_to_block", "code_to_block", "istft", "overlap_add", "to_pcm")
EXACT = 1 << 24  # FP32 holds every integer up to here
ALL = slice(None)
FUSED = True  # the passes of fused.py on a CPU; without, PyTorch's own operations everywhere
BLOCK = 1 << 16  # values of a tensor that pass through all operations of a step while a CPU's cache holds them
INSIDE = float(fused.EDGE)


@dataclass(frozen=True)
class Context:
    """What the kernels of one lowered program share."""

    program: Program
    device: torch.device
    learning: bool  # keep what the backward pass needs
    weights: Mapping[str, Array]
    names: Mapping[str, tuple[str, ...]]  # parameters of a step: weight, bias
    rectified: Collection[str]  # steps with a fused ReLU
    fused: bool = False  # on a CPU: elementwise steps as single passes

    def tensor(self, values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)


_POOL: dict[tuple[int, torch.dtype], Tensor] = {}


def scratch(shape: torch.Size, slot: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised room for a value that is dead when the kernel returns. On a CPU new pages of a large tensor cost more than
    the arithmetic on them, so large ones share a buffer per ``slot``."""
    count = shape.numel()
    if device.type != "cpu" or count < 1 << 16:
        return torch.empty(shape, dtype=dtype, device=device)
    if (slot, dtype) not in _POOL or len(_POOL[slot, dtype]) < count:
        _POOL[slot, dtype] = torch.empty(count, dtype=dtype)
    return _POOL[slot, dtype][:count].view(shape)


def double(x: Tensor, slot: int = 0) -> Tensor:
    """``x`` in FP64, in scratch room."""
    return scratch(x.shape, slot, torch.float64, x.device).copy_(x)


def blocks(frames: int, size: int) -> list[slice]:
    """``frames`` of ``size`` values each in parts of about ``BLOCK`` values."""
    count = max(1, BLOCK // size)
    return [slice(start, start + count) for start in range(0, frames, count)] if count < frames else [ALL]


def put(whole: Tensor | None, part: slice, frames: int, values: Tensor) -> Tensor:
    """``values`` as frames ``part`` of ``whole``, which the first call makes: [frames, ...] in FP32."""
    if part == ALL:
        return values.float()
    if whole is None:
        whole = torch.empty((frames, *values.shape[1:]), device=values.device)
    whole[part] = values
    return whole


# -- kernels: one step each -----------------------------------------------------------------------------------------------


class Kernel:
    """One step of a program: forward on stored values; backward by local derivatives in real values."""

    half: Any = 0.0  # rounding constant in codes, of the last shift
    bounds: tuple[int, int] = (0, 0)  # least and largest code
    keeps_inputs = False  # the derivatives depend on the inputs' values
    channels: slice | None = None  # the channels of the input that are read

    def __init__(self, step: Step, context: Context) -> None:
        self.step, self.context = step, context
        self.formats = [context.program.tensors[ref.tensor].format for ref in step.inputs]
        self.out = context.program.tensors[step.outputs[0]].format
        self.relu = step.name in context.rectified
        self.names, self.sizes = [step.name], [context.program.tensors[step.name].shape[-1]]
        self.prepare(*step.constants)

    def prepare(self, *constants: Any) -> None:
        """Take the step's constants."""

    def forward(self, *inputs: Tensor) -> Made:
        """The step on stored values ``[T, N, F, C]``; inputs that reach into the past carry those frames in front."""
        raise NotImplementedError

    def slopes(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """``dy/dx`` of each input, element by element, in real values; None is 1."""
        return [None] * len(self.formats)

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        """The gradient of input ``index`` (of its ``channels``), given that of the output where it is not clipped."""
        return gradient if slope is None else gradient * slope

    def frame_sums(self, gradient: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the gradients of the step's parameters need of these frames; that of more frames is the sum."""
        return []

    def parameter_gradients(self, sums: Sequence[Tensor], *values: Tensor) -> list[Tensor]:
        """Gradients of the step's parameters (their ``values`` given) from their :meth:`frame_sums`, in their own shapes."""
        return list(sums)

    def blocks(self, frames: int, size: int) -> list[slice]:
        """The frames, ``size`` values each, in parts to work on; all at once where inputs reach into the past."""
        if self.context.device.type != "cpu" or any(ref.past for ref in self.step.inputs):
            return [ALL]
        return blocks(frames, size)

    def unclipped(self, gradient: Tensor, residual: Tensor | None) -> Tensor:
        """``gradient`` where the code was not clipped, else zero."""
        if residual is None:
            return gradient
        return torch.ops.aten.hardtanh_backward(gradient, residual, -INSIDE, INSIDE)

    def split(self, gradient: Tensor, residual: Tensor) -> tuple[Tensor, Ends]:
        """:meth:`unclipped`, and the gradient of (low, high)."""
        if self.context.fused:
            inside, (share, low, high) = fused.split(gradient, residual)
        else:
            inside = self.unclipped(gradient, residual)
            share = torch.dot(inside.flatten(), residual.flatten()).double()
            low, high = (
                torch.ops.aten.hardtanh_backward(gradient, residual, *kept).sum().double()
                for kept in ((INSIDE, torch.inf), (-torch.inf, -INSIDE))
            )
        share = share / ((1 << self.out.bits) - 1)
        return inside, ((0.0 if self.relu else low) - share, high + share)

    def splits(self, gradient: Tensor, residual: Tensor) -> tuple[Tensor, dict[str, Ends]]:
        """:meth:`split`, with the gradient of the range of each tensor that is made."""
        inside, found = self.split(gradient, residual)
        return inside, {self.step.name: found}

    def single(self, function: Any, inputs: Sequence[Tensor], *constants: Any) -> Made:
        """The step as one pass."""
        bounds = map(float, self.bounds)
        return fused.run(function, inputs[0], inputs[1], (*constants, self.half, *bounds), self.context.learning)

    def finish(self, u: Tensor, half: float | Tensor, lowest: int, highest: int) -> Made:
        """``clip(floor(u))`` and the residual; ``u`` holds the rounding constant ``half`` (0 where nothing was shifted)."""
        codes = torch.floor(u, out=scratch(u.shape, 2, u.dtype, u.device) if u.dtype == torch.float64 else torch.empty_like(u))
        codes.clamp_(lowest, highest)
        if not self.context.learning:
            return codes.float(), None
        residual = torch.sub(codes, u, out=u).float().add_(half)
        return codes.float(), residual


def _half(shift: int) -> float:
    """The rounding constant of ``norm`` in units of its result: none where nothing is shifted (SPEC N-2)."""
    return 0.5 if shift > 0 else 0.0


class AddTwoStage(Kernel):
    """SPEC E-1; the inputs come as (larger scale, other)."""

    def prepare(self, ma: int, na: int, mo: int, no: int, bias: int) -> None:
        self.first = ma * 2.0**-na, 128 * ma * 2.0**-na + _half(na)
        self.second = mo * 2.0**-no, 128 * mo * 2.0**-no + _half(no) + bias - 128
        self.half, self.bounds = _half(no), (-128, 127)
        largest = ((255 * ma + (1 << na)) >> na) + 255
        exact = max(255 * ma + (1 << na), largest * mo + ((abs(bias) + 129) << no)) < EXACT
        self.dtype = torch.float32 if exact else torch.float64

    def forward(self, *inputs: Tensor) -> Made:
        if self.context.fused:
            (pre, addend), (factor, offset) = self.first, self.second
            return self.single(fused.add, inputs, pre, addend, True, factor, factor, offset)
        a, b = (x.to(self.dtype) for x in inputs)
        u = a.mul(self.first[0]).add_(self.first[1]).floor_().add_(b).mul_(self.second[0]).add_(self.second[1])
        return self.finish(u, self.half, *self.bounds)


class AddJoint(Kernel):
    """SPEC E-2."""

    def prepare(self, za: int, zb: int, ma: int, mb: int, n: int, zero_point: int, lowest: int, highest: int) -> None:
        self.factors = ma * 2.0**-n, mb * 2.0**-n
        self.half, self.bounds = _half(n), (lowest, highest)
        self.offset = -(za * ma + zb * mb) * 2.0**-n + self.half + zero_point

    def forward(self, *inputs: Tensor) -> Made:
        if self.context.fused:
            return self.single(fused.add, inputs, self.factors[0], 0.0, False, 1.0, self.factors[1], self.offset)
        a, b = inputs
        u = double(a).mul_(self.factors[0]).add_(double(b, 1), alpha=self.factors[1]).add_(self.offset)
        return self.finish(u, self.half, *self.bounds)


class Multiply(Kernel):
    """SPEC E-3."""

    keeps_inputs = True

    def prepare(self, za: int, zb: int, m: int, n: int, zero_point: int, lowest: int, highest: int) -> None:
        self.zeros, self.factor = (za, zb), m * 2.0**-n
        self.half, self.bounds = _half(n), (lowest, highest)
        self.offset = self.half + zero_point
        # A product of two 8-bit differences is below 2^17; of wider ones it need not be exact in FP32.
        self.dtype = torch.float32 if all(form.bits == 8 for form in self.formats) else torch.float64

    def forward(self, *inputs: Tensor) -> Made:
        if self.context.fused:
            return self.single(fused.multiply, inputs, *map(float, self.zeros), self.factor, self.offset)
        a, b = (x.to(self.dtype) - zero for x, zero in zip(inputs, self.zeros, strict=True))
        u = double(a.mul_(b)).mul_(self.factor).add_(self.offset)
        return self.finish(u, self.half, *self.bounds)

    def slopes(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        a, b = (real(x, form) for x, form in zip(inputs, self.formats, strict=True))
        return [b, a]


class AddBf16(Kernel):
    """SPEC E-5, B-3."""

    def forward(self, *inputs: Tensor) -> Made:
        return inputs[0] + inputs[1], None


class MultiplyBf16(Kernel):
    """SPEC E-6, B-4."""

    keeps_inputs = True

    def forward(self, *inputs: Tensor) -> Made:
        return inputs[0] * inputs[1], None

    def slopes(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        return [inputs[1].float(), inputs[0].float()]


def _slope(x: Tensor, sigmoid: bool) -> Tensor:
    """Derivative of sigmoid or tanh at ``x`` (float64), as FP32."""
    y = torch.sigmoid(x) if sigmoid else torch.tanh(x)
    return (y * (1 - y) if sigmoid else 1 - y * y).float()


@lru_cache
def _bf16_table(values: bytes, sigmoid: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """A table by bit pattern as BF16 values, and its function's slope; both by bit pattern as int16, from -2^15 on."""
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.bfloat16)
    table = torch.from_numpy(np.roll(np.frombuffer(values, np.int16), 1 << 15)).view(torch.bfloat16)
    return table.to(device), _slope(patterns.double(), sigmoid).to(device)


def at(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, which on a CPU takes three times as long."""
    return table.index_select(0, index.flatten()).view(index.shape)


class Lookup(Kernel):
    """SPEC E-4, B-6, T-4: a table over channels ``start`` onward."""

    keeps_inputs = True

    def prepare(self, table: Array, first: int, start: int) -> None:
        count = self.context.program.tensors[self.step.outputs[0]].shape[-1]
        whole = count == self.context.program.tensors[self.step.inputs[0].tensor].shape[-1]
        self.channels, self.first = None if whole else slice(start, start + count), first
        self.residuals: Tensor | None = None
        x, y, device = self.formats[0], self.out, self.context.device
        # sigmoid(0) = 1/2 and tanh(0) = 0 tell the two apart whatever the formats.
        sigmoid = bool(y.real(table[None, x.zero_point - first if x.is_code else 0])[0] > 0.25)
        if not x.is_code:
            self.table, self.slope = _bf16_table(table.tobytes(), sigmoid, device)
            return
        self.table = self.context.tensor(table)
        if not self.context.learning:
            self.slope = self.table
            return
        points = torch.from_numpy(x.real(np.arange(first, first + len(table)))).to(device)
        self.slope = _slope(points, sigmoid)
        exact = (torch.sigmoid(points) if sigmoid else torch.tanh(points)) / y.scale + y.zero_point
        self.residuals = (self.table - exact).float()

    def _index(self, x: Tensor) -> Tensor:
        x = x if self.channels is None else x[..., self.channels]
        return x.view(torch.int16).int().add_(1 << 15) if x.dtype == torch.bfloat16 else (x - self.first).int()

    def forward(self, *inputs: Tensor) -> Made:
        index = self._index(inputs[0])
        return at(self.table, index), None if self.residuals is None else at(self.residuals, index)

    def slopes(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        return [at(self.slope, self._index(inputs[0]))]


class Gates(Lookup):
    """Lookups that together read every channel of one tensor, as one: an LSTM's gates. Their outputs lie side by side."""

    def __init__(self, parts: Sequence[Lookup]) -> None:
        self.parts, self.step, self.context, self.formats = parts, parts[0].step, parts[0].context, parts[0].formats
        self.channels = None
        self.names, self.sizes = [part.step.name for part in parts], [part.sizes[0] for part in parts]
        tables = list({id(part.table): part for part in parts}.values())  # the three sigmoids of BF16 are one table
        size = len(tables[0].table)
        self.table, self.slope = (torch.cat([getattr(part, name) for part in tables]) for name in ("table", "slope"))
        left = [part.residuals for part in tables]
        self.residuals = None if left[0] is None else torch.cat(left)
        base = {id(part.table): i * size for i, part in enumerate(tables)}
        code = self.formats[0].is_code
        firsts = [base[id(part.table)] - part.first if code else base[id(part.table)] + (1 << 15) for part in parts]
        self.offset = self.context.tensor(np.repeat(firsts, self.sizes), torch.float32 if code else torch.int32)

    @staticmethod
    def fits(parts: Sequence[Lookup]) -> bool:
        """True where the parts' channels follow each other and are all there are."""
        if len(parts) < 2 or any(part.channels is None for part in parts):
            return False
        program, step = parts[0].context.program, parts[0].step
        edges = [(part.channels.start, part.channels.stop) for part in parts if part.channels is not None]
        ends = [0, *(stop for _, stop in edges)]
        return [start for start, _ in edges] == ends[:-1] and ends[-1] == program.tensors[step.inputs[0].tensor].shape[-1]

    def _index(self, x: Tensor) -> Tensor:
        return x.view(torch.int16).int().add_(self.offset) if x.dtype == torch.bfloat16 else (x + self.offset).int()

    def splits(self, gradient: Tensor, residual: Tensor) -> tuple[Tensor, dict[str, Ends]]:
        both = zip(gradient.split(self.sizes, -1), residual.split(self.sizes, -1), strict=True)
        made = [part.split(g, r) for part, (g, r) in zip(self.parts, both, strict=True)]
        ranges = {part.step.name: found for part, (_, found) in zip(self.parts, made, strict=True)}
        return torch.cat([inside for inside, _ in made], -1), ranges


class QuantizeBf16(Kernel):
    """SPEC Q-5: one FP32 product, rounded half to even."""

    def prepare(self, inverse: np.float32, zero_point: int, lowest: int, highest: int) -> None:
        self.inverse, self.zero_point = float(inverse), zero_point
        self.bounds = lowest - zero_point, highest - zero_point

    def forward(self, *inputs: Tensor) -> Made:
        u = inputs[0].float().mul_(self.inverse)
        codes = u.round().clamp_(*self.bounds)
        residual = codes - u if self.context.learning else None
        return codes.add_(self.zero_point), residual


class DequantizeBf16(Kernel):
    """SPEC Q-7."""

    def prepare(self, scale: np.float32, zero_point: int) -> None:
        self.scale, self.zero_point = float(scale), zero_point

    def forward(self, *inputs: Tensor) -> Made:
        return (inputs[0] - self.zero_point).mul_(self.scale).bfloat16(), None


class RequantizeCodes(Kernel):
    """SPEC Q-8."""

    def prepare(self, zero: int, m: int, n: int, zero_point: int, lowest: int, highest: int) -> None:
        self.factor, self.half, self.bounds = m * 2.0**-n, _half(n), (lowest, highest)
        self.offset = -zero * m * 2.0**-n + self.half + zero_point

    def forward(self, *inputs: Tensor) -> Made:
        return self.finish(double(inputs[0]).mul_(self.factor).add_(self.offset), self.half, *self.bounds)


# -- kernels with weights -------------------------------------------------------------------------------------------------


class Layer(Kernel):
    """A step with INT8 weights: an exact sum of products, then the law (SPEC G-2, G-3, Q-9).

    ``codes`` are the weights as the program stores them, :attr:`matrix` the fake-quantized real ones in the same layout;
    ``to_parameter`` permutes that layout to the parameter's, whose output channels are its axis ``axis``.
    """

    keeps_inputs = True
    to_parameter: tuple[int, ...] = (1, 0)
    axis = 0
    constants_shape: tuple[int, ...] = (-1,)  # how constants per channel of the law meet the sums

    def take(self, codes: Array, rq: Requantizer) -> None:
        context = self.context
        self.codes = context.tensor(codes)
        parameter = codes.transpose(self.to_parameter)
        rows = np.abs(np.moveaxis(parameter, self.axis, 0).reshape(parameter.shape[self.axis], -1).astype(np.int64))
        self.scaled = rows.max(1) == 127  # channels whose scale is the largest weight's
        if context.learning:
            scale = context.tensor(self._scales(rows, rq))
            shape = [1] * parameter.ndim
            shape[self.axis] = -1
            self.scale = scale.view(shape)  # meets the parameter
            self.moving = context.tensor(self.scaled).view(shape)
            inverse = [self.to_parameter.index(i) for i in range(parameter.ndim)]
            self.matrix = self.codes * self.scale.permute(inverse)
        largest = max(-self.formats[0].lowest, self.formats[0].highest)
        self.widest = int(rows.sum(1).max()) * largest
        self._law(rq)

    def _scales(self, rows: Array, rq: Requantizer) -> Array:
        """Each output channel's weight scale d; where it is not the largest weight's, what the law multiplies by says it."""
        weight = self.context.weights[self.context.names[self.step.name][0]]
        largest = np.abs(np.moveaxis(weight, self.axis, 0).reshape(len(rows), -1).astype(np.float64)).max(1)
        x = self.formats[0].scale
        unit = rq.scale / x if rq.law == LAW_BF16 else rq.multiplier * 2.0 ** -rq.shift.astype(np.float64) * self.out.scale / x
        return np.where(self.scaled, largest / 127.0, np.maximum(unit[: len(rows)], 2.0**-60))

    def _law(self, rq: Requantizer) -> None:
        tensor, shape = self.context.tensor, self.constants_shape
        bias, m, n = (constant.astype(np.float64) for constant in (rq.bias, rq.multiplier, rq.shift))
        self.law, self.bounds = rq.law, (rq.lowest + rq.offset, rq.highest + rq.offset)
        if rq.law == LAW_BF16:
            dtype = torch.float32 if self.widest + int(np.abs(bias).max()) < EXACT else torch.float64
            self.bias, self.factor = tensor(bias, dtype).view(shape), tensor(rq.scale).view(shape)
            return
        if rq.law == LAW_NORM_TWICE:
            pre = rq.pre_shift
            self.pre = 2.0**-pre, tensor((bias + (1 << pre >> 1)) * 2.0**-pre, torch.float64).view(shape)
            n, half = n - pre, np.where(rq.shift > pre, 0.5, 0.0)
            offset = half + rq.offset
        elif rq.law == LAW_FOLDED:
            half = np.where(rq.shift > 0, 0.5, 0.0)
            offset = rq.addend * 2.0**-n + rq.offset
        else:
            raise InputError(f"{self.step.name}: quantization-aware training lacks this requantization law; use profile gap9")
        self.factor, self.offset = (tensor(v, torch.float64).view(shape) for v in (m * 2.0**-n, offset))
        self.half = 0.5 if half.all() else tensor(half).view(shape)
        self.zero = self.half + self.out.zero_point
        if self.context.fused:
            self.single_constants = self._constants(rq, half)

    def _constants(self, rq: Requantizer, half: Array) -> tuple[Any, ...]:
        """Of :func:`fused.law`; those per channel as often as the sums of a frame or row repeat them."""
        shape = (len(half), self.sizes[0]) if len(self.constants_shape) > 1 else (len(half),)
        twice = self.law == LAW_NORM_TWICE
        pre, addend = self.pre if twice else (0.0, self.offset)
        floor = half + self.out.zero_point if self.relu else np.full_like(half, -np.inf)

        def spread(values: Any) -> Array:
            return np.array(np.broadcast_to(np.asarray(values).reshape(self.constants_shape), shape)).ravel()

        arrays = [spread(values) for values in (addend, self.factor, self.offset, half, floor)]
        return pre, *arrays, float(self.bounds[0]), float(self.bounds[1])

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        """Sums of products of input and weight values."""
        raise NotImplementedError

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The exact integer sums as FP32: low, or low + 256 high."""
        if self.widest < EXACT:
            return self.product(x, self.codes), None
        high = torch.mul(x, 2.0**-8, out=scratch(x.shape, 0, x.dtype, x.device)).floor_()
        low = torch.add(x, high, alpha=-256, out=scratch(x.shape, 1, x.dtype, x.device))
        return self.product(low, self.codes), self.product(high, self.codes)

    def apply_law(self, sums: Tensor, high: Tensor | None = None) -> Made:
        if self.context.fused and self.law != LAW_BF16:
            return fused.run(fused.law, sums, high, self.single_constants, self.context.learning)
        if high is not None:
            sums = double(high).mul_(256).add_(double(sums, 1))
        if self.law == LAW_BF16:
            if sums.dtype != self.bias.dtype:
                sums = sums.double()
            return sums.add_(self.bias).float().mul_(self.factor).bfloat16(), None
        u = sums if sums.dtype == torch.float64 else double(sums)
        if self.law == LAW_NORM_TWICE:
            u = u.mul_(self.pre[0]).add_(self.pre[1]).floor_()
        u = u.mul_(self.factor).add_(self.offset)
        if self.relu and self.context.learning:
            # Half a code below zero still rounds to zero: a ReLU before rounding lets no gradient through there either.
            below = torch.sub(u, self.zero, out=scratch(u.shape, 1, u.dtype, u.device)).clamp_(max=0)
            u = u.add_(below, alpha=1 << 20)
        return self.finish(u, self.half, *self.bounds)

    def forward(self, *inputs: Tensor) -> Made:
        return self.apply_law(*self.sums(inputs[0]))

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        """dL/d(fake-quantized weight) in the program's layout, where ``x`` is the real input; in proportion to ``x``."""
        raise NotImplementedError

    def bias_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(0, -2).sum(0)

    def frame_sums(self, gradient: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [self.weight_gradient(gradient, inputs[0] - self.formats[0].zero_point), self.bias_gradient(gradient)]

    def parameter_gradients(self, sums: Sequence[Tensor], *values: Tensor) -> list[Tensor]:
        direct = sums[0].permute(self.to_parameter) * self.formats[0].scale
        return [self._through_scale(direct, values[0]), sums[1]]

    def _through_scale(self, direct: Tensor, weight: Tensor) -> Tensor:
        """Straight through ``d * round(w / d)``, ``d = max|w| / 127``: the largest weight also carries ``sum(g * r) / 127``."""
        others = [i for i in range(weight.dim()) if i != self.axis]
        codes = self.codes.permute(self.to_parameter)
        share = (direct * (codes - weight / self.scale)).sum(others, keepdim=True) / 127.0
        size = weight.abs()
        top = (size == size.amax(others, keepdim=True)).float()
        top = top / top.sum(others, keepdim=True) * weight.sign()
        return direct + top * share * self.moving


class FullyConnectedChannels(Layer):
    """SPEC L-2: weight codes [C, D], parameter [D, C]."""

    def prepare(self, codes: Array, rq: Requantizer) -> None:
        self.take(codes, rq)

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        return x @ codes

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        return gradient @ self.matrix.T

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        return x.flatten(0, -2).T @ gradient.flatten(0, -2)


class FullyConnectedFrequency(Layer):
    """SPEC L-1: weight codes [G, F] as the parameter's; the law's channel is the bin."""

    to_parameter = (0, 1)
    constants_shape = (-1, 1)

    def prepare(self, codes: Array, rq: Requantizer) -> None:
        self.take(codes, rq)

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        flat = x.flatten(0, -3)
        return torch.bmm(codes.expand(len(flat), -1, -1), flat).view(*x.shape[:-2], len(codes), x.shape[-1])

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        return self.product(gradient, self.matrix.T)

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        rows, columns = (v.flatten(0, -3).transpose(0, 1).flatten(1) for v in (gradient, x))
        return rows @ columns.T

    def bias_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(0, -3).sum((0, 2))


class ConvStrided(Layer):
    """SPEC C-7: weight codes [a, I, O], parameter [O, I, a]."""

    to_parameter = (2, 1, 0)

    def prepare(self, codes: Array, rq: Requantizer) -> None:
        self.stride, self.inputs, self.outputs = codes.shape
        self.take(codes, rq)

    def _fold(self, x: Tensor) -> Tensor:
        groups = x.shape[-2] // self.stride
        return x[..., : groups * self.stride, :].reshape(*x.shape[:-2], groups, self.stride * self.inputs)

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        return self._fold(x) @ codes.flatten(0, 1)

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        bins = self.context.program.tensors[self.step.inputs[0].tensor].shape[0]
        folded = gradient @ self.matrix.flatten(0, 1).T
        whole = folded.reshape(*folded.shape[:-2], -1, self.inputs)
        return functional.pad(whole, (0, 0, 0, bins - whole.shape[-2]))

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        return (self._fold(x).flatten(0, -2).T @ gradient.flatten(0, -2)).view(self.codes.shape)


class ConvStridedTransposed(Layer):
    """SPEC C-8: weight codes [a, I, O], parameter [I, O, a]; the law's channel is ``tap * O + o``."""

    to_parameter = (1, 2, 0)
    axis = 1

    def prepare(self, codes: Array, padding: int, rq: Requantizer) -> None:
        self.stride, self.inputs, self.outputs = codes.shape
        self.padding = padding
        self.bins = self.context.program.tensors[self.step.outputs[0]].shape[0]
        self.take(codes, rq)

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        return x @ codes.transpose(0, 1).flatten(1)

    def _unfold(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[:-2], -1, self.outputs)[..., : self.bins, :].contiguous()

    def _fold(self, gradient: Tensor) -> Tensor:
        """Adjoint of :meth:`_unfold`: [.., F, O] to [.., groups and one more, a * O]."""
        groups = -(-self.bins // self.stride)
        whole = functional.pad(gradient, (0, 0, 0, groups * self.stride - self.bins))
        return whole.reshape(*gradient.shape[:-2], groups, self.stride * self.outputs)

    def forward(self, *inputs: Tensor) -> Made:
        groups = -(-self.bins // self.stride)
        x = functional.pad(inputs[0], (0, 0, 0, groups - inputs[0].shape[-2]), value=self.padding)
        y, residual = self.apply_law(*self.sums(x))
        return self._unfold(y), None if residual is None else self._unfold(residual)

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        inner = self.bins // self.stride
        return self._fold(gradient)[..., :inner, :] @ self.matrix.transpose(0, 1).flatten(1).T

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        rows = self._fold(gradient)[..., : x.shape[-2], :].flatten(0, -2)
        return (x.flatten(0, -2).T @ rows).view(self.inputs, self.stride, self.outputs).transpose(0, 1)


class Causal:
    """Geometry of the causal 3x3 pair on rows: one row per (frame, mixture, padded bin), a tap being a shift of rows.

    Bins get 2 columns of padding, so that rows past a frame's last bin hold nothing that is kept. Mixed into a :class:`Kernel`.
    """

    transposed = False
    below = 0

    @property
    def low(self) -> int:
        """Columns of padding under bin 0."""
        return 2 - self.below if self.transposed else self.below

    def padded(self, x: Tensor, value: float) -> Tensor:
        return functional.pad(x, (0, 0, self.low, 2 - self.low), value=value)

    def taps(self, shape: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """(k, j, first row, number of rows) of each tap, for an output of ``shape`` [T, N, F, O]."""
        frames, mixtures, bins, _ = shape
        width = mixtures * (bins + 2)
        for k in range(3):
            for j in range(3):
                first = (2 - k) * width + 2 - j if self.transposed else k * width + j
                yield k, j, first, frames * width

    @staticmethod
    def rows(padded: Tensor) -> Tensor:
        """``[T, N, F + 2, I]`` to ``[T * N * (F + 2) + 2, I]``: the last tap reads two rows past the end."""
        return functional.pad(padded.flatten(0, 2), (0, 0, 0, 2))

    @staticmethod
    def crop(rows: Tensor, shape: Sequence[int]) -> Tensor:
        frames, mixtures, bins, _ = shape
        return rows.view(frames, mixtures, bins + 2, -1)[:, :, :bins].contiguous()

    def input_gradient(self, gradient: Tensor, matrix: Tensor) -> Tensor:
        """``gradient`` [T, N, F, O] to that of the input [T + 2, N, F, I]; ``matrix`` [3, 3, I, O]."""
        frames, mixtures, bins, _ = gradient.shape
        spread = functional.pad(gradient, (0, 0, 0, 2)).flatten(0, 2)
        rows = gradient.new_zeros((frames + 2) * mixtures * (bins + 2) + 2, matrix.shape[2])
        for k, j, first, count in self.taps(gradient.shape):
            rows[first : first + count].addmm_(spread, matrix[k, j].T)
        return rows[:-2].view(frames + 2, mixtures, bins + 2, -1)[:, :, self.low : self.low + bins]

    def tap_gradients(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of the weight, [3, 3, I, O]; ``x`` [T + 2, N, F, I] in real values."""
        spread = functional.pad(gradient, (0, 0, 0, 2)).flatten(0, 2)
        rows = self.rows(self.padded(x, 0.0))
        found = [rows[first : first + count].T @ spread for _, _, first, count in self.taps(gradient.shape)]
        return torch.stack(found).unflatten(0, (3, 3))


class ConvCausal(Causal, Layer):
    """SPEC C-1: weight codes [3, 3, I, O], parameter [O, I, 3, 3]."""

    to_parameter = (3, 2, 0, 1)

    def prepare(self, codes: Array, below: int, padding: int, rq: Requantizer) -> None:
        self.below, self.padding = below, padding
        self.take(codes, rq)

    def product(self, x: Tensor, codes: Tensor) -> Tensor:
        frames, mixtures, bins, _ = x.shape
        shape = (frames - 2, mixtures, bins - 2, codes.shape[3])
        rows = self.rows(x)
        sums = rows.new_zeros(shape[0] * mixtures * bins, shape[3])
        for k, j, first, count in self.taps(shape):
            sums.addmm_(rows[first : first + count], codes[k, j])
        return self.crop(sums, shape)

    def forward(self, *inputs: Tensor) -> Made:
        return self.apply_law(*self.sums(self.padded(inputs[0], self.padding)))

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        return self.input_gradient(gradient, self.matrix)

    def weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        return self.tap_gradients(gradient, x)


class ConvTransposedCausal(ConvCausal):
    """SPEC C-2: weight codes [3, 3, I, O], parameter [I, O, 3, 3]."""

    transposed = True
    to_parameter = (2, 3, 0, 1)
    axis = 1


class ConvCausalBf16(Causal, Kernel):
    """SPEC C-3, C-5: bias first, then each term in the golden model's order, one rounding to BF16 at the end."""

    keeps_inputs = True
    to_parameter: tuple[int, ...] = (3, 2, 0, 1)

    def prepare(self, weight: Array, bias: Array, below: int) -> None:
        self.below = below
        self.matrix, self.bias = self.context.tensor(weight), self.context.tensor(bias)

    def forward(self, *inputs: Tensor) -> Made:
        x = inputs[0].float()
        shape = (x.shape[0] - 2, *x.shape[1:3], len(self.bias))
        lines = self.rows(self.padded(x, 0.0)).T.contiguous()  # a channel a line: each term is one pass over whole lines
        taps = list(self.taps(shape))
        sums = self.bias[:, None].repeat(1, taps[0][3])
        for k, j, first, count in taps:
            for i in range(len(lines)):
                sums.addcmul_(lines[i, first : first + count], self.matrix[k, j, i, :, None])
        return self.crop(sums.T.contiguous(), shape).bfloat16(), None

    def back(self, gradient: Tensor, index: int, slope: Tensor | None) -> Tensor:
        return self.input_gradient(gradient, self.matrix)

    def frame_sums(self, gradient: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        weight = self.tap_gradients(gradient, inputs[0].float()).permute(self.to_parameter)
        return [weight, gradient.flatten(0, 2).sum(0)]


class ConvTransposedCausalBf16(ConvCausalBf16):
    """SPEC C-4, C-6."""

    transposed = True
    to_parameter = (2, 3, 0, 1)


KERNELS: dict[str, type[Kernel]] = {
    "fully_connected_frequency": FullyConnectedFrequency,
    "fully_connected_channels": FullyConnectedChannels,
    "conv_causal": ConvCausal,
    "conv_transposed_causal": ConvTransposedCausal,
    "conv_causal_bf16": ConvCausalBf16,
    "conv_transposed_causal_bf16": ConvTransposedCausalBf16,
    "conv_strided": ConvStrided,
    "conv_strided_transposed": ConvStridedTransposed,
    "add_two_stage": AddTwoStage,
    "add_joint": AddJoint,
    "multiply": Multiply,
    "lookup": Lookup,
    "add_bf16": AddBf16,
    "multiply_bf16": MultiplyBf16,
    "quantize_bf16": QuantizeBf16,
    "dequantize_bf16": DequantizeBf16,
    "requantize_codes": RequantizeCodes,
}
LAYERS = [name for name, kind in KERNELS.items() if issubclass(kind, Layer | ConvCausalBf16)]


# -- between kernels ------------------------------------------------------------------------------------------------------


def real(x: Tensor, form: Format) -> Tensor:
    """The real values of stored ones, FP32."""
    return (x - form.zero_point).mul_(form.scale) if form.is_code else x.float()


def stored(x: Tensor, form: Format) -> Tensor:
    """A value held in FP32 as kernels take it."""
    return x.bfloat16() if form.kind == "bf16" else x


def from_array(values: Array, form: Format, device: torch.device | str = "cpu") -> Tensor:
    """refimpl's array (codes or BF16 patterns) as kernels take it."""
    if form.kind == "bf16":
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(values.astype(np.float32)).to(device)


def to_array(values: Tensor, form: Format) -> Array:
    """Values, as kernels make them or held in FP32, as refimpl's array."""
    values = values.detach().cpu()
    if form.kind == "bf16":
        return values.bfloat16().contiguous().view(torch.int16).numpy().view(np.uint16)
    return values.numpy().astype(DTYPES[form.kind])


def with_past(x: Tensor, past: int, current: bool, start: float) -> Tensor:
    """``x`` [T, ...] with ``past`` frames of ``start`` in front; without ``current`` the last ones are cut off (SPEC P-3)."""
    if not past:
        return x
    return torch.cat((torch.full_like(x[:1], start).expand(past, *x.shape[1:]), x if current else x[:-past]))


class Learner:
    """Adds up, over blocks of frames, what the gradients of a kernel's ranges and parameters need."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.ends: dict[str, Ends] = {}
        self.sums: list[Tensor] = []

    def add(self, gradient: Tensor, residual: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
        """A block's gradient of the output, its residual and the inputs; returns :meth:`Kernel.unclipped`."""
        inside = gradient
        if residual is not None:
            inside, ranges = self.kernel.splits(gradient, residual)
            for name, (low, high) in ranges.items():
                before = self.ends.get(name, (0.0, 0.0))
                self.ends[name] = before[0] + low, before[1] + high
        sums = self.kernel.frame_sums(inside, inputs)
        self.sums = [whole + part for whole, part in zip(self.sums, sums, strict=True)] if self.sums else sums
        return inside

    def ranges(self) -> dict[str, Tensor]:
        """Gradients of (low, high), float64 [2]."""
        return {name: range_of(ends) for name, ends in self.ends.items()}


def range_of(ends: Ends) -> Tensor:
    """The ends as one tensor."""
    return torch.stack([torch.as_tensor(end, dtype=torch.float64) for end in ends])


class _Apply(Function):
    """One kernel over all frames: ``(kernel, limits or None, *parameters, *inputs)`` to the stored output, held in FP32."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, limits: Tensor | None, *rest: Tensor) -> Tensor:
        count = len(rest) - len(kernel.formats)
        inputs = rest[count:]
        frames, shape = len(inputs[0]), kernel.context.program.tensors[kernel.step.name].shape
        ctx.parts = kernel.blocks(frames, inputs[0].shape[1] * math.prod(shape))
        y = residual = None
        for part in ctx.parts:
            made, left = kernel.forward(*(stored(x[part], f) for x, f in zip(inputs, kernel.formats, strict=True)))
            y = put(y, part, frames, made)
            residual = None if left is None else put(residual, part, frames, left)
        if kernel.context.learning:
            ctx.kernel, ctx.count = kernel, count
            ctx.save_for_backward(residual, *rest[:count], *(inputs if kernel.keeps_inputs else ()))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel, needed = ctx.kernel, ctx.needs_input_grad[2 + ctx.count :]
        residual, *kept = ctx.saved_tensors
        kept, values = kept[ctx.count :], kept[: ctx.count]
        gradient, learner = gradient.contiguous(), Learner(kernel)
        found: list[Tensor | None] = [None] * len(needed)
        for part in ctx.parts:
            inputs = [stored(x[part], f) for x, f in zip(kept, kernel.formats, strict=bool(kept))]
            inside = learner.add(gradient[part], None if residual is None else residual[part], inputs)
            slopes = kernel.slopes(inputs)
            for i in np.flatnonzero(needed):
                found[i] = put(found[i], part, len(gradient), _widened(kernel, kernel.back(inside, i, slopes[i])))
        return (None, learner.ranges().get(kernel.step.name), *kernel.parameter_gradients(learner.sums, *values), *found)


def _widened(kernel: Kernel, part: Tensor) -> Tensor:
    """The gradient of a kernel's whole input, given that of the channels that it reads."""
    if kernel.channels is None:
        return part
    whole = part.new_zeros(*part.shape[:-1], kernel.context.program.tensors[kernel.step.inputs[0].tensor].shape[-1])
    whole[..., kernel.channels] = part
    return whole


class Recurrence:
    """The steps of one loop (an LSTM), frame by frame, and their backward pass through time.

    ``outer`` names the tensors that come from before, ``results`` those that later steps read. The local derivatives of all
    frames are taken at once; what runs frame by frame backward is only their product with the gradient.
    """

    def __init__(self, kernels: Sequence[Kernel], results: Sequence[str], limited: Collection[str]) -> None:
        self.results, self.program = list(results), kernels[0].context.program
        self.units = list(_gathered(kernels))
        self.made = [kernel.step.name for kernel in kernels]
        names = [ref.tensor for kernel in kernels for ref in kernel.step.inputs]
        self.outer = [name for name in dict.fromkeys(names) if name not in self.made]
        self.parameters = {name: len(kernels[0].context.names.get(name, ())) for name in self.made}
        self.limited = [name for name in self.made if name in limited]
        self.learned = {unit.step.name for unit in self.units if any(map(self._learns, unit.names))}
        self.kept = {ref.tensor for unit in self.units if unit.keeps_inputs for ref in unit.step.inputs}
        if any(unit.channels is not None for unit in self.units):
            raise NotImplementedError("lookups of a recurrence that do not read all channels of a tensor between them")

    def _learns(self, name: str) -> bool:
        return name in self.limited or self.parameters[name] > 0

    def forward(self, outer: Mapping[str, Tensor], wanted: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The ``wanted`` tensors that are made, [T, ...] by name, and the residuals of units that have any."""
        like, held = next(iter(outer.values())), self.program.past
        frames: dict[str, list[Tensor]] = {name: list(x.unbind(0)) for name, x in outer.items()}
        for name in self.made:
            frames[name] = [self._start(name, like)] * held.get(name, 0)
        residuals: dict[str, list[Tensor]] = {unit.step.name: [] for unit in self.units}
        plan = []
        for unit in self.units:
            reads = [(frames[r.tensor], held.get(r.tensor, 0) - r.past) for r in unit.step.inputs]
            plan.append((unit.forward, reads, [frames[name] for name in unit.names], unit.sizes, residuals[unit.step.name]))
        for t in range(len(like)):
            for function, reads, made, sizes, left in plan:
                y, residual = function(*[series[t + shift] for series, shift in reads])
                if len(made) == 1:
                    made[0].append(y)
                else:
                    for series, part in zip(made, y.split(sizes, -1), strict=True):
                        series.append(part)
                if residual is not None:
                    left.append(residual)
        values = {name: torch.stack(frames[name][held.get(name, 0) :]) for name in self.made if name in wanted}
        return values, {name: torch.stack(left) for name, left in residuals.items() if left}

    def _start(self, name: str, like: Tensor) -> Tensor:
        tensor = self.program.tensors[name]
        dtype = torch.bfloat16 if tensor.format.kind == "bf16" else torch.float32
        return torch.full((like.shape[1], *tensor.shape), float(tensor.start), dtype=dtype, device=like.device)

    def inputs(self, kernel: Kernel, values: Mapping[str, Tensor]) -> list[Tensor]:
        """What ``kernel`` read, [T, ...] each; nothing where its derivatives do not ask for it."""
        if not kernel.keeps_inputs:
            return []
        found = []
        for ref in kernel.step.inputs:
            found.append(with_past(values[ref.tensor], ref.past, ref.current, float(self.program.tensors[ref.tensor].start)))
        return found

    def backward(
        self, last: Mapping[str, Tensor], values: Mapping[str, Tensor], residuals: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Learner]]:
        """From the gradients of the ``results``: those of the outer tensors [T, ...], and what the units that learn need."""
        first = next(iter(last.values()))
        inputs = {unit.step.name: self.inputs(unit, values) for unit in self.units}
        learners = {unit.step.name: Learner(unit) for unit in self.units if unit.step.name in self.learned}
        found: dict[str, Tensor | None] = dict.fromkeys(self.outer)
        future: dict[str, Tensor] = {}
        for part in reversed(self.blocks(first)):
            read = {name: [x[part] for x in series] for name, series in inputs.items()}
            left = {name: x[part] for name, x in residuals.items()}
            gradients, future = self._block({name: x[part] for name, x in last.items()}, read, left, future)
            for name, learner in learners.items():
                learner.add(torch.stack(gradients[name][::-1]), left.get(name), read[name])
            for name in self.outer:
                found[name] = put(found[name], part, len(first), torch.stack(gradients[name][::-1]))
        return {name: x for name, x in found.items() if x is not None}, learners

    def _block(
        self,
        last: Mapping[str, Tensor],
        inputs: Mapping[str, Sequence[Tensor]],
        residuals: Mapping[str, Tensor],
        future: dict[str, Tensor],
    ) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
        """Some frames backward: the gradients of outputs that learn and of outer tensors, last frame first, and those that
        reach back into the frames before (``future``: that come from the frames after)."""
        first = next(iter(last.values()))
        kept = {name: x.unbind(0) for name, x in residuals.items()}
        plan = []
        for unit in reversed(self.units):
            slopes = [x if x is None else x.unbind(0) for x in unit.slopes(inputs[unit.step.name])]
            plan.append((unit, unit.step.name, kept.get(unit.step.name), list(zip(unit.step.inputs, slopes, strict=True))))
        gradients: dict[str, list[Tensor]] = {name: [] for name in (*self.learned, *self.outer)}
        for t in reversed(range(len(first))):
            now, future = future, {}
            for name, series in last.items():
                _add(now, name, series[t])
            for unit, name, residual, reads in plan:
                parts = [now.pop(n) if n in now else self._zeros(n, first) for n in unit.names]
                gradient = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
                if name in self.learned:
                    gradients[name].append(gradient)
                if residual is not None:
                    gradient = unit.unclipped(gradient, residual[t])
                for i, (ref, slope) in enumerate(reads):
                    _add(future if ref.past else now, ref.tensor, unit.back(gradient, i, None if slope is None else slope[t]))
            for name in self.outer:
                gradients[name].append(now[name])
        return gradients, future

    def blocks(self, like: Tensor) -> list[slice]:
        """The frames in parts whose derivatives a CPU's cache holds."""
        if like.device.type != "cpu":
            return [ALL]
        return blocks(len(like), like[0].numel())

    def _zeros(self, name: str, like: Tensor) -> Tensor:
        return like.new_zeros(like.shape[1], *self.program.tensors[name].shape)

    def gradients(
        self, learners: Mapping[str, Learner], parameters: Mapping[str, Sequence[Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of the ranges, in the order of ``limited``, and of the parameters."""
        limits: dict[str, Tensor] = {}
        found = []
        for unit in self.units:
            if unit.step.name in learners:
                learner = learners[unit.step.name]
                limits |= learner.ranges()
                found += unit.parameter_gradients(learner.sums, *parameters.get(unit.step.name, ()))
        return [limits[name] for name in self.limited], found


def _gathered(kernels: Sequence[Kernel]) -> Iterator[Kernel]:
    """``kernels`` in order; lookups in a row that read one tensor, each channel once, as one kernel."""
    for _, group in groupby(kernels, lambda kernel: (isinstance(kernel, Lookup), kernel.step.inputs)):
        run = list(group)
        parts = [kernel for kernel in run if isinstance(kernel, Lookup)]
        yield from [Gates(parts)] if Gates.fits(parts) else run


def _add(into: dict[str, Tensor], name: str, part: Tensor) -> None:
    """Add ``part`` to the gradient of ``name``."""
    into[name] = into[name] + part if name in into else part


class _Recur(Function):
    """A :class:`Recurrence`: ``(it, *limits, *parameters, *outer)`` to its results, held in FP32."""

    @staticmethod
    def forward(ctx: Any, loop: Recurrence, *rest: Tensor) -> tuple[Tensor, ...]:
        tensors = loop.program.tensors
        given = rest[len(rest) - len(loop.outer) :]
        outer = {name: stored(x, tensors[name].format) for name, x in zip(loop.outer, given, strict=True)}
        values, residuals = loop.forward(outer, loop.kept | set(loop.results))
        if loop.units[0].context.learning:
            kept = {name: x for name, x in (values | outer).items() if name in loop.kept}
            ctx.loop, ctx.names = loop, (list(kept), list(residuals))
            ctx.save_for_backward(*kept.values(), *residuals.values(), *rest[len(loop.limited) : len(rest) - len(outer)])
        return tuple(values[name].float() for name in loop.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loop: Recurrence = ctx.loop
        saved = iter(ctx.saved_tensors)
        values, residuals = ({name: next(saved) for name in names} for names in ctx.names)
        parameters = {name: [next(saved) for _ in range(count)] for name, count in loop.parameters.items()}
        outer, learners = loop.backward(dict(zip(loop.results, gradients, strict=True)), values, residuals)
        limits, found = loop.gradients(learners, parameters)
        return (None, *limits, *found, *(outer[name] for name in loop.outer))


class _Given(Function):
    """The spectrum's codes as the golden model made them; their range learns from how they were rounded."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, limits: Tensor, codes: Tensor, residual: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(residual)
        return codes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (residual,) = ctx.saved_tensors
        return None, range_of(ctx.kernel.split(gradient, residual)[1]), None, None


class _Real(Function):
    """Stored values to real ones; gradients already are with respect to these."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Format) -> Tensor:
        return real(x, form)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


# -- the network ----------------------------------------------------------------------------------------------------------


class _Recorder(dict[str, Array]):
    """Parameters that note the order in which lowering asks for them."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__(weights)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Array:
        self.asked.append(name)
        return super().__getitem__(name)


class QuantizedTFMLPNet(TFMLPNet):
    """TF-MLPNet in the arithmetic of one preset and profile: waveform ``[N, n]`` in, separated waveforms ``[N, S, n]`` out.

    ``state_dict`` holds the parameters of :class:`TFMLPNet` under their names and, by bit width, ``moves.B`` [K, 2]: how far
    each range (low, high) has moved from the container's, in units of its own width, so that one learning rate suits all.

    A sum in two stages (SPEC E-1) errs in the mean unless its range suits those of its inputs (see
    ``refimpl.quantization.offsets``). Where one of the three has moved, the sum's is widened by up to 1/32 before lowering,
    as in calibration; the gradient goes straight through. An LSTM's cell adds the offset up, so its three ranges, which
    calibration made for each other, stay as they are.

    What residuals add up shares a range, and keeps sharing it: those of one stream whose ranges the container has alike move
    with the first of them, which alone learns.
    """

    def __init__(self, container: Container, preset: str | Preset, profile: str | Profile = "gap9") -> None:
        config = container.config
        super().__init__(
            config.speakers, config.blocks, config.channels, config.hidden, config.mixers, config.compression, config.window
        )
        self.config = config
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        self.profile = profile_named(profile) if isinstance(profile, str) else profile
        if self.preset.is_float:
            raise InputError(f"preset {self.preset.name!r} quantizes nothing; train it with python -m weights.train.train")
        self.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in container.weights.items()})
        recorder = _Recorder(container.weights)
        program = tf_mlpnet.build(config, recorder, container.ranges, self.preset, self.profile)
        asked = iter(recorder.asked)
        layers = [step for step in program.steps if step.operator in LAYERS]
        self.names = {step.name: (next(asked), next(asked)) for step in layers}
        if next(asked, None) is not None:
            raise InputError(f"preset {self.preset.name!r} has layers in FP32, which cannot be trained here; change it")
        plain = tf_mlpnet.build(config, container.weights, {}, load_preset("fp32"), self.profile)
        self.rectified = {step.name for step in plain.steps if step.constants and step.constants[-1] is True}
        self.keys: dict[int, list[str]] = {}
        for name, tensor in program.tensors.items():
            key = program.facts["origin"].get(name)
            if tensor.format.is_code and key is not None and key not in self.keys.setdefault(tensor.format.bits, []):
                self.keys[tensor.format.bits].append(key)
        origin, makers = program.facts["origin"], {step.outputs[0]: step for step in program.steps}
        self.sums, self.held = [], set[str]()
        for step in program.steps:
            if step.operator == "add_two_stage":
                read, y = [ref.tensor for ref in step.inputs], step.outputs[0]
                self.sums.append((origin[read[0]], origin[read[1]], origin[y]))
                if any(ref.tensor == y for name in read if name in makers for ref in makers[name].inputs):  # adds to itself
                    self.held.update(self.sums[-1])
        self.moves = nn.ParameterDict()
        stream = {name: number for number, names in enumerate(residual_streams(plain)) for name in names}
        for bits, keys in self.keys.items():
            alike = [(stream[key], container.ranges[bits][key]) if key in stream else key for key in keys]
            self.register_buffer(f"row_{bits}", torch.tensor([alike.index(one) for one in alike]), persistent=False)
            start = torch.tensor([container.ranges[bits][key] for key in keys], dtype=torch.float64)
            self.register_buffer(f"start_{bits}", start, persistent=False)
            width = (start[:, 1].clamp(min=0) - start[:, 0].clamp(max=0)).clamp(min=2.0**-60)
            width[[bits == 8 and key in self.held for key in keys]] = 0.0  # moves of these come to nothing
            self.register_buffer(f"width_{bits}", width[:, None], persistent=False)
            self.moves[str(bits)] = nn.Parameter(torch.zeros_like(start))
        self.given = self._rows()

    def limits(self) -> dict[int, Tensor]:
        """The ranges in use, float64 [K, 2] by bit width; they hold zero."""
        found = {}
        for bits in self.keys:
            moved = self.moves[str(bits)][getattr(self, f"row_{bits}")]
            wanted = getattr(self, f"start_{bits}") + getattr(self, f"width_{bits}") * moved
            held = torch.stack((wanted[:, 0].clamp(max=0.0), wanted[:, 1].clamp(min=0.0)), 1)
            found[bits] = held.detach() + (wanted - wanted.detach())  # a range at zero can still be drawn away from it
        return found

    @torch.no_grad()
    def settle(self) -> None:
        """After an optimizer's step: put moves that went past zero back to it."""
        for bits, limits in self.limits().items():
            start, width = getattr(self, f"start_{bits}"), getattr(self, f"width_{bits}")
            moved = self.moves[str(bits)]
            wanted = start + width * moved
            moved.copy_(torch.where((wanted == limits) | (width == 0), moved, (limits - start) / width))

    def ranges(self) -> dict[int, dict[str, tuple[float, float]]]:
        """The ranges as a container holds them: :meth:`limits`, those of sums in two stages without offset."""
        found = self._rows()
        for names in self.sums:
            if any(found[8][name] != self.given[8][name] for name in names):
                found[8][names[2]] = without_offset(*(found[8][name] for name in names))
        return found

    def _rows(self) -> dict[int, dict[str, tuple[float, float]]]:
        """:meth:`limits` by name."""
        tables = {bits: limits.detach().cpu().tolist() for bits, limits in self.limits().items()}
        return {bits: dict(zip(self.keys[bits], map(tuple, rows), strict=True)) for bits, rows in tables.items()}

    def container(self, card: Mapping[str, Any]) -> Container:
        """Parameters and ranges as they are; lowering quantizes them as :meth:`forward` did."""
        weights = {k: v.cpu().numpy().copy() for k, v in self.state_dict().items() if not k.startswith("moves.")}
        presets = (self.preset.name,) if self.preset.name in (*NAMES, *MORE) else ("fp32",)
        return Container(self.config, weights, self.ranges(), presets, dict(card))

    def lower(self) -> Lowered:
        """The program of the parameters and ranges as they are now."""
        weights = {name: p.detach().cpu().numpy() for name, p in self.named_parameters() if not name.startswith("moves.")}
        program = tf_mlpnet.build(self.config, weights, self.ranges(), self.preset, self.profile)
        torch.set_float32_matmul_precision("highest")  # TF32 and the like would round codes
        device = next(self.parameters()).device
        single = FUSED and device.type == "cpu"
        return Lowered(Context(program, device, torch.is_grad_enabled(), weights, self.names, self.rectified, single))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is rounded to 16-bit PCM, as the golden model takes it; no gradient reaches it.

        The output is the inverse transform of the decoder's exact output in floats; the golden model's integer transform
        differs from it by about 100 dB less.
        """
        pcm = np.clip(np.rint(x.detach().cpu().numpy().astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
        with torch.autocast(x.device.type, enabled=False):
            lowered = self.lower()
            parameters = dict(self.named_parameters())
            y = lowered.run(lowered.spectrum(pcm), self._limits_of(lowered.program), parameters)
            order, form = lowered.ends()
            spectra = _Real.apply(y, form)[..., order].permute(1, 3, 0, 2)
            return self.waveform(spectra, x.shape[-1])

    def _limits_of(self, program: Program) -> dict[str, Tensor]:
        """The row of the learned ranges of every tensor of codes."""
        limits, origin, found = self.limits(), program.facts["origin"], {}
        rows = {bits: dict(zip(self.keys[bits], table.unbind(0), strict=True)) for bits, table in limits.items()}
        for name, tensor in program.tensors.items():
            if tensor.format.is_code and name in origin:
                found[name] = rows[tensor.format.bits][origin[name]]
        return found

    @torch.no_grad()
    def trace(self, pcm: Array) -> dict[str, Array]:
        """Every tensor of the program for ``pcm`` int16 [N, n], each [N, T, *shape] as the golden model stores it."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return self.lower().trace(pcm)


class Lowered:
    """A program's kernels in order, and its two ends (the integer transforms), which refimpl itself runs."""

    def __init__(self, context: Context) -> None:
        self.context, self.program = context, context.program
        steps = self.program.steps
        first = max(i for i, step in enumerate(steps) if step.operator in HEAD) + 1
        last = min(i for i, step in enumerate(steps) if step.operator in TAIL)
        self.head, self.body, self.tail = steps[:first], steps[first:last], steps[last:]
        unknown = sorted({step.operator for step in self.body} - set(KERNELS))
        if unknown:
            raise InputError(
                f"quantization-aware training lacks the operators {', '.join(unknown)}; use another preset, or gap9"
            )
        self.kernels = {step.name: KERNELS[step.operator](step, context) for step in self.body}

    def stages(self) -> Iterator[list[Kernel]]:
        """The kernels of the body; those of one loop together."""
        stage: list[Kernel] = []
        for step in self.body:
            if stage and not (step.loop and step.loop == stage[-1].step.loop):
                yield stage
                stage = []
            stage.append(self.kernels[step.name])
        yield stage

    def spectrum(self, pcm: Array) -> tuple[Tensor, Tensor | None]:
        """``pcm`` int16 [N, n] to the spectrum's stored values [T, N, F, 2] held in FP32, and their residuals if codes."""
        count, source, program = len(pcm), self.program.source, self.program
        frames = np.stack([frames_of(clip) for clip in pcm], 1)
        name = self.head[-1].outputs[0]
        form, device = program.tensors[name].format, self.context.device
        part = Program(program.tensors, self.head, source, (name,))
        keep = ("stft.mantissa", "stft.exponent")
        found = part.run(np.ascontiguousarray(frames.reshape(-1, frames.shape[-1])), {}, keep)
        found = {key: x.reshape(-1, count, *x.shape[1:]) for key, x in found.items()}
        values = from_array(found[name], form, device).float()
        if not form.is_code:
            return values, None
        scale = np.ldexp(1.0 / form.scale, -22 - found[keep[1]])[..., None]
        exact = found[keep[0]] * scale + form.zero_point
        return values, torch.from_numpy((found[name] - exact).astype(np.float32)).to(device)

    def ends(self) -> tuple[Tensor, Format]:
        """Channels of the decoder's output in the order (re, im) of each speaker, and its format."""
        re, im = self.tail[0].constants[:2]
        order = torch.tensor(np.stack((re, im), 1).ravel(), device=self.context.device)
        return order, self.program.tensors[self.body[-1].name].format

    def run(
        self, spectrum: tuple[Tensor, Tensor | None], limits: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """The body with gradients: the decoder's stored output [T, N, F, 2S] held in FP32."""
        program, names = self.program, self.context.names
        source = self.head[-1].outputs[0]
        values = {source: spectrum[0]}
        if spectrum[1] is not None:
            values[source] = _Given.apply(Kernel(self.head[-1], self.context), limits[source], *spectrum)
        for stage in self.stages():
            owned = [parameters[name] for kernel in stage for name in names.get(kernel.step.name, ())]
            if stage[0].step.loop:
                loop = Recurrence(stage, self._results(stage), limits)
                ranges = [limits[name] for name in loop.limited]
                made = _Recur.apply(loop, *ranges, *owned, *(values[name] for name in loop.outer))
                values |= dict(zip(loop.results, made, strict=True))
            else:
                kernel = stage[0]
                values[kernel.step.name] = _Apply.apply(
                    kernel, limits.get(kernel.step.name), *owned, *(self._read(values, ref) for ref in kernel.step.inputs)
                )
            done = self._index(stage)
            values = {name: x for name, x in values.items() if program.last[name] > done}
        return values[self.body[-1].name]

    def _results(self, stage: Sequence[Kernel]) -> list[str]:
        """The tensors of a loop that steps after it read."""
        last = self._index(stage)
        return [k.step.name for k in stage if self.program.last.get(k.step.name, 0) > last]

    def _index(self, stage: Sequence[Kernel]) -> int:
        """Where in the program the stage ends."""
        return max(i for i, step in enumerate(self.program.steps) if step is stage[-1].step)

    def _read(self, values: Mapping[str, Tensor], ref: Any) -> Tensor:
        start = float(self.program.tensors[ref.tensor].start)
        return with_past(values[ref.tensor], ref.past, ref.current, start)

    def trace(self, pcm: Array) -> dict[str, Array]:
        """Every tensor [N, T, *shape] as stored, the transforms' included."""
        count, tensors, source = len(pcm), self.program.tensors, self.head[-1].outputs[0]
        first = self.spectrum(pcm)[0]
        values = {source: stored(first, tensors[source].format)}
        for stage in self.stages():
            if stage[0].step.loop:
                loop = Recurrence(stage, self._results(stage), {})
                values |= loop.forward({name: values[name] for name in loop.outer}, loop.made)[0]
            else:
                kernel = stage[0]
                values[kernel.step.name] = kernel.forward(*(self._read(values, ref) for ref in kernel.step.inputs))[0]
        found = {name: to_array(x.transpose(0, 1), tensors[name].format) for name, x in values.items()}
        kept = [name for step in self.tail for name in step.outputs]
        part = Program(tensors, self.tail, self.body[-1].name, self.program.results)
        ends = [part.run(found[self.body[-1].name][i], part.start(), kept) for i in range(count)]
        return found | {name: np.stack([end[name] for end in ends]) for name in kept}
