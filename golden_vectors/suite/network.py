"""Layers to network: slices of two small seeded networks, and a few frames of the released weights.

The small networks have random weights, calibrated on a third of a second of real speech, so that new released weights change
only the ``released`` cases. ``small`` has everything twice (blocks, mixers) and frequency compression; ``odd`` has odd sizes,
no compression and the other choice of window, padding and channel order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from golden_vectors.case import Case, CaseTensor, Network
from golden_vectors.execute import digests_of
from golden_vectors.integers import Integers
from golden_vectors.registry import rules_of
from golden_vectors.suite.making import finish, program_slice, tensor
from refimpl.calibration import calibrate
from refimpl.networks.tf_mlpnet import Config, parameters
from refimpl.numerics.requantize import LAW_RAW, Requantizer
from refimpl.presets import NAMES
from refimpl.program import Format, Program, Step, Tensor
from refimpl.session import Model
from refimpl.weights_io import Container, default_weights, load_container

Array = np.ndarray[Any, np.dtype[Any]]
SPEECH = Path(__file__).resolve().parent.parent / "speech.npy"
PROFILE = "gap9"
CONFIGS = {
    "small": Config(blocks=2, channels=4, hidden=4, mixers=2, compression=4),
    "odd": Config(blocks=1, channels=5, hidden=3, mixers=1, window="rect", frequency_padding="top", channel_order="real_first"),
}
SEEDS = {"small": 101, "odd": 102}
PRESETS = (*NAMES, "stream16")  # the paper's, and where ours put the 16 bits
ODD_PRESETS = ("fp32", "int8", "mixmlp")
LOUDER = 3.0
MIDDLE = 3  # the frame that slices start at: the speech is under way, the past is not zero
LOWERING_RULES = ("Q-1", "Q-2", "Q-3", "Q-10", "G-1", "G-4", "G-5", "O-1", "T-4", "B-6")
NETWORK_RULES = tuple(f"M-{n}" for n in range(1, 13))


def cases() -> Iterator[Case]:
    for preset in PRESETS:
        yield from _layers("small", preset, ("block1", "block2") if preset == "mixmlp" else ("block1",))
        yield from _lstm("small", preset)
        yield from _blocks("small", preset)
        yield _frame("small", preset)
        yield _stream("small", preset)
    for preset in ODD_PRESETS:
        yield from _layers("odd", preset, ("block1",))
        yield from _lstm("odd", preset)
        yield _stream("odd", preset)
    yield from _networks()
    yield from _released()


# -- the small networks ------------------------------------------------------------------------------------------------


@cache
def speech() -> Array:
    """A third of a second of two synthetic voices at once, int16, 16 kHz (Kokoro-82M, Apache-2.0)."""
    samples: Array = np.load(SPEECH)
    return samples


@cache
def container(which: str) -> Container:
    """The seeded network: uniform weights of unit gain per layer, biases of a tenth, ranges observed on the speech."""
    random, weights = Integers(SEEDS[which]), {}
    for name, shape in parameters(CONFIGS[which]).items():
        fan_in = shape[0] * 9 if name == "decoder.weight" else max(1, int(np.prod(shape[1:])))
        scale = 0.1 if len(shape) == 1 else (3.0 / fan_in) ** 0.5
        weights[name] = random.fractions(shape, scale)
    weights["encoder.weight"] *= np.float32(0.5)
    weights["decoder.weight"] *= np.float32(LOUDER)  # loud speech comes near full scale, louder input beyond it
    found = calibrate(Container(CONFIGS[which], weights, card={"name": f"golden vectors, {which}"}), [speech()], "minmax")
    # As in released containers, where 8 bits clip more, the two widths have ranges of their own.
    wider = {name: (1.25 * low, 1.25 * high) for name, (low, high) in found.ranges[16].items()}
    return replace(found, ranges={8: found.ranges[8], 16: wider})


@cache
def traced(which: str, preset: str) -> tuple[Program, dict[str, Array]]:
    """The lowered small network and every tensor of it on the first frames of the speech."""
    model = Model(container(which), preset, PROFILE)
    return model.program, model.trace(speech()[: 96 * 8])


def _case(
    case_id: str, comment: str, steps: Sequence[Step], flags: Sequence[str], preset: str, more: Sequence[str] = ()
) -> Case:
    rules = dict.fromkeys((*more, *(rule for step in steps for rule in rules_of(step))))
    return Case(
        case_id, comment, tuple(rules), {}, (), tuple(flags), PROFILE, preset, SEEDS[case_id.split("/")[1].split("-")[0]]
    )


def _slice(
    case_id: str,
    comment: str,
    which: str,
    preset: str,
    steps: Sequence[Step],
    frames: tuple[int, int],
    flags: Sequence[str],
    more: Sequence[str] = (),
    keep_next: bool = False,
) -> Case:
    program, values = traced(which, preset)
    case = _case(case_id, comment, steps, flags, preset, more)
    return program_slice(case, program, steps, values, frames, keep_next=keep_next)


# -- layers ------------------------------------------------------------------------------------------------------------


def _layer_of(name: str) -> str:
    """The layer that a step belongs to, by its output's name: the unit in which a port is brought up."""
    parts = name.split(".")
    if name.startswith(("stft", "spectrum")):
        return "stft"
    if name.startswith(("istft", "overlap_add", "pcm")):
        return "istft"
    if parts[0] in ("encoder", "decoder"):
        return parts[0]
    block = parts[0]
    if parts[1] == "lstm":
        return f"{block}.lstm"
    if parts[1] in ("inter_linear", "out"):
        return f"{block}.inter_linear"
    if parts[1] == "spectral_add" or parts[2] in ("intra_linear", "expand"):
        return f"{block}.intra_linear"
    if parts[2] in ("in", "compress"):
        return f"{block}.compress"
    return f"{block}.{parts[2]}.{parts[3][:4]}"  # mixer1.freq, mixer1.chan


