"""Elementwise steps as single passes over memory, for CPUs, where PyTorch makes one pass an operation.

``quantized.py`` states the arithmetic; every function here has its PyTorch form there, and tests hold the two together. Codes
come from FP64 expressions that are exact, so neither order nor contraction could change them.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

EDGE = np.float32(0.5 + 2.0**-20)  # what a rounding errs by at most, a tie included; a clipped code errs by more

_F, _D, _S = "float32[::1]", "float64[::1]", "float64"
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@numba.njit(f"void({_F},{_F},{_S},{_D},{_D},{_D},{_D},{_D},{_S},{_S},{_F},{_F})", **_OPTIONS)  # type: ignore[untyped-decorator]
def law(low, high, pre, addend, factor, offset, half, floor, lowest, highest, codes, residual):  # type: ignore[no-untyped-def]
    period = factor.size
    for row in range(low.size // period):
        for j in range(period):
            i = row * period + j
            u = np.float64(low[i])
            if high.size:
                u += 256.0 * np.float64(high[i])
            if pre:
                u = np.floor(u * pre + addend[j])
            u = u * factor[j] + offset[j]
            code = min(max(np.floor(u), lowest), highest)
            codes[i] = code
            if residual.size:
                residual[i] = np.float32(code - (u + min(u - floor[j], 0.0) * 1048576.0)) + np.float32(half[j])


@numba.njit(f"void({_F},{_F},{_S},{_S},boolean,{_S},{_S},{_S},{_S},{_S},{_S},{_F},{_F})", **_OPTIONS)  # type: ignore[untyped-decorator]
def add(a, b, pre, addend, floored, factor, other, offset, half, lowest, highest, codes, residual):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        v = np.float64(a[i]) * pre + addend
        if floored:
            v = np.floor(v)
        u = v * factor + np.float64(b[i]) * other + offset
        code = min(max(np.floor(u), lowest), highest)
        codes[i] = code
        if residual.size:
            residual[i] = np.float32(code - u) + np.float32(half)


@numba.njit(f"void({_F},{_F},{_S},{_S},{_S},{_S},{_S},{_S},{_S},{_F},{_F})", **_OPTIONS)  # type: ignore[untyped-decorator]
def multiply(a, b, first, second, factor, offset, half, lowest, highest, codes, residual):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        u = (np.float64(a[i]) - first) * (np.float64(b[i]) - second) * factor + offset
        code = min(max(np.floor(u), lowest), highest)
        codes[i] = code
        if residual.size:
            residual[i] = np.float32(code - u) + np.float32(half)


@numba.njit(f"UniTuple({_S},3)({_F},{_F},{_F})", fastmath={"reassoc", "nsz"}, **_OPTIONS)  # type: ignore[untyped-decorator]
def _split(gradient, residual, inside):  # type: ignore[no-untyped-def]
    share, low, high = 0.0, 0.0, 0.0
    for i in range(gradient.size):
        g, r = gradient[i], residual[i]
        inner = g if abs(r) < EDGE else np.float32(0.0)
        inside[i] = inner
        share += np.float64(inner * r)
        low += np.float64(g if r >= EDGE else np.float32(0.0))
        high += np.float64(g if r <= -EDGE else np.float32(0.0))
    return share, low, high


_NONE = np.empty(0, np.float32)


def _flat(x: Tensor) -> Any:
    return x.contiguous().view(-1).numpy()


def run(
    function: Any, first: Tensor, second: Tensor | None, constants: tuple[Any, ...], learning: bool
) -> tuple[Tensor, Tensor | None]:
    """A function of two inputs above (the second may be absent): codes in the first's shape, and residuals if ``learning``."""
    codes = torch.empty(first.shape)
    residual = torch.empty(first.shape) if learning else None
    given = (_NONE if x is None else _flat(x) for x in (first, second))
    function(*given, *constants, _flat(codes), _NONE if residual is None else _flat(residual))
    return codes, residual


def split(gradient: Tensor, residual: Tensor) -> tuple[Tensor, tuple[float, float, float]]:
    """The gradient where nothing was clipped, and (its product with the residual, what was clipped below, above) summed up."""
    inside = torch.empty(gradient.shape)
    return inside, _split(_flat(gradient), _flat(residual), _flat(inside))
