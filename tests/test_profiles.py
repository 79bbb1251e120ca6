"""Profiles and device tables: every law in exact rational arithmetic, every profile through a whole network."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refimpl import run
from refimpl.device_tables import device_tables
from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config
from refimpl.numerics.activation import VARIANTS, device_code_table, patterns, variant
from refimpl.numerics.requantize import LAW_DOUBLE, LAW_FOLDED, LAW_NAMES, LAW_SINGLE, scale_by
from refimpl.numerics.rounding import doubling_high_half_up, shift_half_away
from refimpl.numerics.tables import SIGMOID, TANH, code_table
from refimpl.presets import Preset, load_preset
from refimpl.profiles import PROFILES, Profile, profile_named
from refimpl.program import OPERATORS
from refimpl.quantization.lowering import Builder
from refimpl.quantization.scheme import (
    next_power_of_two,
    power_of_two_multiplier,
    q15_multiplier,
    q31_multiplier,
    quantize_layer,
    symmetric_format,
)
from refimpl.session import Model
from refimpl.weights_io import Container
from tests.conftest import calibrated
from tests.test_network import speech_like

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
MULTIPLIER = st.integers(1 << 30, (1 << 31) - 1)
RATIO = st.floats(2.0**-30, 2.0**20, allow_subnormal=False)
CONFIG = Config(blocks=1, channels=3, hidden=3, mixers=1, compression=32)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_away(x: Fraction) -> int:
    return -half_up(-x) if x < 0 else half_up(x)


# -- roundings and laws -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(-(1 << 61), 1 << 61), st.integers(0, 62))
@example(-3, 1)
@example(3, 1)
def test_shift_half_away_is_exact(value: int, shift: int) -> None:
    assert shift_half_away(value, shift) == half_away(Fraction(value, 1 << shift))


@settings(deadline=None)
@given(INT32, INT32)
@example(-(1 << 31), -(1 << 31))
@example(-(1 << 30), 1)
def test_doubling_high_product_is_exact(a: int, b: int) -> None:
    assert doubling_high_half_up(a, b) == min(half_up(Fraction(a * b, 1 << 31)), (1 << 31) - 1)


@settings(deadline=None)
@given(INT32, MULTIPLIER, st.integers(1, 62))
def test_single_law_rounds_once(value: int, m: int, n: int) -> None:
    assert scale_by(value, m, n, LAW_SINGLE) == half_up(Fraction(value * m, 1 << n))


@settings(deadline=None)
@given(INT32, MULTIPLIER, st.integers(20, 62))
def test_double_law_rounds_twice_as_published(value: int, m: int, n: int) -> None:
    """gemmlowp's composition with C's truncating division, written from its definition."""
    value >>= max(31 - n, 0)
    product = (value << max(31 - n, 0)) * m
    nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
    high = abs(nudged) // (1 << 31) * (1 if nudged >= 0 else -1)
    right = max(n - 31, 0)
    remainder, mask = high & ((1 << right) - 1), (1 << right) - 1
    expected = (high >> right) + (remainder > (mask >> 1) + (high < 0))
    assert scale_by(value, m, n, LAW_DOUBLE) == expected


def test_double_and_single_differ_on_a_few_percent() -> None:
    """Shifts of 1 to 11 behind the high product: the two laws are not one (and neither is nearly always wrong)."""
    rng = np.random.Generator(np.random.PCG64(5))
    differing = 0
    for _ in range(20_000):
        value, m, n = int(rng.integers(-(1 << 20), 1 << 20)), int(rng.integers(1 << 30, 1 << 31)), int(rng.integers(32, 43))
        differing += scale_by(value, m, n, LAW_DOUBLE) != scale_by(value, m, n, LAW_SINGLE)
    assert 0.01 < differing / 20_000 < 0.1


# -- multipliers and formats --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(RATIO)
def test_long_multipliers_are_near(ratio: float) -> None:
    m, n = q31_multiplier(ratio)
    assert 1 << 30 <= m < 1 << 31
    assert abs(Fraction(m, 1 << n) if n >= 0 else m * (1 << -n) - Fraction(ratio)) >= 0
    exact = Fraction(ratio) * (Fraction(2) ** n)
    assert m == half_away(exact) or (m == 1 << 30 and half_away(exact * 2) == 1 << 31)
    reduced, shift = q15_multiplier(ratio)
    assert shift == n - 16 and (reduced == 0x7FFF if m >= 0x7FFF0000 else reduced == half_up(Fraction(m, 1 << 16)))


@settings(deadline=None)
@given(st.floats(2.0**-60, 2.0**60, allow_subnormal=False))
def test_next_power_of_two(value: float) -> None:
    power = next_power_of_two(value)
    assert math.frexp(power)[0] == 0.5 and power / 2 < value <= power
    m, n = power_of_two_multiplier(power)
    assert m * Fraction(2) ** -n == Fraction(power)


@settings(deadline=None)
@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.sampled_from([8, 16]), st.booleans())
def test_symmetric_formats_hold_their_range(low: float, high: float, bits: int, power: bool) -> None:
    form = symmetric_format(low, high, bits, power)
    top = (1 << (bits - 1)) - 1
    assert form.zero_point == 0 and form.bits == bits
    if max(-low, high) >= 2.0**-60:
        assert max(-low, high) <= form.scale * top * (1 + 2.0**-50)
        assert not power or math.frexp(form.scale)[0] == 0.5
        assert form.scale * top <= max(-low, high) * (2 if power else 1) * (1 + 2.0**-50)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12))
def test_a_layers_codes_are_near(weights: list[float]) -> None:
    codes, scale = quantize_layer(np.array([weights], np.float32))
    assert math.frexp(scale)[0] == 0.5
    assert np.abs(codes.astype(int)).max() <= 127
    assert (np.abs(codes[0].astype(np.float64) * scale - np.array(weights, np.float32)) <= scale / 2).all()


# -- profiles -----------------------------------------------------------------------------------------------------------


def test_profiles_are_five_tables_of_plain_facts() -> None:
    assert list(PROFILES) == ["gap9", "ne16_rtl", "tflite_double", "tflite_single", "max78002"]
    for name, profile in PROFILES.items():
        assert profile.name == name
        for field in fields(Profile):
            assert isinstance(getattr(profile, field.name), (str, int, bool, tuple, type(None))), field.name
    with pytest.raises(InputError, match="use one of gap9, max78002"):
        profile_named("gap10")


def test_no_code_asks_for_a_profiles_name() -> None:
    """Outside of the table itself, the names of profiles occur in defaults and messages only."""
    root = Path(run.__file__).parent
    for folder in ("numerics", "operators", "quantization", "networks"):
        for path in (root / folder).glob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not any(f'"{name}"' in text for name in PROFILES), path


@cache
def container() -> Container:
    return calibrated(CONFIG, samples=400)


def expressible(profile: str, preset: str) -> bool:
    try:
        Model(container(), preset, profile)
    except InputError:
        return False
    return True


def test_which_presets_a_profile_has() -> None:
    presets = ("fp32", "int8", "mixlstm", "fpconv", "mixmlp", "fullmlp", "int16")
    table = {profile: [preset for preset in presets if expressible(profile, preset)] for profile in PROFILES}
    assert table["gap9"] == table["ne16_rtl"] == list(presets[:6])
    assert table["tflite_double"] == table["tflite_single"] == ["fp32", "int8", "int16"]
    assert table["max78002"] == ["fp32", "int8"]
    with pytest.raises(InputError, match=r"profile 'max78002' has no bf16 .* only int8: use another preset or profile"):
        Model(container(), "mixmlp", "max78002")


def test_fp32_is_the_same_on_every_profile() -> None:
    pcm = speech_like(500, 3)
    outputs = [Model(container(), "fp32", profile).separate(pcm) for profile in PROFILES]
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "gap9"])
@pytest.mark.parametrize("preset", ["int8", "int16"])
def test_streams_and_whole_clips_agree(profile: str, preset: str) -> None:
    if not expressible(profile, preset):
        pytest.skip("not expressible")
    model = Model(container(), preset, profile)
    pcm = speech_like(700, 4)
    stream = model.stream()
    parts = [stream.push(pcm[:1]), stream.push(pcm[1:300]), stream.push(pcm[300:]), stream.flush()]
    assert np.array_equal(np.concatenate(parts, 1), model.separate(pcm))
    assert not np.array_equal(model.separate(pcm), Model(container(), "int8", "gap9").separate(pcm))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_layer_is_its_profiles_composition(profile: str, bits: int) -> None:
    """Random layers, lowered and run, against exact sums and the profile's rounding in rational arithmetic."""
    table = profile_named(profile)
    kind = f"int{bits}"
    if kind not in table.formats:
        pytest.skip("no such format")
    rng = np.random.Generator(np.random.PCG64(bits))
    for _ in range(20):
        weight = rng.normal(size=(3, 7)).astype(np.float32) * np.array([[1.0], [0.05], [3.0]], np.float32)
        bias = rng.normal(size=3).astype(np.float32)
        ranges = {name: tuple(sorted(rng.normal(size=2) * 3)) for name in "xy"}
        preset = Preset("p", (("*.weight", "int8"), ("*", kind)))
        builder = Builder({"l.weight": weight, "l.bias": bias}, {bits: ranges}, preset, table)
        x = builder.tensor("x", (5, 7))
        y = builder.fully_connected("y", x, "l", "channels")
        codes, rq = builder.steps[0].constants
        values = rng.integers(x.format.lowest, x.format.highest + 1, (2, 5, 7)).astype(kind)
        found = np.empty((2, 5, 3), kind)
        OPERATORS["fully_connected_channels"](values, codes, rq, found)
        sums = values.astype(np.int64) @ codes.astype(np.int64)
        for at in np.ndindex(found.shape):
            assert int(found[at]) == exact_law(int(sums[at]), at[2], rq, table), (profile, at)
        assert max(builder.scale_error["y"]) < {"search": 0.01}.get(
            table.multiplier_8 if bits == 8 else table.multiplier_16, 1e-4
        )
        assert y.format.zero_point == 0 or bits not in table.symmetric


