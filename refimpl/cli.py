"""What the command lines share: one-line errors, exit codes, options, and folders that are left as they were found.

Exit codes: 0 done; 2 for anything that the user can mend, said in one line ``error: ...`` on stderr; 130 interrupted; 1 where
the reader of stdout went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NoReturn

from refimpl.errors import InputError
from refimpl.numerics.jit import cache_folder, cache_is_cold

Channel = int | Literal["mix"] | None


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that starts with ``error:``, like all others; no abbreviated options."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def add_audio_options(parser: argparse.ArgumentParser) -> None:
    """``--resample`` and ``--channel``, for inputs that are not 16 kHz mono."""
    parser.add_argument("--resample", action="store_true", help="convert other sample rates to 16 kHz (needs soxr)")
    parser.add_argument(
        "--channel", type=channel, metavar="N|mix", help="of several channels take the N-th (from 1), or the mean of all"
    )


def channel(text: str) -> Channel:
    """The value of ``--channel``."""
    if text == "mix":
        return "mix"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a channel number from 1 nor mix")


def positive_int(text: str) -> int:
    """The value of an option that counts something, 1 or more."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def guarded(body: Callable[[], int]) -> int:
    """Run ``body`` and turn what can go wrong into a line on stderr and an exit code."""
    try:
        code = body()
        sys.stdout.flush()
        return code
    except InputError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_stdout()
        return 1
    except OSError as error:
        _drop_stdout()
        complain(InputError(f"{error.filename or 'standard output'}: {error.strerror}; check the disk and its permissions"))
        return 2


def complain(error: InputError) -> None:
    """The error as one printable line on stderr."""
    print(f"error: {printable(error)}", file=sys.stderr)


def printable(value: object) -> str:
    """The text of a path or a message with every character that does not print escaped: always one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def _drop_stdout() -> None:
    """Send what is still buffered for stdout nowhere, so that the interpreter does not fail on it when it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def folder_made(folder: Path) -> Iterator[Path]:
    """``folder``, made if it is missing and its parent is there, and removed again if nothing came into it."""
    made = False
    try:
        if not folder.is_dir():
            folder.mkdir()
            made = True
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{folder}: cannot make this folder ({reason}); name a new folder in an existing one") from None
    try:
        yield folder
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()


def check_target(target: Path, *sources: Path) -> None:
    """Refuse, before the work is done, an output file that cannot be written or that is one of the inputs."""
    if target.is_dir():
        raise InputError(f"{target}: is a folder; name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"{target}: its folder does not exist; make it first, or name another")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target}: its folder cannot be written; name another")
    if any(target.exists() and source.exists() and target.samefile(source) for source in sources):
        raise InputError(f"{target}: would overwrite the input; name another output")


def announce_compilation() -> None:
    """One line on stderr where the kernels are not compiled yet."""
    if cache_is_cold():
        where = printable(cache_folder())
        if os.access(cache_folder(), os.W_OK):
            note = f"on the first run only: about half a minute; kept in {where}"
        else:
            note = f"about half a minute; {where} cannot be written: set REFIMPL_CACHE_DIR to a folder that keeps them"
        print(f"compiling the kernels, {note}", file=sys.stderr)
