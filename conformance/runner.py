"""Run a device over the cases of a suite: judge, split what failed, diagnose, keep the results.

A result is a JSON document (an item of ``cases`` in ``report/report.schema.json``), so that a resumed run reports the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from conformance.compare import Comparison
from conformance.dut import Device, Interrupted, Outcome, Reading, read_shown
from conformance.examine import BAD, Examination, network_place, worst
from conformance.inject import NetworkTrace, split_case, step_rules
from conformance.report import SCHEMA, case_schema
from conformance.tables import cited, with_tables
from golden_vectors.case import Case, case_folder, read_case
from golden_vectors.schema import check
from refimpl.errors import InputError
from refimpl.program import Step
from refimpl.session import HOP
from refimpl.version import ARITHMETIC
from refimpl.weights_io import write_whole

Array = np.ndarray[Any, np.dtype[Any]]
Result = dict[str, Any]
INJECT = ("auto", "always", "never")
# How a divergence was seen. Alone: with golden inputs. In place: end to end, its inputs being right. Own inputs: end to end,
# against the golden operator on the device's wrong inputs. End to end: its inputs not known.
HOW = ("alone", "in place", "own inputs", "end to end")
PASSED = ("pass", "tolerated")
LOST = ("error", "crashed", "timeout", "missing")  # a step alone that showed nothing
KEPT_HYPOTHESES = 12  # of a failure: over all cases, one that is not the first here may be the best
DIAGNOSED = 3  # failures of a case that are diagnosed: the first of each operator
MOST_TIMEOUTS = 2  # steps of a case that may hang before the others are not tried any more

HANDED_ON = (
    "every step alone is right: the error is in what is handed from step to step, from frame to frame, or into the next state"
)
UNSEEN_INPUTS = (
    "not all of its inputs were shown: the error may be in an earlier step; show intermediate tensors, or digests.json"
)
UNSEEN_STEPS = "show intermediate tensors, or digests.json, and the first step that diverges is named"

_diagnosing = threading.Lock()  # it computes under the interpreter's lock anyway, and may keep state


@dataclass(frozen=True)
class Options:
    """How cases are judged; what of it changes a result is part of the result's key.

    diagnoser: :func:`hypotheses`, or the same elsewhere.
    """

    timeout: float = 60.0
    inject: str = "auto"
    reading: Reading = field(default_factory=Reading)
    tolerances: Mapping[str, int] = field(default_factory=dict)
    diagnose: bool = True
    diagnoser: Callable[..., list[dict[str, Any]]] = field(default_factory=lambda: hypotheses)
    tables: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class StepResult:
    """A step end to end, and alone: None where that is not known.

    ``in_place``: its inputs were right end to end already. ``own``: judged by the golden operator on the device's own inputs.
    """

    name: str
    operator: str
    rules: tuple[str, ...]
    status: str
    alone: str | None = None
    in_place: bool = False
    own: Comparison | None = None
    message: str = ""


@dataclass
class Failure:
    """One divergence: the step, how it was seen, the first tensor of it that differs, and what explains it."""

    step: str
    operator: str
    rules: tuple[str, ...]
    how: str  # one of HOW
    tensor: Comparison | None
    hypotheses: list[dict[str, Any]] = field(default_factory=list)
    diagnosed: bool = False
    note: str = ""


@dataclass
class Judged:
    """A case's result before it becomes a document."""

    case: Case
    verdict: str
    outcome: Outcome
    seen: Examination
    steps: list[StepResult]
    failures: list[Failure]
    note: str = ""


# -- one case ---------------------------------------------------------------------------------------------------------


def judge(case: Case, device: Device, options: Options) -> Judged:
    """Call the device with one case, and with its steps where that tells more; never an exception for what a device does."""
    case = with_tables(case, options.tables)
    trace = None if case.network is None else NetworkTrace(case, options.tables)
    outcome, seen = _call(case, device, options, trace)
    verdict = seen.verdict if outcome.status == "ran" else outcome.status
    judged = Judged(case, verdict, outcome, seen, _step_results(seen, verdict), [])
    injected: dict[str, tuple[Case, Examination]] = {}
    if _wants_steps(judged, device, options):
        injected = _run_steps(judged, device, options)
    conclude(judged, injected, options)
    return judged


