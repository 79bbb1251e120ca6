"""The cost model: counts against formulas of the network, the buffer plan by running in it, the fit by its conditions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from inspect import signature
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import cost
from refimpl.cost import blank_program, plan_buffers
from refimpl.networks.tf_mlpnet import Config, build, nominal_bytes, parameter_count, parameters
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.program import DTYPES, OPERATORS, Format, Program, Ref, Step, Tensor
from refimpl.session import Model, frames_of
from refimpl.weights_io import Container
from tests.test_network import random_weights
from tests.tiny import noise, tiny_container

BINS = 129
ODD = {"blocks": 2, "channels": 6, "hidden": 5, "mixers": 3, "compression": 7}


# -- operations and bytes ---------------------------------------------------------------------------------------------


def macs_by_formula(config: Config) -> dict[str, int]:
    """Multiply-accumulates by part, from the network's definition."""
    c, h, inner, a = config.channels, config.hidden, config.inner_bins, config.compression
    each = config.blocks * config.mixers
    parts = {
        "frequency mixing": each * 2 * inner * inner * c,
        "channel mixing": each * 2 * inner * c * c,
        "lstm": config.blocks * BINS * 4 * h * (c + h),
        "linear": config.blocks * (inner * c * c + BINS * h * c),
        "compression": config.blocks * 2 * inner * a * c * c,
        "encoder and decoder": BINS * 9 * c * (2 + 2 * config.speakers),
    }
    return parts if a > 1 else {name: count for name, count in parts.items() if name != "compression"}


@pytest.mark.parametrize("options", [{}, {"compression": 2}, {"speakers": 1}, ODD], ids=str)
def test_counts_are_the_networks(options: dict[str, Any]) -> None:
    config = Config(**options)
    for preset in ("fp32", "mixmlp"):
        program = blank_program(config, preset)
        assert cost.macs_by(program, lambda layer: cost.part(layer.name)) == macs_by_formula(config)
        assert sum(layer.parameters for layer in cost.layers(program)) == parameter_count(config)
        assert cost.storage(program).nominal == nominal_bytes(config, load_preset(preset))


def test_the_papers_network() -> None:
    """24.1 M MACs a frame, 14.0 M compressed; the sizes of Table 3; 2 x 2 x mixing and intra_linear of a block in 16 bits."""
    total = {a: sum(layer.macs for layer in cost.layers(blank_program(Config(compression=a), "int8"))) for a in (1, 2)}
    assert [f"{total[a] / 1e6:.1f}" for a in (1, 2)] == ["24.1", "14.0"]
    sizes = {name: f"{cost.storage(blank_program(Config(), name)).nominal / 1024:.1f}" for name in ("fp32", "int8", "mixmlp")}
    assert sizes == {"fp32": "1925.6", "int8": "481.4", "mixmlp": "483.1"}
    half, full = (cost.work(blank_program(Config(), name)) for name in ("mixmlp", "fullmlp"))
    assert half is not None and full is not None
    block = 4 * BINS * BINS * 32 + 4 * BINS * 32 * 32 + BINS * 32 * 32
    assert (half.int16_macs, full.int16_macs) == (3 * block, 6 * block)
    assert half.int8_macs + half.int16_macs == total[1] - BINS * 9 * 32 * 6
    assert cost.work(blank_program(Config(), "fp32")) is None


def test_elementwise_work() -> None:
    """A residual add for each mixer layer pair and two a block; 13 H a bin in the LSTM, and H where its state is quantized."""
    adds, lstm = 6 * (4 + 2) * BINS * 32, 6 * BINS * 13 * 32
    assert cost.elementwise_by_arithmetic(blank_program(Config(), "fp32")) == {"f32": adds + lstm}
    ends = BINS * (2 + 4)  # from the transform's block format, and to it
    assert cost.elementwise_by_arithmetic(blank_program(Config(), "int8")) == {"int8": adds + lstm + ends}
    mixed = cost.elementwise_by_arithmetic(blank_program(Config(), "mixlstm"))
    assert mixed == {"int8": adds + ends, "bf16": lstm + 6 * BINS * 32}


