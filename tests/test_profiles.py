"""Profiles and device tables: every law in exact rational arithmetic, every profile through a whole network."""

from __future__ import annotations

import io
import math
import zipfile
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
from refimpl.numerics.activation import VARIANTS, ActivationTables, device_code_table, patterns, variant
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
    presets = ("fp32", "int8", "mixlstm", "fpconv", "mixmlp", "fullmlp", "stream16", "int16")
    table = {profile: [preset for preset in presets if expressible(profile, preset)] for profile in PROFILES}
    assert table["gap9"] == table["ne16_rtl"] == list(presets[:7])
    assert table["tflite_double"] == table["tflite_single"] == ["fp32", "int8", "int16"]
    assert table["max78002"] == ["fp32", "int8"]
    with pytest.raises(InputError, match=r"profile 'max78002' has no bf16 .* only int8: use another preset or profile"):
        Model(container(), "mixmlp", "max78002")


def test_fp32_is_the_same_on_every_profile() -> None:
    pcm = speech_like(500, 3)
    outputs = [Model(container(), "fp32", profile).separate(pcm) for profile in PROFILES]
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize(
    ("profile", "preset"),
    [
        ("ne16_rtl", "int8"),
        ("ne16_rtl", "mixmlp"),
        ("ne16_rtl", "stream16"),
        ("tflite_double", "int8"),
        ("tflite_double", "int16"),
        ("tflite_single", "int8"),
        ("tflite_single", "int16"),
        ("max78002", "int8"),
    ],
)
def test_streams_and_whole_clips_agree(profile: str, preset: str) -> None:
    model = Model(container(), preset, profile)
    pcm = speech_like(700, 4)
    stream = model.stream()
    parts = [stream.push(pcm[:1]), stream.push(pcm[1:300]), stream.push(pcm[300:]), stream.flush()]
    assert np.array_equal(np.concatenate(parts, 1), model.separate(pcm))
    if preset != "int16":
        assert not np.array_equal(model.separate(pcm), Model(container(), preset, "gap9").separate(pcm))


def layer(profile: str, weight: Any, bias: Any, x: tuple[float, float], y: tuple[float, float], kind: str = "int8") -> Builder:
    """One fully connected layer, lowered."""
    rows = np.atleast_2d(np.array(weight, np.float32))
    preset = Preset("p", (("*.weight", "int8"), ("*", kind)))
    ranges = {8: {"x": x, "y": y}, 16: {"x": x, "y": y}}
    builder = Builder({"l.weight": rows, "l.bias": np.array(bias, np.float32)}, ranges, preset, profile_named(profile))
    builder.fully_connected("y", builder.tensor("x", (1, rows.shape[1])), "l", "channels")
    return builder


def test_without_a_rounding_constant_the_sum_may_be_lower() -> None:
    """acc * M + B is proven with the profile's own B: the constant that ne16_rtl lacks must not hide a sum below -2^31."""
    x, count = (-1.0, 1.0), 31
    code = 2.0 / 255
    y_scale = code / 127 * 2.0**24 / 255
    bounds = (-128 * y_scale, 127 * y_scale)
    for profile in ("gap9", "ne16_rtl"):
        built = layer(profile, [1.0] * count, [-488.965], x, bounds)
        rq = built.steps[0].constants[1]
        low = -128 * 127 * count * int(rq.multiplier[0]) + int(rq.addend[0])
        assert low >= -(1 << 31), profile
        assert built.proofs["y"]["product + addend"] >= -low


def test_max78002_keeps_every_bias_in_8_bits() -> None:
    built = layer("max78002", [[0.01, -0.004], [0.0, 0.0], [0.5, 0.1]], [30.0, -7.0, 0.001], (-1.0, 1.0), (-40.0, 40.0))
    steps = built.steps[0].constants[1].bias / 128
    assert (steps == np.rint(steps)).all() and np.abs(steps).max() <= 127 and np.abs(steps).max() > 60


