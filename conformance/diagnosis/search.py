"""Which hypotheses give the device's bits: single edits first, pairs of common ones where none alone does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from conformance.diagnosis import families as _families  # noqa: F401 - fills the registry
from conformance.diagnosis.registry import Edit, families
from conformance.diagnosis.site import Array, Outputs, Site, frames_of, part_of, site_of
from conformance.diagnosis.trial import Trial, base
from golden_vectors.case import Case

# A partial hypothesis is named where it explains more than half of the differing elements and at least LEAST of them, for by
# chance a few may fit anything, and breaks few: it then gives far more of the device's elements than the golden rule does.
PARTIAL = 0.5
LEAST = 6
BROKEN = 0.25  # of the elements that it explains
PARTIALS = 3  # so many are named
LEADERS = 6  # single edits that are tried with each common one
LARGE = 1 << 15  # of an output of more elements, a part of the frames is searched, and what fits there is judged on all


@dataclass(frozen=True)
class Hypothesis:
    """What the device may do, and how much of what it wrote that explains."""

    name: str  # short id, several joined by "+"
    sentence: str  # what the device seems to do
    rule: str  # the SPEC rule that is broken
    explained: int  # elements where the hypothesis gives the device's bits although golden differs
    mismatched: int  # elements where device and golden differ
    broken: int  # elements where the device equals golden but the hypothesis does not
    exact: bool  # every element is as the hypothesis says


class Evidence:
    """The device's bits and the golden ones, and how well predictions fit them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.names = [name for name in site.step.outputs if name in site.actual]
        self.actual = self._words(site.actual)
        self.golden = self._words(site.golden)
        self.wrong = self.actual != self.golden
        self.mismatched = int(self.wrong.sum())

    @property
    def wrong_frames(self) -> Array:
        """Which frames differ."""
        parts = [words(self.site.actual[name]) != words(self.site.golden[name]) for name in self.names]
        out: Array = np.any([part.reshape(self.site.frames, -1).any(1) for part in parts], axis=0)
        return out

    def _words(self, outputs: Outputs) -> Array:
        return np.concatenate([words(outputs[name]) for name in self.names])

    def judge(self, edit: Edit, outputs: Outputs) -> Hypothesis:
        for name in self.names:
            expected, found = self.site.golden[name], outputs[name]
            if found.shape != expected.shape or found.dtype != expected.dtype:
                raise ValueError(f"{edit.name} predicts {found.dtype} {found.shape} for {name}")
        same = self._words(outputs) == self.actual
        explained = int((same & self.wrong).sum())
        broken = int((~same & ~self.wrong).sum())
        exact = explained == self.mismatched and broken == 0
        return Hypothesis(edit.name, edit.sentence, edit.rule, explained, self.mismatched, broken, exact)


def words(values: Array) -> Array:
    """An array's bits, flat, as uint64; all NaN of FP32 and FP64 are one, their payload being outside the guarantee."""
    values = np.ascontiguousarray(values)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)
    flat = values.reshape(-1)
    out: Array = flat.view(f"u{flat.dtype.itemsize}").astype(np.uint64)
    return out


