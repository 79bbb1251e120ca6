"""A program bound to the fast kernels: buffers with fixed addresses, calls in order, no way through Python in between.

An :class:`Executor` runs as :meth:`Program.run` does and gives the same bits. It cuts a call into chunks of CHUNK frames, whose
tensors stay in the second cache, and single frames. A plan (its buffers, its calls) is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from refimpl.fast.kernels import FAST
from refimpl.fast.native import Array, Call, Offset, Word, aligned, execute, move, word_of
from refimpl.program import DTYPES, OPERATORS, Program, State, Step, Values

CHUNK = 16
Action = Call | Callable[[], None]
Group = list[tuple[Call, list[Array] | None]]  # with the buffers that move on, where it runs frame by frame


class Executor:
    """Runs a program; any number of threads may, each with a state of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._idle: dict[tuple[int, frozenset[str], tuple[str, ...]], list[Plan]] = {}

    def run(self, frames: Array | Mapping[str, Array], state: State, keep: Collection[str] = ()) -> Values:
        """As :meth:`Program.run`; the arrays in ``state`` are advanced in place, so no two states may share one."""
        program = self.program
        given = frames if isinstance(frames, Mapping) else {program.source: frames}
        count = len(next(iter(given.values())))
        wanted = frozenset({*program.results, *(name for name in keep if name in program.tensors)})
        kept = {wanted, frozenset(program.results)}  # of plans for traces only the last one's, which are large
        self._idle = {key: plans for key, plans in self._idle.items() if key[1] in kept}
        parts: list[Values] = []
        first = 0
        while first < count:
            size = CHUNK if count - first >= CHUNK else 1
            idle = self._idle.setdefault((size, wanted, tuple(given)), [])
            plan = idle.pop() if idle else Plan(program, size, wanted, tuple(given))
            parts.append(plan.run({name: values[first : first + size] for name, values in given.items()}, state))
            idle.append(plan)
            first += size
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in wanted}


class Plan:
    """Buffers and calls for ``count`` frames."""

    def __init__(self, program: Program, count: int, wanted: frozenset[str], given: Sequence[str]) -> None:
        self.program, self.count, self.wanted = program, count, wanted
        groups = [list(steps) for _, steps in groupby(enumerate(program.steps), lambda item: item[1].loop or item[0])]
        self.groups = [[step for _, step in group] for group in groups]
        self.buffers, self.local = _buffers(program, self.groups, count, wanted, given)
        self.actions: list[Callable[[], None]] = []
        pending: list[Group] = []
        for group in self.groups:
            for calls in self._bound(group):
                if isinstance(calls, list):
                    pending.append(calls)
                else:
                    self._close(pending)
                    self.actions.append(calls)
        self._close(pending)
        self.inputs = {name: self._frames(name, 0, count) for name in given}
        self.outputs = {name: self._frames(name, 0, count) for name in wanted}
        self.heads = {name: self.buffers[name][:past] for name, past in program.past.items() if past}
        self.tails = {name: self.buffers[name][-past:] for name, past in program.past.items() if past}
        self._state: State = {}  # the arrays whose addresses the next two know
        self._take, self._give = Batch([], count), Batch([], count)

    def run(self, given: Values, state: State) -> Values:
        self._link(state)
        self._take()
        for name, values in given.items():
            self.inputs[name][...] = values
        for action in self.actions:
            action()
        self._give()
        return {name: values.copy() for name, values in self.outputs.items()}

    def _link(self, state: State) -> None:
        """Make ``state`` the one that is read and advanced; a new one gets arrays of its own."""
        if all(state[name] is mine for name, mine in self._state.items()) and self._state:
            return
        for name, head in self.heads.items():
            array = aligned(head.shape, head.dtype)
            array[...] = state[name]
            state[name] = array
        self._state = dict(state)
        pairs = [(state[name], self.heads[name], self.tails[name]) for name in self.heads]
        self._take = Batch([[(Call(move, (to, of, of.nbytes)), None)] for of, to, _ in pairs], self.count)
        self._give = Batch([[(Call(move, (to, of, of.nbytes)), None)] for to, _, of in pairs], self.count)

    def _close(self, pending: list[Group]) -> None:
        if pending:
            self.actions.append(Batch(pending, self.count))
            pending.clear()

    def _bound(self, group: list[Step]) -> list[Any]:
        """What a group of steps becomes: groups of native calls, and Python functions, in order."""
        looped = bool(group[0].loop)
        if looped:
            bound = [(call, self._moving(step)) for step in group for call in self._bind(step, 0, 1)]
            if all(isinstance(call, Call) for call, _ in bound):
                return [bound]
        times = range(self.count) if looped else (0,)
        size = 1 if looped else self.count
        found = [call for t in times for step in group for call in self._bind(step, t, size)]
        return [[(call, None)] if isinstance(call, Call) else call for call in found]

    def _bind(self, step: Step, first: int, count: int) -> Sequence[Action]:
        arguments: list[Any] = []
        for ref in step.inputs:
            held = self.program.past.get(ref.tensor, 0)
            view = self.buffers[ref.tensor]
            if ref.tensor not in self.local:
                start = held + first - ref.past
                view = view[start : start + count + (ref.past if ref.current else 0)]
            arguments.append(view)
        arguments.extend(step.constants)
        arguments.extend(self._frames(name, first, count) for name in step.outputs)
        if step.operator in FAST:
            return FAST[step.operator].bind(*arguments)
        return [lambda: OPERATORS[step.operator](*arguments)]

    def _frames(self, name: str, first: int, count: int) -> Array:
        held, buffer = self.program.past.get(name, 0), self.buffers[name]
        return buffer if name in self.local else buffer[held + first : held + first + count]

    def _moving(self, step: Step) -> list[Array]:
        """The step's buffers that move on with the frames."""
        names = (*(ref.tensor for ref in step.inputs), *step.outputs)
        return [self.buffers[name] for name in names if name not in self.local]


