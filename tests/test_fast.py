"""The fast path is bit-equal to the operators: kernel by kernel, program by program, on every tier."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.errors import InputError
from refimpl.fast import tier
from refimpl.fast.executor import CHUNK, Executor
from refimpl.fast.kernels import FAST, KERNELS
from refimpl.fast.native import Call
from refimpl.fast.vector import TIER
from refimpl.numerics import jit
from refimpl.numerics.requantize import (
    LAW_BF16,
    LAW_DOUBLE,
    LAW_FOLDED,
    LAW_NORM_TWICE,
    LAW_RAW,
    LAW_SINGLE,
    Requantizer,
)
from refimpl.presets import MORE, NAMES
from refimpl.profiles import PROFILES
from refimpl.program import OPERATORS, Program
from refimpl.session import Model, frames_of, load
from refimpl.weights_io import Container
from tests.test_network import speech_like

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, np.dtype[Any]]
FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
BITS = {8: np.int8, 16: np.int16}


def codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Every code of the type, the ends often."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([info.min, info.max], shape), values).astype(dtype)


def patterns(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """BF16 patterns: ordinary values, and everything (NaN, infinity, subnormals, -0)."""
    ordinary = rng.integers(0x3C00, 0x4300, shape) | (rng.integers(0, 2, shape) << 15)
    return np.where(rng.random(shape) < 0.9, ordinary, rng.integers(0, 65536, shape)).astype(np.uint16)


def requantizer(rng: np.random.Generator, law: int, count: int, bits: int, relu: bool, wild: bool) -> Requantizer:
    """Constants as a lowering makes them, or ``wild`` ones that 32-bit lanes do not hold."""
    info = np.iinfo(BITS.get(bits, np.int8))
    offset = int(info.min) if law == LAW_FOLDED else int(rng.integers(-99, 99))
    lowest = int(info.min) - offset + (int(rng.integers(0, 90)) if relu else 0)
    highest = int(info.max) - offset - (int(rng.integers(0, 9)) if wild else 0)
    shift = rng.integers(6, 20, count).astype(np.int32)
    largest = (1 << 24 if wild else 8) if law in (LAW_FOLDED, LAW_NORM_TWICE) else 1 << 30
    multiplier = rng.integers(1, largest, count).astype(np.int32)
    if law in (LAW_DOUBLE, LAW_SINGLE):
        shift = rng.integers(31, 45, count).astype(np.int32)
    bias = rng.integers(-(1 << 16), 1 << 16, count).astype(np.int32)
    addend = bias.astype(np.int64) * multiplier + (np.int64(1) << shift.astype(np.int64) >> 1)
    scale = rng.choice([1e-3, 1.0, 3e30, 1e-42, np.inf if wild else 0.25], count).astype(np.float32)
    pre = int(rng.integers(0, 7)) if law == LAW_NORM_TWICE else 0
    return Requantizer(law, pre, lowest, highest, offset, bias, multiplier, addend, shift, scale)


def equal(name: str, *arguments: Any, outputs: int = 1, native: bool | None = None) -> None:
    """The fast kernel writes what the operator writes; ``native``: whether it has machine code of its own for these."""
    bound = FAST[name].bind(*arguments)
    if native is not None:
        assert isinstance(bound[0], Call) == native, name
    expected = [np.full_like(a, 77) for a in arguments[-outputs:]]
    found = [np.full_like(a, 55) for a in arguments[-outputs:]]
    OPERATORS[name](*arguments[:-outputs], *expected)
    FAST[name](*arguments[:-outputs], *found)
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other), (name, np.argwhere(one != other)[:3].tolist())


SIZES = st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 5, 13, 24, 25, 37]), st.sampled_from([1, 3, 8, 31, 32, 33, 64]))
OUTPUTS = st.sampled_from([1, 4, 12, 13, 32, 40, 65])
LAYERS = [
    (8, 8, LAW_FOLDED),
    (8, 8, LAW_SINGLE),
    (8, 16, LAW_NORM_TWICE),
    (8, 0, LAW_BF16),
    (8, 32, LAW_RAW),
    (16, 8, LAW_NORM_TWICE),
    (16, 16, LAW_NORM_TWICE),
    (16, 16, LAW_DOUBLE),
    (16, 0, LAW_BF16),
]
OUT: dict[int, Any] = {0: np.uint16, 8: np.int8, 16: np.int16, 32: np.int32}


@pytest.mark.parametrize(("bits", "out", "law"), LAYERS)
@pytest.mark.parametrize("axis", ["frequency", "channels"])
def test_fully_connected(axis: str, bits: int, out: int, law: int) -> None:
    @FEW
    @given(SIZES, OUTPUTS, st.booleans(), st.booleans(), SEEDS)
    def law_of(size: tuple[int, int, int], outputs: int, relu: bool, wild: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = codes(rng, size, BITS[bits])
        frames, bins, channels = size
        shape = (outputs, bins) if axis == "frequency" else (channels, outputs)
        y = np.empty((frames, outputs, channels) if axis == "frequency" else (frames, bins, outputs), OUT[out])
        rq = requantizer(rng, law, outputs, out or 8, relu, wild)
        equal(f"fully_connected_{axis}", x, codes(rng, shape, np.int8), rq, y, native=True)

    law_of()


def test_known_laws_stay_in_registers() -> None:
    """The laws of the default profile need no second pass: otherwise the fast path would be slow, and nothing would say so."""
    rng = np.random.default_rng(0)
    for bits, out, law in ((8, 8, LAW_FOLDED), (16, 16, LAW_NORM_TWICE), (8, 0, LAW_BF16)):
        rq = requantizer(rng, law, 32, out or 8, True, False)
        x, y = codes(rng, (2, 24, 32), BITS[bits]), np.empty((2, 24, 32), OUT[out])
        assert len(FAST["fully_connected_channels"].bind(x, codes(rng, (32, 32), np.int8), rq, y)) == 1
        if law != LAW_BF16:
            z = np.empty((2, 32, 32), OUT[out])
            assert len(FAST["fully_connected_frequency"].bind(x, codes(rng, (32, 24), np.int8), rq, z)) == 1


@pytest.mark.parametrize("name", ["conv_causal", "conv_transposed_causal"])
@FEW
@given(st.data())
def test_convolutions(name: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(SEEDS))
    frames, bins = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 13, 16, 33]))
    inputs, outputs = data.draw(st.sampled_from([1, 2, 3, 5, 32])), data.draw(st.sampled_from([1, 4, 6, 32]))
    below = data.draw(st.integers(0, 1))
    x, weight = codes(rng, (frames + 2, bins, inputs), np.int8), codes(rng, (3, 3, inputs, outputs), np.int8)
    rq = requantizer(rng, LAW_FOLDED, outputs, 8, False, data.draw(st.booleans()))
    y = np.empty((frames, bins, outputs), np.int8)
    equal(name, x, weight, below, data.draw(st.integers(-128, 127)), rq, y, native=True)
    wide = (rng.standard_normal(weight.shape).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    source, result = patterns(rng, x.shape), np.empty(y.shape, np.uint16)
    equal(f"{name}_bf16", source, wide, bias, below, result, native=True)


@FEW
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 3), st.sampled_from([1, 3, 8, 32]), SEEDS)
def test_compression(frames: int, stride: int, groups: int, rest: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rest = min(rest, stride - 1)
    x, weight = codes(rng, (frames, groups * stride + rest, channels), np.int8), codes(rng, (stride, channels, 5), np.int8)
    rq = requantizer(rng, LAW_FOLDED, 5, 8, True, False)
    equal("conv_strided", x, weight, rq, np.empty((frames, groups, 5), np.int8), native=True)


@FEW
@given(st.integers(1, 300), SEEDS, st.booleans())
def test_residual_adds(size: int, seed: int, wild: bool) -> None:
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    a, b, y = codes(rng, (1, size, 1), np.int8), codes(rng, (1, size, 1), np.int8), np.empty((1, size, 1), np.int8)
    most = 1 << 28 if wild else 256
    constants = (draw(0, most), draw(0, 25), draw(0, most), draw(0, 25), draw(-300, 300))
    equal("add_two_stage", a, b, *constants, y, native=None if wild else True)
    for types in ((8, 8, 8), (16, 16, 16), (8, 16, 8), (16, 8, 8), (16, 16, 8)):
        arrays = [codes(rng, (1, size, 1), BITS[bits]) for bits in types]
        low, high = np.iinfo(BITS[types[2]]).min, np.iinfo(BITS[types[2]]).max
        zeros = draw(-100, 100), draw(-100, 100)
        largest = 1 << (30 if wild else 13)
        numbers = (*zeros, draw(-largest, largest), draw(-largest, largest), draw(0, 31), draw(-90, 90), low, high)
        equal("add_joint", arrays[0], arrays[1], *numbers, arrays[2], native=None if wild else types != (16, 16, 8))
    numbers = (draw(-128, 128), draw(-128, 128), draw(1, 1 << 30 if wild else 1 << 14), draw(0, 31), draw(-90, 90), -128, 127)
    equal("multiply", a, b, *numbers, y, native=None if wild else True)
    for bits in (8, 16):
        p, q, z = codes(rng, a.shape, BITS[bits]), codes(rng, a.shape, BITS[bits]), np.empty(a.shape, BITS[bits])
        ends, law = (int(np.iinfo(z.dtype).min), int(np.iinfo(z.dtype).max)), draw(LAW_DOUBLE, LAW_SINGLE + 1)
        scales = tuple(v for _ in range(3) for v in (draw(1 << 30, 1 << 31), draw(31, 40)))
        equal("add_scaled", p, q, 3, -5, law, draw(0, 13), *scales, draw(-9, 9), *ends, z, native=True)
        if bits == 8:
            equal("multiply_scaled", p, q, 3, -5, law, *scales[:2], draw(-9, 9), *ends, z, native=True)
    for one, other in ((8, 16), (16, 8)):
        x, z = codes(rng, (1, size, 1), BITS[one]), np.empty((1, size, 1), BITS[other])
        info = np.iinfo(z.dtype)
        numbers = (draw(-100, 100), draw(1, 1 << (30 if wild else 14)), draw(0, 31), draw(-90, 90), info.min, info.max)
        equal("requantize_codes", x, *numbers, z, native=None if wild else True)


@FEW
@given(SIZES, st.sampled_from([1, 8, 31, 32, 64, 100]), st.integers(0, 3), SEEDS)
def test_tables(size: tuple[int, int, int], channels: int, start: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, bins, _ = size
    x, table = codes(rng, (frames, bins, channels + start), np.int8), codes(rng, (256,), np.int8)
    equal("lookup", x, table, -128, start, np.empty((frames, bins, channels), np.int8), native=True)
    x = codes(rng, x.shape, np.int16)
    equal("lookup", x, codes(rng, (65536,), np.int16), -32768, start, np.empty((frames, bins, channels), np.int16), native=True)
    wide, patterned = rng.integers(0, 65536, x.shape).astype(np.uint16), rng.integers(0, 65536, 65536).astype(np.uint16)
    equal("lookup", wide, patterned, 0, start, np.empty((frames, bins, channels), np.uint16), native=True)


def test_bf16_arithmetic() -> None:
    """Each of the 65,536 patterns with some others; and to and from codes."""
    rng = np.random.default_rng(1)
    a = np.tile(np.arange(65536, dtype=np.uint16), 4).reshape(4, 1, 65536)
    b, y = patterns(rng, a.shape), np.empty(a.shape, np.uint16)
    equal("add_bf16", a, b, y, native=True)
    equal("multiply_bf16", a, b, y, native=True)
    for bits in (8, 16):
        info = np.iinfo(BITS[bits])
        for inverse, zero in ((1.0, 0), (1e-3, -7), (3e38, 11), (1e-40, 5)):
            z = np.empty(a.shape, BITS[bits])
            equal("quantize_bf16", a, np.float32(inverse), zero, info.min, info.max, z, native=True)
        x = codes(rng, a.shape, BITS[bits])
        for scale, zero in ((0.1, 3), (1e-41, -5), (3e38, 0)):
            equal("dequantize_bf16", x, np.float32(scale), zero, y, native=True)


@cache
def released() -> Program:
    return load(preset="mixmlp", kernels="reference").program


@FEW
@given(st.integers(1, 3), SEEDS)
def test_transforms(frames: int, seed: int) -> None:
    """From PCM to block fixed point and back, on constants of a real program; and the conversions between."""
    rng = np.random.default_rng(seed)
    step = {s.name: s for s in released().steps}
    pcm = (codes(rng, (frames, 256), np.int16) * rng.random()).astype(np.int16)
    mantissa, exponent = np.empty((frames, 129, 2), np.int32), np.empty((frames, 1), np.int32)
    equal("stft", pcm, *step["stft.mantissa"].constants, mantissa, exponent, outputs=2, native=True)
    OPERATORS["stft"](pcm, *step["stft.mantissa"].constants, mantissa, exponent)
    equal("block_to_bf16", mantissa, exponent, np.empty((frames, 129, 2), np.uint16), native=True)
    equal("block_to_code", mantissa, exponent, 1 << 23, 30, -3, -128, 127, np.empty((frames, 129, 2), np.int8), native=True)
    re, im = np.array([0, 2]), np.array([1, 3])
    wide, raised = np.empty((frames, 2, 129, 2), np.int32), np.empty((frames, 2), np.int32)
    equal("code_to_block", codes(rng, (frames, 129, 4), np.int8), re, im, 5, 13, wide, raised, outputs=2, native=True)
    spectra = patterns(rng, (frames, 129, 4))
    equal("bf16_to_block", spectra, re, im, wide, raised, outputs=2, native=True)
    OPERATORS["bf16_to_block"](spectra, re, im, wide, raised)
    head, tail = np.empty((frames, 2, 96), np.int32), np.empty((frames, 2, 64), np.int32)
    equal("istft", wide, raised, *step["istft.head"].constants, head, tail, outputs=2, native=True)
    OPERATORS["istft"](wide, raised, *step["istft.head"].constants, head, tail)
    equal("overlap_add", head, tail, np.empty_like(head), native=True)
    clipped = np.empty((frames, 2), np.int32)
    equal("to_pcm", head, np.empty((frames, 2, 96), np.int16), clipped, outputs=2, native=True)


def test_compiled_names_are_unique() -> None:
    """Functions that are made in functions are compiled under a name of their own; see ``jit.inline_as``."""
    assert len(jit._names) > 20 and not any("<locals>" in name for name in jit._names)
    for path in sorted((ROOT / "refimpl" / "fast").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "inline(" not in text, f"{path.name}: a closure needs inline_as"
    with pytest.raises(ValueError, match="two functions"):
        jit.inline_as(next(iter(jit._names)))


def test_the_table_has_every_operator() -> None:
    assert set(KERNELS) == set(OPERATORS) and set(FAST) < set(OPERATORS)


@pytest.mark.parametrize("config", ["small", "compressed"])
@pytest.mark.parametrize("preset", (*NAMES, "stream16"))
def test_executor_runs_the_program(preset: str, config: str, request: pytest.FixtureRequest) -> None:
    """Every tensor and the state, for counts around the chunk, with and without what is kept."""
    program = Model(request.getfixturevalue(config), preset, kernels="reference").program
    executor, frames, names = Executor(program), frames_of(speech_like(96 * 40)), list(program.tensors)
    mine, theirs = program.start(), program.start()
    first = 0
    for count in (1, CHUNK + 2, CHUNK - 1):
        part, first = frames[first : first + count], first + count
        keep = names if count != 1 else ()
        found, expected = executor.run(part, mine, keep), program.run(part, theirs, keep)
        assert set(found) == set(expected)
        for name, values in expected.items():
            assert np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f"), name
        assert all(np.array_equal(mine[name], values) for name, values in theirs.items())


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_executor_runs_every_profile(profile: str, small: Container) -> None:
    """All of a clip in machine code where a preset is what the profile can do, and the bits of the operators."""
    ran = 0
    for preset in (*NAMES, *MORE):
        if preset == "fp32":
            continue
        try:
            program = Model(small, preset, profile, kernels="reference").program
        except InputError:
            continue
        frames, mine, theirs = frames_of(speech_like(96 * (CHUNK + 1))), program.start(), program.start()
        found, expected = Executor(program).run(frames, mine), program.run(frames, theirs)
        assert all(np.array_equal(found[name], values) for name, values in expected.items()), preset
        assert all(np.array_equal(mine[name], values) for name, values in theirs.items()), preset
        ran += 1
    assert ran


def test_program_runs_on_the_table(small: Container) -> None:
    """The kernels with the operators' names and arguments, called by the program itself."""
    program, frames = Model(small, "mixmlp").program, frames_of(speech_like(96 * 3))
    found = program.run(frames, program.start(), list(program.tensors), KERNELS)
    expected = program.run(frames, program.start(), list(program.tensors))
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_streams_in_threads_do_not_meet(small: Container) -> None:
    model = Model(small, "mixmlp", kernels="fast")
    clips = [speech_like(96 * 60, seed) for seed in range(4)]
    alone = [model.separate(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(model.separate, clips))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_kernels_are_chosen_by_name(small: Container) -> None:
    assert Model(small, "int8").kernels == "fast" and Model(small, "int8", kernels="reference").kernels == "reference"
    with pytest.raises(InputError, match="kernels 'quick'"):
        Model(small, "int8", kernels="quick")
    with pytest.raises(InputError, match="tier 'sse9'"):
        Model(small, "int8", tier="sse9")
    other = "any" if TIER != "any" else "avx2"
    with pytest.raises(InputError, match=f"tier '{other}'"):
        Model(small, "int8", tier=other)
    assert Model(small, "int8", tier=TIER).kernels == "fast"


@pytest.mark.parametrize(
    ("cpu", "expected"), [("generic", ("any",)), ("haswell", ("avx2", "any")), ("znver4", ("vnni", "avx2", "any"))]
)
def test_tiers_follow_the_target(cpu: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier._config, "CPU_NAME", cpu)
    monkeypatch.delenv(tier.VARIABLE, raising=False)
    assert tier.supported() == expected and tier.chosen() == expected[0]
    monkeypatch.setenv(tier.VARIABLE, "any")
    assert tier.chosen() == "any"
    if "vnni" not in expected:
        monkeypatch.setenv(tier.VARIABLE, "vnni")
        with pytest.raises(InputError, match="beyond this processor"):
            tier.chosen()


SCRIPT = """
import hashlib, json
from refimpl.fast.vector import TIER
from refimpl.session import load
from tests.test_network import speech_like
pcm = load(preset="mixmlp", kernels="fast").separate(speech_like(2100))
print(json.dumps([TIER, hashlib.sha256(pcm.tobytes()).hexdigest()]))
"""


@pytest.mark.parametrize(("cpu", "name"), [("haswell", "avx2"), ("generic", "any")])
def test_every_tier_gives_the_same_bits(cpu: str, name: str) -> None:
    if name not in tier.supported():
        pytest.skip(f"this processor has no {name}")
    environment = {key: value for key, value in os.environ.items() if key != tier.VARIABLE} | {"NUMBA_CPU_NAME": cpu}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    pcm = load(preset="mixmlp", kernels="reference").separate(speech_like(2100))
    assert json.loads(done.stdout) == [name, hashlib.sha256(pcm.tobytes()).hexdigest()]