def test_every_operator_with_weights_is_counted() -> None:
    """An operator that is new must say how often it applies its weights, or the counts would miss it."""
    for name, kernel in OPERATORS.items():
        if "weight" in signature(getattr(kernel, "py_func", kernel)).parameters:
            assert name.removesuffix("_f32").removesuffix("_bf16") in cost.PLACES, name


@pytest.mark.parametrize("preset", NAMES)
def test_stored_bytes(preset: str) -> None:
    """Every weight in its format, every bias in 4 bytes (BF16 layers 2), multiplier and shift 1 each, each table once."""
    config = Config()
    stored = cost.storage(random_program(config, preset))
    count = {"weight": {"bf16": 0, "int8": 0, "f32": 0}, "bias": {"bf16": 0, "int8": 0, "f32": 0}}
    lstm = 0
    for name, shape in parameters(config).items():
        if name.startswith(("encoder", "decoder")):
            kind = load_preset(preset).kind("encoder.weight")
        else:
            kind = load_preset(preset).kind("block2.lstm.ih.weight")
        count["bias" if len(shape) == 1 else "weight"][kind] += math.prod(shape)
        lstm += math.prod(shape) if "bias_ih" in name or "bias_hh" in name else 0
    size = {"int8": 1, "bf16": 2, "f32": 4}
    assert stored.weights == {kind: n * size[kind] for kind, n in count["weight"].items() if n}
    assert stored.biases == 4 * count["bias"]["int8"] + 2 * count["bias"]["bf16"] + 4 * count["bias"]["f32"]
    scaled = lstm if load_preset(preset).kind("block1.lstm.ih") == "bf16" else 0  # one FP32 scale instead
    assert stored.requantization == 2 * (count["bias"]["int8"] - scaled) + 4 * scaled
    if preset not in ("fp32", "int8"):
        assert stored.activation_tables == 2 * 65536 * 2
    windows = 4 * (256 + 160 + 2 * BINS)
    assert stored.transform_tables == windows
    parts = sum(stored.weights.values()) + stored.biases + stored.requantization + stored.scalars + windows
    assert stored.total == parts + stored.activation_tables == stored.without_activation_tables + stored.activation_tables


def random_program(config: Config, preset: str) -> Program:
    """A network of random weights, all ranges [-1, 1]."""
    unit = dict.fromkeys(blank_program(config, "fp32").tensors, (-1.0, 1.0))
    return build(config, random_weights(config), {8: unit, 16: unit}, load_preset(preset), GAP9)


def test_multiplier_bytes(small: Container) -> None:
    """What one layer stores beside weights and biases: 31-bit multipliers take 4 bytes, a power of two takes none."""
    stored = {}
    for profile in ("gap9", "tflite_single", "max78002"):
        program = Model(small, "int8", profile).program
        count = sum(layer.parameters for layer in cost.layers(program)) - cost.storage(program).weights["int8"]
        stored[profile] = cost.storage(program).requantization / count
    assert stored == {"gap9": 2, "tflite_single": 5, "max78002": 1}


def test_expansion_stores_a_bias_for_each_tap() -> None:
    """The folded zero point is of (tap, channel), so that the compressed network stores more biases than it has."""
    config = Config(compression=2)
    have = sum(math.prod(shape) for shape in parameters(config).values() if len(shape) == 1)
    program = random_program(config, "int8")
    assert cost.storage(program).biases == 4 * (have + 6 * 32) == 4 * cost.storage(program, bias_bits=8).biases


@pytest.mark.parametrize("preset", ["fp32", "int8", "mixmlp"])
def test_state_is_what_a_stream_keeps(preset: str) -> None:
    """The sum over SPEC P-3, by hand; and the arrays of a stream, less the samples that wait for a whole frame."""
    spectrum, cell = {"fp32": (4, 4), "int8": (1, 1), "mixmlp": (2, 2)}[preset]
    tail, recurrent = 4, 4 if preset == "fp32" else 1
    config = Config()
    ends = 2 * BINS * 2 * spectrum + 2 * BINS * 32 * spectrum + 64 * 2 * tail
    expected = 160 * 2 + ends + 6 * BINS * 32 * (cell + recurrent)
    assert cost.state_bytes(blank_program(config, preset)) == expected
    model = Model(tiny_container(), preset)
    stream = model.stream()
    stream.push(noise(96 * 5 + 64))  # leaves exactly the 160 samples that the next frame shares
    state = {name: array for name, array in stream.state().items() if name not in ("session.counters", "session.clipped")}
    assert cost.state_bytes(model.program) == sum(array.nbytes for array in state.values())


