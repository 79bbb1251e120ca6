"""The report as text: verdicts by level and operator, then what failed, where first, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conformance.report import (
    MEANING,
    PASSED,
    VERDICTS,
    Report,
    Result,
    causes,
    counts,
    distance_text,
    failure_title,
    hypothesis_text,
    mismatch_text,
    step_counts,
)
from golden_vectors.case import LEVELS
from refimpl.cli import printable

FAILURES = 20  # cases that are shown in full
HYPOTHESES = 3  # of a divergence
DIVERGENCES = 3  # of a case


def render(report: Report) -> str:
    """The whole text, ending in a line with the verdict."""
    lines = [f"device  {report.device}", f"suite   {report.suite}, {report.selection}", ""]
    lines += levels(report.results)
    lines += operators(report.results)
    lines += rules(report.results)
    bad = [r for r in report.results if r["verdict"] not in PASSED]
    ranked = sorted(bad, key=lambda r: r["verdict"] == "unsupported")  # stable: what failed comes before what was refused
    for result in ranked[:FAILURES]:
        lines += ["", *case_lines(result)]
    if len(ranked) > FAILURES:
        lines += ["", f"{len(ranked) - FAILURES} more cases did not pass; --out DIR writes all of them"]
    found = counts(report.results)
    total = ", ".join(f"{found[v]} {v}" for v in VERDICTS if found[v]) or "nothing ran"
    lines += ["", f"{'PASS' if report.passed else 'FAIL'}: {len(report.results)} cases: {total}"]
    return "\n".join(printable(line) for line in lines)


def levels(results: Sequence[Result]) -> Iterator[str]:
    """One line per level: cases by verdict; verdicts that nothing has are left out."""
    shown = [v for v in VERDICTS if counts(results)[v] or v in ("pass", "fail")]
    yield f"{'level':<12}{'cases':>7}" + "".join(f"{v:>12}" for v in shown)
    for level in LEVELS:
        rows = [r for r in results if r["level"] == level]
        if rows:
            found = counts(rows)
            yield f"{level:<12}{len(rows):>7}" + "".join(f"{found[v] or '-':>12}" for v in shown)


def operators(results: Sequence[Result]) -> Iterator[str]:
    """One line per operator with a step that is wrong or not known: right of all, by level."""
    table = step_counts(results)
    bad = {name: row for name, row in table.items() if any(cell[1] or cell[2] for cell in row.values())}
    if bad:
        width = max(map(len, bad)) + 2
        present = [level for level in LEVELS if any(level in row for row in bad.values())]
        yield ""
        yield f"{'steps right':<{width}}" + "".join(f"{level:>16}" for level in present)
        for name, row in bad.items():
            yield f"{name:<{width}}" + "".join(f"{_cell(row.get(level)):>16}" for level in present)
    rest = len(table) - len(bad)
    if rest:
        yield f"{'' if not bad else 'all '}{rest} {'other ' if bad else ''}operators: every step is right"


def rules(results: Sequence[Result]) -> Iterator[str]:
    """What is wrong, over all cases: by operator and explanation."""
    found = causes(results)
    if found:
        yield ""
        yield "what is wrong"
    for cause in found[:FAILURES]:
        share = f"{cause.cases} of {cause.failing} failing cases, such as {cause.example}"
        yield f"  {', '.join(cause.operators)} [{', '.join(cause.rules)}]: {share}"
        yield f"    {cause.text}"
    if len(found) > FAILURES:
        yield f"  and {len(found) - FAILURES} more"


def _cell(cell: tuple[int, int, int] | None) -> str:
    if cell is None:
        return ""
    right, wrong, unknown = cell
    return f"{right}/{right + wrong + unknown}" + (f" ({unknown} ?)" if unknown else "")


def case_lines(result: Result) -> Iterator[str]:
    """One case that did not pass."""
    yield f"{result['verdict'].upper()} {result['id']}"
    if result["message"]:
        yield f"  {MEANING[result['verdict']] if result['verdict'] != 'missing' else 'device'}: {result['message']}"
    if result["missing"]:
        yield f"  not shown: {', '.join(result['missing'][:6])}{', ...' if len(result['missing']) > 6 else ''}"
    for number, failure in enumerate(result["failures"][:DIVERGENCES]):
        yield f"  {'first divergence' if number == 0 else 'also'}: {failure_title(failure)}"
        yield from failure_lines(failure)
    if len(result["failures"]) > DIVERGENCES:
        rest = ", ".join(f["step"] for f in result["failures"][DIVERGENCES:][:6])
        yield f"  {len(result['failures']) - DIVERGENCES} more steps are wrong alone: {rest}"
    if result["note"]:
        yield f"  note: {result['note']}"


def failure_lines(failure: Mapping[str, Any]) -> Iterator[str]:
    """One divergence: where in the tensor, what, how much, which rule, which explanation."""
    tensor = failure["tensor"]
    if tensor is not None:
        yield from tensor_lines(tensor)
    yield f"    rules     {', '.join(failure['rules'])}"
    if failure["note"]:
        yield f"    note      {failure['note']}"
    for number, hypothesis in enumerate(failure["hypotheses"][:HYPOTHESES]):
        yield f"    {'because' if number == 0 else '     or'}   {hypothesis_text(hypothesis)}"
    if failure["diagnosed"] and not failure["hypotheses"]:
        yield "    because   unknown: no alternative rule that the kit knows explains it"


def tensor_lines(tensor: Mapping[str, Any]) -> Iterator[str]:
    """One tensor that differs, or could not be read."""
    first = tensor["first"]
    if first is None:
        yield f"    tensor    {tensor['tensor']}: {tensor['explanation']}"
        return
    yield f"    tensor    {tensor['tensor']} ({tensor['format'] or 'frames'} {list(tensor['shape'])}): {first['place']}"
    yield f"    expected  {first['expected_bits']}  {first['expected']}".rstrip()
    yield f"    actual    {first['actual_bits']}  {first['actual']}  {distance_text(first)}".rstrip()
    yield f"    differ    {mismatch_text(tensor)}"
    if tensor["explanation"]:
        yield f"    storage   {tensor['explanation']}"