def test_values_beyond_the_words_are_refused() -> None:
    builder = Builder({}, {}, Preset("p", (("*", "int8"),)), profile_named("tflite_double"))
    for ratio, bound in ((2.0**20, 1 << 12), (1.5, 1 << 30), (2.0**40, 1)):
        with pytest.raises(InputError):
            builder._scaled("x", ratio, bound)
    builder._scaled("x", 2.0**10, 1 << 12)
    with pytest.raises(InputError, match="beyond 32 bits"):  # the accumulator fits, shifted left it does not
        layer("tflite_double", [1.0] * 129, [0.0], (0.0, 255.0), (-1e-3, 1e-3))
    with pytest.raises(InputError, match="beyond the shifts"):
        layer("max78002", [2.0**10], [0.0], (-127.0, 127.0), (-1.0, 1.0))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("relu", [False, True])
def test_a_layer_is_near_the_real_one(profile: str, relu: bool) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    weight, bias = rng.normal(size=(4, 9)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    ranges = {8: {"x": (-2.0, 2.0), "y": (-9.0, 11.0)}}
    builder = Builder({"l.weight": weight, "l.bias": bias}, ranges, Preset("p", (("*", "int8"),)), profile_named(profile))
    x = builder.tensor("x", (50, 9))
    y = builder.fully_connected("y", x, "l", "channels", relu=relu)
    values = rng.integers(-128, 128, (1, 50, 9)).astype(np.int8)
    found = np.empty((1, 50, 4), np.int8)
    OPERATORS["fully_connected_channels"](values, *builder.steps[0].constants, found)
    exact = x.format.real(values) @ weight.T.astype(np.float64) + bias
    low, high = y.format.real(np.array([y.format.lowest, y.format.highest]))
    exact = np.clip(np.maximum(exact, 0) if relu else exact, low, high)
    coarse = 0.25 if profile == "max78002" else 0.12  # weights to a power-of-two scale, or to 8 bits
    assert np.abs(y.format.real(found) - exact).max() <= coarse + 1.6 * y.format.scale


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


def lookups(model: Model) -> dict[str, Any]:
    return {step.name: step.constants[0] for step in model.program.steps if step.operator == "lookup"}


def test_own_code_tables_replace_their_steps_alone(tmp_path: Path) -> None:
    exact = lookups(Model(container(), "int8"))
    flat = np.arange(-128, 128).astype(np.int8)
    np.savez(tmp_path / "t.npz", **{"block1.lstm.g": flat})
    tables, notes = device_tables("exact", None, tmp_path / "t.npz")
    assert "256 codes" in notes["tanh"]
    model = Model(container(), "int8", tables=tables)
    found = lookups(model)
    assert {name for name in exact if not np.array_equal(found[name], exact[name])} == {"block1.lstm.g"}
    assert np.array_equal(found["block1.lstm.g"], flat)
    pcm = speech_like(400, 7)
    assert not np.array_equal(model.separate(pcm), Model(container(), "int8").separate(pcm))
    both = {name: exact[name] for name in ("block1.lstm.g", "block1.lstm.tanh_c")}
    np.savez(tmp_path / "exact.npz", **both)
    same = lookups(Model(container(), "int8", tables=device_tables("exact", None, tmp_path / "exact.npz")[0]))
    assert all(np.array_equal(same[name], exact[name]) for name in exact)


def test_an_own_function_leaves_the_other_exact(tmp_path: Path) -> None:
    """A table of patterns for tanh goes through T-7; sigmoid stays T-4."""
    np.save(tmp_path / "t.npy", variant("sdk_fast").bf16[TANH])
    tables, _ = device_tables("exact", None, tmp_path / "t.npy")
    exact, found = (lookups(Model(container(), "int8", tables=t)) for t in (None, tables))
    changed = {name for name in exact if not np.array_equal(found[name], exact[name])}
    assert changed == {"block1.lstm.g", "block1.lstm.tanh_c"}


def test_tables_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    flat = np.arange(-128, 128).astype(np.int8)
    np.save(tmp_path / "one.npy", flat)
    one, _ = device_tables("exact", None, tmp_path / "one.npy")
    np.save(tmp_path / "patterns.npy", variant("sdk_fast").bf16[TANH])
    whole, _ = device_tables("exact", None, tmp_path / "patterns.npy")
    np.savez(tmp_path / "other.npz", **{"block99.lstm.g": flat})
    other, _ = device_tables("exact", None, tmp_path / "other.npz")
    np.savez(tmp_path / "wrong.npz", **{"block1.lstm.i": flat})
    wrong, _ = device_tables("exact", None, tmp_path / "wrong.npz")
    for tables, preset, message in (
        (one, "mixlstm", "no 8-bit tanh step"),
        (one, "int8", "differ in format"),
        (whole, "fp32", "looks up no tanh"),
        (other, "int8", "'block99.lstm.g', which is no 8-bit tanh step"),
        (wrong, "int8", "'block1.lstm.i', which is no 8-bit tanh step"),
    ):
        with pytest.raises(InputError, match=message):
            Model(container(), preset, tables=tables)


def test_a_foreign_byte_order_is_read_as_numbers(tmp_path: Path) -> None:
    table = variant("sdk_fast").bf16[SIGMOID]
    np.save(tmp_path / "be.npy", table.astype(">u2"))
    assert np.array_equal(device_tables("exact", tmp_path / "be.npy", None)[0].bf16[SIGMOID], table)


def test_huge_values_saturate_in_code_tables() -> None:
    huge = variant("exact").bf16[TANH].copy()
    huge[0x3F80:0x4000] = 0x7F7F
    tables = ActivationTables("own", {SIGMOID: variant("exact").bf16[SIGMOID], TANH: huge}, own=frozenset({TANH}))
    table = device_code_table(tables, TANH, 8, 0.05, 0, 8, 2.0**-7, 0)
    assert table[128 + 20] == 127 and table[128 + 39] == 127


def spoiled(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[5] = 0x7FC1
    return table


def infinite(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[0x3F80] = 0x7F80
    return table


def archive_of(content: bytes, name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, content)
    return data.getvalue()


def of_a_later_version(archive: bytes) -> bytes:
    """The archive, its directory asking for a version of the format that there is not."""
    needed = archive.index(b"PK\x01\x02") + 6
    return archive[:needed] + b"\xff" + archive[needed + 1 :]


def array_of(values: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


HEADER = "{'descr': '<u2', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + "\n"


BAD_TABLES = {
    "short.bin": (b"\0" * 1000, "1000 bytes are no table"),
    "empty.npy": (b"", "cannot be read as a table"),
    "text.npy": (b"not a table", "cannot be read as a table"),
    "shape.npy": (np.zeros(300, np.uint16), r"uint16 \[300\] is no activation table"),
    "float.npy": (np.zeros(65536, np.float32), r"float32 \[65536\] is no activation table"),
    "nan.npy": (spoiled(variant("exact").bf16[SIGMOID]), "1 entries are NaN or infinite, first at pattern 0x0005"),
    "inf.npy": (infinite(variant("exact").bf16[SIGMOID]), "1 entries are NaN or infinite, first at pattern 0x3f80"),
    "renamed.npy": (archive_of(b"x", "a.txt"), "is no array of numbers|cannot be read"),
    "text.npz": (archive_of(b"x", "a.txt"), "is no array of numbers"),
    "none.npz": (b"PK\x05\x06" + bytes(18), "holds no table"),
    "array.npz": (array_of(np.zeros(256, np.int8)), "holds no table by step"),
    "version.npz": (of_a_later_version(archive_of(b"x", "a.npy")), "cannot be read as a table"),
    "huge.npy": (b"\x93NUMPY\x01\x00v\x00" + HEADER.encode(), "cannot be read as a table"),
    "brackets.npy": (b"\x93NUMPY\x01\x00v\x00" + b"{'descr': ((".ljust(117) + b"\n", "cannot be read as a table"),
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
