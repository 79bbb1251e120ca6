"""Mutants of the operators: layers, convolutions, element by element, conversions (L, C, E, Q)."""

from __future__ import annotations

from functools import partial

from golden_vectors.mutants.definition import Mutant

_sum = partial(Mutant, "operators/accumulate.py")
_linear = partial(Mutant, "operators/linear.py")
_conv = partial(Mutant, "operators/convolution.py")
_element = partial(Mutant, "operators/elementwise.py")
_convert = partial(Mutant, "operators/convert.py")

FOUR = """\
            total = acc[j] + a * rows[k, j]
            total = total + b * rows[k + 1, j]
            total = total + c * rows[k + 2, j]
            acc[j] = total + d * rows[k + 3, j]"""
SUM_F32 = "total = acc[j] + a * rows[k, j]\n            total = total + b * rows[k + 1, j]"

SUMS = (
    _sum("sum-remainder-dropped", "L-2", "operators", "the products beyond a multiple of four are left out",
         "    while k < count:\n        a = np.int32", "    while k + 4 < count:\n        a = np.int32",
         flags=("vector_remainder",)),
    _sum("sum-remainder-at-end", "L-2", "operators", "of the products beyond a multiple of four one is left out",
         "    while k < count:\n        a = np.int32", "    while k + 1 < count:\n        a = np.int32",
         flags=("vector_remainder",)),
    _sum("sum-fourth-twice", "L-2", "operators", "the fourth product of a group takes the third's row",
         "second = c * np.int32(rows[k + 2, j]) + d * np.int32(rows[k + 3, j])",
         "second = c * np.int32(rows[k + 2, j]) + d * np.int32(rows[k + 2, j])"),
    _sum("sum-int16", "L-2", "operators", "the accumulator has 16 bits", "acc[j] += first + second",
         "acc[j] = np.int64(acc[j] + first + second).astype(np.int16)",
         flags=("narrow_accumulator",)),
    _sum("sum-int24", "L-2", "operators", "the accumulator has 24 bits", "acc[j] += first + second",
         "acc[j] = (acc[j] + first + second + 0x800000) % 0x1000000 - 0x800000", flags=("narrow_accumulator",)),
    _sum("sum-saturates-early", "L-2", "operators", "partial sums saturate at 24 bits", "acc[j] += first + second",
         "acc[j] = min(max(acc[j] + first + second, -0x800000), 0x7FFFFF)", flags=("narrow_accumulator",)),
    _sum("sum-one-by-one", "L-2", "operators", "the last whole group of four goes one by one", "while k + 4 <= count:",
         "while k + 4 < count:", 0, equivalent="an integer sum below 2^31 is exact in any order and grouping"),
    _sum("sum-f32-one-by-one", "L-4", "operators", "the last whole group of four FP32 products goes one by one",
         "while k + 4 <= count:", "while k + 4 < count:", 1,
         equivalent="both loops add the products one by one with k ascending, so every rounding is the same"),
    _sum("sum-f32-remainder", "L-4", "operators", "FP32: the products beyond a multiple of four are left out",
         "    while k < count:\n        a = coefficient[k]\n", "    while k + 4 < count:\n        a = coefficient[k]\n",
         flags=("vector_remainder",)),
    _sum("sum-f32-pairs", "L-4", "operators", "two products are added to each other first", SUM_F32,
         "total = acc[j] + (a * rows[k, j] + b * rows[k + 1, j])", flags=("sum_order",)),
    _sum("sum-f32-tree", "L-4", "operators", "four products are added as a tree", FOUR,
         "            acc[j] += (a * rows[k, j] + b * rows[k + 1, j]) + (c * rows[k + 2, j] + d * rows[k + 3, j])",
         flags=("sum_order",)),
    _sum("sum-f32-backward", "L-4", "operators", "groups of four are added with k descending", FOUR,
         "            total = ((acc[j] + d * rows[k + 3, j]) + c * rows[k + 2, j]) + b * rows[k + 1, j]\n"
         "            acc[j] = total + a * rows[k, j]", flags=("sum_order",)),
    _sum("sum-f32-in-fp64", "L-4", "operators", "four products are summed in FP64, then rounded", FOUR,
         FOUR.replace("acc[j] + a *", "np.float64(acc[j]) + a *"), flags=("float_width",)),
    _sum("sum-f32-fused", "L-4", "operators", "each product is fused with its sum", FOUR,
         "            total = acc[j]\n"
         "            for n, w in enumerate((a, b, c, d)):\n"
         "                total = np.float32(np.float64(total) + np.float64(w) * np.float64(rows[k + n, j]))\n"
         "            acc[j] = total", flags=("fused_multiply_add",)),
    _sum("sum-f32-fused-remainder", "L-4", "operators", "each product beyond a multiple of four is fused with its sum",
         "acc[j] = acc[j] + a * rows[k, j]", "acc[j] = np.float64(acc[j]) + np.float64(a) * np.float64(rows[k, j])",
         flags=("fused_multiply_add",)),
)  # fmt: skip

RELU = "max(acc[c], np.float32(0.0)) if relu else acc[c]"
RELU_D = "max(acc[d], np.float32(0.0)) if relu else acc[d]"

