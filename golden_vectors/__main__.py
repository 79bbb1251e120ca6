"""``python -m golden_vectors generate|verify|list|export``: make the vectors, prove them, find them, hand them to a bench.

Exit codes: 0 done and all right; 1 where a case differs from what refimpl computes; 2 for what the user can mend, in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from golden_vectors.case import FOLDER, LEVELS, Case, check_files, suite_case, write_suite
from golden_vectors.checking import check_bytes, check_cases
from golden_vectors.export import FORMATS, export
from golden_vectors.export.prepare import Options
from golden_vectors.layouts import LAYOUTS
from golden_vectors.selection import Entry, Selection, entries, flags, matching
from golden_vectors.suite import SUITES, cases
from refimpl.cli import Parser, announce_compilation, guarded, positive_int, printable
from refimpl.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    run = {"generate": _generate, "verify": _verify, "list": _list, "export": _export}
    return run[options.command](options)


def _parser() -> Parser:
    parser = Parser("golden_vectors", "Golden vectors of refimpl: make, verify, list and export them.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="generate|verify|list|export", parser_class=_Command
    )
    _add_generate(commands.add_parser("generate", description="Write a suite of cases."))
    _add_verify(commands.add_parser("verify", description="Run every case of a suite through refimpl and compare bit for bit."))
    _add_list(commands.add_parser("list", description="List the cases of a suite, and why they are there."))
    _add_export(commands.add_parser("export", description="Write cases in a bench's format."))
    return parser


class _Command(Parser):
    """A subcommand's parser; argparse hands it the program's name."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog.removeprefix("python -m "), description)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "suite_folder", nargs="?", type=Path, default=FOLDER, metavar="DIR", help="suite (default the committed)"
    )


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PATTERN", help="only cases whose id matches, such as 'operators/conv_*'")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_only(parser)
    parser.add_argument("--level", choices=LEVELS)
    parser.add_argument("--rule", metavar="ID", help="a rule of conformance/SPEC.md, such as G-2")
    parser.add_argument("--flag", metavar="NAME", help="a bug that the case makes visible; see list --flags")
    parser.add_argument("--operator", metavar="NAME", help="an operator or function that a step of the case calls")
    parser.add_argument("--preset", metavar="NAME")


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(options.only, options.level, options.rule, options.flag, options.operator, options.preset)


def _bar(items: Iterable[Case], text: str) -> Iterator[Case]:
    with tqdm(items, text, unit="case", disable=None, leave=False) as bar:
        yield from bar


