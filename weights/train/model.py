"""TF-MLPNet in PyTorch, for training only.

The module's ``state_dict`` is the exchange format: its parameter names are documented in ``weights/README.md`` and read
by ``python -m refimpl.convert``. The arithmetic that counts is refimpl's, not this file's.

Layout: activations are ``[N, T, F, C]`` with channels last, so that every channel operation is one ``linear``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from weights.train import amx

HOP = 96
BACK_PAD = 96
FRONT_PAD = 64
N_FFT = BACK_PAD + HOP + FRONT_PAD
SYNTHESIS = HOP + FRONT_PAD
BINS = N_FFT // 2 + 1
GAIN = 1.7  # of a Linear's initial weights over PyTorch's
WIDENING = 13 / 12  # of bands, from one to the next; the lowest are one bin apart


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


def bands(bins: int, widening: float = WIDENING) -> Tensor:
    """``[bins, K]``: triangles over frequency, from each centre to its neighbours, that add up to one in every bin.

    Centres are one bin apart at the bottom, then ``widening`` times farther each; with 1 every bin is a band of its own.
    """
    if widening == 1:
        return torch.eye(bins)
    count = 2 + int(math.log((bins - 2) * (widening - 1) + 1) / math.log(widening))
    centres = (widening ** torch.arange(count, dtype=torch.float64) - 1) / (widening - 1)
    at = torch.arange(bins, dtype=torch.float64)[:, None]
    rising = (at - centres[:-1]) / centres.diff()
    return (functional.pad(rising, (1, 0), value=1.0).clamp(0, 1) - functional.pad(rising, (0, 1)).clamp(0, 1)).float()


class Swap(torch.autograd.Function):
    """The last two axes exchanged, contiguous both ways: adding a transposed view costs more than this copy and the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.transpose(-1, -2).contiguous()


Grid = tuple[float, int, int]  # a step, and its least and largest multiple


class Stored(torch.autograd.Function):
    """The nearest value of a grid in FP32; the gradient passes as if nothing were rounded or clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        step, low, high = grid
        ctx.dtype = x.dtype
        return (x.float() / step).round_().clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None


@dataclass
class Sum:
    """How a sum is stored: as it is, or as a value of a ``grid``."""

    grid: Grid | None = None

    def stored(self, x: Tensor) -> Tensor:
        return x if self.grid is None else Stored.apply(x, self.grid)


def strongest(weight1: Tensor, weight2: Tensor, units: int) -> Tensor:
    """The ``units`` hidden units of the largest products of norms, in their order."""
    size = weight1.norm(dim=1) * weight2.norm(dim=0)
    return size.argsort(descending=True, stable=True)[:units].sort().values


class Mixer(nn.Module):
    """One mixer repetition: an MLP along frequency, then one along channels, each with its residual.

    While ``watched``, a pass in training mode leaves in ``share`` how often each hidden unit along frequency was above zero, on
    every eighth frame.
    """

    watched = False
    share: Tensor

    def __init__(self, bins: int, channels: int) -> None:
        super().__init__()
        self.freq_sum, self.chan_sum = Sum(), Sum()
        self.freq1 = nn.Linear(bins, bins)
        self.freq2 = nn.Linear(bins, bins)
        self.chan1 = nn.Linear(channels, channels)
        self.chan2 = nn.Linear(channels, channels)

    def take(self, given: Mixer) -> None:
        """Become the ordinary mixer ``given``."""
        self.load_state_dict(given.state_dict())

    @torch.no_grad()
    def take_above(self, given: Mixer) -> None:
        """Hear and tell the bins that this one lacks as ``given`` does, of whose strongest units below its own became.

        A unit of ``given`` that tells nothing is untrained; what has become of it below hears nothing above, for a start.
        """
        own = self.freq2.weight.any(0).nonzero()
        units = int(own.max()) + 1 if len(own) else 0
        bins = int(self.freq1.weight[:units].any(0).sum())
        kept = strongest(given.freq1.weight[:, :bins], given.freq2.weight[:bins], units)
        telling = given.freq2.weight[:, kept].any(0)
        self.freq1.weight[:units, bins:] = given.freq1.weight[kept, bins:] * telling[:, None]
        self.freq2.weight[bins:, :units] = given.freq2.weight[bins:, kept]
        self.freq2.bias[bins:] = given.freq2.bias[bins:]

    def along(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of both products along frequency."""
        return self.freq1.weight, self.freq1.bias, self.freq2.weight, self.freq2.bias

    def inward(self, x: Tensor) -> Tensor:
        """The first product along frequency, ``[..., bins]`` to ``[..., units]``."""
        return self.freq1(x)

    def outward(self, hidden: Tensor) -> Tensor:
        """The second product along frequency, ``[..., units]`` to ``[..., bins]``."""
        return self.freq2(hidden)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.inward(Swap.apply(x)))
        if self.watched and self.training:
            self.share = (hidden.detach()[:, ::8] > 0).float().mean((0, 1, 2))
        x = self.freq_sum.stored(x + Swap.apply(self.outward(hidden)))
        return self.chan_sum.stored(x + self.chan2(functional.relu(self.chan1(x))))


