"""Does the kit find what it should find? It judges wrong variants of the C port, of which is known what is wrong in each.

``python -m conformance selftest`` builds the variants of ``c/bugs.json``, runs each over a suite, and compares what the report
names first with what the variant really does (``selftest.json``). Some variants do what no rule of the kit describes: of those
nothing exact may be claimed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from conformance.dut import CommandDevice
from conformance.report import PASSED, Cause, causes
from conformance.runner import Options, document, judge
from golden_vectors.case import FOLDER, Case, case_folder, read_case, read_manifest
from refimpl.cli import Parser, positive_int, printable
from refimpl.errors import InputError
from refimpl.weights_io import write_whole

HERE = Path(__file__).resolve().parent
PORT = HERE / "c"
EXPECTED = HERE / "selftest.json"
DEVICE = ("network", "operators", "fourier", "stream")  # the sources that bugs are in
MODELS = ("small-int8", "small-mixmlp")
CHOSEN = ("operators/*", *(f"*/{model}/*" for model in MODELS), *(f"*/{model}" for model in MODELS))
GOALS = {"detected": 1.0, "operator": 0.9, "cause": 0.8}
FIRST_ODD = 101  # bugs from this number on are described by no rule
MARKERS = ("<!-- self-test -->", "<!-- end of self-test -->")
INTRODUCTION = (
    "Written by `python -m conformance selftest --table conformance/SELFTEST.md --quote conformance/README.md`: wrong variants",
    "of the C port, and what the report names first for each. A cause counts as right where it is claimed to be exact and is",
    "one of those that `selftest.json` accepts for the bug; what no rule of the kit describes must not be claimed exactly.",
)


# -- the port ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Port:
    """The sources of the port with all bugs in them, and a build of what no bug is in; below ``folder``."""

    folder: Path
    suite: Path
    compiler: str

    @property
    def clean(self) -> Path:
        return self.folder / "clean"

    def prepare(self, port: Path) -> None:
        """Write the sources; make tables, models and the clean program."""
        _run([sys.executable, str(port / "bugs.py"), "tree", str(self.folder / "sources")])
        self._make(self.clean, 0)

    def build(self, number: int, target: Path) -> Path:
        """The program of one bug."""
        if number == 0:
            return self.clean / "dut"
        ignored = shutil.ignore_patterns("dut", *(f"{name}.o" for name in DEVICE))
        shutil.copytree(self.clean, target, ignore=ignored)
        self._make(target, number)
        return target / "dut"

    def _make(self, build: Path, number: int) -> None:
        facts = {"BUILD": build, "VECTORS": self.suite, "MODELS": " ".join(MODELS), "CC": self.compiler}
        facts |= {"PYTHON": sys.executable, "OPTIMIZE": "-O1", "WARNINGS": "-w", "CFLAGS": f"-DREFIMPL_BUG={number}"}
        set_to = [f"{name}={value}" for name, value in facts.items()]
        _run(["make", "-C", str(self.folder / "sources"), *set_to, str(build / "dut")])


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = next(iter((done.stderr or done.stdout).strip().splitlines()[-1:]), "no message")
        raise InputError(f"the port cannot be built: {last}; see that make -C conformance/c works")


# -- one bug ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """What is wrong in a variant; ``accepted`` are the kit's names for it, none where it has none (``odd``)."""

    number: int
    words: str
    operators: tuple[str, ...]
    odd: bool
    accepted: tuple[str, ...]


@dataclass
class Found:
    """What the kit says of a variant. ``exact``: it claims that its first cause gives every bit of some case's step."""

    number: int
    cases: int = 0
    failing: int = 0
    operators: tuple[str, ...] = ()
    name: str = ""
    sentence: str = ""
    exact: bool = False
    share: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)  # cases that failed although the port is clean

    def operator_right(self, bug: Bug) -> bool:
        """Only operators that have the bug; where it is in none of them, no single one."""
        if not bug.operators:
            return len(self.operators) > 1 or self.operators == ("network",)
        return bool(self.operators) and set(self.operators) <= set(bug.operators)

    def cause_right(self, bug: Bug) -> bool:
        return self.exact and self.name in bug.accepted