# -- the buffer plan --------------------------------------------------------------------------------------------------


class Memory:
    """A device's memory: two regions of bytes, and the tensors of a plan as views into them."""

    def __init__(self, program: Program, plan: cost.Plan) -> None:
        self.program = program
        self.arena = np.full(plan.arena_bytes, 0xA5, np.uint8)
        self.state = np.full(plan.state_bytes, 0xA5, np.uint8)
        self.home = {name: buffer for buffer in (*plan.state, *plan.arena) for name in buffer.tensors}
        for buffer in plan.state:
            rows = self.rows(buffer.tensors[0])
            rows[...] = program.tensors[buffer.tensors[0]].start

    def rows(self, name: str) -> np.ndarray:
        """The frames of a tensor [frames, *shape]; one frame in the arena."""
        buffer, tensor = self.home[name], self.program.tensors[name]
        region = self.state if buffer.frames else self.arena
        shape = (buffer.frames or 1, *tensor.shape)
        dtype = np.dtype(DTYPES[tensor.format.kind])
        used = math.prod(shape) * dtype.itemsize
        assert used <= buffer.size and buffer.offset % cost.ALIGNMENT == 0
        return region[buffer.offset : buffer.offset + used].view(dtype).reshape(shape)

    def room(self, name: str) -> np.ndarray:
        """Where a tensor's new frame is written [1, *shape], the older ones moved up."""
        rows = self.rows(name)
        rows[:-1] = rows[1:].copy()
        return rows[-1:]

    def run(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """One frame, step by step as firmware would: views in, views out, nothing else kept."""
        self.room(self.program.source)[0] = frame
        made = {self.program.source}
        for step in self.program.steps:
            arguments: list[Any] = []
            for ref in step.inputs:
                rows, now = self.rows(ref.tensor), ref.tensor in made
                end = len(rows) - 1 if now else len(rows)
                arguments.append(rows[end - ref.past : end + (1 if ref.current else 0)])
            arguments += step.constants
            for name in step.outputs:
                arguments.append(self.room(name))
                made.add(name)
            OPERATORS[step.operator](*arguments)
        return {name: self.rows(name)[-1].copy() for name in self.program.results}


def same_in_memory(program: Program, plan: cost.Plan, frames: np.ndarray) -> bool:
    """True where running in the planned memory gives the bits of the program."""
    memory = Memory(program, plan)
    expected = program.run(frames, program.start())
    for t, frame in enumerate(frames):
        got = memory.run(frame)
        if not all(np.array_equal(got[name], expected[name][t], equal_nan=got[name].dtype.kind == "f") for name in got):
            return False
    return True


@pytest.mark.parametrize("compression", [1, 2])
@pytest.mark.parametrize("preset", (*NAMES, "stream16"))
def test_network_runs_in_its_plan(preset: str, compression: int, small: Container, compressed: Container) -> None:
    """Two blocks, streaming frame by frame inside the planned bytes: nothing that lives is overwritten."""
    program = Model(small if compression == 1 else compressed, preset).program
    plan = plan_buffers(program)
    assert same_in_memory(program, plan, frames_of(noise(96 * 6)))
    assert plan.least_bytes <= plan.arena_bytes
    assert {n for b in (*plan.arena, *plan.state) for n in b.tensors} == set(program.tensors)


@pytest.mark.parametrize("preset", (*NAMES, "stream16"))
def test_plan_of_the_papers_network_is_the_smallest(preset: str) -> None:
    plan = plan_buffers(blank_program(Config(), preset))
    assert plan.arena_bytes == plan.least_bytes
    assert plan.state_bytes >= sum(array.nbytes for array in blank_program(Config(), preset).start().values())


def test_a_wrong_plan_shows(small: Container) -> None:
    """The proof can fail: of two buffers that live together, one put on the other spoils the output."""
    program = Model(small, "mixmlp").program
    plan = plan_buffers(program)
    by_tensor = {name: buffer for buffer in plan.arena for name in buffer.tensors}
    one, other = by_tensor["block1.lstm.ih"], by_tensor["block1.lstm.hh"]
    assert one.meets(other)
    broken = tuple(replace(buffer, offset=one.offset) if buffer == other else buffer for buffer in plan.arena)
    assert not same_in_memory(program, replace(plan, arena=broken), frames_of(noise(96 * 3)))
    kept = next(buffer for buffer in plan.state if buffer.tensors == ("istft.tail",))
    assert kept.frames == 2  # the past is read after the tensor is made: two frames
    held = next(buffer for buffer in plan.state if buffer.tensors == ("block1.lstm.c",))
    assert held.frames == 1  # read, then overwritten


KERNELS = {"add_f32": 2, "multiply_f32": 2, "activate_f32": 1, "narrow_bf16": 1, "widen_bf16": 1, "lookup": 1}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Chains and meshes of elementwise steps and of steps that are not, some reading the frame before."""
    shape = (3, 2)
    tensors = {"in": Tensor("in", shape, Format("f32"))}
    steps: list[Step] = []
    table = np.arange(1 << 16, dtype=np.uint16)[::-1].copy()
    for index in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(sorted(KERNELS)))
        wanted = "bf16" if kind in ("widen_bf16", "lookup") else "f32"
        choices = [name for name, tensor in tensors.items() if tensor.format.kind == wanted]
        if not choices:
            kind, choices = "narrow_bf16", [name for name, tensor in tensors.items() if tensor.format.kind == "f32"]
        inputs = []
        for _ in range(KERNELS[kind]):
            past = draw(st.booleans()) and draw(st.booleans())
            inputs.append(Ref(draw(st.sampled_from(choices)), int(past), not past))
        constants = {"activate_f32": (0, 0), "lookup": (table, 0, 0)}.get(kind, ())
        name = f"t{index}"
        tensors[name] = Tensor(name, shape, Format("bf16" if kind in ("narrow_bf16", "lookup") else "f32"))
        steps.append(Step(name, kind, tuple(inputs), constants, (name,)))
    results = draw(st.lists(st.sampled_from([step.name for step in steps]), min_size=1, max_size=3, unique=True))
    return Program(tensors, tuple(steps), "in", tuple(results))


@settings(deadline=None, max_examples=60)
@given(programs(), st.integers(0, 2**32 - 1))
def test_any_program_runs_in_its_plan(program: Program, seed: int) -> None:
    """Buffers taken in place, past frames, results read late, values never read: the bits are the program's."""
    frames = np.random.default_rng(seed).standard_normal((4, 3, 2)).astype(np.float32)
    plan = plan_buffers(program)
    assert same_in_memory(program, plan, frames)
    for a, b in itertools.combinations(plan.arena, 2):
        assert not a.meets(b) or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset


# -- the fit ----------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(-9, 9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=7))
def test_least_squares_is_the_constrained_minimum(data: list[tuple[int, ...]]) -> None:
    """Its conditions, exactly: no factor below zero, no gradient below zero, none but zero where a factor is above zero."""
    rows, targets = [row[:3] for row in data], [Fraction(row[3], 7) for row in data]
    x = cost.least_squares(rows, targets)
    errors = [sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) - t for row, t in zip(rows, targets, strict=True)]
    for column, factor in enumerate(x):
        gradient = sum((row[column] * error for row, error in zip(rows, errors, strict=True)), Fraction(0))
        assert factor >= 0 and gradient >= 0 and factor * gradient == 0


def test_fit_recovers_factors_and_leaves_rows_out() -> None:
    rows = [(4, 0), (1, 3), (2, 2), (5, 1)]
    exact = cost.fit(rows, [Fraction(2 * a + 3 * b) for a, b in rows])
    assert exact.factors == (2, 3) and exact.freedom == 2 and exact.predict((10, 1)) == 23.0
    assert exact.fitted == exact.left_out
    bent = cost.fit(rows, [Fraction(v) for v in (8, 11, 10, 23)])
    others = cost.least_squares(rows[:3], [Fraction(v) for v in (8, 11, 10)])
    assert bent.left_out[3] == 5 * others[0] + others[1] == 13
    assert bent.fitted[3] != 13
    with pytest.raises(ValueError, match="2 rows"):
        cost.fit(rows[:2], [Fraction(1), Fraction(2)])