class BandMixer(Mixer):
    """A mixer whose matrices along frequency see bins in bands only, and tell all bins of a band much the same.

    The matrices are A1 P and S A2, the second bias is S b2, with S the triangles of :func:`bands` and P their transpose,
    normalised; ``freq1`` holds A1 ``[units, K]``, ``freq2`` A2 ``[K, units]`` and b2. Every such mixer is an ordinary one
    (:meth:`ordinary`), but with bands that widen it learns an eighth of the numbers or fewer, so that the noise of small
    batches has less to move.
    """

    spread: Tensor
    pooled: Tensor

    def __init__(self, bins: int, channels: int, units: int, widening: float = WIDENING) -> None:
        super().__init__(bins, channels)
        spread = bands(bins, widening)
        self.register_buffer("spread", spread, persistent=False)
        self.register_buffer("pooled", (spread / spread.norm(dim=0)).T.contiguous(), persistent=False)
        self.freq1 = nn.Linear(spread.shape[1], units)
        self.freq2 = nn.Linear(units, spread.shape[1])

    def along(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of both products as an ordinary mixer has them, for this one's bins and units."""
        weights = self.freq1.weight @ self.pooled, self.spread @ self.freq2.weight
        return weights[0], self.freq1.bias, weights[1], self.spread @ self.freq2.bias

    def inward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *self.along()[:2])

    def outward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, *self.along()[2:])

    @torch.no_grad()
    def ordinary(self, bins: int) -> Mixer:
        """The mixer of ``bins`` bins that does the same in those below, hears none above and tells them what it tells the last.

        Units that it has beyond this one's are as untrained ones.
        """
        found = Mixer(bins, self.chan1.in_features)
        found.chan1.load_state_dict(self.chan1.state_dict())
        found.chan2.load_state_dict(self.chan2.state_dict())
        weight1, bias1, weight2, bias2 = self.along()
        units, above = len(bias1), bins - len(bias2)
        found.freq1.weight *= GAIN
        found.freq1.weight[:units] = functional.pad(weight1, (0, above))
        found.freq1.bias[:units] = bias1
        found.freq2.weight.zero_()
        found.freq2.weight[:, :units] = torch.cat((weight2, weight2[-1:].expand(above, -1)))
        found.freq2.bias.copy_(torch.cat((bias2, bias2[-1:].expand(above))))
        return found

    @torch.no_grad()
    def take(self, given: Mixer) -> None:
        """Become the ordinary mixer ``given`` as nearly as its units of the largest products of norms, seen in bands, allow."""
        self.chan1.load_state_dict(given.chan1.state_dict())
        self.chan2.load_state_dict(given.chan2.state_dict())
        bins = len(self.spread)
        weight1, weight2 = given.freq1.weight[:, :bins], given.freq2.weight[:bins]
        kept = strongest(weight1, weight2, self.freq1.out_features)
        inverse = torch.linalg.pinv(self.spread)
        self.freq1.weight.copy_(weight1[kept] @ torch.linalg.pinv(self.pooled))
        self.freq1.bias.copy_(given.freq1.bias[kept])
        self.freq2.weight.copy_(inverse @ weight2[:, kept])
        self.freq2.bias.copy_(inverse @ given.freq2.bias[:bins])


class Block(nn.Module):
    """One MLPNet block: spectral stage (mixers), then temporal stage (LSTM per bin), each with its residual.

    Where it is ``native``, the kernels of ``amx.c`` may do the same.
    """

    native = True

    def __init__(
        self,
        bins: int,
        channels: int,
        hidden: int,
        mixers: int,
        compression: int,
        units: int = 0,
        widening: float = WIDENING,
    ) -> None:
        super().__init__()
        inner = bins // compression
        self.compression = compression
        self.spectral_sum, self.sum = Sum(), Sum()
        if compression > 1:
            self.compress = nn.Conv1d(channels, channels, compression, compression)
            self.expand = nn.ConvTranspose1d(
                channels, channels, compression, compression, output_padding=bins - compression * inner
            )
        self.mixers = nn.ModuleList(
            BandMixer(inner, channels, units, widening) if units else Mixer(inner, channels) for _ in range(mixers)
        )
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
        memory = torch.linspace(0, 5, hidden)  # log odds of keeping a cell's value: from 2 to 150 frames
        self.lstm.bias_ih_l0[hidden : 2 * hidden] += memory
        self.lstm.bias_ih_l0[:hidden] -= memory / 2  # a cell that keeps more takes in less

    @torch.no_grad()
    def silence(self) -> None:
        """Add nothing in either stage, to begin with."""
        for layer in (self.intra_linear, self.inter_linear):
            layer.weight.zero_()
            layer.bias.zero_()
        if self.compression > 1:
            self.expand.bias.zero_()

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
        x = self.spectral_sum.stored(x + self.spectral(x))
        return self.sum.stored(x + self.inter_linear(self.recur(x)))


