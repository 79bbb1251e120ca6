"""``refimpl.run --scheduler``: the jobs on the workers of a Dask cluster; imported only where that is asked for.

The workers see the file system of this process. They write into scratch folders beside the final places, and this process
moves there what is complete: whatever becomes of a worker, a file is whole or not there, and what a killed one leaves is
removed. Dask gives the job of a killed worker to another one.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.audio import PcmWriter
from refimpl.errors import InputError
from refimpl.presets import MORE, NAMES
from refimpl.run import Job, Report, _progress, attempt, length, load_model, put_in_place
from refimpl.session import BLOCK, HOP, Model
from refimpl.version import ARITHMETIC, __version__
from refimpl.weights_io import default_weights, load_container

try:
    from distributed import Client, KilledWorker, as_completed
except ImportError:
    raise InputError('--scheduler needs Dask, which is not installed: pip install "refimpl[cluster]"') from None

CONNECT = 6.0  # seconds in which the scheduler must answer
JOIN = 10.0  # seconds in which it must have a worker
GONE = 60.0  # seconds without any worker after which what is left is given up
KEPT = 4  # models that a worker keeps: one for each run that it serves at the same time

Identity = dict[str, str]


@dataclass(frozen=True)
class Task:
    """What a worker is sent: absolute paths only, since it may run in another folder."""

    run: str
    job: Job
    options: argparse.Namespace
    identity: Identity


def run_all(model: Model, jobs: Sequence[Job], options: argparse.Namespace) -> Iterator[Report | InputError]:
    """What became of each job, in their order; :class:`InputError` where the cluster as a whole cannot be used."""
    run = secrets.token_hex(8)
    with _quiet(), _connected(options.scheduler) as client, ExitStack() as stack:
        found: dict[int, Report | InputError] = {}
        there: dict[int, Job] = {}
        folders: dict[Path, Path] = {}
        for number, job in enumerate(jobs):
            try:
                there[number] = _elsewhere(job, run, folders, stack)
            except InputError as error:
                found[number] = error
        _check_workers(client, _identity(model), options, list(folders.values()))
        asked = _absolute(options)
        futures = {
            client.submit(work, Task(run, job, asked, _identity(model)), key=f"refimpl-{run}-{number}", pure=False): number
            for number, job in there.items()
        }
        stack.callback(client.cancel, list(futures))
        lengths = [length(job.path) for job in jobs]
        following = 0
        with _progress(f"{len(jobs)} files", sum(lengths)) as bar:
            for number, result in _results(client, futures, jobs, options.scheduler):
                found[number] = _accept(result, jobs[number], there[number])
                bar.update(lengths[number])
                while following in found:
                    yield found.pop(following)
                    following += 1
        for number in sorted(found):
            yield found[number]


def work(task: Task) -> Report | InputError:
    """Run one job, on a worker. A second attempt may find what the first one left in the scratch folder."""
    try:
        model = _model(task)
    except InputError as error:
        return InputError(f"{task.job.path}: on a worker: {error}")
    if task.job.dump is not None:
        shutil.rmtree(task.job.dump, ignore_errors=True)
    return attempt(model, task.job, task.options, False)


def look(weights: Path, folders: Sequence[Path]) -> Identity | InputError:
    """Run on every worker before the first job: its version, or what it does not have."""
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            return InputError(
                f"does not see {folder.parent}, or cannot write there; it must see the same paths as this machine"
            )
    try:
        digest = load_container(weights).digest
    except InputError as error:
        return error
    return {"refimpl": __version__, "arithmetic": ARITHMETIC, "weights": digest}


def default_look(folders: Sequence[Path]) -> Identity | InputError:
    """As :func:`look`, with the weights that the worker's own installation ships."""
    return look(default_weights(), folders)


_models: dict[str, Model] = {}  # of a worker, by run
_loading = threading.Lock()


def _model(task: Task) -> Model:
    with _loading:
        if task.run not in _models:
            model = load_model(task.options, quiet=True)
            model.preset = task.identity["preset"]  # a preset file is named as the user named it
            have = _identity(model)
            if have != task.identity:
                raise InputError(_other_version(have, task.identity))
            model.separate(np.zeros(BLOCK * HOP + 1, np.int16))
            while len(_models) >= KEPT:
                del _models[next(iter(_models))]
            _models[task.run] = model
        return _models[task.run]


def _identity(model: Model) -> Identity:
    return {"refimpl": __version__} | model.identity


