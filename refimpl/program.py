"""A network lowered to a straight list of steps over named tensors, with every integer constant (SPEC P-1, P-3).

Running offline, streaming, tracing and resuming all read this one list. A tensor has one value per frame; a step reads
tensors (some with frames of the past) and constants, and writes whole tensors. The state of a stream is exactly the past
frames that steps read. Steps whose past depends on themselves (the LSTM) carry a ``loop`` label and run frame by frame; all
others run over all frames of a call at once, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl.operators import convert, convolution, elementwise, fourier, linear

Array = np.ndarray[Any, np.dtype[Any]]
Kernel = Callable[..., None]

DTYPES: dict[str, type] = {
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "bf16": np.uint16,
    "f32": np.float32,
}

OPERATORS: dict[str, Kernel] = {
    kernel.__name__: kernel
    for kernel in (
        linear.fully_connected_frequency,
        linear.fully_connected_channels,
        linear.fully_connected_frequency_f32,
        linear.fully_connected_channels_f32,
        convolution.conv_causal,
        convolution.conv_transposed_causal,
        convolution.conv_causal_f32,
        convolution.conv_transposed_causal_f32,
        convolution.conv_causal_bf16,
        convolution.conv_transposed_causal_bf16,
        convolution.conv_strided,
        convolution.conv_strided_transposed,
        convolution.conv_strided_f32,
        convolution.conv_strided_transposed_f32,
        elementwise.add_two_stage,
        elementwise.add_joint,
        elementwise.add_scaled,
        elementwise.multiply,
        elementwise.multiply_scaled,
        elementwise.lookup,
        elementwise.add_bf16,
        elementwise.multiply_bf16,
        elementwise.add_f32,
        elementwise.multiply_f32,
        elementwise.activate_f32,
        convert.quantize_f32,
        convert.quantize_bf16,
        convert.dequantize_f32,
        convert.dequantize_bf16,
        convert.requantize_codes,
        convert.requantize_codes_scaled,
        convert.narrow_bf16,
        convert.widen_bf16,
        convert.block_to_bf16,
        convert.block_to_code,
        convert.bf16_to_block,
        convert.code_to_block,
        fourier.stft,
        fourier.istft,
        fourier.overlap_add,
        fourier.to_pcm,
        fourier.stft_f32,
        fourier.istft_f32,
        fourier.overlap_add_f32,
        fourier.to_pcm_f32,
    )
}


@dataclass(frozen=True)
class Format:
    """A number format: ``int8``, ``int16`` (real value ``(q - zero_point) * scale``), ``int32``, ``bf16`` or ``f32``."""

    kind: str
    scale: float = 1.0
    zero_point: int = 0

    @property
    def bits(self) -> int:
        return {"int8": 8, "int16": 16, "int32": 32, "bf16": 16, "f32": 32}[self.kind]

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def is_code(self) -> bool:
        return self.kind in ("int8", "int16")

    def real(self, values: Array) -> Array:
        """The real values of stored ``values`` as float64 (codes, BF16 patterns or FP32)."""
        if self.kind == "bf16":
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if not self.is_code:
            with np.errstate(invalid="ignore"):  # a signaling NaN becomes a quiet one
                return values.astype(np.float64)
        return (values.astype(np.float64) - self.zero_point) * self.scale


@dataclass(frozen=True)
class Tensor:
    """A named tensor: one value of ``shape`` per frame, in ``format``."""

    name: str
    shape: tuple[int, ...]
    format: Format

    @property
    def start(self) -> int:
        """What every element holds before the first frame: the zero point, or +0 (SPEC P-3)."""
        return self.format.zero_point if self.format.is_code else 0


@dataclass(frozen=True)
class Ref:
    """A step's input: the current frame and/or ``past`` frames before it (oldest first)."""

    tensor: str
    past: int = 0
    current: bool = True


@dataclass(frozen=True)
class Step:
    """One operator call: ``OPERATORS[operator](*inputs, *constants, *outputs)``."""

    name: str
    operator: str
    inputs: tuple[Ref, ...]
    constants: tuple[Any, ...]
    outputs: tuple[str, ...]
    loop: str = ""


State = dict[str, Array]
Values = dict[str, Array]


