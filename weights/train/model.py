"""TF-MLPNet in PyTorch, for training only.

The module's ``state_dict`` is the exchange format: its parameter names are documented in ``weights/README.md`` and read
by ``python -m refimpl.convert``. The arithmetic that counts is refimpl's, not this file's.

Layout: activations are ``[N, T, F, C]`` with channels last, so that every channel operation is one ``linear``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

HOP = 96
BACK_PAD = 96
FRONT_PAD = 64
N_FFT = BACK_PAD + HOP + FRONT_PAD
SYNTHESIS = HOP + FRONT_PAD
BINS = N_FFT // 2 + 1
GAIN = 1.7  # of a Linear's initial weights over PyTorch's


def analysis_window(name: str) -> Tensor:
    """The analysis window: ``hann`` (symmetric, 256 points) or ``rect``."""
    if name == "rect":
        return torch.ones(N_FFT, dtype=torch.float64)
    if name == "hann":
        return torch.hann_window(N_FFT, periodic=False, dtype=torch.float64)
    raise ValueError(f"unknown window {name!r}: use 'hann' or 'rect'")


def synthesis_window(analysis: Tensor) -> Tensor:
    """The 160-point window that makes overlap-add at hop 96 exact for ``analysis``."""
    window = torch.zeros(SYNTHESIS, dtype=torch.float64)
    for i in range(SYNTHESIS):
        if FRONT_PAD <= i < HOP:
            window[i] = 1.0 / analysis[BACK_PAD + i]
        else:
            energy = sum(analysis[BACK_PAD + (i % HOP) + HOP * k] ** 2 for k in (0, 1))
            window[i] = analysis[BACK_PAD + i] / energy
    return window


class Swap(torch.autograd.Function):
    """The last two axes exchanged, contiguous both ways: adding a transposed view costs more than this copy and the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.transpose(-1, -2).contiguous()


class Mixer(nn.Module):
    """One mixer repetition: an MLP along frequency, then one along channels, each with its residual.

    While ``watched``, a pass in training mode leaves in ``share`` how often each hidden unit along frequency was above zero, on
    every eighth frame.
    """

    watched = False
    share: Tensor

    def __init__(self, bins: int, channels: int) -> None:
        super().__init__()
        self.freq1 = nn.Linear(bins, bins)
        self.freq2 = nn.Linear(bins, bins)
        self.chan1 = nn.Linear(channels, channels)
        self.chan2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.freq1(Swap.apply(x)))
        if self.watched and self.training:
            self.share = (hidden.detach()[:, ::8] > 0).float().mean((0, 1, 2))
        x = x + Swap.apply(self.freq2(hidden))
        return x + self.chan2(functional.relu(self.chan1(x)))


