"""TF-MLPNet in plain NumPy float64: an oracle for tests, written from the architecture alone.

It shares no code with the project's own implementation and aims at being easy to check by eye, not at speed. All
activations are ``[T, F, C]``: frames first, then frequency, then channels. Weights carry PyTorch's state-dict names
and shapes; they are converted to float64 and nothing is rounded anywhere.

Two options that the published description leaves open, as they are read here (``x``, ``y``: the convolution's input and
output at one frame, ``k`` = 0, 1, 2: its frequency taps; values outside the spectrum are zero):

- ``frequency_padding="symmetric"``: encoder ``y[f] = sum_k w[k] x[f - 1 + k]``, decoder
  ``y[f] = sum_k w[k] x[f + 1 - k]`` (PyTorch's ``padding=1`` along frequency in both).
- ``frequency_padding="top"``: the two zeros lie above the highest bin and none below the lowest, so encoder
  ``y[f] = sum_k w[k] x[f + k]``; the decoder is the adjoint, ``y[f] = sum_k w[k] x[f - k]``.

``channel_order`` concerns the decoder's output channels: ``speaker_major`` is re1, im1, re2, im2, ...; ``real_first``
is re1, re2, ..., im1, im2, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

HOP = 96  # samples per frame
BACK = 96  # samples of the past in each frame
FRONT = 64  # samples of the future in each frame
SIZE = BACK + HOP + FRONT  # 256: samples per frame in all
TAIL = HOP + FRONT  # 160: samples that each frame contributes to the output
BINS = SIZE // 2 + 1  # 129


def analysis_window(name: str) -> Real:
    """The 256-point analysis window: ``hann`` (symmetric) or ``rect``."""
    if name == "hann":
        return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(SIZE) / (SIZE - 1))
    if name == "rect":
        return np.ones(SIZE)
    raise ValueError(f"unknown window {name!r}")


def synthesis_window(analysis: Real) -> Real:
    """The 160-point synthesis window that makes overlap-add exact for this analysis window."""
    out = np.zeros(TAIL)
    for i in range(TAIL):
        if FRONT <= i < HOP:  # one frame only
            out[i] = 1.0 / analysis[BACK + i]
        else:  # two frames overlap
            first = analysis[BACK + i % HOP]
            second = analysis[BACK + i % HOP + HOP]
            out[i] = analysis[BACK + i] / (first**2 + second**2)
    return out


def spectrum(x: Real, window: str = "hann") -> Complex:
    """Waveform ``[n]`` to spectrum ``[T, F]``, ``T = ceil(n / 96)``; ``window`` names the analysis window."""
    n = len(x)
    frames = (n + HOP - 1) // HOP
    padded = np.zeros(BACK + frames * HOP + FRONT)
    padded[BACK : BACK + n] = x
    analysis = analysis_window(window)
    out = np.zeros((frames, BINS), np.complex128)
    for t in range(frames):
        out[t] = np.fft.rfft(padded[t * HOP : t * HOP + SIZE] * analysis)
    return out


def inverse(spec: Complex, n: int, window: str = "hann") -> Real:
    """Spectra ``[S, T, F]`` to waveforms ``[S, n]``; imaginary parts of DC and Nyquist are ignored."""
    speakers, frames, _ = spec.shape
    synthesis = synthesis_window(analysis_window(window))
    out = np.zeros((speakers, frames * HOP + FRONT))
    for s in range(speakers):
        for t in range(frames):
            bins = spec[s, t].copy()
            bins[0] = bins[0].real
            bins[-1] = bins[-1].real
            out[s, t * HOP : t * HOP + TAIL] += np.fft.irfft(bins, SIZE)[-TAIL:] * synthesis
    return out[:, :n]


def relu(x: Real) -> Real:
    """The positive part."""
    return np.maximum(x, 0.0)


def sigmoid(x: Real) -> Real:
    """``1 / (1 + exp(-x))`` without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def shifted(x: Real, frames: int, bins: int) -> Real:
    """``y[t, f] = x[t + frames, f + bins]``, zero outside."""
    total_frames, total_bins, size = x.shape
    padded = np.zeros((total_frames + 4, total_bins + 4, size))  # no shift exceeds 2
    padded[2 : 2 + total_frames, 2 : 2 + total_bins] = x
    return padded[2 + frames : 2 + frames + total_frames, 2 + bins : 2 + bins + total_bins]