# -- generate ---------------------------------------------------------------------------------------------------------


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", choices=tuple(SUITES), default="committed", help="which cases (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default the committed suite's folder)")
    _add_only(parser)


def _generate(options: argparse.Namespace) -> int:
    if options.out is None and (options.only is not None or options.suite != "committed"):
        raise InputError("a part of the suite, or another one, would replace the committed one; name a folder with --out")
    announce_compilation()
    out = options.out or FOLDER
    chosen = (case for case in _bar(cases(options.suite), "generating") if matching([case.id], options.only))
    count, size = write_suite(out, _some(chosen, options.only))
    print(f"{printable(out)}: {count} cases, {size:,} bytes")
    return 0


def _some(chosen: Iterable[Case], pattern: str | None) -> Iterator[Case]:
    empty = True
    for case in chosen:
        empty = False
        yield case
    if empty:
        raise InputError(f"no case of the suite matches {pattern!r}; see python -m golden_vectors list")


# -- verify -----------------------------------------------------------------------------------------------------------


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_only(parser)
    parser.add_argument("--jobs", type=positive_int, metavar="N", help="processes (default one per CPU)")
    parser.add_argument("--regenerate", action="store_true", help="also generate the suite anew and compare every byte")
    parser.add_argument(
        "--suite", choices=tuple(SUITES), default="committed", help="what --regenerate makes (default %(default)s)"
    )


def _verify(options: argparse.Namespace) -> int:
    root = options.suite_folder
    ids = matching(check_files(root), options.only)
    if not ids:
        raise InputError(f"{root}: no case matches {options.only!r}; see python -m golden_vectors list")
    announce_compilation()
    jobs = options.jobs or _cpus()
    with tqdm(check_cases(root, ids, jobs), "verifying", len(ids), unit="case", disable=None, leave=False) as bar:
        wrong = _report(bar)
    if options.regenerate:
        made = (case for case in cases(options.suite) if matching([case.id], options.only))
        with tqdm(check_bytes(root, ids, made), "regenerating", len(ids), unit="case", disable=None, leave=False) as bar:
            wrong |= _report(bar)
    if wrong:
        print(f"{len(wrong)} of {len(ids)} cases differ")
        return 1
    print(f"{len(ids)} cases: every bit is as expected" + (", every byte as generated" if options.regenerate else ""))
    return 0


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report(results: Iterable[tuple[str, str | None]]) -> set[str]:
    """One line for each case that differs; returns their ids."""
    wrong = set()
    for case_id, difference in results:
        if difference is not None:
            wrong.add(case_id)
            tqdm.write(printable(f"{case_id}: {difference}"), file=sys.stdout)
    return wrong


# -- list -------------------------------------------------------------------------------------------------------------


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
    parser.add_argument("--flags", action="store_true", help="explain the flags instead")
    parser.add_argument("--json", action="store_true", help="for machines")


def _list(options: argparse.Namespace) -> int:
    if options.flags:
        return _list_flags(options.json)
    chosen = entries(options.suite_folder, _selection(options))
    if options.json:
        print(json.dumps([_facts(entry) for entry in chosen], indent=1))
        return 0
    width = max(len(entry.id) for entry in chosen)
    for entry in chosen:
        rules, marks = " ".join(entry.document["rules"]), " ".join(entry.document["flags"]) or "-"
        print(printable(f"{entry.id:<{width}}  {entry.bytes:>9,}  {rules}  {marks}  {entry.document['comment']}"))
    print(f"{len(chosen)} cases, {sum(entry.bytes for entry in chosen):,} bytes")
    return 0


def _facts(entry: Entry) -> dict[str, object]:
    keys = ("level", "comment", "rules", "flags", "profile", "preset", "seed")
    return {"id": entry.id, "bytes": entry.bytes, **{key: entry.document[key] for key in keys}, "operators": entry.operators}


def _list_flags(as_json: bool) -> int:
    table = flags()
    if as_json:
        print(json.dumps(table, indent=1))
        return 0
    for name, facts in table.items():
        print(f"{name}  ({' '.join(facts['rules'])})\n  bug: {facts['bug']}\n  effect: {facts['effect']}")
    return 0


# -- export -----------------------------------------------------------------------------------------------------------


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_selection(parser)
    parser.add_argument("--format", choices=tuple(FORMATS), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--layout", choices=LAYOUTS, default="hwc", help="of feature maps [T, F, C] (default %(default)s)")
    parser.add_argument("--pad-channels", type=positive_int, default=1, metavar="N", help="fill channels up to a multiple of N")
    parser.add_argument(
        "--weights", metavar="ORDER", help="order of weight axes, such as ohwi or hwio (default the operator's)"
    )
    parser.add_argument("--tensors", nargs="+", default=["*"], metavar="PATTERN", help="only tensors whose name matches")
    parser.add_argument("--frames", type=_frames, metavar="A:B", help="only frames A to B - 1, with the states at those ends")
    parser.add_argument("--limit-bytes", type=positive_int, metavar="N", help="refuse tensors of more bytes in all")
    parser.add_argument("--blob", action="store_true", help="bin: one file per case")
    parser.add_argument("--words-per-line", type=positive_int, default=1, metavar="N", help="hex: words on a line")


def _export(options: argparse.Namespace) -> int:
    how = Options(
        options.layout,
        options.pad_channels,
        options.weights,
        tuple(options.tensors),
        options.frames,
        options.limit_bytes,
        options.blob,
        options.words_per_line,
    )
    how.check(options.format)
    root = options.suite_folder
    check_files(root)
    chosen = entries(root, _selection(options))
    read = (suite_case(root, entry.id) for entry in chosen)
    count, size = export(_bar(read, "exporting"), options.format, options.out, how)
    print(f"{printable(options.out)}: {len(chosen)} cases, {count} files, {size:,} bytes")
    return 0


def _frames(text: str) -> tuple[int, int | None]:
    first, colon, stop = text.partition(":")
    if not colon or not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, stop)):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, the first frame and the one behind the last")
    return int(first or "0"), int(stop) if stop else None


if __name__ == "__main__":
    sys.exit(main())