def load_bugs(port: Path = PORT) -> list[Bug]:
    """The bugs of the port with the names that the kit should give them."""
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))["accepted"]
    listed = json.loads((port / "bugs.json").read_text(encoding="utf-8"))["bugs"]
    bugs = []
    for entry in listed:
        accepted = tuple(expected.get(str(entry["number"]), ()))
        odd = entry["number"] >= FIRST_ODD
        if bool(accepted) == odd:
            raise InputError(f"{EXPECTED.name}: bug {entry['number']} needs {'no' if odd else 'some'} accepted names")
        bugs.append(Bug(entry["number"], entry["cause"], tuple(entry["operators"]), odd, accepted))
    return bugs


def chosen_cases(suite: Path, patterns: Sequence[str]) -> list[Case]:
    """The cases of the suite that match some pattern."""
    files = read_manifest(suite)
    ids = sorted({name.rpartition("/")[0] for name in files if name.endswith("/case.json")})
    found = [case_id for case_id in ids if any(fnmatchcase(case_id, pattern) for pattern in patterns)]
    if not found:
        raise InputError(f"{suite}: has no case that matches {' '.join(patterns)}; name others with --cases")
    return [read_case(case_folder(suite, case_id)) for case_id in found]


def examine_variant(number: int, program: Path, cases: Sequence[Case]) -> Found:
    """Run the kit on one variant."""
    begun, device, options = time.monotonic(), CommandDevice(shlex.quote(str(program))), Options()
    results = [document(judge(case, device, options), "0" * 64, device.name) for case in cases]
    ran = [r for r in results if r["verdict"] != "unsupported"]
    bad = [r for r in ran if r["verdict"] not in PASSED]
    found = Found(number, len(ran), len(bad), seconds=round(time.monotonic() - begun, 1))
    first: Cause | None = next(iter(causes(results)), None)
    if first is not None:
        found.operators, found.name, found.sentence = first.operators, first.name, first.sentence
        found.exact, found.share = first.exact, (first.cases, first.failing)
    elif bad:
        found.sentence = bad[0]["message"]
    found.broken = [r["id"] for r in bad]
    return found


# -- all bugs ---------------------------------------------------------------------------------------------------------

_cases: dict[tuple[str, tuple[str, ...]], list[Case]] = {}  # of a worker process, which examines many variants


def _one(port: Port, patterns: tuple[str, ...], number: int, left_out: frozenset[str]) -> Found:
    key = (str(port.suite), patterns)
    if key not in _cases:
        _cases[key] = chosen_cases(port.suite, patterns)
    with TemporaryDirectory(prefix="selftest-") as scratch:
        program = port.build(number, Path(scratch) / "build")
        return examine_variant(number, program, [case for case in _cases[key] if case.id not in left_out])


def examine_all(
    pick: tuple[Port, tuple[str, ...]], bugs: Sequence[Bug], jobs: int, kept: Path | None, show: Callable[[], Any]
) -> tuple[Found, list[Found]]:
    """The clean port and every variant; cases that the clean port fails are left out for the variants.

    pick: the port, and patterns of the ids of the suite's cases. kept: where results are kept. show: called after each.
    """
    with ProcessPoolExecutor(jobs) as pool:
        clean = _kept(kept, 0) or pool.submit(_one, *pick, 0, frozenset()).result()
        _keep(kept, clean)
        show()
        done = {bug.number: found for bug in bugs if (found := _kept(kept, bug.number)) is not None}
        left = frozenset(clean.broken)
        running = [pool.submit(_one, *pick, bug.number, left) for bug in bugs if bug.number not in done]
        for _ in done:
            show()
        for future in as_completed(running):
            found = future.result()
            _keep(kept, found)
            done[found.number] = found
            show()
    return clean, [done[bug.number] for bug in bugs]


def _keep(folder: Path | None, found: Found) -> None:
    if folder is not None:
        write_whole(folder / f"{found.number}.json", (json.dumps(vars(found), indent=1) + "\n").encode())


def _kept(folder: Path | None, number: int) -> Found | None:
    """What an earlier run of the same kit, port and suite found; None where there is none."""
    if folder is None or not (folder / f"{number}.json").is_file():
        return None
    try:
        facts = json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))
        tuples = {name: tuple(facts[name]) for name in ("operators", "share")}
        return Found(**{**facts, **tuples})
    except (ValueError, TypeError, KeyError):
        return None