class TFMLPNet(nn.Module):
    """The whole network: waveform ``[N, n]`` in, separated waveforms ``[N, S, n]`` out (PCM / 32768 scale).

    A start from nothing may be made smaller: only the lowest ``bins`` (the others come out as silence), and ``units`` hidden
    units along frequency that hear bands (:class:`BandMixer`). :meth:`ordinary` is the paper's network that goes on from it.
    """

    def __init__(
        self,
        speakers: int = 2,
        blocks: int = 6,
        channels: int = 32,
        hidden: int = 32,
        mixers: int = 2,
        compression: int = 1,
        window: str = "hann",
        bins: int = BINS,
        units: int = 0,
        widening: float = WIDENING,
    ) -> None:
        super().__init__()
        self.speakers = speakers
        self.bins = bins
        self.sizes = {
            "speakers": speakers,
            "blocks": blocks,
            "channels": channels,
            "hidden": hidden,
            "mixers": mixers,
            "compression": compression,
        }
        self.window = window
        self.start = Sum()
        self.encoder = nn.Conv2d(2, channels, 3)
        self.blocks = nn.ModuleList(Block(bins, channels, hidden, mixers, compression, units, widening) for _ in range(blocks))
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
        spectrum = functional.pad(self.spectrum(x)[..., : self.bins], (1, 1, 2, 0))
        patches = functional.unfold(spectrum, self.encoder.kernel_size).mT
        h = functional.linear(patches, self.encoder.weight.flatten(1), self.encoder.bias)
        return h.reshape(len(x), -1, self.bins, h.shape[-1])

    def decoded(self, h: Tensor) -> Tensor:
        """The last block's output ``[N, T, F, C]`` to spectra ``[N, 2S, T, F]``: the decoder as one product, in FP32."""
        n, t, f, c = h.shape
        with torch.autocast(h.device.type, enabled=False):
            taps = self.decoder.weight.flatten(1).mT @ h.float().reshape(n, t * f, c).mT
            y = functional.fold(taps, (t + 2, f), self.decoder.kernel_size, padding=self.decoder.padding)
            return y[:, :, :t] + self.decoder.bias[:, None, None]

    def sums(self) -> Iterator[tuple[str, Sum]]:
        """What residuals add up and where it begins, by the names of the program's tensors."""
        yield "encoder", self.start
        for number, block in enumerate(self.blocks, 1):
            for k, mixer in enumerate(block.mixers, 1):
                yield f"block{number}.spectral.mixer{k}.freq_add", mixer.freq_sum
                yield f"block{number}.spectral.mixer{k}.chan_add", mixer.chan_sum
            yield f"block{number}.spectral_add", block.spectral_sum
            yield f"block{number}.out", block.sum

    def forward(self, x: Tensor) -> Tensor:
        h = self.start.stored(self.encoded(x))
        if all(amx.suits(block, h) for block in self.blocks):
            h = amx.padded(h)
            for block in self.blocks:
                h = amx.forward(block, h)
            h = h[:, :, : self.bins]
        else:
            for block in self.blocks:
                h = block(h)
        return self.waveform(functional.pad(self.decoded(h), (0, BINS - self.bins)), x.shape[-1])

    def reduced(self) -> bool:
        """Whether this is not the paper's network but a smaller start of it."""
        return self.bins < BINS or any(isinstance(module, BandMixer) for module in self.modules())

    @torch.no_grad()
    def ordinary(self) -> TFMLPNet:
        """The paper's network with these parameters: this one, or what goes on from it where it is reduced."""
        if not self.reduced():
            return self
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of units beyond this network's: no run may depend on when it was saved
            found = TFMLPNet(**self.sizes, window=self.window)
            for block, mine in zip(found.blocks, self.blocks, strict=True):
                block.mixers = nn.ModuleList(mixer.ordinary(BINS) for mixer in mine.mixers)
        found.load_state_dict({k: v.cpu() for k, v in self.state_dict().items() if ".mixers." not in k}, strict=False)
        return found

    @torch.no_grad()
    def take(self, given: TFMLPNet) -> None:
        """Go on from the paper's network ``given``: as far as a reduced one can; blocks behind its own add nothing."""
        self.load_state_dict({k: v for k, v in given.state_dict().items() if ".mixers." not in k}, strict=False)
        for block, other in zip(self.blocks, given.blocks, strict=False):
            for mixer, its in zip(block.mixers, other.mixers, strict=True):
                mixer.take(its)
        for block in self.blocks[len(given.blocks) :]:
            block.silence()

    @torch.no_grad()
    def take_above(self, given: TFMLPNet) -> None:
        """Of the paper's network ``given`` the bins that this one, made of a reduced one that went on from it, lacks."""
        for block, other in zip(self.blocks, given.blocks, strict=True):
            for mixer, its in zip(block.mixers, other.mixers, strict=True):
                mixer.take_above(its)
