"""Reports of a run, all made from the same results: text for a terminal, JSON, JUnit XML, one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from json import loads  # ``json`` is a module of this package
from pathlib import Path
from typing import Any

from golden_vectors.case import LEVELS

SCHEMA = 1
VERDICTS = ("pass", "tolerated", "fail", "missing", "unsupported", "error", "crashed", "timeout")
MEANING = {
    "pass": "every bit as expected",
    "tolerated": "within the tolerances that were given",
    "fail": "bits differ",
    "missing": "required tensors were not shown",
    "unsupported": "the device does not support the case",
    "error": "the device could not run the case",
    "crashed": "the device crashed",
    "timeout": "the device did not end in time",
}
PASSED = ("pass", "tolerated")
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """A run, as every report shows it; ``results`` in the order of :func:`sorted_results`."""

    device: str
    suite: str
    selection: str
    results: Sequence[Result]
    allow_unsupported: bool = False
    resumed: int = 0

    @property
    def passed(self) -> bool:
        """Whether something ran, and everything that had to pass did."""
        found = counts(self.results)
        good = sum(found[verdict] for verdict in PASSED)
        return bool(good) and good + (found["unsupported"] if self.allow_unsupported else 0) == len(self.results)


@cache
def report_schema() -> dict[str, Any]:
    """The schema of a JSON report."""
    loaded: dict[str, Any] = loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))
    return loaded


def case_schema() -> dict[str, Any]:
    """The schema of one case's result."""
    items: dict[str, Any] = report_schema()["properties"]["cases"]["items"]
    return items


def sorted_results(results: Iterable[Result]) -> list[Result]:
    """By level, in the order in which a port is brought up, then by id."""
    return sorted(results, key=lambda r: (LEVELS.index(r["level"]), r["id"]))


def counts(results: Iterable[Result]) -> Counter[str]:
    """How many cases have which verdict."""
    return Counter(r["verdict"] for r in results)


def step_counts(results: Iterable[Result]) -> dict[str, dict[str, tuple[int, int, int]]]:
    """By operator and level: steps that are right, wrong, and not known.

    A step of a case that passed is right, shown or not. Of a case that did not, a step is what it is alone, and nothing is said
    of it where that is not known; the only step of a case is what the case is.
    """
    table: dict[str, dict[str, list[int]]] = {}
    for result in results:
        for operator, index in _step_marks(result):
            cell = table.setdefault(operator, {}).setdefault(result["level"], [0, 0, 0])
            cell[index] += 1
    return {operator: {level: (c[0], c[1], c[2]) for level, c in row.items()} for operator, row in sorted(table.items())}


def _step_marks(result: Result) -> Iterable[tuple[str, int]]:
    good = result["verdict"] in PASSED
    if "network" in result["operators"]:
        yield "network", 0 if good else 2 if result["verdict"] == "unsupported" else 1
        return
    failed = {failure["step"] for failure in result["failures"] if failure["how"] != "end to end"}
    for step in result["steps"]:
        if good or step["alone"] in ("equal", "tolerated"):
            yield step["operator"], 0
        elif step["name"] in failed or (len(result["steps"]) == 1 and result["verdict"] != "unsupported"):
            yield step["operator"], 1
        else:
            yield step["operator"], 2


@dataclass(frozen=True)
class Cause:
    """Failures with one explanation, over all cases; no ``sentence`` where nothing explains them.

    ``cases`` of the ``failing`` ones of the same operators have it; ``exact``: in each of them it gives every bit of the step.
    """

    operators: tuple[str, ...]
    rules: tuple[str, ...]
    name: str
    sentence: str
    exact: bool
    cases: int
    failing: int
    example: str

    @property
    def text(self) -> str:
        """The explanation as it is shown."""
        if not self.sentence:
            return "unknown"
        return self.sentence if self.exact or not self.name else f"in part: {self.sentence}"


def causes(results: Iterable[Result]) -> list[Cause]:
    """What is wrong, the most frequent first: of each case its first failure and all that were diagnosed.

    On one small case several explanations may be exact. Over all failing cases of an operator the one that explains the most is
    taken, then the one that explains the most of the others, and so on; what is the same for several operators is one cause.
    """
    failing: dict[str, list[tuple[str, Result]]] = {}
    for result in results:
        for number, failure in enumerate(result["failures"]):
            if number == 0 or failure["diagnosed"] or _storage(failure):
                failing.setdefault(failure["operator"] or "network", []).append((result["id"], failure))
    found: dict[tuple[str, str, bool], Cause] = {}
    for operator, failures in failing.items():
        for cause in _causes_of(operator, failures):
            key = (cause.name or operator, cause.sentence, cause.exact)
            found[key] = _joined(found[key], cause) if key in found else cause
    return sorted(found.values(), key=lambda cause: -cause.cases)


