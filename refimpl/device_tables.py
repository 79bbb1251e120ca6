"""Activation tables that a team dumped from its device: read, checked, compared with the exact ones (SPEC T-4, B-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.arrays_io import read_arrays
from refimpl.errors import InputError
from refimpl.numerics.activation import CANONICAL_NAN, NAMES, VARIANTS, ActivationTables, patterns, variant
from refimpl.numerics.tables import SIGMOID, TANH

Array = np.ndarray[Any, np.dtype[Any]]
PATTERNS, CODES = 1 << 16, 256
LARGEST_FILE = 1 << 24


@dataclass(frozen=True)
class TableReport:
    """What a table of BF16 patterns is like: where it is furthest from the exact one, and how often it steps back."""

    largest_difference: float
    at: float  # the argument of the largest difference
    descents: int  # neighbouring arguments whose values fall

    def __str__(self) -> str:
        monotone = "monotone" if not self.descents else f"not monotone ({self.descents} descents)"
        return f"largest difference from the exact table {self.largest_difference:.3g} at {self.at:.4g}, {monotone}"


def device_tables(base: str, sigmoid: Path | None, tanh: Path | None) -> tuple[ActivationTables, dict[str, str]]:
    """The tables named ``base``, each replaced by a file's where one is given; and a line about each file.

    A file is ``.npy`` or raw ``.bin`` (little-endian) with 65,536 BF16 patterns (uint16, indexed by the input's pattern) or 256
    codes (int8, indexed by q + 128, for every 8-bit step of that function), or ``.npz`` with 256 codes per step, by its name.
    :class:`InputError` for another size or dtype, and for NaN where the argument is none.
    """
    if base not in VARIANTS:
        raise InputError(f"activation tables {base!r} are unknown: use one of {', '.join(VARIANTS)}, or give your own files")
    known = variant(base)
    bf16, codes, notes = dict(known.bf16), {}, {}
    own: set[int] = set()
    for function, path in ((SIGMOID, sigmoid), (TANH, tanh)):
        if path is None:
            continue
        found = _read(path)
        if isinstance(found, Mapping):
            codes[function] = found
            notes[NAMES[function]] = f"{path.name}: tables of 256 codes for {len(found)} steps"
        elif len(found) == CODES:
            codes[function] = {"": found}
            notes[NAMES[function]] = f"{path.name}: one table of 256 codes for every 8-bit step"
        else:
            bf16[function], report = examine(found, function, path)
            own.add(function)
            notes[NAMES[function]] = f"{path.name}: {report}"
    if not notes:
        return known, {}
    return ActivationTables(f"{base} with own {' and '.join(notes)}", bf16, codes, frozenset(own)), notes


def examine(table: Array, function: int, path: Path) -> tuple[Array, TableReport]:
    """A table of BF16 patterns, NaN made canonical, and how it compares with the exact one.

    :class:`InputError` where an argument that is no NaN gives NaN or infinity.
    """
    x = patterns()
    number = ~np.isnan(x)
    given, exact = (_values(t) for t in (table, variant("exact").bf16[function]))
    wrong = np.flatnonzero(~np.isfinite(given) & number)
    if len(wrong):
        raise InputError(
            f"{path}: {len(wrong)} entries are NaN or infinite, first at pattern 0x{wrong[0]:04x}; dump the table again, as "
            "uint16 patterns"
        )
    difference = np.where(number, np.abs(np.where(number, given, 0.0) - np.where(number, exact, 0.0)), 0.0)
    worst = int(np.argmax(difference))
    ascending = np.argsort(x[number], kind="stable")
    descents = int((np.diff(given[number][ascending]) < 0).sum())
    made = np.where(number, table, np.uint16(CANONICAL_NAN)).astype(np.uint16)
    return made, TableReport(float(difference[worst]), float(x[worst]), descents)


def _values(table: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a signaling NaN becomes a quiet one
        values: Array = (table.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return values


def _read(path: Path) -> Array | dict[str, Array]:
    """The file's table, or its tables by step; checked for size and dtype."""
    fault, remedy = "cannot be read as a table", "give .npy, .npz or raw .bin"
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{path}: {size} bytes are no activation table; give 65,536 uint16 or 256 int8 entries")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {fault} ({error.strerror}); {remedy}") from None
    if path.suffix == ".npz":
        found = read_arrays(path, fault, remedy)
        if not isinstance(found, dict) or not found:
            raise InputError(f"{path}: holds no table by step; give one of 256 codes per step, by the step's name")
        return {step: _checked(table, f"{path}, step {step}", (CODES,)) for step, table in found.items()}
    if path.suffix == ".npy":
        return _checked(read_arrays(path, fault, remedy), str(path), (PATTERNS, CODES))
    kind: Any = {2 * PATTERNS: "<u2", CODES: "i1"}.get(len(data))
    if kind is None:
        raise InputError(f"{path}: {len(data)} bytes are no table; 131,072 bytes of BF16 patterns or 256 of codes are")
    return np.frombuffer(data, kind)


def _checked(table: Any, what: str, sizes: tuple[int, ...]) -> Array:
    kinds = {PATTERNS: ("uint16", "int16"), CODES: ("int8",)}
    wanted = " or ".join(f"{size} entries of {kinds[size][0]}" for size in sizes)
    if not isinstance(table, np.ndarray):
        raise InputError(f"{what}: is no array of numbers; give {wanted}")
    if table.shape not in {(size,) for size in sizes} or table.dtype.name not in kinds[len(table)]:
        raise InputError(f"{what}: {table.dtype.name} {list(table.shape)} is no activation table; give {wanted}")
    native = np.ascontiguousarray(table, table.dtype.newbyteorder("="))
    return native.view(np.uint16 if len(table) == PATTERNS else np.int8)