def encode(x: Real, weight: Real, bias: Real, frequency_padding: str) -> Real:
    """Causal 3 x 3 convolution; weight ``[out, in, time, freq]``, time tap 2 is the current frame."""
    below = {"symmetric": 1, "top": 0}[frequency_padding]
    out = np.zeros((*x.shape[:2], len(bias))) + bias
    for kt in range(3):
        for kf in range(3):
            out += shifted(x, kt - 2, kf - below) @ weight[:, :, kt, kf].T
    return out


def decode(x: Real, weight: Real, bias: Real, frequency_padding: str) -> Real:
    """Causal 3 x 3 transposed convolution; weight ``[in, out, time, freq]``, time tap 0 is the current frame."""
    below = {"symmetric": 1, "top": 0}[frequency_padding]
    out = np.zeros((*x.shape[:2], len(bias))) + bias
    for kt in range(3):
        for kf in range(3):
            out += shifted(x, -kt, below - kf) @ weight[:, :, kt, kf]
    return out


def compress(x: Real, weight: Real, bias: Real) -> Real:
    """Convolution along frequency with stride = kernel size, no padding, then ReLU; weight ``[out, in, k]``."""
    a = weight.shape[2]
    inner = x.shape[1] // a
    out = np.zeros((x.shape[0], inner, len(bias))) + bias
    for k in range(a):
        for f in range(inner):
            out[:, f] += x[:, a * f + k] @ weight[:, :, k].T
    return relu(out)


def expand(x: Real, weight: Real, bias: Real, bins: int) -> Real:
    """Transposed convolution along frequency, stride = kernel size; bins beyond its reach get the bias alone."""
    a = weight.shape[2]
    out = np.zeros((x.shape[0], bins, len(bias))) + bias
    for k in range(a):
        for f in range(x.shape[1]):
            out[:, a * f + k] += x[:, f] @ weight[:, :, k]
    return out


def along_channels(x: Real, weight: Real, bias: Real) -> Real:
    """``y[t, f, o] = sum_i weight[o, i] x[t, f, i] + bias[o]``."""
    product: Real = np.einsum("oi,tfi->tfo", weight, x)
    return product + bias


def along_frequency(x: Real, weight: Real, bias: Real) -> Real:
    """``y[t, o, c] = sum_i weight[o, i] x[t, i, c] + bias[o]``: the same weights for every channel."""
    product: Real = np.einsum("oi,tic->toc", weight, x)
    return product + bias[None, :, None]


def lstm(x: Real, w_ih: Real, w_hh: Real, b_ih: Real, b_hh: Real) -> dict[str, Real]:
    """LSTM over frames, one sequence per bin, zero start; every intermediate, ``h`` being the output.

    ``ih`` and ``hh`` are the two pre-activations ``[T, F, 4H]``, each with its own bias (gate order i, f, g, o); ``i``,
    ``f``, ``g``, ``o`` are the gates after sigmoid (g: tanh), ``c`` and ``h`` the new states, each ``[T, F, H]``.
    """
    frames, bins, _ = x.shape
    size = w_hh.shape[1]
    out = {name: np.zeros((frames, bins, 4 * size)) for name in ("ih", "hh")}
    out |= {name: np.zeros((frames, bins, size)) for name in ("i", "f", "g", "o", "c", "h")}
    h = np.zeros((bins, size))
    c = np.zeros((bins, size))
    for t in range(frames):
        ih = x[t] @ w_ih.T + b_ih
        hh = h @ w_hh.T + b_hh
        gates = ih + hh
        i = sigmoid(gates[:, 0 * size : 1 * size])
        f = sigmoid(gates[:, 1 * size : 2 * size])
        g = np.tanh(gates[:, 2 * size : 3 * size])
        o = sigmoid(gates[:, 3 * size : 4 * size])
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, value in (("ih", ih), ("hh", hh), ("i", i), ("f", f), ("g", g), ("o", o), ("c", c), ("h", h)):
            out[name][t] = value
    return out


def to_complex(decoded: Real, speakers: int, channel_order: str) -> Complex:
    """The decoder's output ``[T, F, 2S]`` as spectra ``[S, T, F]``."""
    out = np.zeros((speakers, *decoded.shape[:2]), np.complex128)
    for s in range(speakers):
        re, im = {"speaker_major": (2 * s, 2 * s + 1), "real_first": (s, speakers + s)}[channel_order]
        out[s] = decoded[:, :, re] + 1j * decoded[:, :, im]
    return out


