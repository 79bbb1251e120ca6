"""The mutants: they fit the sources and cover the rules, their table is current, and the runner tells a kill from all else.

The runner forks from a process that has imported no line of refimpl, so it runs in a process of its own here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_vectors.case import FOLDER, LEVELS
from golden_vectors.mutants import definition
from golden_vectors.mutants.catalogue import MUTANTS
from golden_vectors.mutants.definition import Mutant

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "refimpl"
TABLE = ROOT / "golden_vectors" / "MUTATION.md"
RULES = re.findall(r"^### ([A-Z]-\d+)\b", (ROOT / "conformance" / "SPEC.md").read_text(encoding="utf-8"), re.MULTILINE)
FLAGS: dict[str, Any] = json.loads((ROOT / "golden_vectors" / "flags.json").read_text(encoding="utf-8"))
ROW = re.compile(r"\| (\d+) \| `(.+?)` \| (.+) \| `(.+?)` \| (\w-\d+) \| (\w+) \| (.+?) \| (.*) \|")


# -- the catalogue ------------------------------------------------------------------------------------------------------


@cache
def source(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")


def test_every_mutant_fits_its_file_as_it_is_now_and_no_two_are_the_same() -> None:
    made: dict[tuple[str, int], str] = {}
    for m in MUTANTS:
        wrong = m.apply(source(m.file))
        assert wrong != source(m.file), m.id
        assert made.setdefault((m.file, hash(wrong)), m.id) == m.id, f"{m.id} is {made[m.file, hash(wrong)]}"


def test_the_catalogue_is_large_and_its_ids_are_unique() -> None:
    assert len(MUTANTS) >= 150
    assert len({m.id for m in MUTANTS}) == len(MUTANTS)
    assert all(re.fullmatch(r"[a-z0-9.-]+", m.id) for m in MUTANTS)


def test_every_mutant_breaks_a_rule_of_the_specification_and_every_rule_is_broken() -> None:
    assert RULES
    assert {m.rule for m in MUTANTS if not m.equivalent} == set(RULES)


def test_every_mutant_names_a_level() -> None:
    assert definition.LEVELS == LEVELS
    for m in MUTANTS:
        assert m.level in LEVELS, m.id


def test_every_flag_of_a_case_is_the_bug_of_some_mutant() -> None:
    assert {flag for m in MUTANTS for flag in m.flags} == set(FLAGS)


def test_every_module_that_computes_is_mutated() -> None:
    folders = ("numerics", "operators", "quantization", "networks", "profiles", "presets")
    modules = {p.relative_to(PACKAGE).as_posix() for folder in folders for p in (PACKAGE / folder).rglob("*.py")}
    computing = {file for file in modules if not file.endswith("__init__.py") or "def " in source(file)}
    unmutated = {"numerics/jit.py", "numerics/make_tables.py", "quantization/observers.py", "quantization/offsets.py"}
    assert computing - {m.file for m in MUTANTS} == unmutated


def test_few_mutants_are_said_to_be_equivalent() -> None:
    equivalent = [m for m in MUTANTS if m.equivalent]
    assert equivalent
    assert len(equivalent) * 20 < len(MUTANTS)
    assert all(len(m.equivalent.split()) > 5 and not m.flags for m in equivalent)


@pytest.mark.parametrize(("index", "result"), [(None, None), (0, "b a a"), (1, "a b a"), (2, "a a b"), (3, None)])
def test_text_that_does_not_occur_as_stated_is_no_mutant(index: int | None, result: str | None) -> None:
    m = Mutant("x.py", "made-up", "N-1", "numerics", "bug", "a", "b", index)
    if result is None:
        with pytest.raises(ValueError, match=r"mutant made-up: its old text occurs 3 times in x\.py"):
            m.apply("a a a")
    else:
        assert m.apply("a a a") == result


# -- the table ----------------------------------------------------------------------------------------------------------


def rows() -> Iterator[tuple[str, ...]]:
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d", line):
            found = ROW.fullmatch(line)
            assert found, line
            yield tuple(cell.replace("\\|", "|") for cell in found.groups())


def test_the_committed_table_lists_the_catalogue_and_none_is_alive() -> None:
    listed = [row[:6] for row in rows()]
    assert listed == [(str(n), m.id, m.bug, m.file, m.rule, m.level) for n, m in enumerate(MUTANTS, 1)]
    text = TABLE.read_text(encoding="utf-8")
    equivalent = sum(1 for m in MUTANTS if m.equivalent)
    assert f"**{len(MUTANTS)} mutants: {len(MUTANTS) - equivalent} killed, {equivalent} equivalent, 0 not.**" in text
    assert "alive" not in text


def test_the_committed_table_names_cases_of_the_committed_suite_with_the_level_and_a_flag_of_each_mutant() -> None:
    for m, row in zip(MUTANTS, rows(), strict=True):
        if m.equivalent:
            assert row[6:] == ("equivalent", m.equivalent)
            continue
        document = json.loads((FOLDER / row[6].strip("`") / "case.json").read_text(encoding="utf-8"))
        assert document["level"] == m.level, m.id
        assert not m.flags or set(m.flags) & set(document["flags"]), m.id


# -- the runner ---------------------------------------------------------------------------------------------------------

SAMPLE = (
    "half-up-is-floor",
    "scaled-truncation",
    "exp-degree-13",
    "folded-shift-off-by-one",
    "format-zero-half-up",
    "stage-order",
    "sum-remainder-dropped",
    "conv-kernel-axes",
    "lookup-first",
    "quantize-nan",
    "state-swapped",
    "mixer-residual-hidden",
    "recurrence-state-kept",
    "second-mixer-first-weights",
    "block-input-stale",
    "next-state-swapped",
    "network-candidate-sigmoid",
    "flush-surplus",
)
EQUIVALENT = "sum-one-by-one"
ROUNDING = ("numerics/rounding.py", "N-2", "numerics", "made up")
HALF_UP = "return (np.int64(value) + (np.int64(1) << np.int64(shift - 1))) >> np.int64(shift)"
FLOOR = "return np.int64(value) >> np.int64(shift)"
IMPORT = "from __future__ import annotations\n"


def made_up(name: str, old: str, new: str, **more: Any) -> dict[str, Any]:
    file, rule, level, bug = ROUNDING
    return {"file": file, "id": name, "rule": rule, "level": level, "bug": bug, "old": old, "new": new} | more


MADE_UP = {
    "survivor": (made_up("survivor", HALF_UP, HALF_UP + "  # no change"), "survived"),
    "wrong level": (
        made_up("wrong level", " - np.int64(first)]", "]", file="operators/elementwise.py"),
        "killed only at level operators",
    ),
    "no such flag": (
        made_up("no such flag", HALF_UP, FLOOR, flags=("chunking", "flush")),
        "killed, but by no case with flag chunking or flush",
    ),
    "not equivalent": (
        made_up("not equivalent", HALF_UP, FLOOR, equivalent="it is not"),
        "said to be equivalent, but fails numerics/shift_half_up/",
    ),
    "endless": (made_up("endless", HALF_UP, "while True:\n        pass"), "2 s were not enough, at numerics/shift_half_up/"),
    "no Python": (made_up("no Python", HALF_UP, "return )"), "cannot be imported: SyntaxError"),
    "no import": (made_up("no import", IMPORT, IMPORT + "import refimpl.nothing\n"), "cannot be imported: ModuleNotFoundError"),
    "no old text": (made_up("no old text", "no such text", ""), "cannot be imported: ValueError: mutant no old text: its old"),
    "no program": (made_up("no program", HALF_UP, "return nothing"), "is no program: NameError: name 'nothing' is not defined"),
    "dead": (made_up("dead", HALF_UP, "import os; os._exit(1)"), "its process ended without an answer"),
}

RUN = """
import json, sys
from pathlib import Path
from golden_vectors.mutants import runner
from golden_vectors.mutants.catalogue import MUTANTS
from golden_vectors.mutants.definition import Mutant

