"""Wrong variants of the port, to test a conformance kit with: bugs.json says what is wrong in each.

    python bugs.py tree FOLDER                      the sources with all bugs, each behind `#if REFIMPL_BUG == number`
    python bugs.py check --build BUILD CASES ...    builds every variant, runs the cases, says which ones see it

A bug is a replacement of whole lines that must occur exactly once in the sources beside this file, which stay clean.
Numbers from 101 on are bugs that no single wrong rule explains. `make -C FOLDER CFLAGS=-DREFIMPL_BUG=7 WARNINGS=` builds
one variant of a tree.
"""

from __future__ import annotations

import argparse
import collections
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import check

HERE = Path(__file__).resolve().parent
DEVICE = ("network", "operators", "fourier", "stream")
DUT = ("dut", "dut_steps", "dut_functions", "dut_network", "case_file")

Bug = dict[str, Any]
Found = list[tuple[Path, check.Case]]


class Edit(NamedTuple):
    """Lines from start to end (not included) become others, in one variant."""

    start: int
    end: int
    number: int
    lines: list[str]


def load_bugs() -> list[Bug]:
    bugs: list[Bug] = json.loads((HERE / "bugs.json").read_text())["bugs"]
    return bugs


def locate(lines: Sequence[str], old: Sequence[str], where: str) -> int:
    found = [at for at in range(len(lines) - len(old) + 1) if lines[at : at + len(old)] == old]
    if len(found) != 1:
        raise ValueError(f"{where}: its lines occur {len(found)} times, not once")
    return found[0]


def edits_of(name: str, lines: Sequence[str], bugs: Sequence[Bug]) -> list[Edit]:
    """All edits of one source file, in order."""
    found = []
    for bug in bugs:
        for edit in bug["edits"]:
            if edit["file"] == name:
                start = locate(lines, edit["old"], f"bug {bug['number']}, {name}")
                found.append(Edit(start, start + len(edit["old"]), bug["number"], edit["new"]))
    return sorted(found)


def regions_of(edits: Sequence[Edit]) -> list[list[Edit]]:
    """Edits that touch the same lines, together: they share one chain of #if."""
    regions: list[list[Edit]] = []
    for edit in edits:
        if regions and edit.start < max(member.end for member in regions[-1]):
            regions[-1].append(edit)
        else:
            regions.append([edit])
    return regions


def with_bugs(name: str, bugs: Sequence[Bug]) -> str:
    """The text of one source file with all bugs in it."""
    lines = (HERE / name).read_text().split("\n")
    out: list[str] = []
    at = 0
    for members in regions_of(edits_of(name, lines, bugs)):
        start, end = members[0].start, max(member.end for member in members)
        out += lines[at:start]
        for index, number in enumerate(sorted({member.number for member in members})):
            region = lines[start:end]
            for edit in reversed([member for member in members if member.number == number]):
                region[edit.start - start : edit.end - start] = edit.lines
            out += [f"#{'elif' if index else 'if'} REFIMPL_BUG == {number}", *region]
        out += ["#else", *lines[start:end], "#endif"]
        at = end
    return "\n".join(out + lines[at:])


def write_tree(folder: Path) -> None:
    """Everything that `make` needs, with the bugs in the sources."""
    folder.mkdir(parents=True, exist_ok=True)
    bugs = load_bugs()
    for path in sorted(HERE.glob("*.[ch]")):
        (folder / path.name).write_text(with_bugs(path.name, bugs))
    for name in ("Makefile", "make_model.py", "npy.py", "check.py"):
        shutil.copy(HERE / name, folder / name)


def build_variant(number: int, compiler: Sequence[str], sources: Path, build: Path, out: Path) -> Path:
    """`dut` with one bug; number 0 is the clean port. Models and tables are those of an earlier `make`."""
    files = [sources / f"{name}.c" for name in (*DEVICE, *DUT)]
    linked = [build / "models.c", build / "tables" / "tables.o", *sorted(build.glob("*/model.o"))]
    include = ["-I", sources, "-I", build / "tables"]
    command = [*compiler, f"-DREFIMPL_BUG={number}", *include, *files, *linked, "-o", out / "dut"]
    subprocess.run([str(part) for part in command], check=True)
    return out / "dut"


def seen_by(dut: Path, cases: Found, enough: int) -> list[str]:
    """Cases whose output differs, or that fail: all of them, or the first ``enough``."""
    seen: list[str] = []
    for folder, case in cases:
        if check.check_dut([dut], folder, case) not in ("passed", "unsupported"):
            seen.append(case["id"])
            if len(seen) == enough:
                break
    return seen


def check_all(build: Path, compiler: Sequence[str], roots: Sequence[Path], only: Sequence[int], enough: int) -> int:
    """Runs every variant; 1 where a bug is seen by no case, or the clean port is not right."""
    unseen = []
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name) / "sources"
        write_tree(sources)
        dut = build_variant(0, compiler, sources, build, Path(name))
        cases = [(folder, case) for folder, case in check.cases_below(roots)]
        results = [check.check_dut([dut], folder, case) for folder, case in cases]
        cases = [entry for entry, result in zip(cases, results, strict=True) if result != "unsupported"]
        wrong = [result for result in results if result not in ("passed", "unsupported")]
        print(f"the clean port: {len(cases)} cases, {len(wrong)} differ", flush=True)
        for bug in load_bugs():
            if only and bug["number"] not in only:
                continue
            build_variant(bug["number"], compiler, sources, build, Path(name))
            seen = seen_by(dut, cases, enough)
            counts = collections.Counter(name.partition("/")[0] for name in seen)
            print(f"{bug['number']:3} {bug['cause']}: {dict(sorted(counts.items()))}", flush=True)
            if not seen:
                unseen.append(bug["number"])
    if unseen:
        print(f"seen by no case: {unseen}")
    return 1 if unseen or wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Wrong variants of the port, to test a conformance kit with.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("tree")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("check")
    command.add_argument("--build", type=Path, default=HERE / "build")
    command.add_argument("--cc", default="cc -std=c99 -O2 -ffp-contract=off")
    command.add_argument("--only", type=int, nargs="*", default=[], metavar="NUMBER")
    command.add_argument("--enough", type=int, default=0, metavar="N", help="stop at N cases that see a bug")
    command.add_argument("cases", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "tree":
        write_tree(options.folder)
        return 0
    return check_all(options.build, [*shlex.split(options.cc), "-w"], options.cases, options.only, options.enough)


if __name__ == "__main__":
    sys.exit(main())
