"""The command line of the kit and its reports: selection, exit codes, resuming, and what is written."""

from __future__ import annotations

import json
import shutil
import sys
import types
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.__main__ import main
from conformance.report import Report, causes, html, junit, report_schema, sorted_results, step_counts, terminal
from conformance.report import json as json_report
from conformance.runner import Options, document, judge
from golden_vectors.case import Case, write_suite
from golden_vectors.execute import execute
from golden_vectors.schema import check
from refimpl.numerics.tables import shipped
from tests.conformance_devices import (
    Local,
    network_case,
    plus_one,
    slice_case,
    with_wrong_step,
    wrong_operator,
)
from tests.tiny import refused, tree

Argv = list[object]
HOSTILE = "<script>alert('x')</script> & \"quoted\" ]]> \x1b[31m http://example.org"


def suite_cases() -> list[Case]:
    return [
        slice_case("int8", "encoder"),
        slice_case("fp32", "encoder"),
        slice_case("int8", "block1.lstm", "lstm"),
        network_case(),
    ]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "suite"
    write_suite(root, suite_cases())
    return root


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    """Right dumps of every case."""
    root = tmp_path / "dumps"
    for case in suite_cases():
        folder = root / case.id
        folder.mkdir(parents=True)
        for name in case.names("expected", "next_state"):
            np.save(folder / f"{name}.npy", case.tensors[name].values)
    return root


def run(suite: Path, *argv: object) -> int:
    return main([str(a) for a in ("run", "--suite", suite, "--no-diagnosis", "--jobs", 2, *argv)])


def spoil(dumps: Path, case: Case, name: str) -> None:
    values = case.tensors[name].values.copy()
    plus_one(values)
    np.save(dumps / case.id / f"{name}.npy", values)


def loaded(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text())
    check(report, report_schema(), "report")
    assert report["matrix"] == json.loads(json.dumps(step_counts(report["cases"])))
    return dict(report)


# -- run --------------------------------------------------------------------------------------------------------------


