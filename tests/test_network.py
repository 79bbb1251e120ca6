"""TF-MLPNet: counts and sizes of the paper, the fp32 program against an independent float64 network, convolution oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refimpl.errors import InputError
from refimpl.networks.tf_mlpnet import Config, build, nominal_bytes, parameter_count, parameters
from refimpl.presets import NAMES, load_preset
from refimpl.profiles import GAP9
from refimpl.session import Model
from refimpl.weights_io import Container
from tests import oracle_float64 as oracle

SMALL: dict[str, Any] = {"blocks": 2, "channels": 6, "hidden": 5, "mixers": 1}


def random_weights(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights scaled by fan-in, so that activations neither die nor explode through six blocks."""
    rng = np.random.Generator(np.random.PCG64(seed))
    made = {}
    for name, shape in parameters(config).items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        made[name] = (rng.uniform(-1, 1, shape) / np.sqrt(fan)).astype(np.float32)
    return made


def speech_like(n: int, seed: int = 1) -> np.ndarray:
    """Decaying low-pass noise bursts, int16."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = np.convolve(rng.standard_normal(n), np.ones(8) / 8, "same") * (1 + np.sin(np.arange(n) / 700))
    return (x * 4000).astype(np.int16)


def test_parameter_counts() -> None:
    assert parameter_count(Config()) == 492_948
    assert parameter_count(Config(compression=2)) == 215_268


def test_counts_of_parts() -> None:
    shapes = parameters(Config())
    size = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(v for k, v in size.items() if k.startswith("encoder")) == 608
    assert sum(v for k, v in size.items() if k.startswith("decoder")) == 1156
    assert sum(v for k, v in size.items() if k.startswith("blocks.3.")) == 81_864


@pytest.mark.parametrize(
    ("preset", "kib"),
    [("fp32", 1925.6), ("int8", 481.4), ("mixlstm", 481.4), ("fpconv", 483.1), ("mixmlp", 483.1), ("fullmlp", 483.1)],
)
def test_stored_sizes(preset: str, kib: float) -> None:
    assert round(nominal_bytes(Config(), load_preset(preset)) / 1024, 1) == kib


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": 2},
        {"compression": 3, **SMALL},
        {"window": "rect", **SMALL},
        {"frequency_padding": "top", **SMALL},
        {"channel_order": "real_first", **SMALL},
        {"speakers": 3, **SMALL},
        {"speakers": 1, "mixers": 3, "blocks": 1, "channels": 4, "hidden": 7},
    ],
    ids=str,
)
def test_fp32_equals_independent_float64(options: dict[str, Any]) -> None:
    """Relative error below 1e-4 on the output before PCM rounding, and on every traced step.

    Bound: FP32 has 2^-24 per operation; sums of up to 288 terms and 6 blocks of recurrences amplify it to about 1e-6 of the
    signal here; 1e-4 leaves room for less benign weights while any wrong tap, order or gate gives errors near 1.
    """
    config = Config(**options)
    weights = random_weights(config)
    n = 2000 if config.blocks == 6 else 1000
    pcm = speech_like(n)
    program = build(config, weights, {}, load_preset("fp32"), GAP9)
    model = Model(Container(config, weights), "fp32")
    trace = model.trace(pcm)
    expected: dict[str, np.ndarray] = {}
    out = oracle.tf_mlpnet(pcm / 32768, weights, **config.to_dict(), trace=expected)
    mine = trace["overlap_add"].astype(np.float64).transpose(1, 0, 2).reshape(config.speakers, -1)[:, :n]
    assert np.sqrt(((mine - out) ** 2).sum() / (out**2).sum()) < 1e-4
    compared = 0
    for name, value in expected.items():
        ours = step_name(name)
        assert ours in program.tensors, (name, ours)
        error = np.sqrt(((trace[ours] - value) ** 2).sum() / (value**2).sum())
        assert error < 1e-4, (name, error)
        compared += 1
    assert compared >= 3 + 15 * config.blocks
    assert np.array_equal(model.separate(pcm), np.clip(np.rint(mine * 32768), -32768, 32767).astype(np.int16))


def step_name(name: str) -> str:
    """The oracle's trace names to the program's."""
    parts = name.split(".")
    if not parts[0].startswith("block"):
        return name
    block = f"block{int(parts[0][5:]) + 1}"
    rest = ".".join(parts[1:])
    if rest.startswith("mixer"):
        mixer, layer = rest.split(".")
        layer = {"freq_residual": "freq_add", "chan_residual": "chan_add"}.get(layer, layer)
        return f"{block}.spectral.mixer{int(mixer[5:]) + 1}.{layer}"
    if rest in ("compress", "intra_linear", "expand"):
        return f"{block}.spectral.{rest}"
    return f"{block}.{ {'spectral_residual': 'spectral_add', 'temporal_residual': 'out'}.get(rest, rest) }"


def test_presets_are_known_and_typed() -> None:
    assert NAMES == ("fp32", "int8", "mixlstm", "fpconv", "mixmlp", "fullmlp")
    for name in NAMES:
        assert load_preset(name).formats


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("int8", {"spectrum": "int8", "block1.spectral.mixer1.freq1": "int8", "block1.lstm.c": "int8", "decoder": "int8"}),
        ("mixlstm", {"spectrum": "int8", "block1.lstm.ih": "bf16", "block1.lstm.c": "bf16", "block1.lstm.state": "int8"}),
        ("fpconv", {"spectrum": "bf16", "encoder": "bf16", "encoder.out": "int8", "decoder.in": "bf16", "decoder": "bf16"}),
        (
            "mixmlp",
            {
                "block1.spectral.in": "int16",
                "block1.spectral.mixer1.chan_add": "int16",
                "block1.spectral.intra_linear": "int16",
                "block1.spectral_add": "int8",
                "block2.spectral.mixer1.freq1": "int8",
                "block2.out": "int8",
            },
        ),
        ("fullmlp", {"block2.spectral.mixer1.freq1": "int16", "block2.spectral_add": "int8", "block2.inter_linear": "int8"}),
        (
            "stream16",
            {
                "encoder": "bf16",
                "encoder.out": "int16",
                "block1.spectral.in": "int8",
                "block1.spectral.mixer1.chan1": "int8",
                "block1.spectral.mixer1.chan2": "int16",
                "block2.lstm.state": "int8",
                "block2.lstm.c": "bf16",
                "block2.inter_linear": "int16",
                "block2.out": "int16",
            },
        ),
    ],
)
def test_formats_of_the_presets(preset: str, expected: dict[str, str], small: Container) -> None:
    """The table of number formats, cell by cell, on the lowered program."""
    tensors = Model(small, preset).program.tensors
    assert {name: tensors[name].format.kind for name in expected} == expected


@pytest.mark.parametrize("network", ["small", "compressed"])
def test_stream16_is_16_bits_wherever_residuals_add_up(network: str, request: pytest.FixtureRequest) -> None:
    """What additions outside the LSTM read and write is INT16, but for what a block's first mixer reads; ReLUs give INT8."""
    program = Model(request.getfixturevalue(network), "stream16").program
    kinds = {name: tensor.format.kind for name, tensor in program.tensors.items()}
    sums = [step for step in program.steps if step.operator.startswith("add") and ".lstm." not in step.name]
    assert len(sums) == 2 * (2 + 2)  # two blocks of two residuals, and two in a mixer
    for step in sums:
        read = {ref.tensor for ref in step.inputs} | set(step.outputs)
        assert {kinds[name] for name in read if not name.endswith(("spectral.in", "compress"))} == {"int16"}, step.name
    narrow = {name.rsplit(".", 1)[-1] for name, kind in kinds.items() if kind == "int8"}
    assert narrow == {"in", "freq1", "chan1", "state"} | ({"compress"} if network == "compressed" else set())