LAYER_TEXT = {
    "stft": ("the forward transform of frames of speech", ("bin_off_by_one",), ("P-2",)),
    "istft": ("the inverse transform, overlap-add with the frame before, and PCM", ("stale_state", "channel_order"), ("M-11",)),
    "encoder": ("the causal 3x3 convolution, its two past frames not zero", ("padding_side", "swapped_state"), ("M-3",)),
    "decoder": ("the transposed 3x3 convolution, its two past frames not zero", ("padding_side", "decoder_trim"), ("M-3",)),
    "compress": ("into the block: format conversion and frequency compression", ("bin_off_by_one",), ("M-9",)),
    "freq": ("the mixer along frequency with its residual", ("weight_transposed", "residual_order"), ("M-5",)),
    "chan": ("the mixer along channels with its residual", ("weight_transposed", "residual_order"), ("M-5",)),
    "intra_linear": ("the end of the spectral stage: linear, expansion, residual", ("residual_order",), ("M-5", "M-9")),
    "inter_linear": ("the end of the temporal stage: linear and residual", ("residual_order",), ("M-6",)),
}


def _layers(which: str, preset: str, blocks: Sequence[str]) -> Iterator[Case]:
    program, _ = traced(which, preset)
    groups: dict[str, list[Step]] = {}
    for step in program.steps:
        groups.setdefault(_layer_of(step.name), []).append(step)
    for layer, steps in groups.items():
        block, _, rest = layer.partition(".")
        if rest == "lstm" or (rest and block not in blocks):
            continue
        text, flags, more = LAYER_TEXT[layer.split(".")[-1]]
        flags = flags if any(ref.past for step in steps for ref in step.inputs) else tuple(f for f in flags if "state" not in f)
        where = (MIDDLE, MIDDLE + 2)
        yield _slice(f"layers/{which}-{preset}/{layer}", text, which, preset, steps, where, flags, more)


# -- the recurrence ----------------------------------------------------------------------------------------------------


def _lstm(which: str, preset: str) -> Iterator[Case]:
    """Gate by gate, the accumulators of both 1x1 convolutions shown before bias and requantization."""
    program, _ = traced(which, preset)
    more = ("M-6", "P-3", "M-8" if preset == "int8" else "M-7")
    if preset == "fp32":
        more = more[:2]
    steps = [step for step in program.steps if _layer_of(step.name) == "block1.lstm"]
    shown, extended = [], dict(program.tensors)
    for step in steps:
        if isinstance(step.constants[-1] if step.constants else None, Requantizer):
            raw, extended[f"{step.name}.accumulator"] = _accumulators(step, program.tensors[step.outputs[0]])
            shown.append(raw)
        shown.append(step)
    wide = Program(extended, program.steps, program.source, program.results)
    _, values = traced(which, preset)
    frames = len(next(iter(values.values())))
    values = values | {
        name: np.zeros((frames, *t.shape), np.int32) for name, t in extended.items() if name.endswith(".accumulator")
    }
    for label, first, count, text, flags in (
        ("start", 0, 1, "the first frame: cell and state hold their zero points, or +0", ("start_state", "gate_order")),
        ("running", MIDDLE, 3, "three frames with a cell and a state that are not zero", ("stale_state", "gate_order")),
    ):
        case = _case(f"lstm/{which}-{preset}/{label}", text, steps, flags, preset, more)
        yield program_slice(case, wide, shown, values, (first, first + count), keep_next=True)


def _accumulators(step: Step, output: Tensor) -> tuple[Step, Tensor]:
    """A step that shows the bare INT32 sums of ``step``: the same operator under the raw law with a bias of zero."""
    *rest, rq = step.constants
    raw = rq._replace(law=LAW_RAW, bias=np.zeros_like(rq.bias), pre_shift=0, lowest=0, highest=0, offset=0)
    name = f"{step.name}.accumulator"
    return replace(step, name=name, constants=(*rest, raw), outputs=(name,)), Tensor(name, output.shape, Format("int32"))


# -- block, frame, stream ----------------------------------------------------------------------------------------------