LINEAR = (
    _linear("frequency-transposed", "L-1", "operators", "the weights are transposed", "accumulate(acc, weight[g], x[t])",
            "accumulate(acc, np.ascontiguousarray(weight).reshape(weight.shape[1], -1).T[g], x[t])",
            flags=("weight_transposed",)),
    _linear("frequency-first-frame", "L-1", "operators", "every frame reads the first", "accumulate(acc, weight[g], x[t])",
            "accumulate(acc, weight[g], x[0])"),
    _linear("frequency-law-of-channel", "L-1", "operators", "the law's constants are taken by channel, not by output bin",
            "requantize(acc[c], g, rq)", "requantize(acc[c], c % len(rq.bias), rq)"),
    _linear("frequency-accumulator-kept", "L-1", "operators", "the accumulator is not cleared between outputs",
            "        for g in range(weight.shape[0]):\n            acc[:] = 0", "        acc[:] = 0\n"
            "        for g in range(weight.shape[0]):", 0),
    _linear("frequency-channel-shifted", "L-1", "operators", "each channel is written to the next place",
            "y[t, g, c] = requantize(acc[c], g, rq)", "y[t, g, (c + 1) % channels] = requantize(acc[c], g, rq)"),
    _linear("channels-transposed", "L-2", "operators", "the weights are transposed", "accumulate(acc, x[t, f], weight)",
            "accumulate(acc, x[t, f], weight.T.reshape(weight.shape))", flags=("weight_transposed",)),
    _linear("channels-law-of-bin", "L-2", "operators", "the law's constants are taken by bin, not by output channel",
            "requantize(acc[d], d, rq)", "requantize(acc[d], f % len(rq.bias), rq)"),
    _linear("channels-bin-off-by-one", "L-2", "operators", "each output reads the bin below",
            "accumulate(acc, x[t, f], weight)",
            "accumulate(acc, x[t, f - 1], weight)"),
    _linear("channels-law-of-first", "L-2", "operators", "every channel takes the constants of the first",
            "requantize(acc[d], d, rq)", "requantize(acc[d], 0, rq)", flags=("channel_constants",)),
    _linear("frequency-f32-bias-last", "L-3", "operators", "the bias is added last",
            "            acc[:] = bias[g]\n            accumulate_f32(acc, weight[g], x[t])",
            "            acc[:] = 0\n            accumulate_f32(acc, weight[g], x[t])\n            acc += bias[g]",
            flags=("sum_order",)),
    _linear("frequency-f32-bias-dropped", "L-3", "operators", "the bias is dropped", "acc[:] = bias[g]", "acc[:] = 0",
            flags=("bias_dropped",)),
    _linear("frequency-f32-transposed", "L-3", "operators", "the weights are transposed",
            "accumulate_f32(acc, weight[g], x[t])",
            "accumulate_f32(acc, np.ascontiguousarray(weight).reshape(weight.shape[1], -1).T[g], x[t])",
            flags=("weight_transposed",)),
    _linear("frequency-f32-relu-zero", "L-3", "operators", "the ReLU makes +0 of -0 and of NaN", RELU,
            "max(np.float32(0.0), acc[c]) if relu else acc[c]", flags=("signed_zero",)),
    _linear("frequency-f32-relu-always", "L-3", "operators", "the ReLU is applied where there is none", RELU,
            "max(acc[c], np.float32(0.0))"),
    _linear("channels-f32-bias-last", "L-4", "operators", "the bias is added last",
            "            acc[:] = bias\n            accumulate_f32(acc, x[t, f], weight)",
            "            acc[:] = 0\n            accumulate_f32(acc, x[t, f], weight)\n            acc += bias",
            flags=("sum_order",)),
    _linear("channels-f32-relu-zero", "L-4", "operators", "the ReLU makes +0 of -0 and of NaN", RELU_D,
            "max(np.float32(0.0), acc[d]) if relu else acc[d]", flags=("signed_zero",)),
    _linear("channels-f32-relu-dropped", "L-4", "operators", "the ReLU is forgotten", RELU_D, "acc[d]"),
    _linear("channels-f32-transposed", "L-4", "operators", "the weights are transposed", "accumulate_f32(acc, x[t, f], weight)",
            "accumulate_f32(acc, x[t, f], weight.T.reshape(weight.shape))", flags=("weight_transposed",)),
)  # fmt: skip

CAUSAL, TRANSPOSED, CAUSAL_F32, TRANSPOSED_F32 = 0, 1, 0, 1
TAP = "acc[o] += value * np.int32(weight[k, j, i, o])"
TAP_F32 = "acc[o] += value * weight[k, j, i, o]"
PADDING = "value = np.int32(padding)\n                        if 0 <= at < bins:"
F32_LOOPS = """\
            acc = bias.copy()
            for k in range(3):
                for j in range(3):
                    at = f + j - below
                    for i in range(x.shape[2]):
"""
F32_LOOPS_TRANSPOSED = F32_LOOPS.replace("f + j - below", "f - j + below")
WRITE_F32 = "            for o in range(outputs):\n                y[t, f, o] = acc[o]\n"