@dataclass(frozen=True)
class Program:
    """Tensors, steps in order, the input's and outputs' names. Immutable; the state is the caller's."""

    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    source: str
    results: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    past: Mapping[str, int] = field(init=False)  # how many past frames of a tensor some step reads
    last: Mapping[str, int] = field(init=False)  # index of the last step that reads a tensor

    def __post_init__(self) -> None:
        past: dict[str, int] = {}
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            for ref in step.inputs:
                past[ref.tensor] = max(past.get(ref.tensor, 0), ref.past)
                last[ref.tensor] = index
        object.__setattr__(self, "past", past)
        object.__setattr__(self, "last", last)

    def start(self) -> State:
        """The state before the first frame (SPEC P-3)."""
        state: State = {}
        for name, count in self.past.items():
            if count:
                tensor = self.tensors[name]
                state[name] = np.full((count, *tensor.shape), tensor.start, DTYPES[tensor.format.kind])
        return state

    def run(
        self,
        frames: Array | Mapping[str, Array],
        state: State,
        keep: Collection[str] = (),
        operators: Mapping[str, Kernel] = OPERATORS,
    ) -> Values:
        """Run all steps over ``frames`` [T, *source shape], T >= 1; ``state`` is advanced in place.

        A slice of a network may have several inputs: ``frames`` then maps their names to [T, *shape]. Returns the results and
        every tensor named in ``keep``, each [T, *shape] in its stored dtype. ``operators`` are the kernels to run on.
        """
        given = frames if isinstance(frames, Mapping) else {self.source: frames}
        count = len(next(iter(given.values())))
        buffers: Values = {}
        for name in (*given, *(n for step in self.steps for n in step.outputs if self.past.get(n))):
            buffers[name] = self._buffer(name, count, state)
        for name, values in given.items():
            buffers[name][self.past.get(name, 0) :] = values
        wanted = {*self.results, *keep}
        index = 0
        while index < len(self.steps):
            stop = index + 1
            if self.steps[index].loop:
                while stop < len(self.steps) and self.steps[stop].loop == self.steps[index].loop:
                    stop += 1
                self._run_loop(self.steps[index:stop], buffers, count, state, operators)
            else:
                step = self.steps[index]
                for name in step.outputs:
                    if name not in buffers:
                        buffers[name] = self._buffer(name, count, state)
                operators[step.operator](*self._arguments(step, buffers, 0, count))
            for step in self.steps[index:stop]:
                for ref in step.inputs:
                    name = ref.tensor
                    if self.last[name] < stop and name not in wanted and not self.past[name]:
                        buffers.pop(name, None)
            index = stop
        for name in state:
            state[name] = buffers[name][-self.past[name] :].copy()
        return {name: buffers[name][self.past.get(name, 0) :] for name in wanted if name in buffers}

    def _run_loop(
        self, steps: tuple[Step, ...], buffers: Values, count: int, state: State, operators: Mapping[str, Kernel]
    ) -> None:
        for step in steps:
            for name in step.outputs:
                if name not in buffers:
                    buffers[name] = self._buffer(name, count, state)
        kernels = [operators[step.operator] for step in steps]
        for t in range(count):
            for step, kernel in zip(steps, kernels, strict=True):
                kernel(*self._arguments(step, buffers, t, 1))

    def _arguments(self, step: Step, buffers: Values, first: int, count: int) -> list[Any]:
        """The step's inputs, constants and outputs for frames ``first .. first + count - 1``, as views."""
        arguments: list[Any] = []
        for ref in step.inputs:
            held = self.past.get(ref.tensor, 0)
            start = held + first - ref.past
            arguments.append(buffers[ref.tensor][start : start + count + (ref.past if ref.current else 0)])
        arguments.extend(step.constants)
        for name in step.outputs:
            held = self.past.get(name, 0)
            arguments.append(buffers[name][held + first : held + first + count])
        return arguments

    def _buffer(self, name: str, count: int, state: State) -> Array:
        tensor, past = self.tensors[name], self.past.get(name, 0)
        buffer: Array = np.empty((past + count, *tensor.shape), DTYPES[tensor.format.kind])
        if past:
            buffer[:past] = state[name]
        return buffer
