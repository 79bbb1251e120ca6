"""Fully connected layers along frequency and along channels (SPEC L-1 to L-4).

Skeleton of every integer operator: accumulate raw codes times weights in int32 (proven at load not to overflow); bias,
requantize and saturate in one call of the law. Input zero points are folded into the bias by the lowering.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import requantize
from refimpl.operators.accumulate import accumulate, accumulate_f32


@kernel
def fully_connected_frequency(x, weight, rq, y):
    """``y[t, g, c] = law(sum_f weight[g, f] * x[t, f, c])``, output channel g (SPEC L-1).

    x int8/int16 [T, F, C]; weight int8 [G, F]; y [T, G, C] int8/int16 codes or uint16 BF16 patterns, as the law says.
    """
    frames, _, channels = x.shape
    acc = np.empty(channels, np.int32)
    for t in range(frames):
        for g in range(weight.shape[0]):
            acc[:] = 0
            accumulate(acc, weight[g], x[t])
            for c in range(channels):
                y[t, g, c] = requantize(acc[c], g, rq)


@kernel
def fully_connected_channels(x, weight, rq, y):
    """``y[t, f, d] = law(sum_c weight[c, d] * x[t, f, c])``, output channel d: a 1x1 convolution (SPEC L-2).

    x int8/int16 [T, F, C]; weight int8 [C, D]; y [T, F, D] int8/int16 codes or uint16 BF16 patterns, as the law says.
    """
    frames, bins, _ = x.shape
    outputs = weight.shape[1]
    acc = np.empty(outputs, np.int32)
    for t in range(frames):
        for f in range(bins):
            acc[:] = 0
            accumulate(acc, x[t, f], weight)
            for d in range(outputs):
                y[t, f, d] = requantize(acc[d], d, rq)


@kernel
def fully_connected_frequency_f32(x, weight, bias, relu, y):
    """FP32 :func:`fully_connected_frequency`: bias first, then f ascending, each product and sum rounded (SPEC L-3)."""
    frames, _, channels = x.shape
    acc = np.empty(channels, np.float32)
    for t in range(frames):
        for g in range(weight.shape[0]):
            acc[:] = bias[g]
            accumulate_f32(acc, weight[g], x[t])
            for c in range(channels):
                y[t, g, c] = max(acc[c], np.float32(0.0)) if relu else acc[c]


@kernel
def fully_connected_channels_f32(x, weight, bias, relu, y):
    """FP32 :func:`fully_connected_channels`: bias first, then c ascending, each product and sum rounded (SPEC L-4)."""
    frames, bins, _ = x.shape
    outputs = weight.shape[1]
    acc = np.empty(outputs, np.float32)
    for t in range(frames):
        for f in range(bins):
            acc[:] = bias
            accumulate_f32(acc, x[t, f], weight)
            for d in range(outputs):
                y[t, f, d] = max(acc[d], np.float32(0.0)) if relu else acc[d]