def judge_dumps(case: Case, folder: Path, options: Options) -> Judged:
    """A case against a folder of dumps."""
    case = with_tables(case, options.tables)
    trace = None if case.network is None else NetworkTrace(case, options.tables)
    seen = Examination(case, read_shown(folder, case, options.reading, trace), options.tolerances, trace)
    judged = Judged(case, seen.verdict, Outcome("ran"), seen, _step_results(seen, seen.verdict), [])
    conclude(judged, {}, options)
    return judged


def _call(case: Case, device: Device, options: Options, trace: NetworkTrace | None) -> tuple[Outcome, Examination]:
    with TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as scratch:
        outcome = device.run(cited(case, options.tables), Path(scratch), options.timeout)
        outcome = dataclasses.replace(outcome, message=outcome.message.replace(f"{scratch}/", ""))
        shown = read_shown(outcome.folder, case, options.reading, trace)
        return outcome, Examination(case, shown, options.tolerances, trace)


def _step_results(seen: Examination, verdict: str) -> list[StepResult]:
    """The steps end to end; those of a network only where it failed, because they need its program."""
    if seen.case.network is not None and verdict in PASSED:
        return []
    results = []
    steps = {step.name: step for step in seen.steps}
    for state in seen.states():
        rules = step_rules(seen.case, steps[state.name])
        in_place = state.status != "not shown" and state.inputs_right
        alone = state.status if in_place else None
        results.append(StepResult(state.name, state.operator, rules, state.status, alone, in_place))
    return results


def _wants_steps(judged: Judged, device: Device, options: Options) -> bool:
    if not device.can_inject or len(judged.case.steps) < 2 or options.inject == "never":
        return False
    return options.inject == "always" or judged.verdict not in (*PASSED, "unsupported")


def _run_steps(judged: Judged, device: Device, options: Options) -> dict[str, tuple[Case, Examination]]:
    """Call the device with the steps that were not judged in place; fills in their results."""
    found: dict[str, tuple[Case, Examination]] = {}
    hung = 0
    for result, single in zip(judged.steps, split_case(judged.case), strict=True):
        if result.in_place and options.inject != "always":
            continue
        if hung >= MOST_TIMEOUTS:
            result.message = "not tried: too many steps did not end"
            continue
        outcome, seen = _call(single, device, options, None)
        status = worst([c.status for c in seen.comparisons.values()])
        if outcome.status != "ran":
            status = outcome.status
        elif seen.missing and status not in BAD:
            status = "missing"
        hung += status == "timeout"
        result.alone, result.in_place, result.message = status, False, outcome.message
        found[result.name] = single, seen
    return found


# -- what went wrong --------------------------------------------------------------------------------------------------


def conclude(judged: Judged, injected: Mapping[str, tuple[Case, Examination]], options: Options) -> None:
    """The verdict of a case from its steps, and the failures with their explanation."""
    _drop_refusals(judged)
    _judge_by_own_inputs(judged, options)
    bad = [result for result in judged.steps if result.alone in (*BAD, *LOST)]
    known = [result for result in judged.steps if result.alone is not None]
    if judged.verdict == "pass" and bad:
        judged.verdict = "fail"
    if judged.verdict == "fail" and not bad and _only_tolerated(judged, known):
        judged.verdict = "tolerated"
        judged.note = "what differs follows from tolerated steps; every step alone is right or tolerated"
        return
    for result in bad:
        judged.failures.append(_step_failure(judged, result, injected))
    if not judged.failures and len(judged.steps) == 1 and judged.verdict in ("error", "crashed", "timeout"):
        result, note = judged.steps[0], f"{judged.verdict}: {judged.outcome.message}"
        judged.failures.append(Failure(result.name, result.operator, result.rules, "alone", None, note=note))
    if not judged.failures and (emitted := _emission_failure(judged)) is not None:
        judged.failures.append(emitted)
    elif not judged.failures:
        first = judged.seen.first_divergence()
        if first is not None:
            judged.failures.append(_first_failure(judged, first, len(known) == len(judged.steps) and bool(known)))
    if options.diagnose:
        _diagnose_all(judged, injected, options)


