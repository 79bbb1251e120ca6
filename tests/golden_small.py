"""A small suite of golden vectors with every kind of case, tensor and constant, made in a second."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from golden_vectors.case import Case, Network, requantizer
from golden_vectors.execute import digests_of
from golden_vectors.suite.making import finish, one_step, tensor
from refimpl.numerics.requantize import Requantizer
from refimpl.numerics.tables import shipped
from refimpl.program import Format, Ref, Step
from tests.tiny import noise, tiny_container

Array = np.ndarray[Any, np.dtype[Any]]
CODES = Format("int8", 0.5, 3)
PATTERNS = np.array([0x7FC00001, 0xFFFFFFFF, 0x7F800001, 0x00000001, 0x80000000, 0x3F800000], np.uint32)


@lru_cache
def small_cases() -> tuple[Case, ...]:
    return (*_functions(), _fully_connected(), _convolution(), _float(), _table(), _overlap_add(), *_networks())


def case_named(end: str) -> Case:
    return next(case for case in small_cases() if case.id.endswith(end))


def codes(*shape: int, dtype: type = np.int8) -> Array:
    return np.random.default_rng(5).integers(-120, 120, shape).astype(dtype)


def crash(root: Path, case_id: str) -> None:
    """Stands for a case that takes its process down."""
    os._exit(1)


def _functions() -> list[Case]:
    ends = np.array([-(2**63), 2**63 - 1, -1, 0, 2**32], np.int64)
    ones = np.ones(5, np.int64)
    form = {"value": ("int64", ends), "shift": ("int64", ones)}
    empty = {"value": ("int64", ends[:0]), "shift": ("int64", ends[:0])}
    bounds = (-(2**63), 2**31)
    scale = {"scale": ("f64", np.array([0.03])), "zero_point": ("int64", np.array([3]))}
    pcm = {"pcm": ("int16", np.array([0, -32768, 32767], np.int16))}
    y: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": ("int64", (5,))}
    table = ("sigmoid", 8, 8, 1 / 256, -128)
    return [
        one_step("numerics/shift_floor/ends", "ends of 64 bits; */ ?? é", ["N-1"], "shift_floor", form, (), y, ("a_flag",)),
        one_step("numerics/shift_floor/empty", "nothing", ["N-1"], "shift_floor", empty, (), {"y": ("int64", (0,))}),
        one_step("numerics/saturate/ends", "bounds", ["N-4"], "saturate", {"value": ("int64", ends)}, bounds, y),
        one_step("numerics/code_table/small", "text", ["T-4"], "code_table", scale, table, {"y": ("int8", (256,))}, seed=7),
        one_step("numerics/wav_of_pcm/small", "bytes", ["A-1"], "wav_of_pcm", pcm, (), {"y": ("uint8", (50,))}),
    ]


def _rq() -> Requantizer:
    addend = np.array([517, -(2**40), 2**33], np.int64)
    more: dict[str, Any] = {
        "multiplier": np.array([1, 3, 2], np.int32),
        "addend": addend,
        "shift": np.array([2, 20, 9], np.int32),
    }
    return requantizer("folded", np.array([3, -3, -(2**31)], np.int32), lowest=0, highest=255, offset=-128, **more)


def _fully_connected() -> Case:
    what = ("operators/fully_connected_channels/small", "three outputs", ["L-2", "G-2"], "fully_connected_channels")
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": (Format("int8", 0.25, -9), (3, 4, 3))}
    return one_step(*what, {"x": (CODES, codes(3, 4, 5))}, (codes(5, 3), _rq()), outputs, ("a_flag",))


def _convolution() -> Case:
    rq = requantizer("bf16", np.array([5, -7], np.int32), scale=np.array([0.1, 3.0], np.float32))
    what = ("operators/conv_causal/small", "with a past", ["C-1", "Q-9"], "conv_causal")
    past = {"x": (2, True, codes(2, 5, 3)[::-1])}
    return one_step(*what, {"x": (CODES, codes(4, 5, 3))}, (codes(3, 3, 3, 2), 1, 3, rq), {"y": ("bf16", (4, 5, 2))}, past=past)


def _float() -> Case:
    x = np.concatenate([PATTERNS, PATTERNS]).view(np.float32).reshape(2, 3, 2)
    what = ("operators/quantize_f32/small", "payloads", ["Q-4"], "quantize_f32")
    outputs: dict[str, tuple[Format | str, tuple[int, ...]]] = {"y": (Format("int16", 2.0**-9, 100), (2, 3, 2))}
    return one_step(*what, {"x": ("f32", x)}, (np.float32(512.0), 100, -32768, 32767), outputs)


def _table() -> Case:
    x = np.array([0x3F80, 0xC000, 0x7FC0, 0x0001], np.uint16).reshape(1, 2, 2)
    what = ("operators/lookup/small", "a shipped table", ["E-4"], "lookup")
    return one_step(*what, {"x": ("bf16", x)}, (shipped("tanh_bf16"), 0, 1), {"y": ("bf16", (1, 2, 1))})


def _overlap_add() -> Case:
    """Tensors in time, a past without its present, and a state that comes out."""
    head = np.random.default_rng(6).integers(-(2**31), 2**31, (3, 2, 96)).astype(np.int32)
    given = {"head": head, "tail": head[:, :, :64] // 3}
    tensors = {name: tensor("input", "int32", values) for name, values in given.items()}
    tensors["tail.past"] = tensor("state", "int32", head[:1, :, 32:])
    tensors["y"] = tensor("expected", "int32", np.zeros_like(head))
    tensors["tail.next"] = tensor("next_state", "int32", np.zeros((1, 2, 64)))
    step = Step("y", "overlap_add", (Ref("head"), Ref("tail", 1, False)), (), ("y",))
    return finish(Case("stream/small", "a state goes in and comes out", ("F-10",), tensors, (step,), preset="int8"))


def _networks() -> list[Case]:
    weights = tiny_container()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        weights.save(path)
        files = {path.name: path.read_bytes()}
    pcm, found = noise(300), []
    for name, chunks in (("offline", None), ("chunks", (100, 0, 199, 1))):
        tensors = {"pcm_in": tensor("input", "int16", pcm), "pcm_out": tensor("expected", "int16", np.zeros((2, 300)))}
        if chunks:
            tensors["emitted"] = tensor("expected", "int32", np.zeros(5))
        network = Network("weights.safetensors", weights.digest, weights.config.to_dict(), chunks)
        text = "the whole network"
        case = finish(Case(f"network/tiny/{name}", text, ("M-1",), tensors, (), (), "gap9", "int8", 0, network, files))
        network = Network(network.container, network.sha256, network.config, chunks, {} if chunks else digests_of(case))
        found.append(Case(**{**vars(case), "network": network}))
    return found