CONVOLUTION = (
    _conv("conv-taps-reversed", "C-1", "operators", "the time taps are reversed", "np.int32(x[t + k, at, i])",
          "np.int32(x[t + 2 - k, at, i])"),
    _conv("conv-past-only", "C-1", "operators", "the current frame is replaced by the one before it",
          "np.int32(x[t + k, at, i])", "np.int32(x[t + min(k, 1), at, i])"),
    _conv("conv-current-only", "C-1", "operators", "every tap reads the current frame", "np.int32(x[t + k, at, i])",
          "np.int32(x[t + 2, at, i])"),
    _conv("conv-bins-reversed", "C-1", "operators", "the frequency taps are reversed", "at = f + j - below",
          "at = f - j + 2 - below", CAUSAL),
    _conv("conv-padding-side", "C-1", "operators", "padding is always symmetric", "at = f + j - below", "at = f + j - 1",
          CAUSAL,
          flags=("padding_side",)),
    _conv("conv-padding-below", "C-1", "operators", "all padding is below the lowest bin", "at = f + j - below",
          "at = f + j - 2 * below", CAUSAL, flags=("padding_side",)),
    _conv("conv-padding-zero", "C-1", "operators", "the padding is code 0, not the zero point", PADDING,
          PADDING.replace("np.int32(padding)", "np.int32(0)"), CAUSAL, flags=("padding_value",)),
    _conv("conv-padding-edge", "C-1", "operators", "the padding repeats the edge bin", PADDING,
          "at = min(max(at, 0), bins - 1)\n                        if True:", CAUSAL),
    _conv("conv-top-bin", "C-1", "operators", "the highest bin is taken as padding", "if 0 <= at < bins:",
          "if 0 <= at < bins - 1:",
          CAUSAL, flags=("bin_off_by_one",)),
    _conv("conv-bottom-bin", "C-1", "operators", "the lowest bin is taken as padding", "if 0 <= at < bins:",
          "if 0 < at < bins:",
          CAUSAL, flags=("bin_off_by_one",)),
    _conv("conv-kernel-axes", "C-1", "operators", "time and frequency taps change places", TAP, TAP.replace("k, j", "j, k"),
          CAUSAL),
    _conv("conv-input-axis", "C-1", "operators", "inputs and outputs of the weights change places", TAP,
          TAP.replace("[k, j, i, o]", "[k, j].reshape(outputs, -1)[o, i]"), CAUSAL, flags=("weight_transposed",)),
    _conv("conv-law-of-first", "C-1", "operators", "every channel takes the constants of the first",
          "y[t, f, o] = requantize(acc[o], o, rq)", "y[t, f, o] = requantize(acc[o], 0, rq)", CAUSAL,
          flags=("channel_constants",)),
    _conv("deconv-taps-reversed", "C-2", "operators", "the time taps are reversed", "np.int32(x[t + 2 - k, at, i])",
          "np.int32(x[t + k, at, i])"),
    _conv("deconv-frame-late", "C-2", "operators", "every tap reads one frame earlier", "np.int32(x[t + 2 - k, at, i])",
          "np.int32(x[max(t + 1 - k, 0), at, i])", flags=("frame_off_by_one",)),
    _conv("deconv-bins-reversed", "C-2", "operators", "the frequency taps are those of a plain convolution",
          "at = f - j + below", "at = f + j - below", CAUSAL),
    _conv("deconv-padding-side", "C-2", "operators", "padding is always symmetric", "at = f - j + below", "at = f - j + 1",
          CAUSAL,
          flags=("padding_side",)),
    _conv("deconv-trim", "C-2", "operators", "the output is trimmed at the wrong end: one bin off", "at = f - j + below",
          "at = f - j + below + 1", CAUSAL, flags=("decoder_trim", "padding_side", "bin_off_by_one")),
    _conv("deconv-padding-zero", "C-2", "operators", "the padding is code 0, not the zero point", PADDING,
          PADDING.replace("np.int32(padding)", "np.int32(0)"), TRANSPOSED, flags=("padding_value",)),
    _conv("deconv-padding-edge", "C-2", "operators", "the padding repeats the edge bin", PADDING,
          "at = min(max(at, 0), bins - 1)\n                        if True:", TRANSPOSED),
    _conv("deconv-kernel-axes", "C-2", "operators", "time and frequency taps change places", TAP, TAP.replace("k, j", "j, k"),
          TRANSPOSED),
    _conv("deconv-law-of-first", "C-2", "operators", "every channel takes the constants of the first",
          "y[t, f, o] = requantize(acc[o], o, rq)", "y[t, f, o] = requantize(acc[o], 0, rq)", TRANSPOSED,
          flags=("channel_constants",)),
    _conv("conv-f32-order", "C-3", "operators", "frequency taps are summed outside, time taps inside", F32_LOOPS,
          F32_LOOPS.replace("for k in", "for J in").replace("for j in", "for k in").replace("at = f", "j = J; at = f"),
          flags=("sum_order",)),
    _conv("conv-f32-inputs-outside", "C-3", "operators", "inputs are summed outside of the taps", F32_LOOPS, """\
            acc = bias.copy()
            for n in range(9 * x.shape[2]):
                if True:
                    i, k, j = n // 9, n // 3 % 3, n % 3
                    at = f + j - below
                    for _ in range(1):
""", flags=("sum_order",)),
    _conv("conv-f32-bias-last", "C-3", "operators", "the bias is added last", F32_LOOPS,
          F32_LOOPS.replace("bias.copy()", "np.zeros_like(bias)").replace("for k in range(3)", "for k in (0, 1, 2, 3)")
          .replace("                for j in range(3):\n", "                if k == 3:\n                    acc += bias\n"
                   "                for j in range(3 * (k < 3)):\n"), flags=("sum_order",)),
    _conv("conv-f32-in-fp64", "C-3", "operators", "the sum is kept in FP64", F32_LOOPS,
          F32_LOOPS.replace("bias.copy()", "bias.astype(np.float64)"), flags=("float_width",)),
    _conv("conv-f32-fused", "C-3", "operators", "each product is fused with its sum", TAP_F32,
          "acc[o] = np.float64(acc[o]) + np.float64(value) * np.float64(weight[k, j, i, o])", CAUSAL_F32,
          flags=("fused_multiply_add",)),
    _conv("conv-f32-padding-skipped", "C-3", "operators", "padding taps are skipped, not added as +0",
          "value = x[t + k, at, i] if 0 <= at < bins else np.float32(0.0)",
          "if not 0 <= at < bins:\n                            continue\n                        value = x[t + k, at, i]",
          flags=("signed_zero",)),
    _conv("deconv-f32-order", "C-4", "operators", "frequency taps are summed outside, time taps inside", F32_LOOPS_TRANSPOSED,
          F32_LOOPS_TRANSPOSED.replace("for k in", "for J in").replace("for j in", "for k in").replace("at = f",
                                                                                                       "j = J; at = f"),
          flags=("sum_order",)),
    _conv("deconv-f32-taps-descending", "C-4", "operators", "time taps are summed from the oldest frame on",
          F32_LOOPS_TRANSPOSED, F32_LOOPS_TRANSPOSED.replace("for k in range(3)", "for k in (2, 1, 0)"), flags=("sum_order",)),
    _conv("deconv-f32-in-fp64", "C-4", "operators", "the sum is kept in FP64", F32_LOOPS_TRANSPOSED,
          F32_LOOPS_TRANSPOSED.replace("bias.copy()", "bias.astype(np.float64)"), flags=("float_width",)),
    _conv("deconv-f32-fused", "C-4", "operators", "each product is fused with its sum", TAP_F32,
          "acc[o] = np.float64(acc[o]) + np.float64(value) * np.float64(weight[k, j, i, o])", TRANSPOSED_F32,
          flags=("fused_multiply_add",)),
    _conv("deconv-f32-bias-dropped", "C-4", "operators", "the bias is dropped", F32_LOOPS_TRANSPOSED,
          F32_LOOPS_TRANSPOSED.replace("bias.copy()", "np.zeros_like(bias)")),
    _conv("deconv-f32-padding-skipped", "C-4", "operators", "padding taps are skipped, not added as +0",
          "value = x[t + 2 - k, at, i] if 0 <= at < bins else np.float32(0.0)",
          "if not 0 <= at < bins:\n                            continue\n                        value = x[t + 2 - k, at, i]",
          flags=("signed_zero",)),
    _conv("conv-bf16-unrounded", "C-5", "operators", "the result is truncated to BF16", "y[index] = bf16_encode(result[index])",
          "y[index] = result[index].view(np.uint32) >> 16", 0, flags=("truncation",)),
    _conv("conv-bf16-flushes", "C-5", "operators", "subnormal inputs are read as zero", "wide[index] = bf16_decode(x[index])",
          "wide[index] = bf16_decode(x[index] if x[index] & 0x7F80 else 0)", 0, flags=("bf16_subnormal_flushed",)),
    _conv("conv-bf16-bias-last", "C-5", "operators", "the bias is added after the sum, in FP32",
          "conv_causal_f32(wide, weight, bias, below, result)\n    for",
          "conv_causal_f32(wide, weight, np.zeros_like(bias), below, result)\n    result += bias\n    for",
          flags=("sum_order",)),
    _conv("conv-bf16-rounds-before-bias", "C-5", "operators", "the sum is rounded to BF16 before the bias is added",
          "conv_causal_f32(wide, weight, bias, below, result)\n    for",
          "conv_causal_f32(wide, weight, np.zeros_like(bias), below, result)\n    for index in np.ndindex(y.shape):\n"
          "        result[index] = bf16_decode(bf16_encode(result[index])) + bias[index[2]]\n    for"),
    _conv("conv-bf16-sums-in-bf16", "C-5", "operators", "the sum of each time tap is rounded to BF16",
          "conv_causal_f32(wide, weight, bias, below, result)\n    for",
          "result[:] = bias\n    for k in range(3):\n        part, one = np.empty_like(result), np.zeros_like(weight)\n"
          "        one[k] = weight[k]\n        conv_causal_f32(wide, one, np.zeros_like(bias), below, part)\n"
          "        for index in np.ndindex(y.shape):\n"
          "            result[index] = bf16_decode(bf16_encode(result[index] + part[index]))\n    for",
          flags=("float_width", "single_rounding")),
    _conv("deconv-bf16-unrounded", "C-6", "operators", "the result is truncated to BF16",
          "y[index] = bf16_encode(result[index])",
          "y[index] = result[index].view(np.uint32) >> 16", 1, flags=("truncation",)),
    _conv("deconv-bf16-half-away", "C-6", "operators", "the result is rounded half away from zero",
          "y[index] = bf16_encode(result[index])", "y[index] = (np.int64(result[index].view(np.uint32)) + 0x8000) >> 16", 1,
          flags=("tie_away",)),
    _conv("deconv-bf16-not-transposed", "C-6", "operators", "the plain convolution is computed",
          "conv_transposed_causal_f32(wide, weight, bias, below, result)",
          "conv_causal_f32(wide, weight, bias, below, result)"),
    _conv("strided-leftover", "C-7", "operators", "the bins left over are dropped at the low end",
          "np.int32(x[t, g * stride + j, i])",
          "np.int32(x[t, g * stride + j + x.shape[1] % stride, i])", flags=("bin_off_by_one",)),
    _conv("strided-interleaved", "C-7", "operators", "the stride is between taps, not between groups",
          "np.int32(x[t, g * stride + j, i])", "np.int32(x[t, g + j * groups, i])"),
    _conv("strided-taps-reversed", "C-7", "operators", "the taps are reversed", "np.int32(weight[j, i, o])",
          "np.int32(weight[stride - 1 - j, i, o])", 0),
    _conv("strided-transposed-weights", "C-7", "operators", "inputs and outputs of the weights change places",
          "np.int32(weight[j, i, o])", "np.int32(weight[j].reshape(outputs, -1)[o, i])", 0, flags=("weight_transposed",)),
    _conv("strided-law-of-first", "C-7", "operators", "every channel takes the constants of the first",
          "requantize(acc[o], o, rq)", "requantize(acc[o], 0, rq)", 2, flags=("channel_constants",)),
    _conv("expand-channel-of-output", "C-8", "operators", "the law's constants are taken by output alone",
          "requantize(acc[o], j * outputs + o, rq)", "requantize(acc[o], o, rq)", flags=("channel_constants",)),
    _conv("expand-channel-order", "C-8", "operators", "the law's constants are taken with the tap inside",
          "requantize(acc[o], j * outputs + o, rq)", "requantize(acc[o], o * stride + j, rq)", flags=("channel_constants",)),
    _conv("expand-padding-zero", "C-8", "operators", "bins beyond read code 0, not the zero point",
          "value = np.int32(padding)\n                if g < groups:", "value = np.int32(0)\n                if g < groups:",
          flags=("padding_value",)),
    _conv("expand-padding-last", "C-8", "operators", "bins beyond repeat the last group",
          "value = np.int32(padding)\n                if g < groups:", "g = min(g, groups - 1)\n                if g < groups:",
          flags=("padding_value",)),
    _conv("expand-taps-reversed", "C-8", "operators", "the taps are reversed", "np.int32(weight[j, i, o])",
          "np.int32(weight[stride - 1 - j, i, o])", 1),
    _conv("expand-interleaved", "C-8", "operators", "each tap fills a band of its own", "g, j = f // stride, f % stride",
          "g, j = f % groups, f // groups % stride", 0),
    _conv("strided-f32-order", "C-9", "operators", "inputs are summed outside, taps inside",
          "            for j in range(stride):\n                for i in range(x.shape[2]):\n"
          "                    for o in range(outputs):\n                        acc[o] += x[t",
          "            for i in range(x.shape[2]):\n                for j in range(stride):\n"
          "                    for o in range(outputs):\n                        acc[o] += x[t", flags=("sum_order",)),
    _conv("strided-f32-relu-zero", "C-9", "operators", "the ReLU makes +0 of -0 and of NaN", "max(acc[o], np.float32(0.0))",
          "max(np.float32(0.0), acc[o])", flags=("signed_zero",)),
    _conv("strided-f32-fused", "C-9", "operators", "each product is fused with its sum",
          "acc[o] += x[t, g * stride + j, i] * weight[j, i, o]",
          "acc[o] = np.float64(acc[o]) + np.float64(x[t, g * stride + j, i]) * np.float64(weight[j, i, o])",
          flags=("fused_multiply_add",)),
    _conv("expand-f32-padding", "C-10", "operators", "bins beyond are 0, not the bias",
          "acc = bias.copy()\n            if g < groups:", "acc = bias * np.float32(g < groups)\n            if g < groups:",
          flags=("padding_value",)),
    _conv("expand-f32-descending", "C-10", "operators", "inputs are summed with i descending",
          "            if g < groups:\n                for i in range(x.shape[2]):",
          "            if g < groups:\n                for i in range(x.shape[2] - 1, -1, -1):", flags=("sum_order",)),
    _conv("expand-f32-fused", "C-10", "operators", "each product is fused with its sum",
          "acc[o] += x[t, g, i] * weight[j, i, o]",
          "acc[o] = np.float64(acc[o]) + np.float64(x[t, g, i]) * np.float64(weight[j, i, o])", flags=("fused_multiply_add",)),
)  # fmt: skip

