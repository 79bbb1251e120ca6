"""Operators level: every operator on small directed tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from golden_vectors.case import Case, requantizer
from golden_vectors.suite.making import one_step
from refimpl.program import Format


def cases() -> Iterator[Case]:
    x = np.arange(-128, 128, dtype=np.int64).reshape(2, 16, 8)
    weight = np.ones((8, 2), np.int8)
    rq = requantizer(
        "folded",
        np.array([3, -3], np.int32),
        lowest=0,
        highest=255,
        offset=-128,
        multiplier=np.array([1, 1], np.int32),
        addend=np.array([3 + 2 + 4 * 128, -3 + 2 + 4 * 128], np.int64),
        shift=np.array([2, 2], np.int32),
    )
    yield one_step(
        "operators/fully_connected_channels/example",
        "an example",
        ["L-2", "G-2"],
        "fully_connected_channels",
        {"x": (Format("int8", 0.5, 3), x)},
        (weight, rq),
        {"y": (Format("int8", 0.25, 0), (2, 16, 2))},
    )
