"""``amx.c`` for PyTorch: blocks of the full network, forwards and backwards, on CPUs with AMX tiles (Linux, x86-64).

Compiled with the system's C compiler on first use and kept in the user's cache folder. Where a CPU, a compiler or a network
does not suit, :func:`suits` says so and ``model.py`` does the same in PyTorch, at less than half the speed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from weights.train.model import Block

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
WIDTH = 32  # channels and hidden units of the LSTM, which the kernels are written for; bins are padded to a multiple of it
SWITCH = "REFIMPL_AMX"  # in the environment: 0 turns the kernels off


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where this machine cannot run or compile them."""
    if os.environ.get(SWITCH) == "0" or platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    compiler, flags = shutil.which("cc"), Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    if compiler is None or not {"amx_bf16", "avx512_bf16", "avx512bw", "avx512vl"} <= set(flags):
        return None
    try:
        found = ctypes.CDLL(str(_built(compiler, " ".join(flags))))
    except (OSError, subprocess.CalledProcessError):
        return None
    return found if found.amx_request() == 0 else None


def _built(compiler: str, machine: str) -> Path:
    """The compiled library, from the cache if it was made of this source for such a machine."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    made_of = SOURCE.read_bytes(), machine.encode(), version, " ".join(FLAGS).encode()
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refimpl"
    built = cache / f"amx-{key}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            partial = Path(folder) / built.name
            subprocess.run([compiler, *FLAGS, "-o", partial, SOURCE], check=True, capture_output=True)
            partial.replace(built)  # whole or not at all: another process may be looking for it
    return built


def suits(block: Block, x: Tensor) -> bool:
    """Whether :func:`forward` does what ``block`` does with ``x`` here: BF16 products asked for, sizes of the paper."""
    return (
        block.native
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and block.compression == 1
        and x.shape[-1] == block.lstm.hidden_size == WIDTH
        and not any(mixer.watched for mixer in block.mixers)
        and library() is not None
    )


def padded(x: Tensor) -> Tensor:
    """``[N, T, F, C]`` as the kernels take it: FP32, bins padded to a multiple of ``WIDTH``."""
    return torch.nn.functional.pad(x.float(), (0, 0, 0, -x.shape[2] % WIDTH)).contiguous()


def parameters(block: Block) -> tuple[list[Tensor], list[Tensor]]:
    """Of the spectral and the temporal stage, in the kernels' order."""
    spectral: list[Tensor] = []
    with torch.autocast("cpu", enabled=False):  # the kernels round weights, once
        for mixer in block.mixers:
            spectral += [*mixer.along(), mixer.chan1.weight, mixer.chan1.bias, mixer.chan2.weight, mixer.chan2.bias]
    temporal = [*block.lstm._flat_weights, block.inter_linear.weight, block.inter_linear.bias]
    return [*spectral, block.intra_linear.weight, block.intra_linear.bias], temporal


def forward(block: Block, x: Tensor) -> Tensor:
    """``block`` on ``x`` as :func:`padded`; rows beyond the block's bins come out as anything."""
    spectral, temporal = parameters(block)
    s = block.spectral_sum.stored(Spectral.apply(x, grids(block), *spectral))
    return block.sum.stored(Temporal.apply(s, *temporal))


def grids(block: Block) -> Tensor:
    """Of the mixers' sums, ``[mixers, 2, 3]``: step, least and largest multiple; zeros where values stay as they are."""
    values = [sum_.grid or (0.0, 0, 0) for mixer in block.mixers for sum_ in (mixer.freq_sum, mixer.chan_sum)]
    return torch.tensor(values, dtype=torch.float32)


def _call(name: str, *given: Any) -> None:
    """A kernel on tensors, tuples of tensors (pointers to their pointers) and ``c_int`` or ``c_long``."""
    arguments = []
    for value in given:
        if isinstance(value, Tensor):
            assert value.is_contiguous()
            value = ctypes.c_void_p(value.data_ptr())
        elif isinstance(value, tuple):
            assert all(one.is_contiguous() and one.dtype == torch.float32 for one in value)
            value = (ctypes.c_void_p * len(value))(*[one.data_ptr() for one in value])
        arguments.append(value)
    if getattr(library(), name)(*arguments):
        raise MemoryError(f"{name}: no memory for its buffers")


class Spectral(torch.autograd.Function):
    """``x + intra_linear(mixers(x))``; the way back makes everything between anew from ``x``."""

    @staticmethod
    def _sizes(x: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Any, ...]:
        units, bins = parameters[0].shape
        mixers = (len(parameters) - 2) // 8
        return ctypes.c_long(x.shape[0] * x.shape[1]), ctypes.c_int(bins), ctypes.c_int(units), ctypes.c_int(mixers)

    @staticmethod
    def forward(ctx: Any, x: Tensor, grids: Tensor, *parameters: Tensor) -> Tensor:
        parameters = tuple(p.contiguous() for p in parameters)
        s = torch.empty_like(x)
        _call("spectral_forward", x, s, *Spectral._sizes(x, parameters), grids, parameters)
        ctx.save_for_backward(x, grids, *parameters)
        return s

    @staticmethod
    def backward(ctx: Any, ds: Tensor) -> tuple[Tensor | None, ...]:
        x, grids, *rest = ctx.saved_tensors
        parameters = tuple(rest)
        dx, gradients = torch.empty_like(x), tuple(torch.empty_like(p) for p in parameters)
        _call("spectral_backward", x, ds.contiguous(), dx, *Spectral._sizes(x, parameters), grids, parameters, gradients)
        return dx, None, *gradients


class Temporal(torch.autograd.Function):
    """``s + inter_linear(lstm(s))``; what the way back needs is kept in BF16."""

    @staticmethod
    def _sizes(s: Tensor) -> tuple[Any, ...]:
        return ctypes.c_long(s.shape[0]), ctypes.c_long(s.shape[1]), ctypes.c_int(s.shape[2])

    @staticmethod
    def forward(ctx: Any, s: Tensor, *parameters: Tensor) -> Tensor:
        parameters = tuple(p.contiguous() for p in parameters)
        out, cells = torch.empty_like(s), torch.empty_like(s, dtype=torch.bfloat16)
        gates, hidden = s.new_empty(*s.shape[:3], 4 * WIDTH, dtype=torch.bfloat16), torch.empty_like(cells)
        _call("temporal_forward", s, out, gates, cells, hidden, *Temporal._sizes(s), parameters)
        ctx.save_for_backward(s, gates, cells, hidden, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, ...]:
        s, gates, cells, hidden, *rest = ctx.saved_tensors
        parameters = tuple(rest)
        ds, gradients = torch.empty_like(s), tuple(torch.empty_like(p) for p in parameters)
        _call("temporal_backward", s, dout.contiguous(), ds, gates, cells, hidden, *Temporal._sizes(s), parameters, gradients)
        return ds, *gradients