def diagnose(
    case: Case, step_name: str, actual: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> list[Hypothesis]:
    """What a device that wrote ``actual`` for the outputs of a step seems to do, best first; empty where nothing fits.

    ``inputs`` holds tensors that the device itself computed, by name: they replace the golden ones as the step's inputs, and
    the golden outputs are those of the golden operator on them. Exact hypotheses come in the order of ``registry.PRIOR``,
    single ones before pairs; several of them cannot be told apart on this case.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            site = site_of(case, step_name, actual, inputs)
            evidence = None if site is None else Evidence(site)
        except (ValueError, TypeError, KeyError, IndexError):
            return []  # arrays that no step of the case could have written
        if site is None or evidence is None or evidence.mismatched == 0:
            return []
        start, stop = part_of(site, LARGE, int(np.flatnonzero(evidence.wrong_frames)[0]) if site.framed else 0)
        if stop - start == site.frames or not site.framed:
            return ranked(_search(evidence))
        return ranked(_confirmed(evidence, _search(Evidence(frames_of(site, start, stop)))))


def _search(evidence: Evidence) -> list[Hypothesis]:
    """All edits, and pairs of them where none alone is exact."""
    start = base(evidence.site)
    found: list[Hypothesis] = []
    leaders: list[tuple[Hypothesis, Edit]] = []
    common: list[Edit] = []
    for edit in edits(evidence.site):
        judged = _try(evidence, edit, start)
        if judged is not None:
            found.append(judged)
            leaders.append((judged, edit))
            common += [edit] if edit.common else []
    if not any(h.exact for h in found):
        leaders.sort(key=lambda pair: pair[0].broken - pair[0].explained)
        for first, second in _pairs([edit for _, edit in leaders[:LEADERS]], common):
            judged = _try(evidence, _both(first, second), start)
            found += [] if judged is None else [judged]
    return found


def _confirmed(evidence: Evidence, found: list[Hypothesis]) -> list[Hypothesis]:
    """What is exact on a part of the frames, or best there, judged on all of them."""
    exact = [h for h in found if h.exact]
    best = exact or sorted(found, key=lambda h: h.broken - h.explained)[:LEADERS]
    names = dict.fromkeys(h.name for h in best)
    parts = {part for name in names for part in name.split("+")}
    known: dict[str, list[Edit]] = {}
    for edit in edits(evidence.site):
        if edit.name in parts:
            known.setdefault(edit.name, []).append(edit)
    out = []
    for name in names:
        chosen = [known.get(part, []) for part in name.split("+")]
        for choice in product(*chosen):
            edit = choice[0] if len(choice) == 1 else _both(choice[0], choice[1])
            judged = _try(evidence, edit, base(evidence.site)) or _by_parts(evidence, edit)
            out += [] if judged is None else [judged]
    return out


def _by_parts(evidence: Evidence, edit: Edit) -> Hypothesis | None:
    """An edit that is too dear for all frames at once: the same edit of one part of them after the other."""
    site, judged = evidence.site, []
    start = stop = 0
    while stop < site.frames:
        start, stop = part_of(site, LARGE, stop, stop)
        part = Evidence(frames_of(site, start, stop))
        same = next((e for e in edits(part.site) if (e.name, e.sentence) == (edit.name, edit.sentence)), None)
        one = None if same is None else _try(part, same, base(part.site))
        if one is None:
            return None
        judged.append(one)
    explained, mismatched, broken = (sum(getattr(h, key) for h in judged) for key in ("explained", "mismatched", "broken"))
    exact = explained == mismatched and not broken
    return Hypothesis(edit.name, edit.sentence, edit.rule, explained, mismatched, broken, exact)


def edits(site: Site) -> Iterator[Edit]:
    """Every edit that applies, in the prior order."""
    for function in families(site):
        try:
            yield from function(site)
        except Exception:  # odd tensors may stop one family; the others still have something to say
            continue


def _try(evidence: Evidence, edit: Edit, start: Trial) -> Hypothesis | None:
    try:
        return evidence.judge(edit, edit.apply(start).predict())
    except Exception:  # as above: a hypothesis that cannot be computed from what the device wrote is none
        return None


def _pairs(leaders: list[Edit], common: list[Edit]) -> Iterator[tuple[Edit, Edit]]:
    """Each leader with each common edit of another name, once, in an order in which both changes take effect."""
    seen = set()
    for leader in leaders:
        for other in common:
            key = frozenset((id(leader), id(other)))
            if leader.name != other.name and key not in seen:
                seen.add(key)
                yield leader, other


def _both(first: Edit, second: Edit) -> Edit:
    rules = dict.fromkeys((first.rule, second.rule))
    sentence = f"{first.sentence}; and {second.sentence}"
    return Edit(f"{first.name}+{second.name}", sentence, ", ".join(rules), lambda t: second.apply(first.apply(t)))


def ranked(found: list[Hypothesis]) -> list[Hypothesis]:
    """Exact ones in the order in which they were tried; else the best partial ones. One of each name."""
    exact = [h for h in found if h.exact]
    if exact:
        return _first_of_each_name(exact)
    partial = [h for h in found if h.explained > PARTIAL * h.mismatched and h.broken < BROKEN * h.explained]
    partial = [h for h in partial if h.explained >= LEAST]
    alone = max((h.explained - h.broken for h in partial if "+" not in h.name), default=0)
    worth = [h for h in partial if "+" not in h.name or h.explained - h.broken > alone]
    worth.sort(key=lambda h: (h.broken - h.explained, h.name.count("+")))
    return _first_of_each_name(worth)[:PARTIALS]


def _first_of_each_name(found: list[Hypothesis]) -> list[Hypothesis]:
    out: dict[str, Hypothesis] = {}
    for hypothesis in found:
        out.setdefault(hypothesis.name, hypothesis)
    return list(out.values())
