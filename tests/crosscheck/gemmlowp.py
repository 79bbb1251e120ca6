"""gemmlowp's fixedpoint.h, through a small C++ program, against SPEC N-7, N-8 and G-6."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import LAW_DOUBLE, LAW_SINGLE, scale_by
from refimpl.numerics.rounding import doubling_high_half_up, shift_half_away
from tests.crosscheck.layers import Random
from tests.crosscheck.rows import DIFFERS, Array, Oracle, Row, Tally

SOURCE = Path(__file__).with_name("gemmlowp_oracle.cpp")
PACKAGE = "libgemmlowp-dev"
COUNT = 4_000_000
EDGES = np.array(
    sorted(
        {s * (1 << k) + d for s in (-1, 1) for k in range(32) for d in (-1, 0, 1) if -(1 << 31) <= s * (1 << k) + d < 1 << 31}
    )
)


@kernel
def high_products(a, b, y):  # type: ignore[no-untyped-def]
    for i in range(y.size):
        y[i] = doubling_high_half_up(a[i], b[i])


@kernel
def divisions(a, b, y):  # type: ignore[no-untyped-def]
    for i in range(y.size):
        y[i] = shift_half_away(a[i], b[i])


@kernel
def scaled(value, multiplier, shift, law, y):  # type: ignore[no-untyped-def]
    for i in range(y.size):
        y[i] = scale_by(value[i], multiplier[i], shift[i], law)


def version() -> str | None:
    """The Debian package's version, where a compiler is there too."""
    if not (shutil.which("g++") and shutil.which("dpkg-query")):
        return None
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", PACKAGE], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 and found.stdout else None


def run(seed: int) -> Iterator[Row]:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "oracle"
        subprocess.run(["g++", "-O2", "-o", str(program), str(SOURCE)], check=True)
        first, second = (grid.ravel() for grid in np.meshgrid(EDGES, EDGES))
        a, b = (np.concatenate([edges, any_size(rng)]) for edges in (first, second))
        yield _row("SaturatingRoundingDoublingHighMul = N-8", high_products, program, 0, a, b)
        x, exponent = (grid.ravel() for grid in np.meshgrid(EDGES, np.arange(32)))
        x = np.concatenate([x, any_size(rng)])
        exponent = np.concatenate([exponent, rng.integers(0, 32, COUNT)])
        yield _row("RoundingDivideByPOT, exponents 0 to 31 = N-7", divisions, program, 1, x, exponent)
        value, multiplier, shift = scalings(rng, COUNT)
        theirs = _theirs(program, 2, value, multiplier, shift)
        for law, name, expected in ((LAW_DOUBLE, "G-6", "equal"), (LAW_SINGLE, "G-7", DIFFERS)):
            tally, y = Tally(f"both composed, shifts 1 to 62 = {name}", expected), np.empty(COUNT, np.int64)
            scaled(value, multiplier, shift, law, y)
            tally.add(y, theirs)
            yield tally.row()


def any_size(rng: Random) -> Array:
    """int32 values of every magnitude, int64."""
    return rng.integers(-(1 << 31), 1 << 31, COUNT) >> rng.integers(0, 32, COUNT)


def scalings(rng: Random, count: int) -> tuple[Array, Array, Array]:
    """(v, M, n) with M of 31 bits, n from 1 to 62, and v such that ``v << max(31 - n, 0)`` and the result fit int32.

    Half of the multipliers are 2^30, whose products are full of ties.
    """
    shift = rng.integers(1, 63, count)
    multiplier = np.where(rng.random(count) < 0.5, 1 << 30, rng.integers(1 << 30, 1 << 31, count))
    bits = np.minimum(31, shift) - rng.integers(0, 31, count)
    bound = np.left_shift(1, np.maximum(bits, 0))
    value = rng.integers(-bound, bound)
    return value, multiplier, shift


def _row(what: str, ours: object, program: Path, function: int, a: Array, b: Array) -> Row:
    tally, y = Tally(what), np.empty(a.size, np.int64)
    ours(a, b, y)  # type: ignore[operator]
    tally.add(y, _theirs(program, function, a, b, np.zeros_like(a)))
    return tally.row()


def _theirs(program: Path, function: int, *columns: Array) -> Array:
    records = np.stack([np.full(columns[0].size, function), *columns], 1).astype(np.int32)
    output = subprocess.run([str(program)], input=records.tobytes(), capture_output=True, check=True).stdout
    return np.frombuffer(output, np.int32)


ORACLE = Oracle("gemmlowp", f"apt-get install {PACKAGE} g++", version, run)