def _drop_refusals(judged: Judged) -> None:
    """Where a device runs the case but no step of it alone, that is no fault of the steps: nothing is known of them."""
    tried = [result for result in judged.steps if result.alone is not None and not result.in_place]
    if judged.outcome.status != "ran" or len(tried) < 2 or not all(result.alone in LOST for result in tried):
        return
    judged.note = f"the device runs no step alone ({tried[0].alone}: {tried[0].message})"
    for result in tried:
        result.alone = None


def _judge_by_own_inputs(judged: Judged, options: Options) -> None:
    """Steps that could not be called alone, where the device shows all that they read and write."""
    for result in judged.steps:
        step = _step_named(judged, result.name)
        if result.alone is not None or not judged.seen.whole(step):
            continue
        try:
            found = judged.seen.by_own_inputs(step, _alone(judged, step))
        except (ValueError, IndexError):
            continue  # its inputs are such that the operator has no result
        result.alone, result.own = worst([c.status for c in found]), next((c for c in found if c.status in BAD), None)


def _alone(judged: Judged, step: Step) -> Case:
    """The step as a case of its own."""
    trace = judged.seen.trace
    return trace.alone(step) if trace is not None else split_case(judged.case)[judged.case.steps.index(step)]


def _only_tolerated(judged: Judged, known: Sequence[StepResult]) -> bool:
    """Every step is judged alone and within tolerance, and nothing differs before the first step that needed it."""
    if len(known) != len(judged.steps) or not all(r.alone in ("equal", "tolerated") for r in known):
        return False
    tolerated = next((n for n, r in enumerate(judged.steps) if r.alone == "tolerated"), None)
    first = judged.seen.first_divergence()
    if tolerated is None or first is None or first.status == "unreadable":
        return False
    step = judged.seen.order.step_of(first.tensor)
    names = [r.name for r in judged.steps]
    return step is not None and names.index(step.name) >= tolerated and not judged.seen.missing


def _step_failure(judged: Judged, result: StepResult, injected: Mapping[str, tuple[Case, Examination]]) -> Failure:
    seen = injected[result.name][1] if result.name in injected else judged.seen
    step = _step_named(judged, result.name)
    bad = [c for c in (seen.comparisons.get(name) for name in step.outputs) if c is not None and c.status in BAD]
    how = "in place" if result.in_place else "own inputs" if result.own is not None else "alone"
    bad = [result.own] if result.own is not None else bad
    note = f"{result.alone}: {result.message}".removesuffix(": ") if result.alone in LOST else ""
    return Failure(result.name, result.operator, result.rules, how, bad[0] if bad else None, note=note)


def _first_failure(judged: Judged, first: Comparison, all_right: bool) -> Failure:
    """The first divergence end to end, where no step alone is known to be wrong."""
    step = judged.seen.order.step_of(first.tensor)
    if step is None:
        rules = judged.case.rules if judged.case.network is not None else ("P-3",)
        note = (
            UNSEEN_STEPS if judged.case.network is not None else "a state of the inputs: what the next call gets as past frames"
        )
        return Failure("", "", rules, "end to end", network_place(first), note=note)
    if all_right:
        return Failure(step.name, step.operator, ("P-1", "P-3"), "end to end", first, note=HANDED_ON)
    shown = judged.seen.inputs_shown(step)
    note = "" if shown else UNSEEN_INPUTS
    return Failure(
        step.name, step.operator, step_rules(judged.case, step), "in place" if shown else "end to end", first, note=note
    )