def tf_mlpnet(
    x: Real,
    weights: Mapping[str, NDArray[Any]],
    *,
    speakers: int = 2,
    blocks: int = 6,
    channels: int = 32,
    hidden: int = 32,
    mixers: int = 2,
    compression: int = 1,
    window: str = "hann",
    frequency_padding: str = "symmetric",
    channel_order: str = "speaker_major",
    trace: dict[str, Real] | None = None,
) -> Real:
    """Waveform ``[n]`` (PCM / 32768 scale) to the speakers' waveforms ``[S, n]``.

    ``trace``, where given, is filled with a copy of each step, ``[T, F, C]`` (inside the mixers ``F`` is
    ``129 // compression``): ``spectrum`` (re, im), ``encoder``, then for each block ``block{b}.`` with ``compress``
    (after ReLU), ``mixer{m}.freq1`` (after ReLU), ``mixer{m}.freq2``, ``mixer{m}.freq_residual``, ``mixer{m}.chan1``
    (after ReLU), ``mixer{m}.chan2``, ``mixer{m}.chan_residual``, ``intra_linear``, ``expand``, ``spectral_residual``,
    ``lstm.`` with ``ih``, ``hh``, ``i``, ``f``, ``g``, ``o``, ``c``, ``h`` (see :func:`lstm`), ``inter_linear`` and
    ``temporal_residual``; last ``decoder``. Without compression ``compress`` and ``expand`` are absent.
    """
    inner = BINS // compression
    unused = set(weights)

    def get(name: str, *shape: int) -> Real:
        value = np.asarray(weights[name]).astype(np.float64)
        if value.shape != shape:
            raise ValueError(f"{name}: shape {value.shape}, not {shape}")
        unused.discard(name)
        return value

    def keep(name: str, value: Real) -> Real:
        if trace is not None:
            trace[name] = value.copy()
        return value

    bins = spectrum(x, window)
    y = keep("spectrum", np.stack((bins.real, bins.imag), axis=-1))
    y = encode(y, get("encoder.weight", channels, 2, 3, 3), get("encoder.bias", channels), frequency_padding)
    y = keep("encoder", y)

    for b in range(blocks):
        w, p = f"blocks.{b}", f"block{b}"

        z = y
        if compression > 1:
            weight = get(f"{w}.compress.weight", channels, channels, compression)
            z = keep(f"{p}.compress", compress(z, weight, get(f"{w}.compress.bias", channels)))
        for m in range(mixers):
            wm, pm = f"{w}.mixers.{m}", f"{p}.mixer{m}"
            u = along_frequency(z, get(f"{wm}.freq1.weight", inner, inner), get(f"{wm}.freq1.bias", inner))
            u = keep(f"{pm}.freq1", relu(u))
            u = along_frequency(u, get(f"{wm}.freq2.weight", inner, inner), get(f"{wm}.freq2.bias", inner))
            z = keep(f"{pm}.freq_residual", z + keep(f"{pm}.freq2", u))
            u = along_channels(z, get(f"{wm}.chan1.weight", channels, channels), get(f"{wm}.chan1.bias", channels))
            u = keep(f"{pm}.chan1", relu(u))
            u = along_channels(u, get(f"{wm}.chan2.weight", channels, channels), get(f"{wm}.chan2.bias", channels))
            z = keep(f"{pm}.chan_residual", z + keep(f"{pm}.chan2", u))
        weight = get(f"{w}.intra_linear.weight", channels, channels)
        z = keep(f"{p}.intra_linear", along_channels(z, weight, get(f"{w}.intra_linear.bias", channels)))
        if compression > 1:
            weight = get(f"{w}.expand.weight", channels, channels, compression)
            z = keep(f"{p}.expand", expand(z, weight, get(f"{w}.expand.bias", channels), BINS))
        y = keep(f"{p}.spectral_residual", y + z)

        steps = lstm(
            y,
            get(f"{w}.lstm.weight_ih_l0", 4 * hidden, channels),
            get(f"{w}.lstm.weight_hh_l0", 4 * hidden, hidden),
            get(f"{w}.lstm.bias_ih_l0", 4 * hidden),
            get(f"{w}.lstm.bias_hh_l0", 4 * hidden),
        )
        for name, value in steps.items():
            keep(f"{p}.lstm.{name}", value)
        weight = get(f"{w}.inter_linear.weight", channels, hidden)
        z = keep(f"{p}.inter_linear", along_channels(steps["h"], weight, get(f"{w}.inter_linear.bias", channels)))
        y = keep(f"{p}.temporal_residual", y + z)

    weight = get("decoder.weight", channels, 2 * speakers, 3, 3)
    y = keep("decoder", decode(y, weight, get("decoder.bias", 2 * speakers), frequency_padding))
    if unused:
        raise ValueError(f"weights that this configuration does not use: {sorted(unused)}")
    return inverse(to_complex(y, speakers, channel_order), len(x), window)
