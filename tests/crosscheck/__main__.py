"""Runs every oracle that is installed: ``python -m tests.crosscheck [--only NAME ...] [--seed N] [--markdown]``.

Exit codes: 0 every comparison is as expected, 1 one is not or an oracle failed, 2 nothing could be run, or a wrong option. An
oracle that is not installed is named, with what installs it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.crosscheck import bf16, gemmlowp, onnx_runtime, tflite, tosa
from tests.crosscheck.rows import DIFFERS, PACKAGES, Oracle, Row

ORACLES: tuple[Oracle, ...] = (
    tflite.LITERT,
    tflite.MICRO,
    tosa.ORACLE,
    gemmlowp.ORACLE,
    bf16.ML_DTYPES,
    bf16.SOFTFLOAT,
    onnx_runtime.ORACLE,
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.crosscheck", description="refimpl against independent implementations")
    names = [oracle.name for oracle in ORACLES]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"some oracles only: {', '.join(names)}")
    parser.add_argument("--seed", type=int, default=1, help="of the random layers and values, not negative")
    parser.add_argument("--markdown", action="store_true", help="print a table")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: use a number that is not negative")
    chosen = [oracle for oracle in ORACLES if not args.only or oracle.name in args.only]
    installed = [(oracle, version) for oracle in chosen if (version := oracle.version()) is not None]
    if args.markdown and installed:
        print("| oracle | compared | values | differ | largest | |\n|---|---|---|---|---|---|")
    passed = [judge(oracle, version, args.seed, args.markdown) for oracle, version in installed]
    for oracle in chosen:
        if oracle.version() is None:
            print(f"missing: {oracle.name}: {oracle.remedy}", file=sys.stderr)
    if not installed:
        print(f"error: no oracle is installed: {PACKAGES}", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


def judge(oracle: Oracle, version: str, seed: int, markdown: bool) -> bool:
    """Print the oracle's rows as they come; whether all are as expected. An oracle that breaks off has failed."""
    begin, rows = time.perf_counter(), []
    broken = ""
    try:
        for row in oracle.run(seed):
            rows.append(row)
            print(line(f"{oracle.name} {version}", row, markdown), flush=True)
    except Exception as error:
        broken = f"; broke off: {type(error).__name__}: {error}".replace("\n", " ")
    good = sum(row.passed for row in rows)
    seconds = time.perf_counter() - begin
    print(f"# {oracle.name} {version}: {good} of {len(rows)} rows as expected, {seconds:.0f} s{broken}", file=sys.stderr)
    return bool(rows) and good == len(rows) and not broken


def line(name: str, row: Row, markdown: bool) -> str:
    if row.expected is None:
        verdict = "for information" if row.passed else "FAILED"
    elif not row.passed:
        verdict = "FAILED: should differ" if row.expected == DIFFERS else "FAILED"
    else:
        verdict = "differs, as it must" if row.expected == DIFFERS else "equal"
    cells = (name, row.what, f"{row.values:,}", f"{row.differing:,}", str(row.largest), verdict)
    return f"| {' | '.join(cells)} |" if markdown else "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
