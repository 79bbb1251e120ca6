"""Reads .npy files of version 1.0 with the standard library alone."""

from __future__ import annotations

import ast
import math
import struct
from pathlib import Path
from typing import NamedTuple

CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "f4": "f", "f8": "d"}


class Npy(NamedTuple):
    """An array in C order: its shape, its dtype without byte order, its little-endian bytes."""

    shape: tuple[int, ...]
    dtype: str
    data: bytes

    def values(self, dtype: str = "") -> list[int]:
        """The elements, last index fastest; with ``dtype`` the same bytes read as another type of that width."""
        code = CODES[dtype or self.dtype]
        return list(struct.unpack(f"<{math.prod(self.shape)}{code}", self.data))


def read_npy(path: Path) -> Npy:
    """A file's array; ValueError where it is not what its header says."""
    content = path.read_bytes()
    if content[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{path}: not an .npy file of version 1.0")
    start = 10 + int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10:start].decode("latin-1"))
    dtype, shape = header["descr"].lstrip("<|"), tuple(header["shape"])
    if dtype not in CODES or header["fortran_order"]:
        raise ValueError(f"{path}: {header['descr']}, or not in C order")
    if len(content) - start != math.prod(shape) * int(dtype[1]):
        raise ValueError(f"{path}: not as long as its header says")
    return Npy(shape, dtype, content[start:])
