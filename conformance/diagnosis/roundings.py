"""The laws by which a device may round, each as a shift of integers and on real values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Law:
    """``shift(v, n)`` rounds ``v / 2^n`` (int64; n <= 0 gives v), ``real(x)`` a float64 array; ``words`` say what it does."""

    name: str
    words: str
    up: Callable[[Array, Array, Array, Array], Array]  # whether to go up from floor: floor, sign, order to the tie, exactness

    def shift(self, value: Any, amount: Any) -> Array:
        v = np.asarray(value, np.int64)
        n = np.clip(np.asarray(amount, np.int64), 0, 62)
        floor = v >> n
        rest = v - (floor << n)
        half = (np.int64(1) << n) >> 1
        order = np.where(n > 0, np.sign(rest - half), -1)
        out: Array = floor + self.up(floor, np.sign(v), order, (rest != 0) & (n > 0)).astype(np.int64)
        return np.where(n > 0, out, v)

    def real(self, value: Any) -> Array:
        x = np.asarray(value, np.float64)
        floor = np.floor(x)
        order = np.sign(x - floor - 0.5)
        whole = np.where(np.isfinite(floor) & (np.abs(floor) < 2.0**62), floor, 0).astype(np.int64)
        out: Array = floor + self.up(whole, np.sign(x), order, x != floor)
        return out


@dataclass(frozen=True)
class Narrow(Law):
    """Half up in a word of ``bits``: value and rounding constant wrap before the shift."""

    bits: int = 32

    def shift(self, value: Any, amount: Any) -> Array:
        v = np.asarray(value, np.int64)
        n = np.clip(np.asarray(amount, np.int64), 0, 62)
        half = np.int64(1) << (self.bits - 1)
        total = v + ((np.int64(1) << n) >> 1)
        return (((total + half) & ((np.int64(1) << self.bits) - 1)) - half) >> n


@dataclass(frozen=True)
class AtZero(Law):
    """Half up with a rounding constant of 1 where the shift is 0 or negative."""

    def shift(self, value: Any, amount: Any) -> Array:
        v, n = np.asarray(value, np.int64), np.asarray(amount, np.int64)
        return np.where(n > 0, super().shift(v, n), v + 1)


FLOOR = Law("floor", "rounds toward minus infinity, as a plain shift does: the rounding constant is missing",
            lambda f, s, o, r: np.zeros(o.shape, bool))  # fmt: skip
CEILING = Law("ceiling", "rounds toward plus infinity", lambda f, s, o, r: r)
TOWARD_ZERO = Law("toward_zero", "rounds toward zero, as an integer division does", lambda f, s, o, r: r & (s < 0))
HALF_UP = Law("half_up", "rounds to nearest, ties toward plus infinity", lambda f, s, o, r: o >= 0)
HALF_DOWN = Law("half_down", "rounds to nearest, ties toward minus infinity", lambda f, s, o, r: o > 0)
HALF_EVEN = Law("half_even", "rounds to nearest, ties to even", lambda f, s, o, r: (o > 0) | ((o == 0) & (f % 2 != 0)))
HALF_AWAY = Law("half_away", "rounds to nearest, ties away from zero", lambda f, s, o, r: (o > 0) | ((o == 0) & (s > 0)))
HALF_TOWARD_ZERO = Law(
    "half_toward_zero", "rounds to nearest, ties toward zero", lambda f, s, o, r: (o > 0) | ((o == 0) & (s < 0))
)
DOUBLED = Law("constant_doubled", "adds a rounding constant of one last place instead of half of one",
              lambda f, s, o, r: np.ones(o.shape, bool))  # fmt: skip

HALF_ODD = Law("half_odd", "rounds to nearest, ties to odd", lambda f, s, o, r: (o > 0) | ((o == 0) & (f % 2 == 0)))
CONSTANT_AT_ZERO = AtZero("constant_at_zero", "adds a rounding constant where the shift is 0", HALF_UP.up)
WRAPPED_32 = Narrow("in_32_bits", "rounds in 32 bits, which the value does not fit", HALF_UP.up)

# In the order of plausibility: the constant forgotten, C's integer division, IEEE, roundf, and rarities.
LAWS = (
    FLOOR,
    TOWARD_ZERO,
    HALF_EVEN,
    HALF_AWAY,
    HALF_UP,
    HALF_DOWN,
    HALF_TOWARD_ZERO,
    DOUBLED,
    CEILING,
    HALF_ODD,
    CONSTANT_AT_ZERO,
    WRAPPED_32,
)
