"""The one compiler switch: every kernel of the package is compiled through :func:`kernel`.

Numba's own cache is keyed on the source file of the decorated function alone: a changed callee in another file would be
served stale. Here the cache folder's name is a digest of every kernel source of the package, the Numba version and the
compiler options, so a change anywhere compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np

# No fastmath: it licenses reassociation and contraction. No parallel: order and start-up cost. ``error_model`` "numpy"
# gives IEEE division by zero instead of a Python exception.
OPTIONS: dict[str, Any] = {"fastmath": False, "parallel": False, "nogil": True, "error_model": "numpy"}

PACKAGE = Path(__file__).resolve().parent.parent
KERNEL_FOLDERS = ("numerics", "operators")
FAST_FOLDERS = (*KERNEL_FOLDERS, "fast")
numba_config: Any = numba.config

Function = Callable[..., Any]


def source_digest(folders: Sequence[str] = KERNEL_FOLDERS) -> str:
    """SHA-256 over the name and text of every kernel source, the compiler's version and its options."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__} {sys.version_info[:2]} {OPTIONS}".encode())
    for folder in folders:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def cache_folder(folders: Sequence[str] = KERNEL_FOLDERS) -> Path:
    """Where compiled kernels are kept: ``REFIMPL_CACHE_DIR``, else the user's cache folder."""
    root = os.environ.get("REFIMPL_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "refimpl" / source_digest(folders)[:16]


_CACHE = cache_folder()


def cache_is_cold() -> bool:
    """True where no compiled kernel is stored yet: the first run will compile (and should say so)."""
    return has_compiler() and not any(_CACHE.glob("**/*.nbc"))


def has_compiler() -> bool:
    """False where ``NUMBA_DISABLE_JIT`` makes every kernel plain Python."""
    return not numba_config.DISABLE_JIT


def kernel(function: Function) -> Function:
    """Compile ``function`` with the package's options and its cache; other packages' Numba settings stay untouched."""
    return kernel_in(_CACHE)(function)


def kernel_in(folder: Path) -> Callable[[Function], Function]:
    """:func:`kernel` with another cache: for code that is not the same on every processor."""

    def compiling(function: Function) -> Function:
        with _cache(folder) as usable:
            compiled: Function = numba.njit(cache=usable, **OPTIONS)(function)
        return compiled

    return compiling


def compile_entry(function: Function, signature: Any, folder: Path) -> Any:
    """A C function of ``signature``, compiled now or taken from the cache; its ``address`` is what it is called by."""
    with _cache(folder) as usable:
        return numba.cfunc(signature, cache=usable, **OPTIONS)(function)


@contextmanager
def _cache(folder: Path) -> Iterator[bool]:
    """Numba's cache folder set to ``folder``; gives whether it can be written."""
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(folder)
    try:
        yield _writable(folder)
    finally:
        numba_config.CACHE_DIR = before


def inline(function: Function) -> Function:
    """A scalar rule called from kernels; compiled into its callers, never cached by itself."""
    compiled: Function = numba.njit(**OPTIONS)(function)
    return compiled


def inline_as(name: str) -> Callable[[Function], Function]:
    """:func:`inline` for a function that is made several times over with other closure variables: each needs its own name.

    Numba names machine code by the qualified name and a count within the process. Two such functions, cached by two processes
    under one name and one count, would be taken for each other by a third that loads both.
    """
    if name in _names:
        raise ValueError(f"two functions are compiled as {name!r}")
    _names.add(name)

    def compiling(function: Function) -> Function:
        function.__name__ = function.__qualname__ = name
        return inline(function)

    return compiling


_names: set[str] = set()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
