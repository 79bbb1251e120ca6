"""Ranges for sums: what the SDK's residual add errs by in the mean, against that add itself on pairs of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.calibration import BROUGHT
from refimpl.networks import tf_mlpnet
from refimpl.operators import elementwise
from refimpl.presets import load_preset
from refimpl.profiles import GAP9
from refimpl.program import Format
from refimpl.quantization.offsets import residual_errors, residual_streams, without_offset
from refimpl.quantization.scheme import activation_format, two_stage_constants

Array = np.ndarray[Any, np.dtype[Any]]
WIDTHS = st.floats(0.2, 50)
RANGES = st.tuples(WIDTHS, st.floats(0.5, 2)).map(lambda v: (-v[0], v[0] * v[1]))


def add(a: Array, b: Array, forms: tuple[Format, Format, Format]) -> Array:
    """SPEC E-1 of int8 codes, the larger scale first."""
    (a, fa), (b, fb) = sorted(((a, forms[0]), (b, forms[1])), key=lambda pair: -pair[1].scale)
    y = np.empty(a.shape, np.int8)
    constants = two_stage_constants(fa, fb, forms[2], GAP9.multiplier_bits, GAP9.largest_shift)
    elementwise.add_two_stage(np.ascontiguousarray(a), np.ascontiguousarray(b), *constants, y)
    return y


@settings(max_examples=100, deadline=None)
@given(a=RANGES, b=RANGES, room=st.floats(0.7, 3))
def test_the_offset_is_the_mean_error_of_all_sums(a: tuple[float, float], b: tuple[float, float], room: float) -> None:
    """Over all pairs of codes, not saturated, against the sum by the multipliers as they are: exact up to shifts by 8 bits.

    An odd multiplier takes 256 codes once through every remainder there. By 9 bits and more it passes over some.
    """
    largest = room * max(*map(abs, a), *map(abs, b))
    forms = activation_format(*a, 8), activation_format(*b, 8), activation_format(-largest, largest, 8)
    one, other = sorted(forms[:2], key=lambda form: -form.scale)
    ma, na, mo, no, bias = two_stage_constants(one, other, forms[2], GAP9.multiplier_bits, GAP9.largest_shift)
    codes = np.arange(256)
    first = (codes * ma + (1 << na >> 1)) >> na
    y = (((first[:, None] + codes) * mo + (1 << no >> 1)) >> no) + bias
    gain = mo / 2**no
    real = (codes - one.zero_point - 128)[:, None] * (gain * ma / 2**na) + (codes - other.zero_point - 128) * gain
    exact = max(na, no) <= 8
    offset, *gains = residual_errors(*forms)
    assert abs(np.mean(y - forms[2].zero_point - 128 - real) - offset) < (1e-9 if exact else 0.05)
    scales = [forms[2].scale / form.scale for form in (one, other)]
    assert np.allclose(gains, [gain * ma / 2**na * scales[0] - 1, gain * scales[1] - 1])


@settings(max_examples=200, deadline=None)
@given(a=RANGES, b=RANGES, room=st.floats(0.7, 3))
def test_a_range_without_offset_is_little_wider_and_errs_no_more(
    a: tuple[float, float], b: tuple[float, float], room: float
) -> None:
    y = -room * max(*map(abs, a), *map(abs, b)), room * max(*map(abs, a), *map(abs, b))
    found = without_offset(a, b, y)
    assert all(abs(end) <= abs(new) <= abs(end) * 33 / 32 for end, new in zip(y, found, strict=True))
    forms = activation_format(*a, 8), activation_format(*b, 8)

    def error(span: tuple[float, float]) -> float:
        offset, *gains = residual_errors(*forms, activation_format(*span, 8))
        return abs(offset) + 30 * sum(map(abs, gains))

    assert error(found) <= error(y)
    assert without_offset(b, a, y) == found


def test_most_sums_lose_nearly_all_of_their_offset() -> None:
    """1,000 drawn sums: a quarter of a code in the mean of magnitudes before, a fifth of that after."""
    random = np.random.default_rng(5)
    before, after = [], []
    for _ in range(1000):
        a, b = ((-x, x * z) for x, z in zip(random.uniform(0.5, 8, 2), random.uniform(0.8, 1.2, 2), strict=True))
        y = (-max(a[1], b[1]) * 1.1, max(a[1], b[1]))
        forms = activation_format(*a, 8), activation_format(*b, 8)
        before.append(residual_errors(*forms, activation_format(*y, 8))[0])
        after.append(residual_errors(*forms, activation_format(*without_offset(a, b, y), 8))[0])
    assert np.abs(before).mean() > 0.2
    assert np.abs(after).mean() < 0.1


def test_a_cell_adds_up_what_it_is_brought() -> None:
    """A cell that forgets nothing, brought codes of mean zero for 1,000 frames: it stays within what rounding may do.

    With the ranges that were observed in trained weights (4 for the cell, 0.985 for what a frame brings) it runs away.
    """
    random = np.random.default_rng(3)
    brought = random.integers(-9, 10, (1000, 500))
    brought -= np.rint(brought.mean(0)).astype(brought.dtype)

    def final(c: float, ig: float, out: float) -> Array:
        cell, small, y = (activation_format(-end, end, 8) for end in (c, ig, out))
        state = np.full(500, cell.zero_point, np.int8)
        for frame in brought:
            # The cell's own codes are the next frame's fc where f is 1; that product is by a fine multiplier (SPEC E-3).
            real = (add(state, np.int8(frame + small.zero_point), (cell, small, y)).astype(float) - y.zero_point) * y.scale
            state = np.int8(np.clip(np.rint(real / cell.scale), -128, 127) + cell.zero_point)
        return np.asarray((state.astype(float) - cell.zero_point) * cell.scale - brought.sum(0) * small.scale)

    _, wide = without_offset((-3 * BROUGHT, 3 * BROUGHT), (-BROUGHT, BROUGHT), (-3 * BROUGHT, 3 * BROUGHT))
    drifted, kept = final(4.0, 0.985, 4.0), final(3 * BROUGHT, BROUGHT, wide)
    assert abs(kept.mean()) < 0.1 < 1 < abs(drifted.mean())


@settings(max_examples=100, deadline=None)
@given(end=RANGES, a=st.integers(0, 255), b=st.integers(0, 255))
def test_a_sum_within_one_range_is_the_sum_of_codes(end: tuple[float, float], a: int, b: int) -> None:
    """Exact but for saturation, and its range stays as it is."""
    form = activation_format(*end, 8)
    y = add(np.array([a - 128], np.int8), np.array([b - 128], np.int8), (form, form, form))
    assert y[0] == np.clip(a - 128 + b - 128 - form.zero_point, -128, 127)
    assert residual_errors(form, form, form) == (0.0, 0.0, 0.0)
    assert without_offset(end, end, end) == end


@pytest.mark.parametrize(("compression", "streams"), [(1, 1), (2, 3)])
def test_residual_streams(compression: int, streams: int) -> None:
    """Blocks' residuals are one; where frequencies are compressed the mixers of each block are another. No LSTM is in any."""
    config = tf_mlpnet.Config(blocks=2, channels=4, hidden=4, compression=compression)
    weights = {name: np.zeros(shape, np.float32) for name, shape in tf_mlpnet.parameters(config).items()}
    program = tf_mlpnet.build(config, weights, {}, load_preset("fp32"), GAP9)
    found = residual_streams(program)
    assert len(found) == streams and found == residual_streams(program)
    names = [name for stream in found for name in stream]
    assert len(set(names)) == len(names) and not any("lstm" in name for name in names)
    outer = {"encoder"} | {f"block{b}.{name}" for b in (1, 2) for name in ("spectral_add", "inter_linear", "out")}
    assert outer <= set(found[0])
    for b in (1, 2):
        inner = {f"block{b}.spectral.mixer{m}.{a}{n}" for m in (1, 2) for a in ("freq", "chan") for n in ("2", "_add")}
        assert any(inner <= set(stream) for stream in found)
        assert (f"block{b}.spectral.intra_linear" in found[0]) == (compression == 1)
        assert (f"block{b}.spectral.expand" in found[0]) == (compression == 2)
