"""The self-test of the kit: what it counts, and a real run of a few wrong variants of the C port."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance import selftest
from conformance.__main__ import main
from conformance.selftest import Bug, Found, fingerprint, load_bugs, quoted, score, summary, table
from golden_vectors.case import FOLDER, case_folder, read_case, read_manifest, write_suite
from refimpl.errors import InputError
from tests.tiny import refused, tree

PATTERNS = ("operators/add_two_stage/", "numerics/shipped_table/")


def bug(number: int = 1, *accepted: str, operators: Sequence[str] = ("multiply",)) -> Bug:
    return Bug(number, f"what bug {number} does", tuple(operators), not accepted, accepted)


def found(number: int = 1, name: str = "", exact: bool = True, operators: Sequence[str] = ("multiply",)) -> Found:
    return Found(number, 9, 3, tuple(operators), name, f"does {name}" if name else "", exact and bool(name), (3, 3))


def test_every_bug_of_the_port_has_names_or_is_odd() -> None:
    bugs = load_bugs()
    named = [b for b in bugs if not b.odd]
    assert len(named) >= 40 and len(bugs) - len(named) == 10
    assert all(1 <= len(b.accepted) <= 3 for b in named)
    assert [b.number for b in bugs] == sorted({b.number for b in bugs})


def test_bugs_without_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bugs.json").write_text('{"bugs": [{"number": 99, "cause": "x", "operators": []}]}')
    with pytest.raises(InputError, match="bug 99 needs some accepted names"):
        load_bugs(tmp_path)


def test_what_counts_as_right() -> None:
    assert found(name="a").cause_right(bug(1, "a")) and found(name="a").operator_right(bug(1, "a"))
    assert not found(name="b").cause_right(bug(1, "a"))
    assert not found(name="a", exact=False).cause_right(bug(1, "a"))  # a part of the difference is no cause
    assert not found(operators=("multiply", "stft")).operator_right(bug(1, "a"))
    assert not Found(1, 9, 0).operator_right(bug(1, "a"))
    nowhere = bug(1, "a", operators=())
    assert found(operators=("network",)).operator_right(nowhere) and not found().operator_right(nowhere)
    assert found(operators=("multiply", "stft")).operator_right(nowhere)


def test_score_and_goals() -> None:
    bugs = [bug(n, "a") for n in range(1, 11)] + [bug(101), bug(102)]
    seen = [found(n, "a") for n in range(1, 11)] + [found(101), found(102, "b", exact=False)]
    counted = score(bugs, seen)
    assert (counted.seeded, counted.detected, counted.operator, counted.cause, counted.wrong) == (10, 10, 10, 10, 0)
    assert (counted.odd, counted.odd_detected, counted.odd_operator, counted.false) == (2, 2, 2, 0)
    assert counted.goals_met

    def met(*changes: tuple[int, Found]) -> bool:
        other = list(seen)
        for at, value in changes:
            other[at] = value
        return score(bugs, other).goals_met

    wrong_cause, wrong_operator = found(1, "b"), found(1, "a", operators=("stft",))
    assert met((0, wrong_cause), (1, wrong_cause)) and not met((0, wrong_cause), (1, wrong_cause), (2, wrong_cause))
    assert met((0, wrong_operator)) and not met((0, wrong_operator), (1, wrong_operator))
    assert not met((0, Found(1, 9, 0)))
    assert not met((10, found(101, "b")))  # claims what is not so
    assert not met((10, Found(101, 9, 0)))
    assert score(bugs, [wrong_cause, *seen[1:]]).wrong == 1


def test_table() -> None:
    bugs, seen = [bug(1, "a"), bug(2, "a"), bug(101)], [found(1, "a"), replace(found(2, "b|c"), share=(2, 3)), found(101, "d")]
    clean = Found(0, 10, 1, broken=["operators/x/y"])
    lines = table(bugs, seen, clean).splitlines()
    assert "- cause named first: 1 of 2 (50 %)" in lines and "- of those, false attributions: 1" in lines
    assert "- left out, because the clean port fails them: operators/x/y" in lines
    assert lines[-3] == "| 1 | what bug 1 does | 3 of 9 | right | `a`: does a | yes |"
    assert lines[-2].endswith("| `b|c`: does b\\|c (2 of 3) | no |") and lines[-1].endswith("| **false** |")
    assert "clean port: 9 of 10 cases pass" in list(summary(score(bugs, seen), clean))


def test_the_counts_are_quoted() -> None:
    text = "a\n<!-- self-test -->\nold\n<!-- end of self-test -->\nb\n"
    new = quoted(text, ["one", "two"])
    assert new == "a\n<!-- self-test -->\n- one\n- two\n<!-- end of self-test -->\nb\n"
    assert quoted(new, ["one", "two"]) == new
    for wrong in ("", "<!-- self-test -->\n", "<!-- end of self-test -->\n<!-- self-test -->\n"):
        with pytest.raises(InputError, match="add them"):
            quoted(wrong, [])


def test_the_readme_quotes_the_table() -> None:
    """What the README says of the kit is what the last self-test found, over all bugs of the port."""
    text = (selftest.HERE / "SELFTEST.md").read_text(encoding="utf-8")
    counts = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
    readme = (selftest.HERE / "README.md").read_text(encoding="utf-8")
    assert counts and quoted(readme, counts) == readme
    assert text.startswith("\n".join(("# Self-test of the conformance kit", "", *selftest.INTRODUCTION)))
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [(int(first[2:]), words) for first, words in rows] == [(b.number, b.words) for b in load_bugs()]


# -- a real run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One operator's cases, and the tables that the port is built with."""
    ids = {name.rpartition("/")[0] for name in read_manifest(FOLDER) if name.startswith(PATTERNS)}
    root = tmp_path_factory.mktemp("selftest") / "suite"
    write_suite(root, [read_case(case_folder(FOLDER, case_id)) for case_id in sorted(ids)])
    return root