def fingerprint(suite: Path, patterns: Sequence[str], port: Path, compiler: str) -> str:
    """What a result depends on: kit, port, suite and selection."""
    known = hashlib.sha256(json.dumps([list(patterns), compiler]).encode())
    sources = [*HERE.glob("*.py"), *(HERE / "diagnosis").glob("*.py"), *(HERE / "report").glob("*.py")]
    for path in [*sorted(sources), *sorted(port.glob("*.[chp]*")), port / "bugs.json", suite / "manifest.json"]:
        known.update(path.read_bytes())
    return known.hexdigest()[:16]


# -- what it comes to -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Counts over all bugs that have a name, and over those that have none."""

    seeded: int
    detected: int
    operator: int
    cause: int
    wrong: int  # another cause is claimed to be exact
    odd: int
    odd_detected: int
    odd_operator: int
    false: int  # of an odd bug a cause is claimed to be exact

    @property
    def goals_met(self) -> bool:
        shares = {"detected": self.detected, "operator": self.operator, "cause": self.cause}
        enough = all(shares[name] >= math.ceil(goal * self.seeded) for name, goal in GOALS.items())
        return enough and self.odd_detected == self.odd and self.false == 0


def score(bugs: Sequence[Bug], found: Sequence[Found]) -> Score:
    """The counts."""
    pairs = list(zip(bugs, found, strict=True))
    seeded, odd = [p for p in pairs if not p[0].odd], [p for p in pairs if p[0].odd]
    return Score(
        len(seeded),
        sum(f.failing > 0 for _, f in seeded),
        sum(f.operator_right(b) for b, f in seeded),
        sum(f.cause_right(b) for b, f in seeded),
        sum(f.exact and not f.cause_right(b) for b, f in seeded),
        len(odd),
        sum(f.failing > 0 for _, f in odd),
        sum(f.operator_right(b) for b, f in odd),
        sum(f.exact for _, f in odd),
    )


def summary(counted: Score, clean: Found) -> Iterator[str]:
    """The counts in words."""

    def share(count: int, total: int) -> str:
        return f"{count} of {total}" + (f" ({100 * count / total:.0f} %)" if total else "")

    yield f"clean port: {clean.cases - clean.failing} of {clean.cases} cases pass"
    if clean.broken:
        yield f"left out, because the clean port fails them: {', '.join(clean.broken)}"
    yield f"seeded bugs detected: {share(counted.detected, counted.seeded)}"
    yield f"operator named right: {share(counted.operator, counted.seeded)}"
    yield f"cause named first: {share(counted.cause, counted.seeded)}"
    yield f"another cause named as exact: {counted.wrong}"
    yield f"bugs that no rule describes, detected: {share(counted.odd_detected, counted.odd)}"
    yield f"of those, operator named right: {share(counted.odd_operator, counted.odd)}"
    yield f"of those, false attributions: {counted.false}"


def table(bugs: Sequence[Bug], found: Sequence[Found], clean: Found) -> str:
    """The whole result as Markdown."""
    lines = ["# Self-test of the conformance kit", "", *INTRODUCTION, ""]
    lines += [f"- {line}" for line in summary(score(bugs, found), clean)]
    lines += ["", "| bug | what is wrong | cases failing | operator | cause named first | right |", "|---|---|---|---|---|---|"]
    for bug, seen in zip(bugs, found, strict=True):
        lines.append(f"| {' | '.join(_row(bug, seen))} |")
    return "\n".join(lines) + "\n"


def _row(bug: Bug, seen: Found) -> list[str]:
    operator = "right" if seen.operator_right(bug) else ", ".join(seen.operators) or "-"
    said = seen.sentence.replace("|", "\\|") or "unknown"
    if seen.name:
        said = f"`{seen.name}`: {said}" if seen.exact else f"in part `{seen.name}`: {said}"
    if seen.exact and seen.share[0] < seen.share[1]:
        said += f" ({seen.share[0]} of {seen.share[1]})"
    right = "yes" if seen.cause_right(bug) else "no"
    if bug.odd:
        right = "**false**" if seen.exact else "not claimed"
    failing = f"{seen.failing} of {seen.cases}" if seen.failing else "**none**"
    return [str(bug.number), bug.words.replace("|", "\\|"), failing, operator, said, right]


