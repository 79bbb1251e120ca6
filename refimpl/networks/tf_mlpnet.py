"""TF-MLPNet (arXiv 2508.03047): its configuration, parameters and how it becomes a program (SPEC P-6, M-1 to M-12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from refimpl.errors import InputError
from refimpl.numerics.activation import ActivationTables
from refimpl.numerics.tables import SIGMOID, TANH
from refimpl.presets import Preset
from refimpl.profiles import Profile
from refimpl.program import Program, Tensor
from refimpl.quantization.lowering import BINS, N_FFT, Builder

Array = np.ndarray[Any, np.dtype[Any]]
BYTES = {"int8": 1, "int16": 2, "bf16": 2, "f32": 4}


@dataclass(frozen=True)
class Config:
    """Everything that the network's shape and framing depend on; the defaults are the paper's blind separation model.

    window: ``hann`` (symmetric, 256 points) or ``rect``. frequency_padding of the 3x3 convolutions: ``symmetric`` (1 + 1) or
    ``top`` (2 above the highest bin). channel_order of the decoder: ``speaker_major`` (re1, im1, re2, im2) or ``real_first``
    (re1, re2, im1, im2). compression 1 is none.
    """

    speakers: int = 2
    blocks: int = 6
    channels: int = 32
    hidden: int = 32
    mixers: int = 2
    compression: int = 1
    window: str = "hann"
    frequency_padding: str = "symmetric"
    channel_order: str = "speaker_major"

    def __post_init__(self) -> None:
        for name in ("speakers", "blocks", "channels", "hidden", "mixers", "compression"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"configuration: {name} is {value!r}; it must be a positive integer")
        if self.compression > BINS:
            raise InputError(f"configuration: compression {self.compression} is more than the {BINS} bins")
        allowed = {
            "window": ("hann", "rect"),
            "frequency_padding": ("symmetric", "top"),
            "channel_order": ("speaker_major", "real_first"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"configuration: {name} is {getattr(self, name)!r}; use one of {', '.join(values)}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"configuration: unknown fields {', '.join(sorted(unknown))}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def inner_bins(self) -> int:
        """F' = floor(129 / compression), the bins that the mixers see."""
        return BINS // self.compression


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Every parameter's name (PyTorch state dict) and shape, in order; see ``weights/README.md``."""
    c, h, f, a = config.channels, config.hidden, config.inner_bins, config.compression
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (c, 2, 3, 3), "encoder.bias": (c,)}
    for b in range(config.blocks):
        block: dict[str, tuple[int, ...]] = {}
        if a > 1:
            block |= {"compress.weight": (c, c, a), "compress.bias": (c,), "expand.weight": (c, c, a), "expand.bias": (c,)}
        for m in range(config.mixers):
            for layer, size in (("freq1", f), ("freq2", f), ("chan1", c), ("chan2", c)):
                block |= {f"mixers.{m}.{layer}.weight": (size, size), f"mixers.{m}.{layer}.bias": (size,)}
        block |= {"intra_linear.weight": (c, c), "intra_linear.bias": (c,)}
        block |= {"lstm.weight_ih_l0": (4 * h, c), "lstm.weight_hh_l0": (4 * h, h)}
        block |= {"lstm.bias_ih_l0": (4 * h,), "lstm.bias_hh_l0": (4 * h,)}
        block |= {"inter_linear.weight": (c, h), "inter_linear.bias": (c,)}
        shapes |= {f"blocks.{b}.{name}": shape for name, shape in block.items()}
    shapes |= {"decoder.weight": (c, 2 * config.speakers, 3, 3), "decoder.bias": (2 * config.speakers,)}
    return shapes


def parameter_count(config: Config) -> int:
    return sum(int(np.prod(shape)) for shape in parameters(config).values())


def nominal_bytes(config: Config, preset: Preset) -> int:
    """Stored size as the paper counts it: every parameter in its layer's weight format, biases too."""
    total = 0
    for name, shape in parameters(config).items():
        parts = name.split(".")
        if parts[0] != "blocks":
            layer = parts[0]
        elif parts[2] == "mixers":
            layer = f"block{int(parts[1]) + 1}.spectral.mixer{int(parts[3]) + 1}.{parts[4]}"
        elif parts[2] == "lstm":
            layer = f"block{int(parts[1]) + 1}.lstm.{'ih' if 'ih' in parts[3] else 'hh'}"
        else:
            stage = "" if parts[2] == "inter_linear" else "spectral."
            layer = f"block{int(parts[1]) + 1}.{stage}{parts[2]}"
        total += int(np.prod(shape)) * BYTES[preset.kind(f"{layer}.weight")]
    return total


