"""Observers: counts that no order changes, and ranges of the least error, by brute force over the values themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.quantization.observers import CLIPPED, METHODS, Observer

Array = np.ndarray[Any, np.dtype[Any]]


def heavy_tailed(seed: int, count: int, low: float, high: float) -> Array:
    """Values of either sign, some a hundred times the usual size, float32."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(count) * np.exp(1.5 * random.standard_normal(count))
    return np.where(values < 0, low, high).astype(np.float32) * np.abs(values).astype(np.float32)


VALUES = st.builds(
    heavy_tailed,
    st.integers(0, 1000),
    st.integers(1, 3000),
    st.sampled_from([0.0, -0.01, -1.0]),
    st.sampled_from([0.0, 1.0, 50.0]),
)


def observed(*parts: Array) -> Observer:
    observer = Observer()
    for part in parts:
        observer.see(part)
    return observer


@settings(max_examples=50, deadline=None)
@given(values=VALUES, cuts=st.lists(st.integers(0, 3000), max_size=5), seed=st.integers(0, 100))
def test_no_order_and_no_cut_changes_a_range(values: Array, cuts: list[int], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values)
    parts = np.split(shuffled, sorted(min(cut, len(values)) for cut in cuts))
    for method in METHODS:
        for bits in (8, 16):
            assert observed(*parts).range(method, bits) == observed(values).range(method, bits)


@settings(max_examples=50, deadline=None)
@given(values=VALUES, method=st.sampled_from(METHODS), bits=st.sampled_from([8, 16]))
def test_a_range_holds_zero_and_lies_within_the_extremes(values: Array, method: str, bits: int) -> None:
    low, high = observed(values).range(method, bits)
    assert min(float(values.min()), 0.0) <= low <= 0.0 <= high <= max(float(values.max()), 0.0)
    if method == "minmax":
        assert (low, high) == (min(float(values.min()), 0.0), max(float(values.max()), 0.0))


def error(values: Array, low: float, high: float, bits: int) -> float:
    """What ``mse`` minimises, value by value."""
    total = 0.0
    for value in values.astype(np.float64):
        beyond = max(value - high, low - value, 0.0)
        total += CLIPPED * beyond**2 if beyond else ((high - low) / (2**bits - 1)) ** 2 / 12
    return total


@settings(max_examples=15, deadline=None)
@given(values=VALUES.filter(lambda values: len(values) < 400), bits=st.sampled_from([8, 16]))
def test_least_squared_error(values: Array, bits: int) -> None:
    """No step of either side makes it smaller, but for what the counted patterns' width (2^-8) hides."""
    low, high = observed(values).range("mse", bits)
    found = error(values, low, high, bits)
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    others = [(lowest * k / 64, high) for k in range(4, 65)] + [(low, highest * k / 64) for k in range(4, 65)]
    assert found <= 1.05 * min(error(values, *other, bits) for other in others) + 1e-12


@settings(max_examples=50, deadline=None)
@given(values=VALUES)
def test_percentile_cuts_off_a_ten_thousandth(values: Array) -> None:
    values = np.tile(values, 1 + 20_000 // len(values))
    low, high = observed(values).range("percentile", 8)
    slack = 1 + 2**-7
    assert max((values < low * slack).mean(), (values > high * slack).mean()) <= 1e-4
    if low < 0:
        assert (values <= low / slack).mean() > 1e-4
    if high > 0:
        assert (values >= high / slack).mean() > 1e-4


def test_rare_peaks_are_seen() -> None:
    """Of ten million values the ten largest: with 8 bits they are worth a coarser step."""
    usual = np.random.default_rng(1).uniform(-1, 1, 10_000_000).astype(np.float32)
    quiet, loud = observed(usual), observed(usual, np.full(10, 30, np.float32))
    assert quiet.range("mse", 8)[1] == pytest.approx(1.0, rel=0.05)
    assert loud.range("mse", 8)[1] > 5.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(value: float) -> None:
    observer = observed(np.array([1.0, value, -2.0], np.float32))
    for method in METHODS:
        assert not np.isfinite(observer.range(method, 8)).all()


def test_nothing_but_zero() -> None:
    for observer in (Observer(), observed(np.zeros(5, np.float32)), observed(np.zeros(0, np.float32))):
        for method in METHODS:
            assert observer.range(method, 8) == (0.0, 0.0)