given = json.load(sys.stdin)
entries = [e for e in runner.index(runner.CASES) if e.id in given["cases"]]
quick = [e for e in entries if e.level in ("numerics", "operators")]
sample = [m for m in MUTANTS if m.id in given["sample"]]
made_up = [Mutant(**m) for m in given["made_up"]]
outcomes = runner.run(sample, entries, runner.CASES, 2) + runner.run(made_up, quick, runner.CASES, 2, 2.0)
again = runner.run(sample, entries[::-1], runner.CASES, 1)
answer = {o.mutant.id: {"how": o.how, "case": o.case, "failure": o.failure} for o in outcomes}
json.dump({
    "outcomes": answer, "unmutated": runner.unmutated(entries, runner.CASES, 2), "summary": runner.summary(outcomes),
    "table": runner.table(outcomes), "first": runner.table(outcomes[:len(sample)]), "again": runner.table(again),
    "refimpl": "refimpl" in sys.modules,
}, sys.stdout)
"""


def in_its_own_process(script: str, given: Any) -> Any:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "NUMBA"))} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def killer(mutant_id: str) -> str:
    """The case that fails on the mutant, by the committed table."""
    return next(row[6].strip("`") for row in rows() if row[1] == mutant_id)


@pytest.fixture(scope="module")
def ran() -> Any:
    cases = [killer(mutant_id) for mutant_id in SAMPLE]
    given = {"cases": cases, "sample": [*SAMPLE, EQUIVALENT], "made_up": [m for m, _ in MADE_UP.values()]}
    return in_its_own_process(RUN, given)


def test_the_sample_has_every_level_and_twelve_files() -> None:
    chosen = [m for m in MUTANTS if m.id in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    assert {m.level for m in chosen} == set(LEVELS)
    assert len({m.file for m in chosen}) >= 12


def test_a_sample_is_killed_as_the_committed_table_says_and_an_equivalent_one_is_not(ran: Any) -> None:
    for mutant_id in SAMPLE:
        assert ran["outcomes"][mutant_id] == {"how": "difference", "case": killer(mutant_id), "failure": ""}
    assert ran["outcomes"][EQUIVALENT] == {"how": "", "case": "", "failure": ""}


def test_the_unmutated_copy_passes_and_refimpl_is_never_imported_into_the_parent(ran: Any) -> None:
    assert ran["unmutated"] == {}
    assert ran["refimpl"] is False


@pytest.mark.parametrize("name", MADE_UP)
def test_what_only_looks_like_a_kill_is_a_failure(ran: Any, name: str) -> None:
    assert ran["outcomes"][name]["failure"].startswith(MADE_UP[name][1])


def test_the_table_depends_on_nothing_but_mutants_and_cases_and_shows_who_is_alive(ran: Any) -> None:
    assert ran["first"] == ran["again"]
    assert "alive" not in ran["first"]
    assert (
        ran["summary"] == f"{len(SAMPLE) + 1 + len(MADE_UP)} mutants: {len(SAMPLE)} killed, 1 equivalent, {len(MADE_UP)} not."
    )
    for name, (_, failure) in MADE_UP.items():
        assert re.search(rf"`{name}` .*\| \*\*alive: {re.escape(failure)}", ran["table"]), name


# -- the command --------------------------------------------------------------------------------------------------------

COMMANDS = """
import contextlib, io, json, sys
from golden_vectors.mutants.__main__ import main

results = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    results.append([code, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of cases: one that kills, one that does not, one that refimpl itself fails, an empty and a damaged one."""
    root = tmp_path_factory.mktemp("suites")
    kills, other = killer("half-up-is-floor"), killer("scaled-truncation")
    for name, case_id in (("kills", kills), ("misses", other), ("wrong", kills)):
        shutil.copytree(FOLDER / case_id, root / name / case_id)
    wrong = root / "wrong" / kills / "y.npy"
    np.save(wrong, np.load(wrong) + 1)
    (root / "empty").mkdir()
    (root / "damaged").mkdir()
    (root / "damaged" / "case.json").write_text('{"network": null}', encoding="utf-8")
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture(scope="module")
def commands(suites: dict[str, str]) -> dict[str, tuple[int, str, str]]:
    only = ["--only", "half-up-is-floor", "--jobs", "1"]
    given = {
        "kills": [*only, "--cases", suites["kills"]],
        "misses": [*only, "--cases", suites["misses"]],
        "wrong": [*only, "--cases", suites["wrong"]],
        "empty": [*only, "--cases", suites["empty"]],
        "damaged": [*only, "--cases", suites["damaged"]],
        "unknown": ["--only", "no-such-*"],
        "jobs": ["--jobs", "0"],
        "text": ["--jobs", "many"],
        "limit": ["--limit", "nan"],
        "part": ["--table", "table.md", "--only", "half-up-*"],
        "place": ["--table", f"{suites['empty']}/nowhere/table.md"],
        "folder": ["--table", suites["empty"]],
    }
    results = in_its_own_process(COMMANDS, list(given.values()))
    return {name: tuple(result) for name, result in zip(given, results, strict=True)}


def test_the_command_says_which_case_kills(commands: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = commands["kills"]
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"ok        half-up-is-floor: difference {killer('half-up-is-floor')} y")
    assert lines[1] == "1 mutants: 1 killed, 0 equivalent, 0 not. The unmutated copy passes 1 of these 1 cases."


def test_the_command_fails_where_a_mutant_survives_or_refimpl_itself_fails(commands: dict[str, tuple[int, str, str]]) -> None:
    code, out, _ = commands["misses"]
    assert (code, out.splitlines()[0]) == (1, "FAILED    half-up-is-floor (N-2, numerics): survived")
    code, out, _ = commands["wrong"]
    assert code == 1
    assert out.startswith(f"BROKEN    {killer('half-up-is-floor')}: refimpl itself fails it: y")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("empty", r".*/empty: holds no cases; make them with python -m golden_vectors generate"),
        ("damaged", r".*/damaged/case.json: is no case; fetch or generate the suite again"),
        ("unknown", r"no mutant matches 'no-such-\*'; the ids are in golden_vectors/MUTATION.md"),
        ("jobs", r"--jobs and --limit must be positive"),
        ("text", r"argument --jobs: invalid int value: 'many'; see python -m golden_vectors.mutants --help"),
        ("limit", r"--jobs and --limit must be positive"),
        ("part", r"--table is for all mutants; leave out --only"),
        ("place", r".*/nowhere/table.md: cannot be written there; name a file in a folder that exists"),
        ("folder", r".*/empty: cannot be written there; name a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(commands: dict[str, tuple[int, str, str]], name: str, line: str) -> None:
    code, out, err = commands[name]
    assert (code, out) == (2, "")
    assert re.fullmatch(f"error: {line}\n", err)