def build(
    config: Config,
    weights: Mapping[str, Array],
    ranges: Mapping[int, Mapping[str, tuple[float, float]]],
    preset: Preset,
    profile: Profile,
    tables: ActivationTables | None = None,
) -> Program:
    """Lower the network: PCM frames int16 [256] in, ``pcm`` int16 [S, 96] and ``clipped`` int32 [S] out, per frame.

    ``tables``: a device's sigmoid and tanh; default the profile's.
    """
    b = Builder(weights, ranges, preset, profile, tables)
    below = 1 if config.frequency_padding == "symmetric" else 0
    frame = b.source("frame", (N_FFT,))
    x = b.conv_causal("encoder", b.stft(frame, config.window), "encoder", below)
    x = b.convert("encoder.out", x)
    for index in range(config.blocks):
        x = _spectral_stage(b, config, index, x)
        x = _temporal_stage(b, config, index, x)
    y = b.conv_causal("decoder", b.convert("decoder.in", x), "decoder", below, transposed=True)
    index_of = np.arange(2 * config.speakers)
    order = index_of.reshape(-1, 2).T if config.channel_order == "speaker_major" else index_of.reshape(2, -1)
    return b.build(frame, b.istft(y, config.window, order[0].copy(), order[1].copy()))


def _spectral_stage(b: Builder, config: Config, index: int, x: Tensor) -> Tensor:
    """Mixers along frequency and channels, between compression and expansion if any, plus the block's input."""
    key, name = f"blocks.{index}", f"block{index + 1}.spectral"
    y = b.convert(f"{name}.in", x)
    if config.compression > 1:
        y = b.conv_strided(f"{name}.compress", y, f"{key}.compress", relu=True)
    for m in range(config.mixers):
        for axis, short in (("frequency", "freq"), ("channels", "chan")):
            layer, source = f"{name}.mixer{m + 1}.{short}", f"{key}.mixers.{m}.{short}"
            hidden = b.fully_connected(f"{layer}1", y, f"{source}1", axis, relu=True)
            y = b.add(f"{layer}_add", y, b.fully_connected(f"{layer}2", hidden, f"{source}2", axis))
    y = b.fully_connected(f"{name}.intra_linear", y, f"{key}.intra_linear", "channels")
    if config.compression > 1:
        y = b.conv_strided_transposed(f"{name}.expand", y, f"{key}.expand", BINS)
    return b.add(f"block{index + 1}.spectral_add", x, y)


def _temporal_stage(b: Builder, config: Config, index: int, x: Tensor) -> Tensor:
    """The LSTM over time, one sequence per bin, as 1x1 convolutions and gate arithmetic; inter_linear; plus its input."""
    key, name, loop = f"blocks.{index}.lstm", f"block{index + 1}.lstm", f"block{index + 1}.lstm"
    hidden = config.hidden
    ih = b.fully_connected(f"{name}.ih", x, f"{key}.weight_ih_l0", "channels", bias_key=f"{key}.bias_ih_l0")
    state = _declare_state(b, name, hidden)
    hh = b.fully_connected(
        f"{name}.hh", state, f"{key}.weight_hh_l0", "channels", bias_key=f"{key}.bias_hh_l0", past=1, loop=loop
    )
    total = b.add(f"{name}.sum", ih, hh, loop=loop)
    i = b.activation(f"{name}.i", total, SIGMOID, 0, hidden, loop=loop)
    f = b.activation(f"{name}.f", total, SIGMOID, hidden, hidden, loop=loop)
    g = b.activation(f"{name}.g", total, TANH, 2 * hidden, hidden, loop=loop)
    o = b.activation(f"{name}.o", total, SIGMOID, 3 * hidden, hidden, loop=loop)
    cell = b.tensor(f"{name}.c", (BINS, hidden))
    fc = b.multiply(f"{name}.fc", f, cell, past=1, loop=loop)
    ig = b.multiply(f"{name}.ig", i, g, loop=loop)
    c = b.add(f"{name}.c", fc, ig, loop=loop)
    tanh_c = b.activation(f"{name}.tanh_c", c, TANH, 0, hidden, loop=loop)
    h = b.multiply(f"{name}.h", o, tanh_c, loop=loop)
    h = b.convert(f"{name}.state", h, loop=loop)
    y = b.fully_connected(f"block{index + 1}.inter_linear", h, f"blocks.{index}.inter_linear", "channels")
    return b.add(f"block{index + 1}.out", x, y)


def _declare_state(b: Builder, name: str, hidden: int) -> Tensor:
    """The tensor that the recurrent convolution reads one frame late: h, or its quantized copy where formats differ."""
    h = b.tensor(f"{name}.h", (BINS, hidden))
    kind = b.preset.kind(f"{name}.state")
    return h if kind == h.format.kind else b.tensor(f"{name}.state", h.shape, kind, h.name)
