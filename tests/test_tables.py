"""The shipped tables (SPEC B-6, F-1, F-2) against mpmath, by their definition: no neighbour of an entry is nearer.

Nothing here rounds: an entry is right where the exact value lies strictly between the midpoints to its two neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

from refimpl.numerics import make_tables
from refimpl.numerics.tables import FOLDER, shipped

NAMES = ("sigmoid_bf16", "tanh_bf16", "twiddle_q30", "hann_q30")
PRECISION = 160
MARGIN = mpmath.ldexp(1, -140)  # relative; far above the error of a 160-bit evaluation, far below any distance found

PATTERNS = np.arange(65536, dtype=np.uint32).astype(np.uint16)
NUMBERS = PATTERNS[~np.isnan(PATTERNS.view(ml_dtypes.bfloat16).astype(np.float32))]
# All numbers from -infinity over -0 and +0 to +infinity.
ASCENDING = np.concatenate([NUMBERS[NUMBERS >= 0x8000][::-1], NUMBERS[NUMBERS < 0x8000]])
FINITE = NUMBERS[(NUMBERS & 0x7FFF) < 0x7F80]


def reals(patterns: np.ndarray) -> np.ndarray:
    """Exact float64 values of BF16 patterns by ml_dtypes."""
    return patterns.view(ml_dtypes.bfloat16).astype(np.float64)


def next_up(patterns: np.ndarray, direction: int) -> np.ndarray:
    """The next BF16 value above (+1) or below (-1), both zeros being one value."""
    # Signed magnitudes count the values in order: ..., -2^-133 -> -1, both zeros -> 0, 2^-133 -> 1, ...
    order = (patterns & 0x7FFF).astype(np.int64) * np.where(patterns >= 0x8000, -1, 1) + direction
    return (np.abs(order) | np.where(order < 0, 0x8000, 0)).astype(np.uint16)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def assert_nearest(name: str, function: Callable[[Any], Any], patterns: np.ndarray) -> None:
    """Each entry is the one BF16 value whose interval of midpoints holds the exact value (no tie, no doubt)."""
    entries = shipped(name)[patterns]
    value = reals(entries)
    lower, upper = (value + reals(next_up(entries, -1))) / 2, (value + reals(next_up(entries, 1))) / 2
    rows = zip(patterns.tolist(), reals(patterns).tolist(), lower.tolist(), upper.tolist(), strict=True)
    with mpmath.workprec(PRECISION):
        for pattern, x, low, high in rows:
            exact = function(mpmath.mpf(x))
            slack = abs(exact) * MARGIN
            assert low < exact - slack and exact + slack < high, f"{name}[0x{pattern:04x}]"


@pytest.mark.parametrize(("name", "function"), [("sigmoid_bf16", sigmoid), ("tanh_bf16", mpmath.tanh)])
def test_activation_is_correctly_rounded(name: str, function: Callable[[Any], Any]) -> None:
    """Every finite pattern whose result an evaluation of 160 bits can tell; the rest are the ends, below.

    Beyond 2^7 both functions are nearer to their limits than half of the smallest subnormal or of 1's unit; below 2^-60
    tanh(x) is x but for x^3 / 3, below one part in 2^121.
    """
    magnitude = np.abs(reals(FINITE))
    assert_nearest(name, function, FINITE[(magnitude <= 2.0**7) & (magnitude >= 2.0**-60)])


def test_sigmoid_at_its_ends() -> None:
    """exp(-128) < 2^-184: zero and one beyond 2^7. sigmoid(x) - 1/2 < |x| / 4: one half below 2^-60."""
    table, x = shipped("sigmoid_bf16"), reals(NUMBERS)
    assert (table[NUMBERS[x > 2.0**7]] == 0x3F80).all()
    assert (table[NUMBERS[x < -(2.0**7)]] == 0x0000).all()
    assert (table[NUMBERS[np.abs(x) < 2.0**-60]] == 0x3F00).all()


def test_tanh_at_its_ends() -> None:
    """1 - tanh(128) < 2^-368: one beyond 2^7. |tanh(x) - x| < |x|^3 / 3: x itself below 2^-60, signed zeros too."""
    table, x = shipped("tanh_bf16"), reals(NUMBERS)
    assert (table[NUMBERS[x > 2.0**7]] == 0x3F80).all()
    assert (table[NUMBERS[x < -(2.0**7)]] == 0xBF80).all()
    tiny = NUMBERS[np.abs(x) < 2.0**-60]
    np.testing.assert_array_equal(table[tiny], tiny)


@pytest.mark.parametrize("name", ["sigmoid_bf16", "tanh_bf16"])
def test_activation_laws(name: str) -> None:
    """NaN stays canonical, nothing else becomes NaN or infinite, and the function never falls."""
    table = shipped(name)
    assert table.shape == (65536,) and table.dtype == np.uint16
    nan = np.ones(65536, bool)
    nan[NUMBERS] = False
    assert (table[nan] == 0x7FC0).all()
    values = reals(table[ASCENDING])
    assert (np.diff(values) >= 0).all()
    assert values[0] == (0 if name == "sigmoid_bf16" else -1) and values[-1] == 1


def test_tanh_is_odd() -> None:
    """Bit for bit, signed zeros and infinities included."""
    table = shipped("tanh_bf16")
    np.testing.assert_array_equal(table[NUMBERS ^ 0x8000], table[NUMBERS] ^ 0x8000)


def test_sigmoid_is_symmetric_about_one_half() -> None:
    """sigmoid(x) + sigmoid(-x) = 1 to within the rounding of the larger one, 2^-9."""
    table = shipped("sigmoid_bf16")
    total = reals(table[NUMBERS]) + reals(table[NUMBERS ^ 0x8000])
    assert np.abs(total - 1).max() <= 2.0**-9 + 2.0**-10


def assert_nearest_q30(entry: int, exact: Any) -> None:
    """|entry - 2^30 exact| < 1/2: the nearest integer, without a tie."""
    with mpmath.workprec(PRECISION):
        assert abs(entry - exact * 2**30) < mpmath.mpf(0.5) - MARGIN


def test_twiddles() -> None:
    """F-1: Q1.30 of cos and -sin at 2 pi k / 256, the symmetries exact to the bit."""
    table = shipped("twiddle_q30")
    assert table.shape == (129, 2) and table.dtype == np.int32
    with mpmath.workprec(PRECISION):
        for k, (cos, sin) in enumerate(table.tolist()):
            angle = mpmath.pi * k / 128
            assert_nearest_q30(cos, mpmath.cos(angle))
            assert_nearest_q30(sin, -mpmath.sin(angle))
    cos, sin = table.astype(np.int64).T
    one = 1 << 30
    assert (cos[0], cos[64], cos[128], sin[0], sin[64], sin[128]) == (one, 0, -one, 0, -one, 0)
    np.testing.assert_array_equal(cos, -cos[::-1])
    np.testing.assert_array_equal(sin, sin[::-1])
    np.testing.assert_array_equal(cos[:65], -sin[64::-1])
    assert (np.diff(cos) < 0).all() and (np.diff(sin[:65]) < 0).all()


def test_hann_window() -> None:
    """F-2: Q1.30 of the symmetric 256-point window."""
    table = shipped("hann_q30")
    assert table.shape == (256,) and table.dtype == np.int32
    with mpmath.workprec(PRECISION):
        for n, entry in enumerate(table.tolist()):
            assert_nearest_q30(entry, mpmath.sin(mpmath.pi * n / 255) ** 2)  # half-angle form of (1 - cos) / 2
    np.testing.assert_array_equal(table, table[::-1])
    assert (np.diff(table[:128]) > 0).all()
    assert table[0] == 0 and (table >= 0).all() and table.max() < 1 << 30


@pytest.mark.parametrize("name", NAMES)
def test_shipped_tables_cannot_be_changed(name: str) -> None:
    with pytest.raises(ValueError, match="read-only"):
        shipped(name)[0] = 1
    assert shipped(name) is shipped(name)


def test_the_recipe_makes_the_shipped_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m refimpl.numerics.make_tables``, into another folder: the same arrays, and no other file."""
    monkeypatch.setattr(make_tables, "FOLDER", tmp_path)
    make_tables.main()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.npy" for name in NAMES)
    assert sorted(p.name for p in FOLDER.glob("*.npy")) == sorted(f"{name}.npy" for name in NAMES)
    for name in NAMES:
        made = np.load(tmp_path / f"{name}.npy")
        assert made.dtype == shipped(name).dtype
        np.testing.assert_array_equal(made, shipped(name))