def _causes_of(operator: str, failures: Sequence[tuple[str, Result]]) -> Iterable[Cause]:
    """The causes of one operator's failures, each of which has one."""
    left, total = list(failures), len({case_id for case_id, _ in failures})
    while left:
        name = _most_exact(left)
        known = [(case_id, f, _named(f, name)) for case_id, f in left if name and _named(f, name) is not None]
        if not known:
            break
        left = [(case_id, f) for case_id, f in left if _named(f, name) is None]
        sentences = Counter(h["sentence"] for _, _, h in known if h is not None)
        rules = dict.fromkeys(h["rule"] for _, _, h in known if h is not None)
        ids = list(dict.fromkeys(case_id for case_id, _, _ in known))
        yield Cause((operator,), tuple(rules), name, sentences.most_common(1)[0][0], True, len(ids), total, ids[0])
    rest: dict[tuple[str, str, str], list[str]] = {}
    for case_id, failure in left:
        best = next(iter(failure["hypotheses"]), None)
        key = (best["rule"], best["name"], best["sentence"]) if best is not None else (failure["rules"][0], "", _words(failure))
        rest.setdefault(key, []).append(case_id)
    for (rule, name, sentence), ids in rest.items():
        yield Cause((operator,), (rule,), name, sentence, False, len(dict.fromkeys(ids)), total, ids[0])


def _most_exact(failures: Sequence[tuple[str, Result]]) -> str:
    """The explanation that is exact for the most failures, of equal ones that which is ranked higher; nothing where none is."""
    count: Counter[str] = Counter()
    rank: Counter[str] = Counter()
    for _, failure in failures:
        exact = [h["name"] for h in failure["hypotheses"] if h["exact"]]
        for place, name in enumerate(dict.fromkeys(exact)):
            count[name] += 1
            rank[name] += place
    return min(count, key=lambda name: (-count[name], rank[name]), default="")


def _named(failure: Result, name: str) -> Mapping[str, Any] | None:
    return next((h for h in failure["hypotheses"] if h["exact"] and h["name"] == name), None)


def _storage(failure: Result) -> str:
    return failure["tensor"]["explanation"] if failure["tensor"] is not None else ""


def _words(failure: Result) -> str:
    return _storage(failure) or failure["note"]


def _joined(one: Cause, other: Cause) -> Cause:
    """The same cause seen in another operator too."""
    return replace(
        one,
        operators=tuple(dict.fromkeys((*one.operators, *other.operators))),
        rules=tuple(dict.fromkeys((*one.rules, *other.rules))),
        cases=one.cases + other.cases,
        failing=one.failing + other.failing,
    )


def failure_title(failure: Mapping[str, Any]) -> str:
    """Where a failure is, in a few words."""
    if not failure["step"]:
        return "end to end"
    how = {
        "alone": "alone, with golden inputs",
        "in place": "its inputs being right",
        "own inputs": "by its own inputs, which are wrong",
        "end to end": "end to end",
    }[failure["how"]]
    return f"step {failure['step']} ({failure['operator']}), {how}"


def distance_text(element: Mapping[str, Any]) -> str:
    """How far off an element is."""
    if not element["unit"]:
        return ""
    return f"{element['distance']:+d} {element['unit']}" if element["distance"] is not None else "NaN"


def mismatch_text(tensor: Mapping[str, Any]) -> str:
    """How many elements, and by how much, in one line."""
    if tensor["by_digest"]:
        return f"{tensor['mismatched']} of {tensor['compared']} frames by their CRC-32"
    rows = ", ".join(f"{label}: {count}" for label, count in tensor["histogram"])
    return f"{tensor['mismatched']} of {tensor['compared']} elements ({rows})"


def hypothesis_text(hypothesis: Mapping[str, Any]) -> str:
    """One explanation, with how much of the difference it explains."""
    share = f"explains {hypothesis['explained']} of {hypothesis['mismatched']}"
    if hypothesis["exact"]:
        share += ", every bit of the step"
    elif hypothesis["broken"]:
        share += f", contradicts {hypothesis['broken']} that are right"
    return f"{hypothesis['sentence']} [{hypothesis['rule']}] ({share})"