needs_compiler = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs make and a C compiler")


@needs_compiler
def test_a_seeded_and_an_odd_bug(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Operands exchanged, and a bit that flips now and then; what was found is not looked for again."""
    argv = ["selftest", "--suite", suite, "--cases", "operators/*", "--bugs", "27,103", "--jobs", 1]
    argv += ["--out", tmp_path / "out", "--table", tmp_path / "table.md"]
    assert main([str(a) for a in argv]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "cause named first: 1 of 1 (100 %)" in out and "false attributions: 0" in out
    text = (tmp_path / "table.md").read_text()
    assert "| 27 |" in text and "`operands_swapped`" in text and "| 103 |" in text and "| not claimed |" in text
    before = tree(tmp_path / "out")
    assert len([name for name in before if name.endswith(".json")]) == 3
    monkeypatch.setattr(selftest, "examine_variant", None)
    assert main([str(a) for a in argv]) == 0
    assert tree(tmp_path / "out") == before and (tmp_path / "table.md").read_text() == text


def test_the_fingerprint_follows_the_suite_and_the_selection(suite: Path, tmp_path: Path) -> None:
    shutil.copytree(suite, tmp_path / "suite")
    first = fingerprint(suite, ["a"], selftest.PORT, "cc")
    assert first == fingerprint(tmp_path / "suite", ["a"], selftest.PORT, "cc")
    assert first != fingerprint(suite, ["b"], selftest.PORT, "cc")
    (tmp_path / "suite" / "manifest.json").write_text("{}")
    assert first != fingerprint(tmp_path / "suite", ["a"], selftest.PORT, "cc")


def test_bad_input(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, words in (
        (["--suite", tmp_path], "manifest.json"),
        (["--suite", suite, "--port", tmp_path], "bugs.json"),
        (["--suite", suite, "--bugs", "9999"], "names none"),
        (["--suite", suite, "--bugs", "1-"], "not a list of numbers"),
        (["--suite", suite, "--bugs", "x"], "not a list of numbers"),
        (["--suite", suite, "--cc", "no-such-compiler"], "no such program"),
        (["--suite", suite, "--out", tmp_path / "a" / "b"], "does not exist"),
        (["--suite", suite, "--table", tmp_path / "a" / "b.md"], "does not exist"),
        (["--suite", suite, "--quote", tmp_path / "a.md"], "no such file"),
        (["--suite", suite, "--quote", selftest.EXPECTED], "add them"),
    ):
        refused(main, ["selftest", *argv], capsys, words)
    assert tree(tmp_path) == {}
