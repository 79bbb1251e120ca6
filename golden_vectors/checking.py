"""Run the cases of a suite and compare: in processes, in order, one line for what differs."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from numba.core.errors import NumbaError

from golden_vectors.case import Case, case_folder, encode, suite_case
from golden_vectors.execute import verify
from refimpl.errors import InputError


def check_case(root: Path, case_id: str) -> str | None:
    """Where the case's tensors differ from those that refimpl computes now; None where they do not.

    :class:`InputError` where the case cannot be read or run.
    """
    case = suite_case(root, case_id)
    try:
        return verify(case)
    except InputError as error:
        raise error if case_id in str(error) else InputError(f"{case_folder(root, case_id)}: {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, NumbaError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
        raise InputError(f"{case_folder(root, case_id)}: does not run ({reason}); regenerate the suite") from None


def check_cases(root: Path, ids: list[str], jobs: int) -> Iterator[tuple[str, str | None]]:
    """:func:`check_case` of every id, in their order, in as many processes; with one job, in this process."""
    if jobs == 1 or len(ids) < 2:
        yield from ((case_id, check_case(root, case_id)) for case_id in ids)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of this process's kernels
    with ProcessPoolExecutor(min(jobs, len(ids)), context, _quiet) as pool:
        try:
            yield from zip(ids, pool.map(partial(check_case, root), ids), strict=True)
        except BrokenProcessPool:
            raise InputError(f"{root}: a process ended while it ran a case; find which with --jobs 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _quiet() -> None:
    """An interrupt is for the process that shows the progress; the others end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_bytes(root: Path, ids: Iterable[str], cases: Iterable[Case]) -> Iterator[tuple[str, str | None]]:
    """Every case, as it was just generated, byte for byte against the files of a suite; lost and new ones last."""
    stored, generated = set(ids), set()
    for case in cases:
        generated.add(case.id)
        if case.id in stored:
            yield case.id, _first_byte(case_folder(root, case.id), encode(case))
    for case_id in sorted(stored ^ generated):
        yield case_id, "is in the suite, but is not generated" if case_id in stored else "is generated, but is not in the suite"


def _first_byte(folder: Path, files: dict[str, bytes]) -> str | None:
    present = {path.name for path in folder.iterdir()}
    for name, data in files.items():
        if name not in present:
            return f"{name} is generated, but is not in the suite"
        found = (folder / name).read_bytes()
        if found != data:
            at = next(
                (i for i, pair in enumerate(zip(found, data, strict=False)) if pair[0] != pair[1]), min(len(found), len(data))
            )
            return f"{name} differs from byte {at} on: {len(found)} bytes in the suite, {len(data)} generated"
    extra = sorted(present - set(files))
    return f"{extra[0]} is in the suite, but is not generated" if extra else None