def exact_law(acc: int, channel: int, rq: Any, table: Profile) -> int:
    total, m, n = int(rq.bias[channel]), int(rq.multiplier[channel]), int(rq.shift[channel])
    ratio = Fraction((acc + total) * m, 1 << n)
    if rq.law == LAW_FOLDED:
        value = half_up(ratio) if table.rounding_constant else math.floor(ratio)
    elif rq.law == LAW_SINGLE:
        value = half_up(ratio)
    elif rq.law == LAW_DOUBLE:
        value = half_away(Fraction(half_up(Fraction(((acc + total) << max(31 - n, 0)) * m, 1 << 31)), 1 << max(n - 31, 0)))
    else:
        assert LAW_NAMES[rq.law] == "norm_twice"
        value = half_up(Fraction(half_up(Fraction(acc + total, 1 << rq.pre_shift)) * m, 1 << (n - rq.pre_shift)))
    return min(max(value, rq.lowest), rq.highest) + rq.offset


def test_additions_products_and_conversions_are_near_the_real_ones() -> None:
    """On every profile the result is within the roundings of the exact real sum, product or value."""
    rng = np.random.Generator(np.random.PCG64(8))
    for profile in PROFILES.values():
        for method in ("add", "multiply", "convert"):
            ranges = {"a": (-1.0, 3.0), "b": (-0.7, 0.9), "y": (-3.0, 4.0)}
            kinds = (("y", "int16"), ("*", "int8")) if method == "convert" else (("*", "int8"),)
            if method == "convert" and "int16" not in profile.formats:
                continue
            builder = Builder({}, {8: ranges, 16: ranges}, Preset("p", kinds), profile)
            a, b = builder.tensor("a", (1, 400)), builder.tensor("b", (1, 400))
            y = builder.convert("y", a) if method == "convert" else getattr(builder, method)("y", a, b)
            step = builder.steps[0]
            codes = {name: rng.integers(-128, 128, (1, 1, 400)).astype(np.int8) for name in "ab"}
            found = np.empty((1, 1, 400), y.format.kind)
            OPERATORS[step.operator](*(codes[ref.tensor] for ref in step.inputs), *step.constants, found)
            first, second = a.format.real(codes["a"]), b.format.real(codes["b"])
            exact = {"add": first + second, "multiply": first * second, "convert": first}[method]
            low, high = y.format.real(np.array([y.format.lowest, y.format.highest]))
            allowed = 1.6 * y.format.scale + 0.005 * np.abs(exact)
            assert (np.abs(y.format.real(found) - np.clip(exact, low, high)) <= allowed).all(), (profile.name, method)