def _other_version(have: Identity, want: Identity) -> str:
    key = next(key for key in want if have.get(key) != want[key])
    return (
        f"has {key} {have.get(key)}, not {want[key]}; install refimpl {want['refimpl']} with the same weights on every worker"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """What Dask logs of lost connections is told by this module in its own words."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("distributed", "distributed.client"))}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no answer"
        raise InputError(f"--scheduler {address}: cannot be reached ({reason}); start one with dask scheduler") from None
    try:
        try:
            client.wait_for_workers(1, timeout=JOIN)
        except TimeoutError:
            raise InputError(f"--scheduler {address}: has no workers; start some with dask worker {address}") from None
        yield client
    finally:
        with suppress(Exception):  # a scheduler that is gone cannot be told
            client.close(timeout=CONNECT)


def _check_workers(client: Any, want: Identity, options: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Refuse a cluster of which any worker has another version, or other weights, or does not see the folders."""
    if options.weights is None:
        answers = client.run(default_look, folders, on_error="return")
    else:
        answers = client.run(look, Path(os.path.abspath(options.weights)), folders, on_error="return")
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, InputError):
            raise InputError(f"worker {worker}: {answer}")
        if isinstance(answer, OSError):
            continue  # it went away; the one that comes instead is checked with its first job
        if isinstance(answer, Exception):
            raise InputError(f"worker {worker}: cannot run refimpl {want['refimpl']} ({answer}); install it on every worker")
        if answer != {key: want[key] for key in answer}:
            raise InputError(f"worker {worker}: {_other_version(answer, {key: want[key] for key in answer})}")


def _absolute(options: argparse.Namespace) -> argparse.Namespace:
    """The options as a worker in another folder reads them."""
    named = {key: Path(os.path.abspath(value)) for key, value in vars(options).items() if isinstance(value, Path)}
    preset = options.preset if options.preset in (*NAMES, *MORE) else os.path.abspath(options.preset)
    return argparse.Namespace(**{**vars(options), **named, "preset": preset, "inputs": []})


def _elsewhere(job: Job, run: str, folders: dict[Path, Path], stack: ExitStack) -> Job:
    """The job with absolute paths and scratch outputs; :class:`InputError` where the final ones cannot be written."""
    for path in job.outputs:
        writer = PcmWriter(path)
        writer.__enter__()
        writer.__exit__(InputError, None, None)  # nothing but the check
    outputs = tuple(_scratch(path, run, folders, stack) for path in job.outputs)
    dump = None if job.dump is None else _scratch(job.dump, run, folders, stack)
    return Job(Path(os.path.abspath(job.path)), outputs, dump)


def _scratch(path: Path, run: str, folders: dict[Path, Path], stack: ExitStack) -> Path:
    """A name for ``path`` in the scratch folder of its folder, which is made, and is removed with the stack."""
    final = Path(os.path.realpath(path))
    if final.parent not in folders:
        folder = final.parent / f".refimpl-{run}.part"
        try:
            folder.mkdir()
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name another folder") from None
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folders[final.parent] = folder
    return folders[final.parent] / final.name


def _results(
    client: Any, futures: dict[Any, int], jobs: Sequence[Job], address: str
) -> Iterator[tuple[int, Report | InputError]]:
    """Number and result of each job as they come, :class:`InputError` for those that the cluster did not bring to an end."""
    waiting = as_completed(list(futures), loop=client.loop)
    asked = seen = time.monotonic()
    while not waiting.is_empty():
        batch = waiting.next_batch(block=False)
        for future in batch:
            number = futures.pop(future)
            yield number, _result(future, jobs[number], address)
        now = time.monotonic()
        if batch or now - asked < 1:
            time.sleep(0 if batch else 0.02)
            continue
        asked = now
        with suppress(OSError, TimeoutError):
            if client.nthreads():
                seen = now
        if now - seen > GONE:
            for number in futures.values():
                yield number, InputError(f"{jobs[number].path}: --scheduler {address} has no worker left; run it again")
            return


def _result(future: Any, job: Job, address: str) -> Report | InputError:
    try:
        result: Report | InputError = future.result()
    except KilledWorker:
        return InputError(
            f"{job.path}: every worker that took it was ended from outside; run it again, with more memory for each"
        )
    except (CancelledError, TimeoutError):
        return InputError(f"{job.path}: --scheduler {address} went away; run it again")
    return result


def _accept(result: Report | InputError, job: Job, there: Job) -> Report | InputError:
    """The worker's result under the names that the user gave, with the outputs in their places."""
    if isinstance(result, InputError):
        text = str(result)
        pairs = zip((there.path, *there.outputs, there.dump), (job.path, *job.outputs, job.dump), strict=True)
        for scratch, final in pairs:
            text = text.replace(str(scratch), str(final)) if scratch is not None else text
        return InputError(text)
    moves = [(path, partial(_move, scratch, path)) for scratch, path in zip(there.outputs, job.outputs, strict=True)]
    try:
        put_in_place(job, moves, there.dump)
    except InputError as error:
        return error
    outputs = tuple(replace(output, path=str(path)) for output, path in zip(result.outputs, job.outputs, strict=True))
    return replace(result, input=str(job.path), outputs=outputs, dump=None if job.dump is None else str(job.dump))


def _move(scratch: Path, path: Path) -> None:
    scratch.replace(os.path.realpath(path))
