"""``python -m golden_vectors.mutants``: run all mutants against the committed cases.

Exit codes: 0 where every mutant is killed at its level or is equivalent; 1 where not, or where refimpl itself fails a case; 2
for what the user can mend, in one line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from golden_vectors.mutants import runner
from golden_vectors.mutants.catalogue import MUTANTS
from golden_vectors.mutants.definition import Mutant


class _Parser(argparse.ArgumentParser):
    """Errors are one line; refimpl's own parser cannot be used, since no line of refimpl may be imported here."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        options = _parser().parse_args(argv)
        chosen = _chosen(options)
        entries = _entries(options.cases)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        return _run(chosen, entries, options)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> _Parser:
    parser = _Parser(
        "python -m golden_vectors.mutants", description="The mutation score of the golden vectors.", allow_abbrev=False
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="ids of mutants, shell-style, separated by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default %(default)s)")
    parser.add_argument(
        "--limit",
        type=float,
        default=runner.LIMIT,
        metavar="S",
        help="seconds of processor time per mutant (default %(default)g)",
    )
    parser.add_argument("--cases", type=Path, default=runner.CASES, metavar="DIR", help="suite (default the committed)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table there; only for a run of all mutants")
    return parser


def _chosen(options: argparse.Namespace) -> list[Mutant]:
    """The mutants to run; ValueError where the options make no sense."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("this system cannot fork processes; run the mutants on Linux")
    if options.jobs < 1 or not 0 < options.limit < float("inf"):
        raise ValueError("--jobs and --limit must be positive")
    chosen = [m for m in MUTANTS if any(fnmatchcase(m.id, pattern) for pattern in options.only.split(","))]
    if not chosen:
        raise ValueError(f"no mutant matches {options.only!r}; the ids are in golden_vectors/MUTATION.md")
    if options.table and len(chosen) < len(MUTANTS):
        raise ValueError("--table is for all mutants; leave out --only")
    if options.table and (options.table.is_dir() or not options.table.absolute().parent.is_dir()):
        raise ValueError(f"{options.table}: cannot be written there; name a file in a folder that exists")
    return chosen


def _entries(cases: Path) -> list[runner.Entry]:
    entries = runner.index(cases)
    if not entries:
        raise ValueError(f"{cases}: holds no cases; make them with python -m golden_vectors generate")
    return entries


def _run(chosen: Sequence[Mutant], entries: Sequence[runner.Entry], options: argparse.Namespace) -> int:
    outcomes = runner.run(chosen, entries, options.cases, options.jobs, options.limit)
    # A kill means nothing where refimpl itself fails the case.
    killers = {o.case for o in outcomes if o.how}
    checked = [e for e in entries if e.id in killers]
    broken = runner.unmutated(checked, options.cases, options.jobs)
    for case, detail in broken.items():
        print(f"BROKEN    {case}: refimpl itself fails it: {detail}")
    for o in outcomes:
        if o.failure:
            print(f"FAILED    {o.mutant.id} ({o.mutant.rule}, {o.mutant.level}): {o.failure}; {o.case} {o.detail}".rstrip("; "))
        elif len(chosen) < len(MUTANTS):
            print(f"ok        {o.mutant.id}: {o.how or 'equivalent'} {o.case} {o.detail}".rstrip())
    print(runner.summary(outcomes) + f" The unmutated copy passes {len(checked) - len(broken)} of these {len(checked)} cases.")
    if options.table and not broken:
        _write(options.table, runner.table(outcomes))
    return 1 if broken or any(o.failure for o in outcomes) else 0


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
