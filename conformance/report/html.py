"""The report as one HTML page without scripts or outside resources: matrix, failures, histograms, heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
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

FAILURES = 200  # cases with details; the JSON report has all
DIVERGENCES = 6  # of a case
HYPOTHESES = 3  # of a divergence
SHADES = 4

STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --text: #1d2329; --faint: #68717a; --line: #d9dde1; --card: #ffffff;
  --good: #1a7f4b; --bad: #c2352b; --unsure: #9a6b00; --heat: #c2352b; }
@media (prefers-color-scheme: dark) { :root { --back: #14181c; --text: #e3e7ea; --faint: #97a1ab; --line: #333b43;
  --card: #1b2126; --good: #5fcf94; --bad: #ff8479; --unsure: #e0b04c; --heat: #ff8479; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
.faint { color: var(--faint); } .good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wide { white-space: normal; } td.n, th.n { text-align: right; } th { font-weight: 600; color: var(--faint); }
code, .mono { font: 13px/1.45 ui-monospace, monospace; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: .5rem .9rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.one { border-top: 1px solid var(--line); margin-top: .6rem; padding-top: .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .3rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; margin-top: .6rem; align-items: flex-start; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: 13px; }
svg { display: block; max-width: 100%; } svg text { fill: var(--text); font: 12px ui-monospace, monospace; }
.frame { fill: none; stroke: var(--line); } .bar, .h4 { fill: var(--heat); }
.h1 { fill: var(--heat); opacity: .3; } .h2 { fill: var(--heat); opacity: .5; } .h3 { fill: var(--heat); opacity: .75; }
"""


def render(report: Report) -> str:
    """The page as text."""
    word, colour = ("Pass", "good") if report.passed else ("Fail", "bad")
    found = counts(report.results)
    total = ", ".join(f"{found[v]} {v}" for v in VERDICTS if found[v]) or "nothing ran"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{word}: conformance of {text(report.device)}</title><style>{STYLE}</style></head><body>",
        f'<h1><span class="{colour}">{word}</span>: conformance of <code>{text(report.device)}</code></h1>',
        f'<p class="faint">{text(report.suite)}, {text(report.selection)}: {len(report.results)} cases: {total}</p>',
        "<h2>Levels</h2>",
        *_levels(report.results),
        "<h2>Steps that are right, by operator and level</h2>",
        *_matrix(report.results),
        *_causes(report.results),
        *_failures(report.results),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def text(value: object) -> str:
    """Text for the page: one line, escaped."""
    return escape(printable(value))


def _levels(results: Sequence[Result]) -> Iterator[str]:
    shown = [v for v in VERDICTS if counts(results)[v] or v in ("pass", "fail")]
    head = "".join(f'<th class="n" title="{text(MEANING[v])}">{v}</th>' for v in shown)
    yield f'<div class="scroll"><table><tr><th>level</th><th class="n">cases</th>{head}</tr>'
    for level in LEVELS:
        rows = [r for r in results if r["level"] == level]
        if rows:
            found = counts(rows)
            cells = "".join(f'<td class="n {_colour(v) if found[v] else "faint"}">{found[v] or "-"}</td>' for v in shown)
            yield f'<tr><td>{level}</td><td class="n">{len(rows)}</td>{cells}</tr>'
    yield "</table></div>"


def _colour(verdict: str) -> str:
    return "good" if verdict in PASSED else "unsure" if verdict in ("unsupported", "missing") else "bad"


def _matrix(results: Sequence[Result]) -> Iterator[str]:
    table = step_counts(results)
    present = [level for level in LEVELS if any(level in row for row in table.values())]
    head = "".join(f'<th class="n">{level}</th>' for level in present)
    yield f'<div class="scroll"><table><tr><th>operator</th>{head}</tr>'
    for name, row in table.items():
        yield f"<tr><td><code>{text(name)}</code></td>{''.join(_matrix_cell(row.get(level)) for level in present)}</tr>"
    yield "</table></div>"


def _matrix_cell(cell: tuple[int, int, int] | None) -> str:
    if cell is None:
        return "<td></td>"
    right, wrong, unknown = cell
    colour = "bad" if wrong else "unsure" if unknown else "good"
    title = f"{right} right, {wrong} wrong, {unknown} not known"
    return f'<td class="n {colour}" title="{title}">{right}/{right + wrong + unknown}</td>'


def _causes(results: Sequence[Result]) -> Iterator[str]:
    """What is wrong, over all cases."""
    found = causes(results)
    if not found:
        return
    yield '<h2>What is wrong</h2><div class="scroll"><table>'
    yield '<tr><th>operators</th><th>rules</th><th class="n">cases</th><th>best explanation</th></tr>'
    for cause in found:
        yield f'<tr><td class="wide"><code>{text(", ".join(cause.operators))}</code></td>'
        yield f"<td>{text(', '.join(cause.rules))}</td>"
        yield f'<td class="n" title="such as {text(cause.example)}">{cause.cases} of {cause.failing}</td>'
        yield f'<td class="wide">{text(cause.text)}</td></tr>'
    yield "</table></div>"


# -- failures ---------------------------------------------------------------------------------------------------------


def _failures(results: Sequence[Result]) -> Iterator[str]:
    bad = sorted((r for r in results if r["verdict"] not in PASSED), key=lambda r: r["verdict"] == "unsupported")
    if not bad:
        return
    yield f"<h2>What did not pass ({len(bad)})</h2>"
    for number, result in enumerate(bad[:FAILURES]):
        yield from _case(result, number < 3)
    if len(bad) > FAILURES:
        yield f'<p class="faint">{len(bad) - FAILURES} more are in the JSON report.</p>'


