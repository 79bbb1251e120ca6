"""Post-training calibration: run the fp32 program over mixtures and observe every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.errors import InputError
from refimpl.networks import tf_mlpnet
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.program import Program
from refimpl.quantization.observers import Observer
from refimpl.quantization.offsets import residual_streams, without_offset
from refimpl.session import BLOCK, frames_of
from refimpl.weights_io import Container

Array = np.ndarray[Any, np.dtype[Any]]

# A cell is read by tanh alone, whose 8-bit codes end where |x| is 3.1. Cells of trained weights run to 100 in some bins, and
# codes that reach so far are too coarse to add up what one frame brings. The cell's own squared error is blind to both. What a
# frame brings, i * g, is within 1; it ends where symmetric scales still are a power of two, 1/128, and not the next. Three
# times that for the cell makes the SDK add exactly, by multipliers 3 and 85/256; powers of two round half up by few bits, an
# eighth of a code too high each frame, which a cell of long memory adds up.
BROUGHT = 127 / 128
RATIO = 3  # of the cell's range to that of what a frame brings


def calibrate(
    container: Container,
    clips: Iterable[Array],
    method_8: str = "mse",
    method_16: str = "minmax",
    streams: Container | None = None,
    streams_scale: float = 1.0,
) -> Container:
    """The container with ranges for every tensor of every shipped preset, observed on ``clips`` (int16 [n] each).

    8-bit and 16-bit ranges are chosen by their own method (see ``observers``). Unless it is ``minmax``, all that residuals add
    up has one 8-bit range, an LSTM's cell has those of :func:`cell_ranges`, and those of other sums are up to 1/32 wider (see
    ``offsets``). With ``streams`` what residuals add up has the 8-bit ranges of that container, which weights want that were
    trained with these sums rounded and clipped there, times ``streams_scale``. InputError if it has none, or is of another
    network.
    """
    program = tf_mlpnet.build(container.config, container.weights, {}, load_preset("fp32"), GAP9)
    names = [name for name, t in program.tensors.items() if t.format.kind == "f32" and not name.startswith("istft")]
    given = stream_ranges(program, container, streams, streams_scale) if streams else {}
    observers = {name: Observer() for name in names}
    for pcm in clips:
        frames, state = frames_of(pcm), program.start()
        for first in range(0, len(frames), BLOCK):
            values = program.run(frames[first : first + BLOCK], state, names)
            for name, observer in observers.items():
                observer.see(values[name])
    ranges: Mapping[int, str] = {8: method_8, 16: method_16}
    found = {bits: {n: o.range(method, bits) for n, o in observers.items()} for bits, method in ranges.items()}
    if method_8 != "minmax":
        eight = found[8]
        for stream in residual_streams(program):
            eight |= dict.fromkeys(stream, Observer.of_all(observers[name] for name in stream).range(method_8, 8))
        for name in [name.removesuffix(".ig") for name in eight if name.endswith(".lstm.ig")]:
            eight |= cell_ranges(eight, name)
        for step in program.steps:
            if step.operator == "add_f32":
                a, b = (eight[ref.tensor] for ref in step.inputs)
                eight[step.outputs[0]] = without_offset(a, b, eight[step.outputs[0]])
    found[8] |= given  # of no sum outside the streams, so that nothing above changes
    return replace(container, ranges=found, presets=NAMES)


def stream_ranges(program: Program, container: Container, streams: Container, scale: float) -> dict[str, tuple[float, float]]:
    """The 8-bit ranges that ``streams`` has for what the residual adds of ``program`` connect, times ``scale``."""
    if streams.config != container.config:
        raise InputError("--streams: is of another network than the weights; give the container that they were trained with")
    names = [name for stream in residual_streams(program) for name in stream]
    try:
        spans = {name: streams.ranges[8][name] for name in names}
    except KeyError:
        raise InputError("--streams: has no 8-bit ranges; give a calibrated container, made by refimpl.quantize") from None
    return {name: (scale * low, scale * high) for name, (low, high) in spans.items()}


def cell_ranges(ranges: Mapping[str, tuple[float, float]], lstm: str) -> dict[str, tuple[float, float]]:
    """8-bit ranges of an LSTM's cell: those of ``ig``, ``fc`` and ``c`` are +-u, +-3u and +-3u.

    u is 127/128, or less where the ``ranges`` of all three let it.
    """
    largest = {short: max(-ranges[f"{lstm}.{short}"][0], ranges[f"{lstm}.{short}"][1]) for short in ("ig", "fc", "c")}
    u = min(BROUGHT, max(largest["ig"], largest["fc"] / RATIO, largest["c"] / RATIO))
    return {f"{lstm}.ig": (-u, u), f"{lstm}.fc": (-RATIO * u, RATIO * u), f"{lstm}.c": (-RATIO * u, RATIO * u)}