SCALED = "scaled = shift_half_up((np.int64(a[i]) + 128) * np.int64(ma), na)"
ADDED = "total = shift_half_up((scaled + np.int64(b[i]) + 128) * np.int64(mo), no)"
STAGED = "out[i] = saturate(total + np.int64(add_bias), 0, 255) - 128"
JOINT = "total = (np.int64(p[i]) - za) * np.int64(ma) + (np.int64(q[i]) - zb) * np.int64(mb)"
JOINT_OUT = "out[i] = saturate(shift_half_up(total, n) + np.int64(zero_point), lowest, highest)"
PRODUCT = "product = (np.int64(p[i]) - za) * (np.int64(q[i]) - zb) * np.int64(m)"
PRODUCT_OUT = "out[i] = saturate(shift_half_up(product, n) + np.int64(zero_point), lowest, highest)"


def _even(value: str, shift: str) -> str:
    return f"np.int64(np.rint(np.float64({value}) / 2.0 ** {shift}))"


ELEMENTS = (
    _element("add8-first-floors", "E-1", "operators", "the first rounding floors", SCALED,
             "scaled = (np.int64(a[i]) + 128) * np.int64(ma) >> np.int64(na)", flags=("floor_for_round",)),
    _element("add8-first-half-even", "E-1", "operators", "the first rounding is half to even", SCALED,
             "scaled = " + _even("(np.int64(a[i]) + 128) * np.int64(ma)", "na"), flags=("tie_half_even",)),
    _element("add8-second-floors", "E-1", "operators", "the second rounding floors", ADDED,
             "total = (scaled + np.int64(b[i]) + 128) * np.int64(mo) >> np.int64(no)", flags=("floor_for_round",)),
    _element("add8-second-half-even", "E-1", "operators", "the second rounding is half to even", ADDED,
             "total = " + _even("(scaled + np.int64(b[i]) + 128) * np.int64(mo)", "no"), flags=("tie_half_even",)),
    _element("add8-once", "E-1", "operators", "one rounding instead of two", SCALED + "\n        " + ADDED,
             "total = shift_half_up(((np.int64(a[i]) + 128) * np.int64(ma)\n"
             "                               + ((np.int64(b[i]) + 128) << na)) * np.int64(mo), na + no)",
             flags=("single_rounding",)),
    _element("add8-signed-first", "E-1", "operators", "the first operand is taken as signed", "(np.int64(a[i]) + 128)",
             "np.int64(a[i])", flags=("unsigned_confusion",)),
    _element("add8-signed-second", "E-1", "operators", "the second operand is taken as signed", "np.int64(b[i]) + 128) * np",
             "np.int64(b[i])) * np", flags=("unsigned_confusion",)),
    _element("add8-bias-sign", "E-1", "operators", "the bias is subtracted", "total + np.int64(add_bias)",
             "total - np.int64(add_bias)", flags=("zero_point_sign",)),
    _element("add8-bias-dropped", "E-1", "operators", "the bias is dropped", "total + np.int64(add_bias)", "total"),
    _element("add8-bias-before", "E-1", "operators", "the bias is added before the second multiplier",
             ADDED, ADDED.replace("+ 128)", "+ 128 + add_bias)"), flags=("zero_point_order",)),
    _element("add8-clip-high", "E-1", "operators", "the highest code is clipped", "0, 255) - 128", "0, 254) - 128",
             flags=("saturation_high",)),
    _element("add8-clip-low", "E-1", "operators", "the lowest code is clipped", "0, 255) - 128", "1, 255) - 128",
             flags=("saturation_low",)),
    _element("add8-wraps", "E-1", "operators", "the sum wraps", STAGED, "out[i] = np.int64(total + add_bias) % 256 - 128",
             flags=("wraparound",)),
    _element("add8-operands-swapped", "E-1", "operators", "the wrong operand is scaled",
             "a, b, out = large.ravel(), other.ravel()",
             "b, a, out = large.ravel(), other.ravel()", flags=("residual_order",)),
    _element("add16-first-zero", "E-2", "operators", "the first zero point is forgotten",
             "(np.int64(p[i]) - za) * np.int64(ma)",
             "np.int64(p[i]) * np.int64(ma)"),
    _element("add16-second-zero-sign", "E-2", "operators", "the second zero point is added",
             "(np.int64(q[i]) - zb) * np.int64(mb)",
             "(np.int64(q[i]) + zb) * np.int64(mb)", flags=("zero_point_sign",)),
    _element("add16-multipliers-swapped", "E-2", "operators", "the multipliers change places", JOINT,
             JOINT.replace("(ma)", "(MB)").replace("(mb)", "(ma)").replace("(MB)", "(mb)"), flags=("residual_order",)),
    _element("add16-floors", "E-2", "operators", "the rounding floors", JOINT_OUT, JOINT_OUT.replace("shift_half_up(total, n)",
             "(total >> np.int64(n))"), flags=("floor_for_round",)),
    _element("add16-half-even", "E-2", "operators", "the rounding is half to even", JOINT_OUT,
             JOINT_OUT.replace("shift_half_up(total, n)", _even("total", "n")), flags=("tie_half_even",)),
    _element("add16-half-away", "E-2", "operators", "the rounding is half away from zero", JOINT_OUT,
             JOINT_OUT.replace("shift_half_up(total, n)",
                               "(-shift_half_up(-total, n) if total < 0 else shift_half_up(total, n))"), flags=("tie_away",)),
    _element("add16-truncates", "E-2", "operators", "the rounding truncates toward zero", JOINT_OUT,
             JOINT_OUT.replace("shift_half_up(total, n)", "(-(-total >> n) if total < 0 else total >> n)")),
    _element("add16-two-roundings", "E-2", "operators", "each product is rounded by itself", JOINT + "\n        " + JOINT_OUT,
             "first = shift_half_up((np.int64(p[i]) - za) * np.int64(ma), n)\n"
             "        total = first + shift_half_up((np.int64(q[i]) - zb) * np.int64(mb), n)\n"
             "        out[i] = saturate(total + np.int64(zero_point), lowest, highest)", flags=("double_rounding",)),
    _element("add16-zero-dropped", "E-2", "operators", "the output zero point is dropped", JOINT_OUT,
             JOINT_OUT.replace(" + np.int64(zero_point)", "")),
    _element("add16-zero-after", "E-2", "operators", "the output zero point is added after the saturation", JOINT_OUT,
             "out[i] = (saturate(shift_half_up(total, n), lowest, highest) + np.int64(zero_point)).astype(out.dtype)",
             flags=("zero_point_order",)),
    _element("add16-wraps", "E-2", "operators", "the sum wraps", JOINT_OUT,
             "out[i] = (shift_half_up(total, n) + np.int64(zero_point)).astype(out.dtype)", flags=("wraparound",)),
    _element("multiply-first-zero", "E-3", "operators", "the first zero point is forgotten", PRODUCT,
             PRODUCT.replace("(np.int64(p[i]) - za)", "np.int64(p[i])")),
    _element("multiply-second-zero", "E-3", "operators", "the second zero point is forgotten", PRODUCT,
             PRODUCT.replace("(np.int64(q[i]) - zb)", "np.int64(q[i])")),
    _element("multiply-zeros-swapped", "E-3", "operators", "the zero points change places", PRODUCT,
             PRODUCT.replace("za", "zz").replace("zb", "za").replace("zz", "zb")),
    _element("multiply-floors", "E-3", "operators", "the rounding floors", PRODUCT_OUT,
             PRODUCT_OUT.replace("shift_half_up(product, n)", "(product >> np.int64(n))"), flags=("floor_for_round",)),
    _element("multiply-half-even", "E-3", "operators", "the rounding is half to even", PRODUCT_OUT,
             PRODUCT_OUT.replace("shift_half_up(product, n)", _even("product", "n")), flags=("tie_half_even",)),
    _element("multiply-half-away", "E-3", "operators", "the rounding is half away from zero", PRODUCT_OUT,
             PRODUCT_OUT.replace("shift_half_up(product, n)",
                                 "(-shift_half_up(-product, n) if product < 0 else shift_half_up(product, n))"),
             flags=("tie_away",)),
    _element("multiply-shift", "E-3", "operators", "the shift is one too small", PRODUCT_OUT,
             PRODUCT_OUT.replace("(product, n)", "(product, n - 1)")),
    _element("multiply-clip", "E-3", "operators", "the highest code is clipped", PRODUCT_OUT,
             PRODUCT_OUT.replace("highest)", "highest - 1)"), flags=("saturation_high",)),
    _element("lookup-start", "E-4", "operators", "every gate reads the first channels", "np.int64(x[t, f, start + c])",
             "np.int64(x[t, f, c])"),
    _element("lookup-first", "E-4", "operators", "the lowest code is not subtracted", " - np.int64(first)]", "]",
             flags=("table_index_sign",)),
    _element("lookup-off-by-one", "E-4", "operators", "the index is one too large",
             "np.int64(x[t, f, start + c]) - np.int64(first)]",
             "min(np.int64(x[t, f, start + c]) - np.int64(first) + 1, len(table) - 1)]"),
    _element("lookup-signed", "E-4", "operators", "BF16 patterns are read as signed numbers",
             "np.int64(x[t, f, start + c]) - np.int64(first)]",
             "np.int64(x[t, f, start + c]) % 32768 if first == 0 else np.int64(x[t, f, start + c]) - np.int64(first)]",
             flags=("table_index_sign",)),
    _element("add-bf16-multiplies", "E-5", "operators", "the product is taken for the sum", "out[i] = bf16_add(p[i], q[i])",
             "out[i] = bf16_mul(p[i], q[i])"),
    _element("add-bf16-patterns", "E-5", "operators", "the patterns are added as integers", "out[i] = bf16_add(p[i], q[i])",
             "out[i] = np.uint16((int(p[i]) + int(q[i])) & 0xFFFF)"),
    _element("multiply-bf16-adds", "E-6", "operators", "the sum is taken for the product", "out[i] = bf16_mul(p[i], q[i])",
             "out[i] = bf16_add(p[i], q[i])"),
    _element("add-f32-bf16", "E-7", "operators", "the sum is rounded to BF16", "out[i] = p[i] + q[i]",
             "out[i] = ((np.array([p[i] + q[i]]).view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)[0]"),
    _element("add-f32-flushes", "E-7", "operators", "subnormal operands are read as zero", "out[i] = p[i] + q[i]",
             "small = np.float32(2.0**-126)\n        out[i] = p[i] * (abs(p[i]) >= small or p[i] != p[i] or p[i] == 0)"
             " + q[i] * (abs(q[i]) >= small or q[i] != q[i] or q[i] == 0)", flags=("subnormal_flushed",)),
    _element("multiply-f32-flushes", "E-8", "operators", "subnormal products are flushed to zero", "out[i] = p[i] * q[i]",
             "y = p[i] * q[i]\n        out[i] = np.copysign(np.float32(0), y) if 0 < abs(y) < 2.0**-126 else y",
             flags=("subnormal_flushed",)),
    _element("activate-swapped", "E-9", "operators", "sigmoid and tanh are swapped", "if function == 0 else",
             "if function == 1 else"),
    _element("activate-start", "E-9", "operators", "every gate reads the first channels", "np.float64(x[t, f, start + c])",
             "np.float64(x[t, f, c])"),
    _element("activate-in-fp32", "E-9", "operators", "sigmoid is computed in FP32", "sigmoid64(value)",
             "(np.float32(1) / (np.float32(1) + np.exp(-np.float32(value)))).astype(np.float32)",
             flags=("approximated_function", "float_width")),
)  # fmt: skip