def _case(result: Result, opened: bool) -> Iterator[str]:
    verdict = result["verdict"]
    first = result["failures"][0] if result["failures"] else None
    what = failure_title(first) if first else result["message"] or MEANING[verdict]
    yield f"<details{' open' if opened else ''}><summary>"
    yield f'<b class="{_colour(verdict)}">{verdict}</b> <code>{text(result["id"])}</code> '
    yield f'<span class="faint">{text(what)}</span></summary>'
    facts = {
        "device": result["message"],
        "not shown": ", ".join(result["missing"]),
        "rules of the case": ", ".join(result["rules"]),
        "note": result["note"],
    }
    yield _list(facts)
    for failure in result["failures"][:DIVERGENCES]:
        yield from _failure(failure)
    rest = [f["step"] for f in result["failures"][DIVERGENCES:]]
    if rest:
        yield f'<p class="one faint">{len(rest)} more steps are wrong alone: {text(", ".join(rest))}</p>'
    yield "</details>"


def _failure(failure: Mapping[str, Any]) -> Iterator[str]:
    tensor = failure["tensor"]
    facts = {"first divergence": failure_title(failure)}
    if tensor is not None:
        facts |= _tensor_facts(tensor)
    facts |= {"rules": ", ".join(failure["rules"]), "note": failure["note"]}
    yield f'<div class="one">{_list(facts)}'
    if failure["hypotheses"]:
        rows = "".join(f"<li>{text(hypothesis_text(h))}</li>" for h in failure["hypotheses"][:HYPOTHESES])
        yield f"<p>What explains it, best first:</p><ol>{rows}</ol>"
    elif failure["diagnosed"]:
        yield "<p>What explains it: unknown. No alternative rule that the kit knows does.</p>"
    if tensor is not None:
        yield f'<div class="charts">{"".join((*_histogram(tensor), *_heat(tensor)))}</div>'
    yield "</div>"


def _tensor_facts(tensor: Mapping[str, Any]) -> dict[str, str]:
    first = tensor["first"]
    facts = {"tensor": f"{tensor['tensor']} ({tensor['format'] or 'frames'} {list(tensor['shape'])})"}
    if first is not None:
        facts |= {
            "at": first["place"],
            "expected": f"{first['expected_bits']}  {first['expected']}",
            "actual": f"{first['actual_bits']}  {first['actual']}  {distance_text(first)}",
            "differ": mismatch_text(tensor),
        }
    return facts | {"storage": tensor["explanation"]}


def _list(facts: Mapping[str, str]) -> str:
    rows = "".join(f'<dt>{text(name)}</dt><dd class="mono">{text(value)}</dd>' for name, value in facts.items() if value)
    return f"<dl>{rows}</dl>"


# -- charts -----------------------------------------------------------------------------------------------------------


def _histogram(tensor: Mapping[str, Any]) -> Iterator[str]:
    rows = tensor["histogram"]
    if not rows:
        return
    unit = tensor["first"]["unit"]
    most = max(count for _, count in rows)
    bars = []
    for index, (label, count) in enumerate(rows):
        y, width = 20 * index, max(2, round(160 * count / most))
        bars.append(f'<text x="112" y="{y + 13}" text-anchor="end">{text(label)}</text>')
        bars.append(f'<rect class="bar" x="120" y="{y + 3}" width="{width}" height="13"/>')
        bars.append(f'<text x="{126 + width}" y="{y + 13}">{count}</text>')
    yield f'<figure><figcaption>actual minus expected, {unit}</figcaption><svg width="350" height="{20 * len(rows)}" '
    yield f'role="img" aria-label="histogram of differences">{"".join(bars)}</svg></figure>'


def _heat(tensor: Mapping[str, Any]) -> Iterator[str]:
    heat = tensor["heat"]
    if heat is None:
        return
    rows, columns = len(heat["counts"]), len(heat["counts"][0])
    cell = max(5, min(14, 420 // max(columns, 1)))
    most = max(max(row) for row in heat["counts"])
    marks = []
    for y, row in enumerate(heat["counts"]):
        for x, stop, shade in _runs(row, most):
            size = f'width="{(stop - x) * cell}" height="{cell}"'
            marks.append(f'<rect class="h{shade}" x="{x * cell}" y="{y * cell}" {size}/>')
    axes = f"{heat['rows']} (down, {heat['sizes'][0]}) by {heat['columns']} (right, {heat['sizes'][1]})"
    width, height = columns * cell, rows * cell
    yield f"<figure><figcaption>where: {text(axes)}; darkest: {most}</figcaption>"
    yield f'<svg width="{width + 2}" height="{height + 2}" viewBox="-1 -1 {width + 2} {height + 2}" role="img" '
    yield f'aria-label="heat map of differences">{"".join(marks)}'
    yield f'<rect class="frame" x="0" y="0" width="{width}" height="{height}"/></svg></figure>'


def _runs(row: Sequence[int], most: int) -> Iterator[tuple[int, int, int]]:
    """Neighbours of one shade, from 1 to SHADES, as (first, stop, shade); cells without a difference are left out."""
    shades = [-(-SHADES * count // most) for count in row]
    start = 0
    for x in range(1, len(row) + 1):
        if x == len(row) or shades[x] != shades[start]:
            if shades[start]:
                yield start, x, shades[start]
            start = x