@pytest.mark.parametrize("field", ["blocks", "channels", "compression"])
def test_configuration_is_checked(field: str) -> None:
    for value in (0, -1, 1.5, "6", True):
        with pytest.raises(InputError, match=field):
            Config(**{field: value})
    with pytest.raises(InputError, match="window"):
        Config(window="kaiser")
    with pytest.raises(InputError, match="unknown fields bins"):
        Config.from_dict({"bins": 65})


def reference_convolution(x: np.ndarray, weight: np.ndarray, below: int, transposed: bool, zero: int) -> np.ndarray:
    """int64 sums of ``weight * (x - zero)`` by padding and slicing, not by the kernel's index arithmetic."""
    frames, bins = x.shape[0] - 2, x.shape[1]
    centred = np.pad(x.astype(np.int64) - zero, ((0, 0), (2, 2), (0, 0)))
    out = np.zeros((frames, bins, weight.shape[3]), np.int64)
    for k in range(3):
        for j in range(3):
            t = 2 - k if transposed else k
            f = 2 + (below - j if transposed else j - below)
            out += centred[t : t + frames, f : f + bins] @ weight[k, j].astype(np.int64)
    return out


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("below", [0, 1])
def test_integer_convolutions_equal_a_sliced_sum(transposed: bool, below: int) -> None:
    """With a law that only shifts, the kernels are the exact sum; the padding code contributes nothing after folding."""
    from refimpl.numerics.requantize import LAW_FOLDED, Requantizer
    from refimpl.operators import convolution

    rng = np.random.Generator(np.random.PCG64(3))
    zero = -17
    x = rng.integers(-128, 128, (6, 9, 4)).astype(np.int8)
    weight = rng.integers(-127, 128, (3, 3, 4, 5)).astype(np.int8)
    fold = -zero * weight.astype(np.int64).sum((0, 1, 2))
    ones, none = np.ones(5, np.int32), np.zeros(5, np.int32)
    rq = Requantizer(LAW_FOLDED, 0, -(1 << 15), (1 << 15) - 1, 0, none, ones, fold, none + 3, none.astype(np.float32))
    y = np.empty((4, 9, 5), np.int16)
    kernel = convolution.conv_transposed_causal if transposed else convolution.conv_causal
    kernel(x, weight, below, zero, rq, y)
    expected = np.clip(reference_convolution(x, weight, below, transposed, zero) >> 3, -(1 << 15), (1 << 15) - 1)
    assert np.array_equal(y, expected)