class Batch:
    """Native calls as the table and the words that :func:`execute` reads."""

    def __init__(self, pending: list[Group], count: int) -> None:
        rows: list[tuple[int, int, int]] = []
        words: list[int] = []
        strides: list[int] = []
        self.holds = [call for group in pending for call, _ in group]  # the arrays behind the addresses
        for group in pending:
            for position, (call, moving) in enumerate(group):
                looped = moving is not None and position == 0
                rows.append((call.entry.address, len(words), len(group) if looped else 0))
                for word in call.words:
                    words.append(word_of(word))
                    strides.append(_stride(word, words[-1], moving or []))
        rows.append((0, len(words), 0))
        self.table, self.words = np.array(rows, np.int64), np.array(words, np.int64)
        self.strides, self.count = np.array(strides, np.int64), count

    def __call__(self) -> None:
        execute(self.table, self.words, self.strides, self.count)


def _stride(word: Word, address: int, moving: list[Array]) -> int:
    """How far a word's address moves from frame to frame."""
    if isinstance(word, np.ndarray | Offset):
        for buffer in moving:
            if buffer.ctypes.data <= address < buffer.ctypes.data + buffer.nbytes:
                return buffer.strides[0]
    return 0


def _buffers(
    program: Program, groups: list[list[Step]], count: int, wanted: frozenset[str], given: Sequence[str]
) -> tuple[Values, set[str]]:
    """A buffer [past + count, *shape] for every tensor, or [1, *shape] for one that lives within a frame of a loop.

    Memory of tensors that no later group reads is used again.
    """
    used: dict[str, int] = {}
    for index, group in enumerate(groups):
        for step in group:
            used |= {ref.tensor: index for ref in step.inputs}
    made = {name: index for index, group in enumerate(groups) for step in group for name in step.outputs}
    fixed = {*wanted, *given, *(name for name, past in program.past.items() if past)}
    local = {
        name for name, index in made.items() if groups[index][0].loop and name not in fixed and used.get(name, index) == index
    }
    buffers: Values = {}
    free: list[Array] = []
    lent: dict[str, Array] = {}

    def take(name: str) -> None:
        tensor = program.tensors[name]
        dtype = np.dtype(DTYPES[tensor.format.kind])
        shape = (1 if name in local else program.past.get(name, 0) + count, *tensor.shape)
        size = int(np.prod(shape)) * dtype.itemsize
        fitting = [block for block in free if size <= block.size <= 2 * size]
        block = min(fitting, key=lambda b: b.size) if fitting and name not in fixed else aligned((size,), np.uint8)
        free[:] = [other for other in free if other is not block]
        if name not in fixed:
            lent[name] = block
        buffers[name] = block[:size].view(dtype).reshape(shape)

    for name in given:
        take(name)
    for index, group in enumerate(groups):
        for step in group:
            for name in step.outputs:
                take(name)
        for name in [name for name in lent if used.get(name, made[name]) <= index]:
            free.append(lent.pop(name))
    return buffers, local
