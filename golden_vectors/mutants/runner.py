"""Run mutants: each in a child process that imports a mutated copy of refimpl and verifies cases until one fails.

The children are forked from a process that has imported the libraries and no line of refimpl. Kernels run as Python, since a
compilation per mutant would take longer than all its cases. Expected values come from the case files, never from a run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"  # before the import of numba, which reads it once

import numba  # noqa: F401 - imported here for the children, as the others that refimpl needs
import numpy  # noqa: F401
import safetensors.numpy  # noqa: F401
import soundfile  # noqa: F401
from tqdm import tqdm

from golden_vectors.mutants.definition import LEVELS, Mutant

PACKAGE = Path(__file__).resolve().parent.parent.parent / "refimpl"
CASES = PACKAGE.parent / "golden_vectors" / "cases"
SOURCES = ("*.py", "*.npy", "*.json")
LIMIT = 300.0  # seconds of processor time for one mutant: on a busy machine the same ones pass
BROKEN = (NameError, AttributeError, ImportError, SyntaxError)  # a mutant that raises these is no program, so no bug


@dataclass(frozen=True)
class Entry:
    """What the order of the cases depends on."""

    id: str
    rules: tuple[str, ...]
    flags: tuple[str, ...]
    size: int

    @property
    def level(self) -> str:
        return self.id.split("/")[0]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. how: ``difference``, ``refusal``, ``exception``; empty where every case passed."""

    mutant: Mutant
    how: str = ""
    case: str = ""
    detail: str = ""
    trouble: str = ""  # why the run says nothing: the time limit, a copy that cannot be imported or is no program
    flags: tuple[str, ...] = field(default=())

    @property
    def level(self) -> str:
        return self.case.split("/")[0]

    @property
    def failure(self) -> str:
        """Why this outcome is none to be content with; empty where it is."""
        m = self.mutant
        if self.trouble:
            return self.trouble
        if m.equivalent:
            return f"said to be equivalent, but fails {self.case}" if self.how else ""
        if not self.how:
            return "survived"
        if self.level != m.level:
            return f"killed only at level {self.level}"
        if m.flags and not set(m.flags) & set(self.flags):
            return f"killed, but by no case with flag {' or '.join(m.flags)}"
        return ""


class _TimeUp(BaseException):
    """The alarm of a child; no ``except Exception`` of the code under test may catch it."""