def _emission_failure(judged: Judged) -> Failure | None:
    """A network that gives other numbers of samples per chunk than it should: what it computes is another question."""
    found = judged.seen.comparisons.get("emitted")
    if judged.case.network is None or found is None or found.status not in BAD:
        return None
    failure = Failure("", "", ("P-5",), "end to end", found)
    if found.status == "differs" and not found.by_digest:
        failure.diagnosed = True
        expected, actual = judged.case.tensors["emitted"].values, judged.seen.shown.dumps["emitted"].values
        for name, sentence, predicted in _emissions(expected):
            if np.array_equal(predicted, actual):
                count = found.mismatched
                best = {"name": name, "sentence": sentence, "rule": "P-5", "explained": count, "mismatched": count}
                failure.hypotheses.append(best | {"broken": 0, "exact": True})
    return failure


def _emissions(expected: Array) -> list[tuple[str, str, Array]]:
    """Other ways of emitting samples, and how many each push and the flush then give."""
    pushes, last = expected[:-1], expected[-1:]
    late = np.maximum(np.cumsum(pushes) - HOP, 0)
    ways = [
        ("flush_whole_frames", "the flush gives whole frames only: the last part of a frame is dropped", last // HOP * HOP),
        ("flush_missing", "the flush gives nothing", 0 * last),
        ("flush_frame_rounded_up", "the flush fills up the last frame: more comes out than went in", -(-last // HOP) * HOP),
    ]
    found = [(name, sentence, np.concatenate([pushes, flush])) for name, sentence, flush in ways]
    found.append(("emitted_total", "the counts go on from push to push", np.cumsum(expected)))
    delayed = np.diff(late, prepend=0)
    words = "every push is one frame behind, and the flush gives the rest"
    found.append(("emitted_late", words, np.append(delayed, expected.sum() - delayed.sum())))
    return found


def _step_named(judged: Judged, name: str) -> Step:
    return next(step for step in judged.seen.steps if step.name == name)


def _diagnose_all(judged: Judged, injected: Mapping[str, tuple[Case, Examination]], options: Options) -> None:
    """Hypotheses for the first failure of each operator."""
    done: set[str] = set()
    for failure in judged.failures:
        if not failure.step or failure.note == HANDED_ON or failure.operator in done or len(done) >= DIAGNOSED:
            continue
        if failure.tensor is None or failure.tensor.status != "differs" or failure.tensor.by_digest:
            continue
        done.add(failure.operator)
        _diagnose(judged, failure, injected, options)


def _diagnose(judged: Judged, failure: Failure, injected: Mapping[str, tuple[Case, Examination]], options: Options) -> None:
    step, inputs = _step_named(judged, failure.step), None
    if failure.step in injected:
        single, seen = injected[failure.step]
    else:
        seen, single = judged.seen, _alone(judged, step)
        if not seen.inputs_right(step):
            inputs = seen.own_inputs(step)
    actual = seen.outputs(step)
    if not actual:
        return
    try:
        found = options.diagnoser(single, step.name, actual, inputs)
    except Exception as error:  # an explanation that fails must not end the run that it was meant to help
        failure.note = f"the diagnosis failed ({type(error).__name__}: {' '.join(str(error).split())[:200]}); please report it"
        return
    failure.diagnosed, failure.hypotheses = True, found


def hypotheses(case: Case, step: str, actual: Mapping[str, Array], inputs: Mapping[str, Array] | None) -> list[dict[str, Any]]:
    """What explains a step's tensors, best first, as in the report."""
    from conformance.diagnosis import diagnose  # loads every operator's alternatives: only where something failed

    with _diagnosing, np.errstate(all="ignore"):
        return [dataclasses.asdict(found) for found in diagnose(case, step, actual, inputs)[:KEPT_HYPOTHESES]]


# -- documents --------------------------------------------------------------------------------------------------------


def document(judged: Judged, key: str, device: str) -> Result:
    """The result as it is stored and reported."""
    case, seen = judged.case, judged.seen
    operators = list(dict.fromkeys(step.operator for step in case.steps)) or ["network"]
    facts = {
        "schema": SCHEMA,
        "id": case.id,
        "level": case.level,
        "preset": case.preset,
        "rules": list(case.rules),
        "operators": operators,
        "key": key,
        "device": device,
        "verdict": judged.verdict,
        "message": judged.outcome.message,
        "note": judged.note,
        "milliseconds": round(1000 * judged.outcome.seconds),
        "missing": seen.missing if judged.outcome.status == "ran" else [],
        "extra": seen.shown.extra,
        "tensors": [_compact(c) for c in seen.comparisons.values()],
        "steps": [dataclasses.asdict(dataclasses.replace(result, own=None)) for result in judged.steps],
        "failures": [dataclasses.asdict(failure) for failure in judged.failures],
    }
    stored: Result = json.loads(json.dumps(facts))  # what a resumed run reads
    for step in stored["steps"]:
        del step["own"]  # what differs is among the failures
    return stored


def _compact(comparison: Comparison) -> dict[str, Any]:
    """A comparison without its heat map, which only failures keep."""
    return dataclasses.asdict(dataclasses.replace(comparison, heat=None))


# -- many cases -------------------------------------------------------------------------------------------------------


class Results:
    """The results of a run, one file per case; of a run without a folder nothing is kept."""

    def __init__(self, folder: Path | None, resume: bool) -> None:
        self.folder = folder
        if folder is not None and not resume:
            for path in folder.glob("*.json"):
                path.unlink()

    def _path(self, case_id: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{case_id.replace('/', '~')}.json"

    def stored(self, case_id: str, key: str) -> Result | None:
        """The result of an earlier run with the same key; None where it is damaged, or where time ran out."""
        if self.folder is None:
            return None
        try:
            found = json.loads(self._path(case_id).read_text(encoding="utf-8"))
            check(found, case_schema(), "result")
        except (OSError, ValueError, RecursionError):
            return None
        if found["id"] != case_id or found["key"] != key or found["verdict"] == "timeout":
            return None
        result: Result = found
        return result

    def store(self, result: Result) -> None:
        if self.folder is not None:
            write_whole(self._path(result["id"]), (json.dumps(result, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Job:
    """A case of a suite by its folder; ``digests`` are those of the suite's manifest, by the names of the case's files."""

    root: Path
    case_id: str
    digests: Mapping[str, str]


def load(job: Job) -> Case:
    """The case, if its files are those of the manifest."""
    folder = case_folder(job.root, job.case_id)
    for name, digest in job.digests.items():
        path = folder / name
        if not path.is_file() or path.is_symlink() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(f"{path}: is not the file of the manifest; fetch or generate the suite again")
    return read_case(folder)


def key_of(job: Job, case: Case, device: Device, options: Options) -> str:
    """What a result depends on: the case's files, the device, and how it is judged."""
    facts = [
        ARITHMETIC,
        SCHEMA,
        sorted(job.digests.items()),
        device.name,
        device.fingerprint(case),
        options.inject,
        dataclasses.astuple(options.reading),
        sorted(options.tolerances.items()),
        [(name, hashlib.sha256(table.tobytes()).hexdigest()) for name, table in sorted(options.tables.items())],
        options.diagnose,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def run_all(
    jobs: Sequence[Job], device: Device, options: Options, results: Results, workers: int
) -> Generator[tuple[Result, bool], None, None]:
    """The result of every case as it comes, and whether it was an earlier run's; in ``workers`` threads.

    :class:`InputError` for a suite that cannot be read. Interrupted or not, no device is running when this ends.
    """

    def one(job: Job) -> tuple[Result, bool]:
        case = load(job)
        key = key_of(job, case, device, options)
        found = results.stored(case.id, key)
        if found is not None:
            return found, True
        made = document(judge(case, device, options), key, device.name)
        results.store(made)
        return made, False

    pending: set[Future[tuple[Result, bool]]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            pending = {pool.submit(one, job) for job in jobs}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except Interrupted:
            raise KeyboardInterrupt from None
        finally:
            for future in pending:
                future.cancel()
            device.stop()
