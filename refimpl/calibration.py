"""Post-training calibration: run the fp32 program over mixtures and observe every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.networks import tf_mlpnet
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.quantization.observers import Observer
from refimpl.session import BLOCK, frames_of
from refimpl.weights_io import Container

Array = np.ndarray[Any, np.dtype[Any]]

# A cell is read by tanh alone, whose 8-bit codes end where |x| is 3.1. Cells of trained weights run to 100 in some bins, and
# codes that reach so far are too coarse to add up what one frame brings. The cell's own squared error is blind to both.
CELLS = (".lstm.fc", ".lstm.c")
CELL = 4.0


def calibrate(container: Container, clips: Iterable[Array], method_8: str = "mse", method_16: str = "minmax") -> Container:
    """The container with ranges for every tensor of every shipped preset, observed on ``clips`` (int16 [n] each).

    8-bit and 16-bit ranges are chosen by their own method (see ``observers``). An 8-bit range of an LSTM's cell ends at +-4 at
    most, unless the method is ``minmax``.
    """
    program = tf_mlpnet.build(container.config, container.weights, {}, load_preset("fp32"), GAP9)
    names = [name for name, t in program.tensors.items() if t.format.kind == "f32" and not name.startswith("istft")]
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
        cells = {name: span for name, span in found[8].items() if name.endswith(CELLS)}
        found[8] |= {name: (max(low, -CELL), min(high, CELL)) for name, (low, high) in cells.items()}
    return replace(container, ranges=found, presets=NAMES)