def quoted(text: str, counts: Sequence[str]) -> str:
    """``text`` with the counts as a list between its markers; :class:`InputError` where it has none."""
    before, first, rest = text.partition(f"{MARKERS[0]}\n")
    _, last, after = rest.partition(MARKERS[1])
    if not (first and last):
        raise InputError(f"the file to quote in has no lines {' and '.join(MARKERS)}; add them")
    return before + first + "".join(f"- {line}\n" for line in counts) + last + after


# -- command ----------------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser("conformance selftest", "Prove on wrong variants of the C port that the kit finds what it should find.")
    parser.add_argument("--suite", type=Path, default=FOLDER, metavar="DIR", help="golden vectors (default the committed)")
    parser.add_argument(
        "--cases", nargs="+", default=list(CHOSEN), metavar="PATTERN", help="ids of cases (default %(default)s)"
    )
    parser.add_argument("--bugs", type=_numbers, metavar="N,A-B", help="only these bugs")
    parser.add_argument("--jobs", type=positive_int, metavar="N", help="bugs at a time (default one per CPU)")
    parser.add_argument("--cc", default="cc", metavar="PROGRAM", help="the C compiler (default %(default)s)")
    parser.add_argument("--port", type=Path, default=PORT, metavar="DIR", help="the port's sources (default conformance/c)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep what was found; the same run again resumes there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the whole result there, as Markdown")
    parser.add_argument("--quote", type=Path, metavar="FILE", help="put the counts between the markers in this file")
    return parser


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,5,20-30")
        found |= set(range(int(low), int(high or low) + 1))
    return found


def main(argv: Sequence[str]) -> int:
    """The command; 0 where the goals are met, 1 where not."""
    options = _parser().parse_args(argv)
    for program in ("make", options.cc):
        if shutil.which(program) is None:
            raise InputError(f"{program}: no such program; install make and a C compiler, or name one with --cc")
    for path, what in ((options.suite, "manifest.json"), (options.port, "bugs.json")):
        if not (path / what).is_file():
            raise InputError(f"{path}: holds no {what}; name another folder with --{'suite' if what[0] == 'm' else 'port'}")
    bugs = [bug for bug in load_bugs(options.port) if options.bugs is None or bug.number in options.bugs]
    if not bugs:
        raise InputError("--bugs names none of the port's bugs; see bugs.json")
    for path in (options.out, options.table):
        if path is not None and not path.resolve().parent.is_dir():
            raise InputError(f"{path}: its folder does not exist; make it first, or name another")
    if options.quote is not None:
        quoted(_text(options.quote), [])  # says now what is wrong with the file
    clean, found = _examined(options, bugs)
    counts = list(summary(score(bugs, found), clean))
    print("\n".join(counts))
    for bug, seen in zip(bugs, found, strict=True):
        if not seen.failing or (seen.exact if bug.odd else not seen.cause_right(bug)):
            print(f"  {' | '.join(_row(bug, seen))}")
    if options.table is not None:
        write_whole(options.table, table(bugs, found, clean).encode())
        print(f"table: {printable(options.table)}")
    if options.quote is not None:
        write_whole(options.quote, quoted(_text(options.quote), counts).encode())
    return 0 if score(bugs, found).goals_met and clean.failing < clean.cases else 1


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file; name one with the lines {' and '.join(MARKERS)}")
    return path.read_text(encoding="utf-8")


def _examined(options: argparse.Namespace, bugs: Sequence[Bug]) -> tuple[Found, list[Found]]:
    patterns = tuple(options.cases)
    kept = None
    if options.out is not None:
        kept = options.out / fingerprint(options.suite, patterns, options.port, options.cc)
        kept.mkdir(parents=True, exist_ok=True)
    jobs = min(options.jobs or len(os.sched_getaffinity(0)), len(bugs))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="selftest-")))
        bar = stack.enter_context(tqdm(total=len(bugs) + 1, desc="examining", unit="bug", disable=None, leave=False))
        port = Port(folder, options.suite.resolve(), options.cc)
        port.prepare(options.port.resolve())
        return examine_all((port, patterns), bugs, jobs, kept, bar.update)