# -- activation tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("function", [SIGMOID, TANH])
def test_variants_are_near_the_function_and_whole(name: str, function: int) -> None:
    with np.errstate(invalid="ignore"):  # signaling NaN among the patterns
        table, x = variant(name).bf16[function], patterns().astype(np.float64)
    y = (table.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x)) if function == SIGMOID else np.tanh(x)
    number = ~np.isnan(x)
    assert np.abs(y - exact)[number].max() <= {"exact": 2.0**-9, "sdk_fast": 0.009, "sdk_table": 0.02}[name]
    assert (table[~number] == 0x7FC0).all()
    ordered = y[number][np.argsort(x[number], kind="stable")]
    assert (np.diff(ordered) >= 0).all()


def test_sdk_fast_by_the_bits_of_a_half() -> None:
    """The published formula on a few values, in exact rational arithmetic with explicit rounding to FP16."""

    def fp16(value: Fraction) -> Fraction:
        return Fraction(float(np.float16(float(value))))  # values here have at most 24 bits: the double is exact

    for x in (0.0, 0.5, -1.0, 2.25, 6.0, -5.5):
        factor = fp16(Fraction(1024 / 0.6931471805599453))
        halves = []
        for v in (Fraction(x), -Fraction(x)):
            total = fp16(fp16(v * factor) + 15360)
            halves.append(np.array([int(total)], np.int16).view(np.float16)[0])
        a, b = (Fraction(float(h)) for h in halves)
        quotient = np.float16(float(fp16(a - b) / fp16(a + b)))
        pattern = np.array([x], np.float32).view(np.uint32)[0] >> 16
        expected = np.array([quotient], np.float32).view(np.uint32)[0]
        got = int(variant("sdk_fast").bf16[TANH][pattern]) << 16
        assert abs(int(expected) - got) <= 1 << 15, x