def test_everything_right(suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(suite, "--dumps", dumps, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-2] == "PASS: 4 cases: 4 pass"
    report = loaded(tmp_path / "out")
    assert report["passed"] and report["counts"] == {"pass": 4}
    assert [case["id"] for case in report["cases"]] == [
        "layers/tiny-fp32/encoder",
        "layers/tiny-int8/encoder",
        "lstm/tiny-int8/block1.lstm",
        "network/tiny-int8/speech",
    ]
    assert all(wrong == 0 for row in report["matrix"].values() for _, wrong, _ in row.values())


def test_the_reference_class_passes(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(suite, "--dut-class", "tests.conformance_devices:Reference", "--inject", "always") == 0
    assert "PASS: 4 cases: 4 pass" in capsys.readouterr().out


def test_something_wrong(suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(dumps, suite_cases()[2], "block1.lstm.i")
    assert run(suite, "--dumps", dumps, "--out", tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "FAIL lstm/tiny-int8/block1.lstm" in out and "FAIL: 4 cases: 3 pass, 1 fail" in out
    assert "first divergence: step block1.lstm.i (lookup), its inputs being right" in out
    assert "frame 0, bin 1, channel 1" in out and "rules     E-4" in out and "+1 LSB" in out
    report = loaded(tmp_path / "out")
    assert not report["passed"]
    assert report["matrix"]["lookup"] == {"lstm": [4, 1, 0]}


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (["--level", "layers"], 2),
        (["--preset", "fp32"], 1),
        (["--rule", "P-4"], 1),
        (["--operator", "lookup"], 1),
        (["--only", "*int8*"], 3),
        (["--only", "*int8*", "--level", "layers"], 1),
    ],
)
def test_selection(suite: Path, dumps: Path, selection: list[str], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(suite, "--dumps", dumps, *selection) == 0
    out = capsys.readouterr().out
    assert f"PASS: {count} cases" in out and " ".join(selection[:2]) in out


def test_tolerances_and_tables_are_named_in_the_report(
    suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(dumps, suite_cases()[2], "block1.lstm.i")
    some: Argv = ["--dumps", dumps, "--level", "lstm"]
    assert run(suite, *some) == 1
    assert run(suite, *some, "--tolerance", "multiply=1") == 1
    capsys.readouterr()
    np.save(tmp_path / "t.npy", shipped("tanh_bf16"))
    table = f"tanh_bf16={tmp_path / 't.npy'}"
    assert run(suite, *some, "--tolerance", "lookup=1", "--table", table, "--out", tmp_path / "out") == 0
    assert "1 tolerated" in capsys.readouterr().out
    assert loaded(tmp_path / "out")["selection"] == f"--level lstm, tolerance lookup 1, tanh_bf16 of {tmp_path / 't.npy'}"


def test_nothing_run_never_passes(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, ["run", "--suite", suite, "--dumps", tmp_path, "--only", "no/such*"], capsys, "no case matches")
    assert not Report("x", "y", "z", []).passed
    assert run(suite, "--dumps", tmp_path) == 1
    assert "FAIL: 4 cases: 4 missing" in capsys.readouterr().out


def test_unsupported_cases(suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "device.sh"
    script.write_text(f'#!/bin/sh\ngrep -q lstm/ "$1/case.json" && exit 2\ncp {dumps}/layers/tiny-int8/encoder/* "$2"\n')
    script.chmod(0o755)
    some = ["--dut", script, "--preset", "int8", "--only", "l*"]
    assert run(suite, *some) == 1
    assert "2 cases: 1 pass, 1 unsupported" in capsys.readouterr().out
    assert run(suite, *some, "--allow-unsupported") == 0
    assert run(suite, *some, "--allow-unsupported", "--level", "lstm") == 1


def test_any_number_of_jobs_gives_the_same_reports(suite: Path, dumps: Path, tmp_path: Path) -> None:
    spoil(dumps, suite_cases()[0], "encoder")
    reports = []
    for jobs in (1, 4):
        assert main([str(a) for a in ("run", "--suite", suite, "--dumps", dumps, "--out", tmp_path / "o", "--jobs", jobs)]) == 1
        files = tree(tmp_path / "o")
        reports.append({name: data for name, data in files.items() if name.startswith("report")})
    assert reports[0] == reports[1] and len(reports[0]) == 2


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(dumps: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A right device of the layers that notes each call, and its notes."""
    script, notes = tmp_path / "device.sh", tmp_path / "notes"
    script.write_text(
        f'#!/bin/sh\nid=$(sed -n \'s/ "id": "\\(.*\\)",/\\1/p\' "$1/case.json")\necho $id >> {notes}\ncp {dumps}/$id/* "$2"\n'
    )
    script.chmod(0o755)
    return script, notes


def calls(notes: Path) -> list[str]:
    found = sorted(notes.read_text().split()) if notes.exists() else []
    notes.unlink(missing_ok=True)
    return found


def test_resume(suite: Path, counted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, notes = counted
    argv: Argv = ["--dut", script, "--level", "layers", "--out", tmp_path / "out"]
    layers = ["layers/tiny-fp32/encoder", "layers/tiny-int8/encoder"]
    assert run(suite, *argv) == 0
    assert calls(notes) == layers
    before = loaded(tmp_path / "out")
    assert run(suite, *argv, "--resume") == 0
    assert calls(notes) == []
    after = loaded(tmp_path / "out")
    assert (before.pop("resumed"), after.pop("resumed")) == (0, 2)
    assert before == after
    result = tmp_path / "out" / "results" / "layers~tiny-fp32~encoder.json"
    for damage in ("", "{}", "[" * 100000, result.read_text().replace('"pass"', '"timeout"')):
        result.write_text(damage)
        assert run(suite, *argv, "--resume") == 0
        assert calls(notes) == layers[:1]
    assert run(suite, *argv, "--resume", "--inject", "always") == 0  # judged otherwise
    assert calls(notes) == layers
    script.write_text(script.read_text() + "# changed\n")
    assert run(suite, *argv, "--resume", "--inject", "always") == 0
    assert calls(notes) == layers
    assert run(suite, *argv, "--only", "*fp32*") == 0
    assert calls(notes) == layers[:1]
    assert [p.name for p in (tmp_path / "out" / "results").iterdir()] == [result.name]


def test_a_changed_case_runs_again(counted: tuple[Path, Path], tmp_path: Path) -> None:
    script, notes = counted
    case = slice_case("int8", "encoder")
    argv: Argv = ["--dut", script, "--out", tmp_path / "out", "--resume"]
    for comment, expected in (("one", 1), ("one", 0), ("two", 1)):
        shutil.rmtree(tmp_path / "suite", ignore_errors=True)
        write_suite(tmp_path / "suite", [Case(case.id, comment, case.rules, case.tensors, case.steps)])
        assert run(tmp_path / "suite", *argv) == 0
        assert len(calls(notes)) == expected


def test_an_interrupt_leaves_results_that_are_resumed(
    suite: Path, counted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar's first update is interrupted: what was done is kept, no report is written."""
    from conformance import __main__ as module

    script, notes = counted
    argv: Argv = ["--dut", script, "--level", "layers", "--out", tmp_path / "out", "--jobs", 1]

    class Bar:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "tqdm", Bar)
        assert run(suite, *argv) == 130
    done = [path.stem.replace("~", "/") for path in (tmp_path / "out" / "results").iterdir()]
    assert done and calls(notes) and not (tmp_path / "out" / "report.json").exists()
    assert run(suite, *argv, "--resume") == 0
    assert calls(notes) == [name for name in ("layers/tiny-fp32/encoder", "layers/tiny-int8/encoder") if name not in done]


# -- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input(suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    given: Argv = ["run", "--suite", suite]
    for argv, words in (
        (["run", "--suite", tmp_path / "absent", "--dumps", dumps], "no such folder"),
        (["run", "--suite", tmp_path, "--dumps", dumps], "manifest.json"),
        ([*given, "--dut", tmp_path / "absent"], "no such command"),
        ([*given, "--dut", plain], "chmod +x"),
        ([*given, "--dut-class", "no.module:X"], "cannot be made"),
        ([*given, "--dumps", plain], "is not a folder"),
        (given, "required"),
        ([*given, "--dumps", dumps, "--dut", "true"], "not allowed"),
        ([*given, "--dumps", dumps, "--resume"], "--out"),
        ([*given, "--dumps", dumps, "--out", plain], "is a file"),
        ([*given, "--dumps", dumps, "--out", dumps], "other files"),
        ([*given, "--dumps", dumps, "--out", tmp_path / "a" / "b"], "does not exist"),
        ([*given, "--dumps", dumps, "--timeout", "0"], "seconds"),
        ([*given, "--dumps", dumps, "--timeout", "nan"], "seconds"),
        ([*given, "--dumps", dumps, "--jobs", "0"], "whole number"),
        ([*given, "--dumps", dumps, "--tolerance", "lookup"], "WHAT=N"),
        ([*given, "--dumps", dumps, "--tolerance", "nothing=1"], "unknown"),
        ([*given, "--dumps", dumps, "--table", "sigmoid_bf16"], "NAME=FILE"),
        ([*given, "--dumps", dumps, "--table", f"hann_q30={plain}"], "no table that a device may hand in"),
        ([*given, "--dumps", dumps, "--table", f"tanh_bf16={tmp_path / 'absent'}"], "no such file"),
        ([*given, "--dumps", dumps, "--table", f"tanh_bf16={plain}"], "plain"),
        ([*given, "--dumps", dumps, "--layout", "hcwb"], "hcwb"),
        ([*given, "--dumps", dumps, "--level", "depth"], "--level"),
        ([], "required"),
        (["walk"], "walk"),
    ):
        before = tree(tmp_path)
        refused(main, argv, capsys, words)
        assert tree(tmp_path) == before


def test_a_suite_that_was_changed(suite: Path, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "suite"
    shutil.copytree(suite, copy)
    path = copy / "layers/tiny-int8/encoder/encoder.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    refused(main, ["run", "--suite", copy, "--dumps", dumps], capsys, "encoder.npy", "manifest")


def test_the_selftest_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("conformance.selftest")
    module.main = lambda argv: 40 + len(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "conformance.selftest", module)
    assert main(["selftest", "--some", "option"]) == 42


# -- compare ----------------------------------------------------------------------------------------------------------


def test_compare_two_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = np.arange(60, dtype=np.int16).reshape(3, 5, 4)
    np.save(tmp_path / "e.npy", expected)
    expected.tofile(tmp_path / "a.bin")
    assert main(["compare", str(tmp_path / "e.npy"), str(tmp_path / "a.bin")]) == 0
    expected[1, 2, 3] += 3
    np.save(tmp_path / "a.npy", expected)
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "e.npy"), str(tmp_path / "a.npy")]) == 1
    out = capsys.readouterr().out
    assert "axis 0 1, axis 1 2, axis 2 3" in out and "0x001F  31" in out and "0x0022  34  +3 LSB" in out
    np.save(tmp_path / "p.npy", np.array([0x3F80], np.uint16))
    np.save(tmp_path / "q.npy", np.array([0x3F81], np.uint16))
    assert main(["compare", str(tmp_path / "p.npy"), str(tmp_path / "q.npy")]) == 1
    assert "1.0078125  +1 ULP" in capsys.readouterr().out


def test_compare_two_folders(tmp_path: Path, dumps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dumps / "lstm/tiny-int8/block1.lstm"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    count = len(list(folder.iterdir()))
    assert main(["compare", str(folder), str(copy)]) == 0
    assert f"{count} of {count} tensors are equal" in capsys.readouterr().out
    (copy / "block1.lstm.h.npy").unlink()
    refused(main, ["compare", folder, copy], capsys, "no dump of block1.lstm.h")


def test_compare_a_case_with_dumps(suite: Path, dumps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = suite_cases()[2]
    argv = ["compare", str(suite / case.id), str(dumps / case.id)]
    assert main(argv) == 0
    spoil(dumps, case, "block1.lstm.i")
    spoil(dumps, case, "block1.lstm.c")
    capsys.readouterr()
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "differs     block1.lstm.i" in out and "equal       block1.lstm.f" in out
    assert "first divergence: step block1.lstm.i (lookup)" in out
    assert main([*argv, "--tolerance", "lookup=1", "--tolerance", "add_two_stage=1"]) == 0


def test_compare_bad_input(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3, np.int8))
    np.save(tmp_path / "b.npy", np.zeros(4, np.int8))
    np.save(tmp_path / "c.npy", np.zeros(4, np.complex64))
    a, empty = tmp_path / "a.npy", tmp_path / "empty"
    empty.mkdir()
    refused(main, ["compare", a, tmp_path / "b.npy"], capsys, "holds [4]")
    refused(main, ["compare", a, tmp_path / "absent.npy"], capsys, "no such file")
    refused(main, ["compare", tmp_path / "absent.npy", a], capsys, "no such file")
    refused(main, ["compare", a, tmp_path], capsys, "two files or two folders")
    refused(main, ["compare", empty, empty], capsys, "no .npy files")
    refused(main, ["compare", tmp_path / "c.npy", a], capsys, "--format")
    refused(main, ["compare", a, a, "--tolerance", "lookup=1"], capsys, "a case's folder")


# -- reports ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> Report:
    """Every verdict, with names and messages that try to break out of their document."""
    case, options = slice_case("int8"), Options(diagnose=False)
    lstm = slice_case("int8", "block1.lstm", "lstm")

    def broken(given: Case) -> dict[str, Any]:
        raise ValueError(HOSTILE)

    def refuses(given: Case) -> dict[str, Any]:
        raise NotImplementedError(HOSTILE)

    found = [
        judge(case, Local(execute), options),
        judge(case, Local(with_wrong_step("encoder", plus_one)), options),
        judge(slice_case("fp32"), Local(with_wrong_step("encoder", plus_one)), options),
        judge(lstm, Local(with_wrong_step("block1.lstm.i", plus_one)), Options(tolerances={"lookup": 1}, diagnose=False)),
        judge(lstm, Local(lambda given: {}), options),
        judge(lstm, Local(broken), options),
        judge(lstm, Local(refuses), options),
        judge(network_case(), Local(wrong_operator("add_two_stage", plus_one)), options),
    ]
    results = [document(judged, f"{n:064x}", HOSTILE) for n, judged in enumerate(found)]
    for verdict in ("crashed", "timeout"):
        results.append({**results[5], "verdict": verdict, "note": HOSTILE})
    hypothesis = {"name": "x", "sentence": HOSTILE, "rule": "G-2", "explained": 3, "mismatched": 3, "broken": 0, "exact": True}
    results[1]["failures"][0] |= {"hypotheses": [hypothesis] * 3, "diagnosed": True}
    for number, result in enumerate(results):
        result["id"] = f"{result['id']}-{number}"
    return Report(HOSTILE, "suite", "all cases", sorted_results(results))


def test_every_verdict_is_in_the_sample(report: Report) -> None:
    assert {r["verdict"] for r in report.results} == {
        "pass", "tolerated", "fail", "missing", "unsupported", "error", "crashed", "timeout",
    }  # fmt: skip


def test_terminal(report: Report) -> None:
    text = terminal.render(report)
    assert text.splitlines()[-1].startswith("FAIL: 10 cases: 1 pass, 1 tolerated, 3 fail, 1 missing, 1 unsupported")
    assert "\x1b" not in text and all(line.isprintable() for line in text.split("\n"))
    assert "what is wrong" in text and "because   <script>" in text
    assert text.index("FAIL layers") < text.index("UNSUPPORTED lstm")


def test_causes(report: Report) -> None:
    found = causes(report.results)
    assert any(c.sentence == HOSTILE and c.rules == ("G-2",) and c.exact for c in found)
    assert [c.cases for c in found] == sorted((c.cases for c in found), reverse=True)


def failing(case_id: str, operator: str, *names: str, exact: bool = True, note: str = "") -> dict[str, Any]:
    """As much of a result as :func:`causes` reads: one failure with these explanations, best first."""
    hypotheses = [{"name": name, "sentence": f"does {name}", "rule": "N-2", "exact": exact} for name in names]
    failure = {
        "operator": operator,
        "rules": ["E-1"],
        "tensor": None,
        "note": note,
        "diagnosed": True,
        "hypotheses": hypotheses,
    }
    return {"id": case_id, "failures": [failure]}


def test_the_cause_is_what_explains_the_most_cases() -> None:
    """Alone, the first case would be put down to a; what is exact in all of them is b."""
    results = [failing("1", "multiply", "a", "b"), failing("2", "multiply", "b", "c"), failing("3", "multiply", "c", "b")]
    (cause,) = causes(results)
    assert (cause.name, cause.text, cause.exact, cause.cases, cause.failing) == ("b", "does b", True, 3, 3)
    first, second = causes([*results, failing("4", "multiply", "a")])
    assert (first.name, first.cases, second.name, second.cases, second.failing) == ("b", 3, "a", 1, 4)
    (equal,) = causes([failing("1", "multiply", "a", "b"), failing("2", "multiply", "a", "b")])
    assert equal.name == "a"


def test_one_cause_of_several_operators() -> None:
    results = [failing("1", "multiply", "a"), failing("2", "add_joint", "a"), failing("3", "stft", "b"), failing("4", "stft")]
    first, *rest = causes(results)
    assert (first.operators, first.cases, first.failing) == (("multiply", "add_joint"), 2, 2)
    assert [(c.operators, c.text, c.exact) for c in rest] == [(("stft",), "does b", True), (("stft",), "unknown", False)]


def test_what_explains_a_part_is_said_to_do_so() -> None:
    first, second = causes([failing("1", "multiply", "a", exact=False), failing("2", "add_joint", note="a note")])
    assert (first.text, first.exact) == ("in part: does a", False)
    assert (second.text, second.name, second.exact) == ("a note", "", False)


def test_json(report: Report) -> None:
    parsed = json.loads(json_report.render(report))
    check(parsed, report_schema(), "report")
    assert parsed["device"] == HOSTILE and len(parsed["cases"]) == 10
    first = next(c for c in parsed["cases"] if c["verdict"] == "fail" and "int8" in c["id"])["failures"][0]
    assert first["tensor"]["first"]["distance"] == 1 and first["tensor"]["heat"]["counts"]
    broken = json.loads(json_report.render(report))
    broken["cases"][0]["verdict"] = "perhaps"
    with pytest.raises(ValueError, match="perhaps"):
        check(broken, report_schema(), "report")


def test_junit(report: Report) -> None:
    root = ET.fromstring(junit.render(report))
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "testsuites", "10", "5", "3", "0",
    )  # fmt: skip
    cases = root.findall("testsuite/testcase")
    assert len(cases) == 10 and sum(1 for case in cases if len(case) == 0) == 2
    for suite in root.findall("testsuite"):
        assert suite.get("tests") == str(len(suite.findall("testcase")))
    allowed = ET.fromstring(junit.render(Report("x", "y", "z", report.results, True)))
    assert (allowed.get("failures"), allowed.get("skipped")) == ("4", "1")
    assert any("script" in (case[0].text or "") for case in cases if len(case))


class Page(HTMLParser):
    """Checks that tags are closed in order and that nothing is loaded from anywhere."""

    VOID = ("meta", "rect", "br", "!doctype")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload", "xlink:href"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html(report: Report) -> None:
    text = html.render(report)
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert {"svg", "table", "details", "figure", "style"} <= page.seen
    assert not {"script", "link", "img", "iframe"} & page.seen
    own = text.replace("http://example.org", "")
    assert "http" not in own and "url(" not in own and "@import" not in own
    assert "prefers-color-scheme: dark" in own and "\x1b" not in own
    assert "histogram of differences" in own and "heat map of differences" in own
    assert "&lt;script&gt;" in own


def test_a_heat_map_shows_every_difference(report: Report) -> None:
    """The areas of the marks are the cells of the map that are not zero."""
    failure = next(r for r in report.results if r["verdict"] == "fail")["failures"][0]
    cells = [cell for row in failure["tensor"]["heat"]["counts"] for cell in row]
    runs = [run for row in failure["tensor"]["heat"]["counts"] for run in html._runs(row, max(cells))]
    assert sum(stop - start for start, stop, _ in runs) == sum(1 for cell in cells if cell)
    assert {shade for _, _, shade in runs} <= {1, 2, 3, 4} and max(shade for _, _, shade in runs) == 4
