"""Numerics level: rounding, saturation, BF16, tables, requantization and the constants of lowering, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.making import one_step


def cases() -> Iterator[Case]:
    yield from _rounding()


def _rounding() -> Iterator[Case]:
    values = np.array([0, 1, 2, 3, -1, -2, -3, 5, -5, 6, -6, 7, -7, 2**31 - 1, -(2**31), 2**40 + 2**19], np.int64)
    values = np.repeat(values, 4)
    shifts = np.tile(np.array([0, 1, 2, 20], np.int64), 16)
    for name, rule in (("shift_floor", "N-1"), ("shift_half_up", "N-2"), ("shift_half_even", "N-3")):
        yield one_step(
            f"numerics/{name}/ties",
            "ties of both signs, whole numbers, and the ends of 32 bits",
            [rule],
            name,
            {"value": ("int64", values), "shift": ("int64", shifts)},
            (),
            {"y": ("int64", values.shape)},
            flags=("tie_half_up",),
        )
    random = Integers(1)
    low = random.between(-(2**31), 2**31 - 1, 64)
    yield one_step(
        "numerics/shift_half_up/random",
        "random accumulators and shifts",
        ["N-2"],
        "shift_half_up",
        {"value": ("int64", low), "shift": ("int64", random.between(0, 31, 64))},
        (),
        {"y": ("int64", (64,))},
        seed=1,
    )