def test_code_tables_of_exact_tables_stay_exact() -> None:
    formats = (8, 0.05, -10, 8, 2.0**-7, 0)
    assert np.array_equal(device_code_table(variant("exact"), TANH, *formats), code_table(TANH, *formats))
    other = device_code_table(variant("sdk_table"), TANH, *formats)
    assert 0 < np.abs(other.astype(int) - code_table(TANH, *formats)).max() <= 3


def test_tables_change_the_output_and_the_identity() -> None:
    pcm = speech_like(600, 5)
    exact = Model(container(), "mixlstm")
    for name in VARIANTS[1:]:
        model = Model(container(), "mixlstm", tables=name)
        assert not np.array_equal(model.separate(pcm), exact.separate(pcm))
        assert model.identity["tables"].startswith(name) and "tables" not in exact.identity
    assert not np.array_equal(
        Model(container(), "int8", tables="sdk_fast").separate(pcm), Model(container(), "int8").separate(pcm)
    )
    with pytest.raises(InputError, match="use one of exact, sdk_fast, sdk_table"):
        Model(container(), "int8", tables="fast")


def test_a_profile_names_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(PROFILES["gap9"], tables="sdk_fast")
    monkeypatch.setitem(PROFILES, "gap9", own)
    assert Model(container(), "mixlstm").tables.name == "sdk_fast"