QUANTIZE = """\
        scaled = source[i] * np.float32(inverse_scale)
        out[i] = round_half_even_f32(scaled, lowest - zero_point, highest - zero_point) + np.int64(zero_point)"""
QUANTIZE_BF16 = QUANTIZE.replace("source[i] *", "bf16_decode(source[i]) *")
TO_CODE = "value = shift_half_even(np.int64(mantissa[t, f, p]) * np.int64(m), shift)"
FROM_BF16 = "value = shift_half_even(units << np.int64(13), top - max(field, np.int64(1)))"
DEQUANTIZE_BF16 = "out[i] = bf16_encode(np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale))"
CODES = "value = shift_half_up((np.int64(source[i]) - in_zero) * np.int64(m), n)"
CODES_OUT = "out[i] = saturate(value + np.int64(zero_point), lowest, highest)"

CONVERSIONS = (
    _convert("quantize-zero-before", "Q-4", "operators", "the zero point is added before the rounding", QUANTIZE,
             "        scaled = source[i] * np.float32(inverse_scale) + np.float32(zero_point)\n"
             "        out[i] = round_half_even_f32(scaled, lowest, highest)", flags=("zero_point_order",)),
    _convert("quantize-nan", "Q-4", "operators", "NaN gives code 0, not the zero point", QUANTIZE,
             QUANTIZE + "\n        if scaled != scaled:\n            out[i] = 0", flags=("nan_to_integer",)),
    _convert("quantize-zero-sign", "Q-4", "operators", "the zero point is subtracted", QUANTIZE,
             QUANTIZE.replace("+ np.int64(zero_point)", "- np.int64(zero_point)").replace("lowest - z", "lowest + z")
             .replace("highest - z", "highest + z"), flags=("zero_point_sign",)),
    _convert("quantize-bounds", "Q-4", "operators", "the bounds are not moved by the zero point, and the code wraps", QUANTIZE,
             "        scaled = source[i] * np.float32(inverse_scale)\n"
             "        value = round_half_even_f32(scaled, lowest, highest)\n"
             "        out[i] = (value + np.int64(zero_point)).astype(out.dtype)", flags=("zero_point_order",)),
    _convert("quantize-divides", "Q-4", "operators", "the value is divided by the scale in FP64",
             QUANTIZE, QUANTIZE.replace(
                 "source[i] * np.float32(inverse_scale)",
                 "np.float32(np.float64(source[i]) / np.float64(np.float32(1.0 / np.float64(inverse_scale))))")),
    _convert("quantize-bf16-rounds", "Q-5", "operators", "the product is rounded to BF16 before it is rounded to an integer",
             QUANTIZE_BF16, QUANTIZE_BF16.replace(
                 "= bf16_decode(source[i]) * np.float32(inverse_scale)",
                 "= bf16_decode(bf16_encode(bf16_decode(source[i]) * np.float32(inverse_scale)))")),
    _convert("quantize-bf16-zero-before", "Q-5", "operators", "the zero point is added before the rounding", QUANTIZE_BF16,
             "        scaled = bf16_decode(source[i]) * np.float32(inverse_scale) + np.float32(zero_point)\n"
             "        out[i] = round_half_even_f32(scaled, lowest, highest)", flags=("zero_point_order",)),
    _convert("quantize-bf16-inverse-bf16", "Q-5", "operators", "the reciprocal of the scale is rounded to BF16", QUANTIZE_BF16,
             QUANTIZE_BF16.replace("np.float32(inverse_scale)", "bf16_decode(bf16_encode(np.float32(inverse_scale)))")),
    _convert("quantize-bf16-zero-dropped", "Q-5", "operators", "the zero point is dropped", QUANTIZE_BF16,
             QUANTIZE_BF16.replace(" + np.int64(zero_point)", " + 0 * zero_point")),
    _convert("dequantize-zero-sign", "Q-6", "operators", "the zero point is added",
             "out[i] = np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale)",
             "out[i] = np.float32(np.int32(np.int64(source[i]) + zero_point)) * np.float32(scale)", flags=("zero_point_sign",)),
    _convert("dequantize-distributed", "Q-6", "operators", "code and zero point are scaled one by one",
             "out[i] = np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale)",
             "out[i] = np.float32(source[i]) * np.float32(scale) - np.float32(zero_point) * np.float32(scale)"),
    _convert("dequantize-bf16-truncates", "Q-7", "operators", "the product is truncated to BF16", DEQUANTIZE_BF16,
             "out[i] = (np.float32(np.int32(np.int64(source[i]) - zero_point)) * np.float32(scale)).view(np.uint32) >> 16",
             flags=("truncation",)),
    _convert("dequantize-bf16-zero", "Q-7", "operators", "the zero point is forgotten", DEQUANTIZE_BF16,
             DEQUANTIZE_BF16.replace("np.int64(source[i]) - zero_point", "np.int64(source[i])")),
    _convert("dequantize-bf16-scale", "Q-7", "operators", "the scale is rounded to BF16", DEQUANTIZE_BF16,
             DEQUANTIZE_BF16.replace("np.float32(scale))", "bf16_decode(bf16_encode(np.float32(scale))))")),
    _convert("codes-floor", "Q-8", "operators", "the rounding floors", CODES,
             "value = (np.int64(source[i]) - in_zero) * np.int64(m) >> np.int64(n)", flags=("floor_for_round",)),
    _convert("codes-half-even", "Q-8", "operators", "the rounding is half to even", CODES,
             CODES.replace("shift_half_up", "shift_half_even"), flags=("tie_half_even",)),
    _convert("codes-half-away", "Q-8", "operators", "the rounding is half away from zero", CODES, CODES +
             "\n        if np.int64(source[i]) < in_zero:\n"
             "            value = -shift_half_up((in_zero - np.int64(source[i])) * np.int64(m), n)", flags=("tie_away",)),
    _convert("codes-input-zero", "Q-8", "operators", "the input zero point is forgotten", CODES,
             CODES.replace("(np.int64(source[i]) - in_zero)", "np.int64(source[i])")),
    _convert("codes-output-zero", "Q-8", "operators", "the output zero point is forgotten", CODES_OUT,
             CODES_OUT.replace(" + np.int64(zero_point)", ""), 0),
    _convert("codes-shift-left", "Q-8", "operators", "8 bits become 16 by a shift of 8, whatever the zero points",
             CODES + "\n        " + CODES_OUT, "value = np.int64(source[i]) << 8\n        " + CODES_OUT.replace(
                 "value + np.int64(zero_point)", "value")),
    _convert("codes-wrap", "Q-8", "operators", "the code wraps", CODES_OUT,
             "out[i] = (value + np.int64(zero_point)).astype(out.dtype)", 0, flags=("wraparound",)),
    _convert("narrow-truncates", "B-1", "operators", "the conversion drops the low half", "out[i] = bf16_encode(source[i])",
             "out[i] = source[i].view(np.uint32) >> 16", flags=("truncation",)),
    _convert("widen-shift", "B-2", "operators", "the pattern is read as an integer", "out[i] = bf16_decode(source[i])",
             "out[i] = np.float32(source[i])"),
    _convert("block-exponent-sign", "F-5", "operators", "the block exponent is added instead of subtracted",
             "-22 - np.int64(exponent[t, 0])", "-22 + np.int64(exponent[t, 0])"),
    _convert("block-exponent-off-by-one", "F-5", "operators", "the block exponent is off by one", "-22 - np.int64",
             "-21 - np.int64"),
    _convert("block-first-exponent", "F-5", "operators", "every frame takes the exponent of the first",
             "-22 - np.int64(exponent[t, 0])", "-22 - np.int64(exponent[0, 0])"),
    _convert("block-code-half-up", "F-6", "operators", "the rounding is half up", TO_CODE,
             TO_CODE.replace("half_even", "half_up"), flags=("tie_half_up",)),
    _convert("block-code-floor", "F-6", "operators", "the rounding floors", TO_CODE,
             "value = np.int64(mantissa[t, f, p]) * np.int64(m) >> shift", flags=("floor_for_round",)),
    _convert("block-code-half-away", "F-6", "operators", "the rounding is half away from zero", TO_CODE,
             "value = np.int64(mantissa[t, f, p]) * np.int64(m)\n"
             "                value = -shift_half_up(-value, shift) if value < 0 else shift_half_up(value, shift)",
             flags=("tie_away",)),
    _convert("block-code-exponent", "F-6", "operators", "the block exponent is forgotten",
             "shift = np.int64(n) + np.int64(exponent[t, 0])", "shift = np.int64(n)"),
    _convert("block-code-zero", "F-6", "operators", "the zero point is forgotten",
             "y[t, f, p] = saturate(value + np.int64(zero_point), lowest, highest)",
             "y[t, f, p] = saturate(value, lowest, highest)"),
    _convert("block-code-int32", "F-6", "operators", "the product is cut to 32 bits", TO_CODE,
             TO_CODE.replace("np.int64(mantissa[t, f, p]) * np.int64(m)",
                             "(np.int64(mantissa[t, f, p]) * np.int64(m)).astype(np.int32)"), flags=("narrow_accumulator",)),
    _convert("unblock-exponent", "F-7", "operators", "the exponent is off by one", "147 - top", "146 - top"),
    _convert("unblock-zero-frame", "F-7", "operators", "a frame of zeros gets the exponent of the smallest value",
             "147 - top if largest > 0 else 0", "147 - top"),
    _convert("unblock-half-up", "F-7", "operators", "the rounding is half up on magnitudes", FROM_BF16,
             FROM_BF16.replace("half_even", "half_up"), flags=("tie_half_up", "tie_away")),
    _convert("unblock-floor", "F-7", "operators", "the rounding truncates", FROM_BF16,
             "value = (units << np.int64(13)) >> (top - max(field, np.int64(1)))", flags=("truncation", "floor_for_round")),
    _convert("unblock-hidden-bit", "F-7", "operators", "subnormals get the hidden bit of normal values",
             "(np.int64(128) if field > 0 else np.int64(0))", "np.int64(128)", flags=("bf16_subnormal_flushed",)),
    _convert("unblock-subnormal-unit", "F-7", "operators", "the unit of a subnormal is one power of two too small",
             "top - max(field, np.int64(1))", "top - field"),
    _convert("unblock-nan", "F-7", "operators", "NaN counts as infinity", "if magnitude > 0x7F80:", "if magnitude > 0x8000:"),
    _convert("unblock-infinity", "F-7", "operators", "infinity counts as zero", "if magnitude > 0x7F80:",
             "if magnitude >= 0x7F80:"),
    _convert("unblock-largest-nan", "F-7", "operators", "NaN sets the exponent", "if magnitude <= 0x7F80:", "if True:"),
    _convert("unblock-largest-infinity", "F-7", "operators", "infinity does not set the exponent", "if magnitude <= 0x7F80:",
             "if magnitude < 0x7F80:"),
    _convert("unblock-sign", "F-7", "operators", "the sign is lost", "-value if pattern >= 0x8000 else value", "value"),
    _convert("unblock-shared-exponent", "F-7", "operators", "one exponent serves all speakers",
             "magnitude = np.int64(x[t, f, re[s] if p == 0 else im[s]]) & np.int64(0x7FFF)",
             "magnitude = np.int64((x[t, f] & 0x7FFF).max())"),
    _convert("unblock-real-only", "F-7", "operators", "only real parts set the exponent",
             "magnitude = np.int64(x[t, f, re[s] if p == 0 else im[s]]) & np.int64(0x7FFF)",
             "magnitude = np.int64(x[t, f, re[s]]) & np.int64(0x7FFF)"),
    _convert("unblock-parts-swapped", "F-7", "operators", "real and imaginary parts change places",
             "pattern = np.int64(x[t, f, re[s] if p == 0 else im[s]])",
             "pattern = np.int64(x[t, f, im[s] if p == 0 else re[s]])",
             flags=("channel_order",)),
    _convert("code-block-zero", "F-8", "operators", "the zero point of real parts is forgotten",
             "(np.int64(x[t, f, re[s]]) - zero_point)", "np.int64(x[t, f, re[s]])"),
    _convert("code-block-shift", "F-8", "operators", "imaginary parts are shifted by one less",
             "(np.int64(x[t, f, im[s]]) - zero_point) << np.int64(shift)",
             "(np.int64(x[t, f, im[s]]) - zero_point) << np.int64(shift - 1)"),
    _convert("code-block-order", "F-8", "operators", "each speaker takes two neighbouring channels, whatever the order",
             "np.int64(x[t, f, im[s]])", "np.int64(x[t, f, re[s] + 1])", flags=("channel_order",)),
)  # fmt: skip

MUTANTS = (*SUMS, *LINEAR, *CONVOLUTION, *ELEMENTS, *CONVERSIONS)
