"""Causal 3x3 convolution and transposed convolution, and the strided pair of frequency compression (SPEC C-1 to C-10).

Inputs of the causal pair carry the two past frames in front: frame t of the output reads x[t], x[t + 1] and x[t + 2], the
last being the current one. Where a tap falls outside the bins the input is the padding code (the tensor's zero point, so
it contributes nothing after the folded bias), or +0 in FP32 and BF16.
"""

from __future__ import annotations

import numpy as np

from refimpl.numerics.bfloat16 import bf16_decode, bf16_encode
from refimpl.numerics.jit import kernel
from refimpl.numerics.requantize import requantize


@kernel
def conv_causal(x, weight, below, padding, rq, y):
    """``y[t, f, o] = law(sum_{k, j, i} weight[k, j, i, o] * x[t + k, f + j - below, i])`` (SPEC C-1).

    x int8/int16 [T + 2, F, I]; weight int8 [3, 3, I, O], k time (2 is the current frame), j frequency; ``below`` padding
    bins under bin 0 (1 symmetric, 0 for padding on top); y [T, F, O].
    """
    frames, bins, outputs = y.shape
    for t in range(frames):
        for f in range(bins):
            acc = np.zeros(outputs, np.int32)
            for k in range(3):
                for j in range(3):
                    at = f + j - below
                    for i in range(x.shape[2]):
                        value = np.int32(padding)
                        if 0 <= at < bins:
                            value = np.int32(x[t + k, at, i])
                        for o in range(outputs):
                            acc[o] += value * np.int32(weight[k, j, i, o])
            for o in range(outputs):
                y[t, f, o] = requantize(acc[o], o, rq)


@kernel
def conv_transposed_causal(x, weight, below, padding, rq, y):
    """``y[t, f, o] = law(sum_{k, j, i} weight[k, j, i, o] * x[t + 2 - k, f - j + below, i])`` (SPEC C-2).

    Tap k = 0 is the current frame. Shapes as :func:`conv_causal`; ``below`` 1 symmetric, 0 on top.
    """
    frames, bins, outputs = y.shape
    for t in range(frames):
        for f in range(bins):
            acc = np.zeros(outputs, np.int32)
            for k in range(3):
                for j in range(3):
                    at = f - j + below
                    for i in range(x.shape[2]):
                        value = np.int32(padding)
                        if 0 <= at < bins:
                            value = np.int32(x[t + 2 - k, at, i])
                        for o in range(outputs):
                            acc[o] += value * np.int32(weight[k, j, i, o])
            for o in range(outputs):
                y[t, f, o] = requantize(acc[o], o, rq)


@kernel
def conv_causal_f32(x, weight, bias, below, y):
    """FP32 :func:`conv_causal`: bias first, then k, j, i ascending, each product and sum rounded (SPEC C-3)."""
    frames, bins, outputs = y.shape
    for t in range(frames):
        for f in range(bins):
            acc = bias.copy()
            for k in range(3):
                for j in range(3):
                    at = f + j - below
                    for i in range(x.shape[2]):
                        value = x[t + k, at, i] if 0 <= at < bins else np.float32(0.0)
                        for o in range(outputs):
                            acc[o] += value * weight[k, j, i, o]
            for o in range(outputs):
                y[t, f, o] = acc[o]


@kernel
def conv_transposed_causal_f32(x, weight, bias, below, y):
    """FP32 :func:`conv_transposed_causal`: bias first, then k, j, i ascending, each product and sum rounded (SPEC C-4)."""
    frames, bins, outputs = y.shape
    for t in range(frames):
        for f in range(bins):
            acc = bias.copy()
            for k in range(3):
                for j in range(3):
                    at = f - j + below
                    for i in range(x.shape[2]):
                        value = x[t + 2 - k, at, i] if 0 <= at < bins else np.float32(0.0)
                        for o in range(outputs):
                            acc[o] += value * weight[k, j, i, o]
            for o in range(outputs):
                y[t, f, o] = acc[o]


