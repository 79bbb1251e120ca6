"""NumPy's files as input: one array or an archive of arrays, never a pickle; one clear line where it is neither."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.errors import InputError

# What NumPy and zipfile raise on a damaged file; RuntimeError: an encrypted member or an unknown compression.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    SyntaxError,
)


def read_arrays(path: Path, fault: str, remedy: str) -> Any:
    """The array of a ``.npy`` file, or of an ``.npz`` file the arrays by name (bytes for a member that is no array).

    The content decides which, not the name. Raises :class:`InputError`: ``PATH: FAULT (reason); REMEDY``.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except DAMAGE as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path}: {fault} ({reason}); {remedy}") from None
