"""``python -m conformance run|compare|selftest``: is a port conformant, and if not, which rule does it break.

Exit codes: 0 everything that was selected passed; 1 something did not; 2 for what the user can mend, in one line.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from conformance import tables
from conformance.compare import compare_tensors, format_of
from conformance.dut import ClassDevice, CommandDevice, Device, DumpsDevice, Reading
from conformance.report import PASSED, Report, html, junit, sorted_results, terminal
from conformance.report import json as json_report
from conformance.runner import INJECT, Job, Options, Results, document, hypotheses, judge_dumps, run_all
from golden_vectors.case import DTYPES, FOLDER, LEVELS, parse_npy, read_case, read_manifest
from golden_vectors.dumps import SUFFIXES, read_dump
from golden_vectors.layouts import LAYOUTS, check_layout
from golden_vectors.registry import called
from golden_vectors.selection import Selection, entries
from refimpl.cli import Parser, announce_compilation, guarded, positive_int, printable
from refimpl.errors import InputError
from refimpl.weights_io import write_whole

REPORTS = {"report.json": json_report.render, "junit.xml": junit.render, "report.html": html.render}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    if argv[:1] == ["selftest"]:
        code: int = import_module("conformance.selftest").main(argv[1:])  # has options of its own
        return code
    options = _parser().parse_args(argv)
    return _run(options) if options.command == "run" else _compare(options)


class _Command(Parser):
    """A subcommand's parser; argparse hands it the program's name."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog.removeprefix("python -m "), description)


def _parser() -> Parser:
    parser = Parser("conformance", "Judge a port bit by bit, and say which rule of the arithmetic it breaks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|compare|selftest", parser_class=_Command)
    _add_run(
        commands.add_parser("run", description="Run a device over a suite of golden vectors; see conformance/PROTOCOL.md.")
    )
    _add_compare(
        commands.add_parser("compare", description="Compare two tensors, two folders, or a case with a folder of dumps.")
    )
    commands.add_parser("selftest", description="Prove that the kit finds what it should find.")
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, default="hwc", help="of the device's feature maps (default %(default)s)")
    parser.add_argument("--pad-channels", type=positive_int, default=1, metavar="N", help="channels filled to a multiple of N")
    parser.add_argument("--big-endian", action="store_true", help="the words of .bin files are big-endian")
    parser.add_argument(
        "--tolerance", type=_tolerance, action="append", default=[], metavar="WHAT=N",
        help="let N LSB or ULP pass in steps of an operator, or of lookups in sigmoid_bf16 or tanh_bf16",
    )  # fmt: skip
    parser.add_argument(
        "--table", type=_table, action="append", default=[], metavar="NAME=FILE",
        help="the device's own sigmoid_bf16 or tanh_bf16, 65,536 BF16 patterns: expected tensors follow it",
    )  # fmt: skip