def index(cases: Path) -> list[Entry]:
    """The cases below a folder; ValueError names a file that is none.

    The released networks are left out: as Python they would take hours.
    """
    entries = []
    for path in sorted(cases.rglob("case.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["network"] is None or document["network"]["container"] != "released":
                size = sum(_elements(tensor["shape"]) for tensor in document["tensors"].values())
                entries.append(Entry(document["id"], tuple(document["rules"]), tuple(document["flags"]), size))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: is no case; fetch or generate the suite again") from None
    return entries


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def order(mutant: Mutant, entries: Iterable[Entry]) -> list[Entry]:
    """The cases to try: from the mutant's level upward; near ones, flagged ones, those about its rule, and small ones first."""
    first = LEVELS.index(mutant.level)
    last = first if mutant.equivalent else len(LEVELS) - 1

    def key(entry: Entry) -> tuple[Any, ...]:
        flagged = bool(set(mutant.flags) & set(entry.flags))
        cited = mutant.rule in entry.rules
        own = mutant.rule == entry.rules[0]
        fits = (fnmatchcase(entry.id, mutant.near), flagged and cited, own, cited, flagged)
        return LEVELS.index(entry.level), *(not fit for fit in fits), entry.size, entry.id

    return sorted((e for e in entries if first <= LEVELS.index(e.level) <= last), key=key)


def run(mutants: Sequence[Mutant], entries: Sequence[Entry], cases: Path, jobs: int, limit: float = LIMIT) -> list[Outcome]:
    """Every mutant's outcome, in the order of ``mutants``."""
    tasks = [(m, lambda m=m: _try(m, order(m, entries), cases, limit)) for m in mutants]
    found = {m.id: outcome for m, outcome in _children(tasks, jobs, "mutants")}
    return [found[m.id] or Outcome(m, trouble="its process ended without an answer") for m in mutants]


def unmutated(entries: Sequence[Entry], cases: Path, jobs: int) -> dict[str, str]:
    """The cases that refimpl itself fails, with the reason: none, or the suite and the code do not belong together."""
    ordered = sorted(entries, key=lambda e: -e.size)
    shares = [ordered[k :: 8 * jobs] for k in range(8 * jobs)]
    tasks = [(k, lambda share=share: _check(share, cases)) for k, share in enumerate(shares) if share]
    failed: dict[str, str] = {}
    for share, answer in _children(tasks, jobs, "unmutated"):
        failed |= {e.id: "its process ended" for e in shares[share]} if answer is None else answer
    return failed


@cache
def _sources() -> dict[Path, bytes]:
    """What is copied, read once before the first child: all mutants are of the same sources, even if these are being edited."""
    paths = sorted(path for pattern in SOURCES for path in PACKAGE.rglob(pattern))
    return {path.relative_to(PACKAGE): path.read_bytes() for path in paths}


def _children(tasks: Sequence[tuple[Any, Callable[[], Any]]], jobs: int, text: str) -> Iterator[tuple[Any, Any]]:
    """Each task's key and its answer, None where the child died; at most ``jobs`` children at once."""
    _sources()
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(tasks))
    running: dict[Connection, tuple[Any, Any]] = {}
    with tqdm(total=len(tasks), desc=text, unit="", leave=False, disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    key, task = waiting.pop()
                    receive, send = context.Pipe(duplex=False)
                    process = context.Process(target=_child, args=(task, send))
                    process.start()
                    send.close()
                    running[receive] = (key, process)
                for receive in wait(list(running)):
                    assert isinstance(receive, Connection)
                    key, process = running.pop(receive)
                    answer = _answer(receive)
                    process.join()
                    bar.update()
                    yield key, answer
        finally:
            for _, process in running.values():
                process.kill()


def _answer(receive: Connection) -> Any:
    """What a child sent, None where it died before."""
    try:
        return receive.recv()
    except EOFError:
        return None
    finally:
        receive.close()


def _child(task: Callable[[], Any], send: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    warnings.simplefilter("ignore")  # what overflows as NumPy scalars warns; compiled it would not
    sys.dont_write_bytecode = True
    send.send(task())


# -- in the child -------------------------------------------------------------------------------------------------------


def _try(mutant: Mutant, entries: Sequence[Entry], cases: Path, limit: float) -> Outcome:
    """The first case that fails, or none; the child's work."""
    at = "the import"

    def ring(*_: object) -> None:
        raise _TimeUp

    signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        with _scratch() as folder:
            _copy(folder, mutant)
            verify = _verifier(folder, cases)
            for entry in entries:
                at = entry.id
                how, detail = verify(entry.id)
                if how == "broken":
                    return Outcome(mutant, trouble=f"is no program: {detail}, at {at}")
                if how:
                    return Outcome(mutant, how, entry.id, detail, flags=entry.flags)
        return Outcome(mutant)
    except _TimeUp:
        return Outcome(mutant, trouble=f"{limit:g} s were not enough, at {at}")
    except Exception as error:
        return Outcome(mutant, trouble=f"cannot be imported: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _check(entries: Sequence[Entry], cases: Path) -> dict[str, str]:
    with _scratch() as folder:
        _copy(folder, None)
        verify = _verifier(folder, cases)
        answers = {entry.id: verify(entry.id) for entry in entries}
    return {case: detail for case, (how, detail) in answers.items() if how}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the copy, where this child's other temporary files go too: their names must not get into the table."""
    with tempfile.TemporaryDirectory() as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def _copy(folder: Path, mutant: Mutant | None) -> None:
    """refimpl's sources, tables and presets below ``folder``, with the mutant's change."""
    for path, data in _sources().items():
        target = folder / "refimpl" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if mutant is not None:
        mutant.mutate(folder / "refimpl")


def _verifier(folder: Path, cases: Path) -> Callable[[str], tuple[str, str]]:
    """A function from case id to (how it failed, detail), over the copy of refimpl in ``folder``."""
    assert not any(name == "refimpl" or name.startswith("refimpl.") for name in sys.modules)
    sys.path.insert(0, str(folder))
    import refimpl

    assert Path(refimpl.__file__).is_relative_to(folder)
    from golden_vectors.case import case_folder, read_case
    from golden_vectors.execute import verify
    from refimpl.errors import InputError

    def failed(case_id: str) -> tuple[str, str]:
        try:
            difference = verify(read_case(case_folder(cases, case_id)))
        except InputError as error:
            return "refusal", _line(str(error), folder, cases)
        except Exception as error:
            how = "broken" if isinstance(error, BROKEN) else "exception"
            return how, _line(f"{type(error).__name__}: {error}", folder, cases)
        return ("difference", difference) if difference else ("", "")

    return failed


def _line(text: str, folder: Path, cases: Path) -> str:
    """One line, without the names of this run's folders."""
    return " ".join(re.sub(rf"{re.escape(str(folder))}(/tmp\w*)?", "...", text.replace(f"{cases}/", "")).split())


# -- the table ----------------------------------------------------------------------------------------------------------


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line: how many mutants there are, and what became of them."""
    equivalent = sum(1 for o in outcomes if o.mutant.equivalent and not o.failure)
    killed = sum(1 for o in outcomes if not o.mutant.equivalent and not o.failure)
    return f"{len(outcomes)} mutants: {killed} killed, {equivalent} equivalent, {len(outcomes) - killed - equivalent} not."


def table(outcomes: Sequence[Outcome]) -> str:
    """``MUTATION.md``: nothing in it depends on time, processes or versions of Python."""
    killed = [o.level for o in outcomes if o.how and not o.failure]
    levels = ", ".join(f"{level} {killed.count(level)}" for level in LEVELS if level in killed)
    lines = [
        "# Mutation score",
        "",
        "Made by `python -m golden_vectors.mutants --table golden_vectors/MUTATION.md`. Each mutant is one small wrong change",
        "of refimpl; each must fail a case at the lowest level where its rule is visible, and one with the mutant's flag. The",
        "rules are those of `conformance/SPEC.md`. A change that can alter no result is marked equivalent, with the reason,",
        "and must fail none.",
        "",
        f"**{summary(outcomes)}** Killed by level: {levels or 'none'}.",
        "",
        "| | mutant | bug | file | rule | level | killed by | first difference |",
        "|---:|---|---|---|---|---|---|---|",
    ]
    for number, o in enumerate(outcomes, 1):
        m = o.mutant
        cells = (str(number), f"`{m.id}`", m.bug, f"`{m.file}`", m.rule, m.level, *_result(o))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _result(o: Outcome) -> tuple[str, str]:
    """The last two cells of a row. Of an exception only the type: its text differs between versions of Python."""
    if o.failure:
        return f"**alive: {o.failure}**", ""
    if o.mutant.equivalent:
        return "equivalent", o.mutant.equivalent
    detail = o.detail.split(":")[0] if o.how == "exception" else o.detail
    return f"`{o.case}`", _short(detail if o.how == "difference" else f"{o.how}: {detail}")


def _short(text: str, longest: int = 110) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