@kernel
def conv_causal_bf16(x, weight, bias, below, y):
    """BF16 :func:`conv_causal`: SPEC C-3 on decoded patterns (FP32 accumulation), one rounding to BF16 (SPEC C-5).

    x uint16 [T + 2, F, I]; weight and bias are BF16 values held in FP32; y uint16 [T, F, O].
    """
    wide = np.empty(x.shape, np.float32)
    for index in np.ndindex(x.shape):
        wide[index] = bf16_decode(x[index])
    result = np.empty(y.shape, np.float32)
    conv_causal_f32(wide, weight, bias, below, result)
    for index in np.ndindex(y.shape):
        y[index] = bf16_encode(result[index])


@kernel
def conv_transposed_causal_bf16(x, weight, bias, below, y):
    """BF16 :func:`conv_transposed_causal`: SPEC C-4 on decoded patterns, one rounding to BF16 (SPEC C-6).

    x uint16 [T + 2, F, I]; weight and bias are BF16 values held in FP32; y uint16 [T, F, O].
    """
    wide = np.empty(x.shape, np.float32)
    for index in np.ndindex(x.shape):
        wide[index] = bf16_decode(x[index])
    result = np.empty(y.shape, np.float32)
    conv_transposed_causal_f32(wide, weight, bias, below, result)
    for index in np.ndindex(y.shape):
        y[index] = bf16_encode(result[index])


@kernel
def conv_strided(x, weight, rq, y):
    """``y[t, g, o] = law(sum_{j, i} weight[j, i, o] * x[t, g * a + j, i])``, kernel and stride a (SPEC C-7).

    x int8/int16 [T, F, I]; weight int8 [a, I, O]; y [T, F // a, O]; trailing bins beyond a * (F // a) are not read.
    """
    frames, groups, outputs = y.shape
    stride = weight.shape[0]
    for t in range(frames):
        for g in range(groups):
            acc = np.zeros(outputs, np.int32)
            for j in range(stride):
                for i in range(x.shape[2]):
                    value = np.int32(x[t, g * stride + j, i])
                    for o in range(outputs):
                        acc[o] += value * np.int32(weight[j, i, o])
            for o in range(outputs):
                y[t, g, o] = requantize(acc[o], o, rq)


@kernel
def conv_strided_transposed(x, weight, padding, rq, y):
    """``y[t, g * a + j, o] = law(sum_i weight[j, i, o] * x[t, g, i])``, j < a; output padding bins see zeros (SPEC C-8).

    x int8/int16 [T, G, I]; weight int8 [a, I, O]; y [T, F, O] with F >= a * G: a bin beyond reads the padding code. Each tap
    has a sum of weights of its own, so the folded constants are per (tap, channel): the law's channel is ``j * O + o``.
    """
    frames, bins, outputs = y.shape
    stride, groups = weight.shape[0], x.shape[1]
    for t in range(frames):
        for f in range(bins):
            g, j = f // stride, f % stride
            acc = np.zeros(outputs, np.int32)
            for i in range(x.shape[2]):
                value = np.int32(padding)
                if g < groups:
                    value = np.int32(x[t, g, i])
                for o in range(outputs):
                    acc[o] += value * np.int32(weight[j, i, o])
            for o in range(outputs):
                y[t, f, o] = requantize(acc[o], j * outputs + o, rq)


@kernel
def conv_strided_f32(x, weight, bias, relu, y):
    """FP32 :func:`conv_strided`: bias first, then j, i ascending, each product and sum rounded (SPEC C-9)."""
    frames, groups, outputs = y.shape
    stride = weight.shape[0]
    for t in range(frames):
        for g in range(groups):
            acc = bias.copy()
            for j in range(stride):
                for i in range(x.shape[2]):
                    for o in range(outputs):
                        acc[o] += x[t, g * stride + j, i] * weight[j, i, o]
            for o in range(outputs):
                y[t, g, o] = max(acc[o], np.float32(0.0)) if relu else acc[o]


@kernel
def conv_strided_transposed_f32(x, weight, bias, y):
    """FP32 :func:`conv_strided_transposed`: bias first, then i ascending; a bin beyond is the bias (SPEC C-10)."""
    frames, bins, outputs = y.shape
    stride, groups = weight.shape[0], x.shape[1]
    for t in range(frames):
        for f in range(bins):
            g, j = f // stride, f % stride
            acc = bias.copy()
            if g < groups:
                for i in range(x.shape[2]):
                    for o in range(outputs):
                        acc[o] += x[t, g, i] * weight[j, i, o]
            for o in range(outputs):
                y[t, f, o] = acc[o]