class Block(nn.Module):
    """One MLPNet block: spectral stage (mixers), then temporal stage (LSTM per bin), each with its residual."""

    def __init__(self, bins: int, channels: int, hidden: int, mixers: int, compression: int) -> None:
        super().__init__()
        inner = bins // compression
        self.compression = compression
        if compression > 1:
            self.compress = nn.Conv1d(channels, channels, compression, compression)
            self.expand = nn.ConvTranspose1d(
                channels, channels, compression, compression, output_padding=bins - compression * inner
            )
        self.mixers = nn.ModuleList(Mixer(inner, channels) for _ in range(mixers))
        self.intra_linear = nn.Linear(channels, channels)
        self.lstm = nn.LSTM(channels, hidden)
        self.inter_linear = nn.Linear(hidden, channels)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start with unit gain through ReLUs and gates (PyTorch's defaults shrink; without norms that costs many steps).

        Mixing along frequency starts at nothing: random mixing hides every bin from the layers behind it, and training would
        first silence it by pushing its ReLUs below zero, from where they do not come back.
        """
        for name, parameter in self.named_parameters():
            if name.startswith("lstm.weight"):
                parameter *= 2.0
            elif ".freq2." in name:
                parameter.zero_()
            elif parameter.dim() == 2:
                parameter *= GAIN
        hidden = self.lstm.hidden_size
        self.lstm.bias_ih_l0[hidden : 2 * hidden] += 2.0  # gates open to the past: a memory of tens of frames

    def recur(self, x: Tensor) -> Tensor:
        """The LSTM over time, each bin a sequence of its own; in BF16 where autocast is on."""
        n, t, f, c = x.shape
        sequence = x.permute(1, 0, 2, 3).reshape(t, n * f, c)
        weights = [w.to(sequence.dtype) for w in self.lstm._flat_weights]
        zero = sequence.new_zeros(1, n * f, self.lstm.hidden_size)
        out = torch.lstm(sequence, (zero, zero), weights, True, 1, 0.0, self.training, False, False)[0]
        return out.reshape(t, n, f, -1).permute(1, 0, 2, 3)

    def compressed(self, x: Tensor) -> Tensor:
        """``self.compress`` and its ReLU as one product: kernel and stride are equal, so each inner bin sees its own bins."""
        n, t, f, _ = x.shape
        inner = f // self.compression
        groups = x[:, :, : inner * self.compression].reshape(n, t, inner, -1)
        weight = self.compress.weight.transpose(1, 2).flatten(1)
        return functional.relu(functional.linear(groups, weight, self.compress.bias))

    def expanded(self, y: Tensor, bins: int) -> Tensor:
        """``self.expand`` as one product; the bins of its output padding are the bias alone."""
        n, t, inner, c = y.shape
        weight = self.expand.weight.permute(2, 1, 0).flatten(0, 1)
        taps = functional.linear(y, weight).reshape(n, t, inner * self.compression, c)
        return functional.pad(taps, (0, 0, 0, bins - inner * self.compression)) + self.expand.bias

    def spectral(self, x: Tensor) -> Tensor:
        """What the spectral stage adds to the block's input."""
        y = self.compressed(x) if self.compression > 1 else x
        for mixer in self.mixers:
            y = mixer(y)
        y = self.intra_linear(y)
        return self.expanded(y, x.shape[2]) if self.compression > 1 else y

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.spectral(x)
        return x + self.inter_linear(self.recur(x))


class TFMLPNet(nn.Module):
    """The whole network: waveform ``[N, n]`` in, separated waveforms ``[N, S, n]`` out (PCM / 32768 scale)."""

    def __init__(
        self,
        speakers: int = 2,
        blocks: int = 6,
        channels: int = 32,
        hidden: int = 32,
        mixers: int = 2,
        compression: int = 1,
        window: str = "hann",
    ) -> None:
        super().__init__()
        self.speakers = speakers
        self.encoder = nn.Conv2d(2, channels, 3)
        self.blocks = nn.ModuleList(Block(BINS, channels, hidden, mixers, compression) for _ in range(blocks))
        self.decoder = nn.ConvTranspose2d(channels, 2 * speakers, 3, padding=(0, 1))
        analysis = analysis_window(window)
        self.register_buffer("analysis", analysis.float(), persistent=False)
        self.register_buffer("synthesis", synthesis_window(analysis).float(), persistent=False)

    def spectrum(self, x: Tensor) -> Tensor:
        """Waveform ``[N, n]`` to ``[N, 2, T, F]`` (re, im)."""
        n = x.shape[-1]
        frames = -(-n // HOP)
        padded = functional.pad(x, (BACK_PAD, frames * HOP - n + FRONT_PAD))
        bins = torch.fft.rfft(padded.unfold(-1, N_FFT, HOP) * self.analysis)
        return torch.stack((bins.real, bins.imag), 1)

    def waveform(self, y: Tensor, n: int) -> Tensor:
        """Spectra ``[N, 2S, T, F]`` (speaker-major re, im) to waveforms ``[N, S, n]``."""
        batch, _, frames, _ = y.shape
        y = y.reshape(batch, self.speakers, 2, frames, BINS)
        tail = torch.fft.irfft(torch.complex(y[:, :, 0], y[:, :, 1]), N_FFT)[..., -SYNTHESIS:] * self.synthesis
        out = functional.pad(tail[..., :HOP].flatten(-2), (0, FRONT_PAD))
        overlap = functional.pad(tail[..., HOP:], (0, HOP - FRONT_PAD)).flatten(-2)
        return (out + functional.pad(overlap, (HOP, FRONT_PAD - HOP)))[..., :n]

    def encoded(self, x: Tensor) -> Tensor:
        """Waveform ``[N, n]`` to the first block's input ``[N, T, F, C]``."""
        h = self.encoder(functional.pad(self.spectrum(x), (1, 1, 2, 0)))
        return h.permute(0, 2, 3, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoded(x)
        for block in self.blocks:
            h = block(h)
        y = self.decoder(h.permute(0, 3, 1, 2))[:, :, : h.shape[1]]
        return self.waveform(y.float(), x.shape[-1])
