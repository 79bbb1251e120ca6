"""The report as JUnit XML: a suite per level, a test case per case."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from conformance.report import MEANING, PASSED, Report, Result
from conformance.report.terminal import case_lines
from golden_vectors.case import LEVELS
from refimpl.cli import printable

BROKEN = ("error", "crashed", "timeout")  # a JUnit "error": the test did not come to a result


def render(report: Report) -> str:
    """The document as text."""
    root = ET.Element("testsuites", {"name": "conformance", **_totals(report.results, report.allow_unsupported)})
    for level in LEVELS:
        rows = [r for r in report.results if r["level"] == level]
        if rows:
            suite = ET.SubElement(root, "testsuite", {"name": level, **_totals(rows, report.allow_unsupported)})
            for result in rows:
                _add(suite, result, report.allow_unsupported)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _kind(result: Result, allow_unsupported: bool) -> str:
    """The element that a test case has; none where it passed."""
    if result["verdict"] in PASSED:
        return ""
    if result["verdict"] == "unsupported":
        return "skipped" if allow_unsupported else "failure"
    return "error" if result["verdict"] in BROKEN else "failure"


def _totals(results: Sequence[Result], allow_unsupported: bool) -> dict[str, str]:
    kinds = [_kind(r, allow_unsupported) for r in results]
    found = {
        "tests": len(kinds),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }
    return {name: str(n) for name, n in found.items()} | {"time": f"{sum(r['milliseconds'] for r in results) / 1000:.3f}"}


def _add(suite: ET.Element, result: Result, allow_unsupported: bool) -> None:
    name, seconds = result["id"].partition("/")[2], f"{result['milliseconds'] / 1000:.3f}"
    case = ET.SubElement(suite, "testcase", classname=result["level"], name=name, time=seconds)
    kind = _kind(result, allow_unsupported)
    if kind:
        inner = ET.SubElement(case, kind, message=MEANING[result["verdict"]], type=result["verdict"])
        inner.text = "\n".join(printable(line) for line in case_lines(result))  # XML 1.0 has no control characters
