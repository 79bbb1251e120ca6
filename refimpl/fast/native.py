"""Calls of machine code by address: what one step of a program becomes.

An :func:`entry` is a function of one array of 64-bit words: addresses, lengths, constants. A :class:`Call` is an entry with
the arrays and numbers that its words stand for; it holds the arrays, so the addresses stay good. :func:`execute` runs a list of
calls without coming back to Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import types

from refimpl.fast.vector import TIER, call_native, pointer
from refimpl.numerics import jit

Array = np.ndarray[Any, np.dtype[Any]]
FOLDER = jit.cache_folder(jit.FAST_FOLDERS) / TIER
carray: Any = vars(numba)["carray"]
SIGNATURE = types.void(types.CPointer(types.int64))  # type: ignore[no-untyped-call]


class Entry:
    """A function of words, compiled when it is first needed and kept with the other kernels, by tier."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.__name__ = function, function.__name__
        self._compiled: Any = None

    @property
    def address(self) -> int:
        if self._compiled is None:
            self._compiled = jit.compile_entry(self.function, SIGNATURE, FOLDER)
        return int(self._compiled.address)


def entry(function: Callable[..., None]) -> Entry:
    return Entry(function)


@dataclass(frozen=True)
class Offset:
    """An address ``count`` bytes into an array."""

    array: Array
    count: int


Word = Array | Offset | int | np.float32


@dataclass(frozen=True)
class Call:
    """An entry and what its words are."""

    entry: Entry
    words: tuple[Word, ...]

    def run(self) -> None:
        words = np.array([word_of(word) for word in self.words], np.int64)
        execute(np.array([[self.entry.address, 0, 0], [0, len(words), 0]], np.int64), words, words, 1)


def word_of(word: Word) -> int:
    """An array's address, a float's bits, an integer."""
    if isinstance(word, np.ndarray):
        return int(word.ctypes.data)
    if isinstance(word, Offset):
        return int(word.array.ctypes.data) + word.count
    return int(word.view(np.uint32)) if isinstance(word, np.float32) else int(word)


class Operator:
    """A fast kernel: called as the operator of its name is; ``bind`` gives the calls instead, or None where it has none.

    ``bind(*arguments)`` returns a sequence of :class:`Call` and of functions without arguments, to be run in order.
    """

    def __init__(self, bind: Callable[..., Sequence[Any] | None], reference: Callable[..., None]) -> None:
        self._bind, self.reference = bind, reference
        self.__name__, self.__doc__ = reference.__name__, bind.__doc__

    def bind(self, *arguments: Any) -> Sequence[Any]:
        calls = None
        if all(a.flags.c_contiguous for a in arguments if isinstance(a, np.ndarray)):
            calls = self._bind(*arguments)
        return [lambda: self.reference(*arguments)] if calls is None else calls

    def __call__(self, *arguments: Any) -> None:
        for call in self.bind(*arguments):
            call.run() if isinstance(call, Call) else call()


def replaces(reference: Callable[..., None]) -> Callable[[Callable[..., Any]], Operator]:
    """Make an :class:`Operator` that is bit-equal to ``reference``, which it falls back to."""
    return lambda bind: Operator(bind, reference)


@jit.kernel_in(FOLDER)
def execute(table, words, strides, count):
    """Run calls: table int64 [calls + 1, 3]: address, first word, and how many calls from here run frame by frame (0: none).

    In such a group ``strides`` (as long as ``words``) is added to the words after each of the ``count`` frames.
    """
    i = 0
    while i < table.shape[0] - 1:
        group = table[i, 2]
        if group == 0:
            call_native(table[i, 0], words, table[i, 1])
            i += 1
        else:
            first, stop = table[i, 1], table[i + group, 1]
            for _ in range(count):
                for k in range(i, i + group):
                    call_native(table[k, 0], words, table[k, 1])
                for w in range(first, stop):
                    words[w] += strides[w]
            for w in range(first, stop):
                words[w] -= count * strides[w]
            i += group


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that start at a cache line."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    result: Array = raw[start : start + size].view(kind).reshape(shape)
    return result


KINDS = {"i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u16": np.uint16, "f32": np.float32}


def _viewer(kind: str, dimensions: int) -> Any:
    """``view(p, i)``: the array at address ``p[i]`` of shape ``p[i + 1], ...``."""
    dtype = KINDS[kind]
    if dimensions == 1:

        def view(p, i):
            return carray(pointer(p[i]), p[i + 1], dtype)

    elif dimensions == 2:

        def view(p, i):
            return carray(pointer(p[i]), (p[i + 1], p[i + 2]), dtype)

    elif dimensions == 3:

        def view(p, i):
            return carray(pointer(p[i]), (p[i + 1], p[i + 2], p[i + 3]), dtype)

    else:

        def view(p, i):
            return carray(pointer(p[i]), (p[i + 1], p[i + 2], p[i + 3], p[i + 4]), dtype)

    return jit.inline_as(f"view_{kind}_{dimensions}")(view)


VIEWS = {(kind, dimensions): _viewer(kind, dimensions) for kind in KINDS for dimensions in (1, 2, 3, 4)}


@entry
def move(p):
    """``p[2]`` bytes from address ``p[1]`` to address ``p[0]``."""
    to, of = carray(pointer(p[0]), p[2], np.uint8), carray(pointer(p[1]), p[2], np.uint8)
    for i in range(p[2]):
        to[i] = of[i]


def shaped(array: Array) -> tuple[Word, ...]:
    """The words of a view: address and shape."""
    return (array, *array.shape)


def flat(array: Array) -> tuple[Word, ...]:
    """The words of a one-dimensional view."""
    return (array, array.size)
