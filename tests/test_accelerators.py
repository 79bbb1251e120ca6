"""The table of profiles and presets: what is in it, what is n/a and why, and that a README is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refimpl.errors import InputError
from refimpl.presets import MORE, NAMES
from refimpl.profiles import PROFILES
from tests.test_evaluate import speech  # noqa: F401 - a fixture
from weights.train import accelerators
from weights.train.accelerators import MARKS, Cell, cells, expressible, replaced


def test_every_profile_and_preset_is_asked() -> None:
    asked = cells()
    assert {(c.profile, c.preset) for c in asked} == {(p, q) for p in PROFILES for q in (*NAMES, *MORE) if q != "fp32"}
    assert {c.tables for c in asked} == {"exact", "sdk_fast", "sdk_table"} and len(set(asked)) == len(asked)


def test_marks() -> None:
    text = f"a\n{MARKS[0]}\nold\n{MARKS[1]}\nb\n"
    assert replaced(text, "new") == f"a\n{MARKS[0]}\nnew\n{MARKS[1]}\nb\n"
    assert replaced(replaced(text, "new"), "old") == text
    with pytest.raises(InputError, match="add them where"):
        replaced("nothing", "new")


def test_only_what_a_profile_lacks_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        expressible(str(tmp_path / "none.safetensors"), [Cell("gap9", "int8")])


def test_a_table_is_made(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    readme, found = tmp_path / "README.md", tmp_path / "found.json"
    argv = [str(speech / "list.csv"), "--weights", str(speech / "tiny.safetensors"), "--count", "1", "--jobs", "1"]
    readme.write_text("no marks\n", encoding="utf-8")
    assert accelerators.main([*argv, "--readme", str(readme)]) == 2
    assert "add them where" in capsys.readouterr().err
    readme.write_text(f"x\n{MARKS[0]}\n{MARKS[1]}\n", encoding="utf-8")
    assert accelerators.main([*argv, "--readme", str(readme), "--json", str(found)]) == 0
    report = json.loads(found.read_text(encoding="utf-8"))
    measured = {(m["profile"], m["preset"], m["tables"]): m for m in report["measured"]}
    missing = {(m["profile"], m["preset"]): m["reason"] for m in report["not_expressible"]}
    assert len(measured) + len(missing) == len(cells()) + 1
    assert "has no bf16" in missing["tflite_single", "mixmlp"] and "has no int16" in missing["max78002", "int16"]
    assert measured["gap9", "int8", "exact"]["bytes"] > measured["max78002", "int8", "exact"]["bytes"]  # an 8-bit bias
    assert measured["gap9", "int8", "exact"]["si_sdri"]["values"] != measured["gap9", "int8", "sdk_table"]["si_sdri"]["values"]
    rows = [line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(PROFILES) + 2 and rows[-3].count("n/a") == 6  # max78002 has int8 alone
