"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from refimpl.errors import InputError


@contextmanager
def whole_folder(target: Path, check_replaceable: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """An empty folder beside ``target`` that becomes ``target`` when the block ends well, and else is removed.

    An empty ``target`` is replaced; a nonempty one only where ``check_replaceable`` does not refuse it, and it stays as it was
    until the new one is complete. :class:`InputError` where ``target`` is in the way or cannot be made.
    """
    _check_target(target, check_replaceable)
    try:
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot write here ({error.strerror}); name another folder") from None
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        _put(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_target(target: Path, check_replaceable: Callable[[Path], None] | None) -> None:
    if target.is_symlink():
        raise InputError(f"{target}: is a link; name the folder itself")
    if not target.parent.is_dir():
        raise InputError(f"{target}: its folder does not exist; make it first, or name another")
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: is a file; name a new folder")
    if any(target.iterdir()):
        if check_replaceable is None:
            raise InputError(f"{target}: exists and is not empty; name a new folder")
        check_replaceable(target)


def _put(partial: Path, target: Path) -> None:
    """``partial`` in the place of ``target``; the old folder is removed only when the new one is there."""
    if not target.exists():
        partial.rename(target)
        return
    aside = partial.with_suffix(".old")
    try:
        target.rename(aside)
        partial.rename(target)
    except BaseException:  # an interrupt too
        if not target.exists():
            with suppress(OSError):
                aside.rename(target)
        raise
    shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