def _tolerance(value: str) -> tuple[str, int]:
    name, equals, number = value.partition("=")
    if not (equals and number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{value!r} is not WHAT=N, such as lookup=1 or sigmoid_bf16=1")
    return name, int(number)


def _table(value: str) -> tuple[str, Path]:
    name, equals, path = value.partition("=")
    if not (equals and path):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=FILE, such as sigmoid_bf16=sigmoid.npy")
    return name, Path(path)


def _reading(options: argparse.Namespace) -> Reading:
    check_layout(options.layout, options.pad_channels)
    return Reading(options.layout, options.pad_channels, options.big_endian)


def _judging(options: argparse.Namespace, **more: Any) -> Options:
    """How cases are judged."""
    for name, _ in options.tolerance:
        if name not in tables.NAMES:
            called(name)  # refuses what is no operator
    own = {name: tables.read_table(name, path) for name, path in options.table}
    return Options(reading=_reading(options), tolerances=dict(options.tolerance), tables=own, **more)


# -- run --------------------------------------------------------------------------------------------------------------


def _add_run(parser: argparse.ArgumentParser) -> None:
    device = parser.add_mutually_exclusive_group(required=True)
    device.add_argument("--dut", metavar="CMD", help="run CMD CASE_FOLDER OUTPUT_FOLDER for each case")
    device.add_argument("--dut-class", metavar="MODULE:CLASS", help="a Python class with run(case) -> dict of arrays")
    device.add_argument("--dumps", type=Path, metavar="DIR", help="dumps taken by hand: DIR/CASE_ID/NAME.npy")
    parser.add_argument("--suite", type=Path, default=FOLDER, metavar="DIR", help="golden vectors (default the committed)")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose id matches, such as 'lstm/*'")
    parser.add_argument("--level", choices=LEVELS)
    for name in ("preset", "rule", "flag", "operator"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"cases with this {name}")
    parser.add_argument("--jobs", type=positive_int, metavar="N", help="cases at a time (default one per CPU)")
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds per call (default %(default)g)")
    parser.add_argument(
        "--inject", choices=INJECT, default="auto", help="run steps alone with golden inputs (default: where a case fails)"
    )
    parser.add_argument("--no-diagnosis", action="store_true", help="do not search for the rule that explains a failure")
    parser.add_argument("--allow-unsupported", action="store_true", help="cases that the device refuses are no failure")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep results and reports (JSON, JUnit, HTML) there")
    parser.add_argument("--resume", action="store_true", help="with --out: skip what has a result of the same case and device")
    _add_reading(parser)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0")
    return seconds


def _run(options: argparse.Namespace) -> int:
    judging = _judging(options, timeout=options.timeout, inject=options.inject, diagnose=not options.no_diagnosis)
    selection = Selection(options.only, options.level, options.rule, options.flag, options.operator, options.preset)
    jobs = _jobs(options.suite, selection)
    results = Results(_results_folder(options), options.resume)
    announce_compilation()
    device = _device(options)
    found, resumed = [], 0
    workers = min(options.jobs or _cpus(), len(jobs))
    with ExitStack() as stack:
        judging = dataclasses.replace(judging, diagnoser=_diagnoser(workers, stack))
        running = stack.enter_context(closing(run_all(jobs, device, judging, results, workers)))
        bar = stack.enter_context(tqdm(total=len(jobs), desc="running", unit="case", disable=None, leave=False))
        for result, old in running:  # closed, an interrupt ends the devices at once
            found.append(result)
            resumed += old
            bar.update()
    chosen = "all cases" if str(selection) == "nothing" else str(selection)
    chosen += "".join(f", tolerance {name} {amount}" for name, amount in options.tolerance)
    chosen += "".join(f", {name} of {path}" for name, path in options.table)
    report = Report(device.name, _relative(options.suite), chosen, sorted_results(found), options.allow_unsupported, resumed)
    print(terminal.render(report))
    if options.out is not None:
        for name, render in REPORTS.items():
            write_whole(options.out / name, render(report).encode())
        print(f"reports: {printable(options.out)}/{{{','.join(REPORTS)}}}")
    return 0 if report.passed else 1


def _relative(path: Path) -> str:
    """A path from here where it is below: reports are the same in every checkout."""
    here = Path.cwd()
    return str(path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path)


def _diagnoser(workers: int, stack: ExitStack) -> Callable[..., list[dict[str, Any]]]:
    """The search for causes, in processes that are started when they are first needed: it is most of a failing run's work."""
    if workers == 1:
        return hypotheses
    pool = ProcessPoolExecutor(workers, get_context("spawn"))  # the runner has threads, which a fork would not survive
    stack.callback(pool.shutdown, cancel_futures=True)

    def elsewhere(*arguments: Any) -> list[dict[str, Any]]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: an interrupt is for this process
        try:
            waiting = pool.submit(hypotheses, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return waiting.result()

    return elsewhere


def _device(options: argparse.Namespace) -> Device:
    if options.dut is not None:
        return CommandDevice(options.dut)
    if options.dut_class is not None:
        return ClassDevice(options.dut_class)
    return DumpsDevice(options.dumps)


def _jobs(root: Path, selection: Selection) -> list[Job]:
    """The chosen cases; :class:`InputError` where there are none: a run of nothing never passes."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name a suite, or make one with python -m golden_vectors generate --out DIR")
    files = read_manifest(root)
    chosen: dict[str, dict[str, str]] = {entry.id: {} for entry in entries(root, selection)}
    for name, digest in files.items():
        owner, _, file = name.rpartition("/")
        if owner in chosen:
            chosen[owner][file] = digest
    return [Job(root, case_id, digests) for case_id, digests in chosen.items()]


def _results_folder(options: argparse.Namespace) -> Path | None:
    """OUT/results, made; refuses a folder that holds something else than an earlier run."""
    out: Path | None = options.out
    if out is None:
        if options.resume:
            raise InputError("--resume needs the folder of the earlier run; name it with --out")
        return None
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    known = {"results", *REPORTS}
    if out.is_dir() and any(path.name not in known for path in out.iterdir()):
        raise InputError(f"{out}: holds other files than a run's; name a new folder")
    if not out.parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; make it first, or name another")
    (out / "results").mkdir(parents=True, exist_ok=True)
    return out / "results"


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- compare ----------------------------------------------------------------------------------------------------------


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expected", type=Path, metavar="EXPECTED", help="a .npy file, a folder of them, or a case's folder")
    parser.add_argument("actual", type=Path, metavar="ACTUAL", help="a dump, or a folder of dumps")
    parser.add_argument("--format", choices=tuple(DTYPES), help="of two tensors (default by dtype; uint16 is bf16)")
    _add_reading(parser)


def _compare(options: argparse.Namespace) -> int:
    if options.expected.is_dir() != options.actual.is_dir():
        raise InputError(f"{options.expected} and {options.actual}: name two files or two folders")
    if (options.expected / "case.json").is_file():
        return _compare_case(options)
    if options.tolerance or options.table:
        raise InputError("--tolerance and --table are of steps, which only a case has; give a case's folder")
    pairs = _pairs(options.expected, options.actual) if options.expected.is_dir() else [(options.expected, options.actual)]
    same = [_compare_files(expected, actual, options) for expected, actual in pairs]
    print(f"{sum(same)} of {len(same)} tensors are equal")
    return 0 if all(same) else 1


def _compare_case(options: argparse.Namespace) -> int:
    case = read_case(options.expected)
    judged = judge_dumps(case, options.actual, _judging(options))
    result = document(judged, "0" * 64, f"dumps in {options.actual}")
    for tensor in result["tensors"]:
        print(printable(f"{tensor['status']:<11} {tensor['tensor']}{'' if tensor['complete'] else ', in part'}"))
    print("\n".join(printable(line) for line in terminal.case_lines(result)))
    return 0 if result["verdict"] in PASSED else 1


def _pairs(expected: Path, actual: Path) -> list[tuple[Path, Path]]:
    """The files of two folders by tensor name."""
    pairs = []
    for path in sorted(expected.glob("*.npy")):
        have = [actual / f"{path.stem}{suffix}" for suffix in SUFFIXES if (actual / f"{path.stem}{suffix}").exists()]
        if len(have) != 1:
            raise InputError(f"{actual}: holds {'no' if not have else 'more than one'} dump of {path.stem}; there must be one")
        pairs.append((path, have[0]))
    if not pairs:
        raise InputError(f"{expected}: holds no .npy files; name a folder of expected tensors")
    return pairs


def _compare_files(expected: Path, actual: Path, options: argparse.Namespace) -> bool:
    """Compare two files and print what was found."""
    if not expected.is_file():
        raise InputError(f"{expected}: no such file; name a .npy file of the expected tensor")
    shape, _, dtype, _ = parse_npy(expected, expected.read_bytes())
    form = options.format or format_of(dtype)
    if not form:
        raise InputError(f"{expected}: {dtype} is no format of a case; say which with --format")
    golden = read_dump(expected, form, shape)
    reading = _reading(options)
    layout = (reading.layout, reading.pad_channels) if len(shape) == 3 else ("hwc", 1)
    found = read_dump(actual, form, shape, layout=layout[0], pad_channels=layout[1], big_endian=reading.big_endian)
    comparison = compare_tensors(actual.name, form, golden, np.asarray(found))
    print(printable(f"{comparison.status:<11} {comparison.tensor}"))
    for line in terminal.tensor_lines(dataclasses.asdict(comparison)) if comparison.first is not None else ():
        print(printable(line))
    return comparison.status == "equal"


if __name__ == "__main__":
    sys.exit(main())