def _blocks(which: str, preset: str) -> Iterator[Case]:
    program, _ = traced(which, preset)
    for block in ("block1", "block2") if preset == "mixmlp" else ("block1",):
        steps = [step for step in program.steps if step.name.startswith(block)]
        yield _slice(
            f"block/{which}-{preset}/{block}",
            "one block from its input to its output, two frames with a past",
            which,
            preset,
            steps,
            (MIDDLE, MIDDLE + 2),
            ("stale_state", "residual_order"),
            ("M-4", "M-5", "M-6"),
        )


def _frame(which: str, preset: str) -> Case:
    program, _ = traced(which, preset)
    text = "the whole network on the first frame of a stream, from the start state"
    more = (*NETWORK_RULES, "P-1", "P-3", "P-6")
    return _slice(f"frame/{which}-{preset}", text, which, preset, program.steps, (0, 1), ("start_state",), more)


def _stream(which: str, preset: str) -> Case:
    program, _ = traced(which, preset)
    text = "three frames in the middle of a stream: the state that goes in and the state that comes out"
    frames = (MIDDLE + 1, MIDDLE + 4)
    flags = ("stale_state", "swapped_state")
    return _slice(f"stream/{which}-{preset}", text, which, preset, program.steps, frames, flags, ("P-1", "P-3"), keep_next=True)


# -- the whole network -------------------------------------------------------------------------------------------------


def _networks() -> Iterator[Case]:
    whole = speech()[: 96 * 20 + 40]
    chunks = (1, 63, 96, 160, 5, 0, 95, 97, 321, 440)  # 126 samples are left to flush: two frames
    chunked = whole[: sum(chunks)]
    for which, presets in (("small", PRESETS), ("odd", ODD_PRESETS)):
        for preset in presets:
            text = "speech to two voices, offline: PCM in and out, and a CRC-32 of every tensor of every frame"
            yield _network(f"network/{which}-{preset}/speech", text, which, preset, whole, None, ("latency", "channel_order"))
    for preset in ("fp32", "int8", "mixmlp"):
        text = "the same arithmetic in chunks of odd sizes and a flush: what is emitted when"
        yield _network(f"network/small-{preset}/chunks", text, "small", preset, chunked, chunks, ("chunking", "flush"))
        text = "a single sample is a whole clip: one frame, one sample out"
        yield _network(f"network/small-{preset}/one-sample", text, "small", preset, whole[700:701], (1,), ("flush", "latency"))
        text = "digital silence: zero points and biases alone"
        yield _network(f"network/small-{preset}/silence", text, "small", preset, np.zeros(97, np.int16), None, ("start_state",))
        text = "a full-scale square wave: the output saturates"
        square = np.where(np.arange(400) // 20 % 2, 32767, -32768).astype(np.int16)
        yield _network(
            f"network/small-{preset}/square", text, "small", preset, square, None, ("saturation_high", "saturation_low")
        )


def _network(
    case_id: str, text: str, which: str, preset: str, pcm: Array, chunks: tuple[int, ...] | None, flags: Sequence[str]
) -> Case:
    weights = container(which)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        weights.save(path)
        files = {path.name: path.read_bytes()}
    network = Network("weights.safetensors", weights.digest, weights.config.to_dict(), chunks)
    rules = ("P-4", "P-2", *(("P-5",) if chunks else ()), *NETWORK_RULES, *LOWERING_RULES, "W-1", "W-2")
    case = Case(case_id, text, rules, {}, (), tuple(flags), PROFILE, preset, SEEDS[which], network, files)
    return _with_results(case, weights.config.speakers, pcm, ())


def _with_results(case: Case, speakers: int, pcm: Array, names: Sequence[str]) -> Case:
    """The case with its PCM, the tensors ``names`` of every frame, and all CRCs."""
    assert case.network is not None
    tensors: dict[str, CaseTensor] = {"pcm_in": tensor("input", "int16", pcm)}
    tensors["pcm_out"] = tensor("expected", "int16", np.zeros((speakers, len(pcm))))
    if case.network.chunks is not None:
        tensors["emitted"] = tensor("expected", "int32", np.zeros(len(case.network.chunks) + 1))
    case = replace(case, tensors=tensors)
    if names:
        model = Model(load_container(default_weights()), case.preset or "", PROFILE)
        for name, values in model.trace(pcm, names).items():
            tensors[name] = tensor("expected", model.program.tensors[name].format, values)
    return replace(finish(case), network=replace(case.network, crc32=digests_of(case)))


RELEASED_TENSORS = ("spectrum", "encoder", "block1.spectral_add", "block1.out", "block6.out", "decoder")


def _released() -> Iterator[Case]:
    weights = load_container(default_weights())
    pcm = speech()[1000 : 1000 + 4 * 96]
    for preset in PRESETS:
        network = Network("released", weights.digest, weights.config.to_dict())
        text = "four frames of speech through the released weights: the real sizes, every tensor by its CRC-32"
        rules = ("P-4", *NETWORK_RULES, *LOWERING_RULES, "W-1", "W-2")
        case = Case(f"network/released-{preset}/speech", text, rules, {}, (), ("latency",), PROFILE, preset, None, network)
        yield _with_results(case, weights.config.speakers, pcm, RELEASED_TENSORS)