def test_states_of_other_tables_are_refused(tmp_path: Path) -> None:
    stream = Model(container(), "mixlstm", tables="sdk_fast").stream()
    stream.push(speech_like(200, 6))
    stream.save(tmp_path / "state.npz")
    with pytest.raises(InputError, match="tables"):
        Model(container(), "mixlstm").stream().load(tmp_path / "state.npz")
    Model(container(), "mixlstm", tables="sdk_fast").stream().load(tmp_path / "state.npz")


def test_a_dumped_table_is_taken_as_it_is(tmp_path: Path) -> None:
    table = variant("sdk_fast").bf16[SIGMOID]
    np.save(tmp_path / "s.npy", table)
    (tmp_path / "s.bin").write_bytes(table.astype("<u2").tobytes())
    for name in ("s.npy", "s.bin"):
        tables, notes = device_tables("exact", tmp_path / name, None)
        assert np.array_equal(tables.bf16[SIGMOID], table)
        assert np.array_equal(tables.bf16[TANH], variant("exact").bf16[TANH])
        assert "largest difference from the exact table 0.00391 at 0.005432, monotone" in notes["sigmoid"]
    broken = table.copy()
    broken[0x3F80] = 0
    np.save(tmp_path / "b.npy", broken)
    assert "not monotone (1 descents)" in device_tables("exact", tmp_path / "b.npy", None)[1]["sigmoid"]


def test_own_code_tables(tmp_path: Path) -> None:
    pcm = speech_like(400, 7)
    flat = np.arange(-128, 128).astype(np.int8)
    np.save(tmp_path / "t.npy", flat)
    tables, notes = device_tables("exact", None, tmp_path / "t.npy")
    assert "256 codes" in notes["tanh"]
    model = Model(container(), "int8", tables=tables)
    step = next(step for step in model.program.steps if step.name == "block1.lstm.g")
    assert np.array_equal(step.constants[0], flat)
    np.savez(tmp_path / "t.npz", **{"block1.lstm.g": flat})
    tables, _ = device_tables("exact", None, tmp_path / "t.npz")
    model = Model(container(), "int8", tables=tables)
    by_name = {step.name: step.constants for step in model.program.steps}
    assert np.array_equal(by_name["block1.lstm.g"][0], flat) and not np.array_equal(by_name["block1.lstm.tanh_c"][0], flat)
    assert not np.array_equal(model.separate(pcm), Model(container(), "int8").separate(pcm))


def spoiled(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[5] = 0x7FC1
    return table


BAD_TABLES = {
    "short.bin": (b"\0" * 1000, "1000 bytes are no table"),
    "empty.npy": (b"", "cannot be read as a table"),
    "text.npy": (b"not a table", "cannot be read as a table"),
    "shape.npy": (np.zeros(300, np.uint16), r"uint16 \[300\] is no activation table"),
    "float.npy": (np.zeros(65536, np.float32), r"float32 \[65536\] is no activation table"),
    "nan.npy": (spoiled(variant("exact").bf16[SIGMOID]), "1 entries are NaN, first at pattern 0x0005"),
    "missing.npy": (None, "No such file"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_TABLES[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        device_tables("exact", path, None)
    out = tmp_path / "out"
    assert run.main(["tests/data/mix.wav", "--sigmoid-table", str(path), "--out", str(out)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not out.exists()


def test_preset_int16_is_data() -> None:
    preset = load_preset("int16")
    assert preset.kind("block1.lstm.ih.weight") == "int8" and preset.kind("spectrum") == "int16"
