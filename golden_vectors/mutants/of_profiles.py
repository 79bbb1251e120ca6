"""Mutants of what only profiles beside gap9 have: long multipliers, symmetric formats, device tables (N-7, N-8, G-6 to G-9)."""

from __future__ import annotations

from functools import partial

from golden_vectors.mutants.definition import Mutant

_rounding = partial(Mutant, "numerics/rounding.py")
_law = partial(Mutant, "numerics/requantize.py")
_tables = partial(Mutant, "numerics/activation.py")
_element = partial(Mutant, "operators/elementwise.py")
_convert = partial(Mutant, "operators/convert.py")
_scheme = partial(Mutant, "quantization/scheme.py")
_lowering = partial(Mutant, "quantization/lowering.py")
_profile = partial(Mutant, "profiles/__init__.py")

AWAY = "if value < 0:\n        half -= np.int64(1)\n    return (np.int64(value) + half) >> np.int64(shift)"
AWAY_RESULT = "return (np.int64(value) + half) >> np.int64(shift)"
DOUBLING = "(np.int64(a) * np.int64(b) + (np.int64(1) << np.int64(30))) >> np.int64(31)"
SINGLE = "return shift_half_up(np.int64(value) * np.int64(multiplier), shift)"
LEFT = "left, right = max(31 - np.int64(shift), np.int64(0)), max(np.int64(shift) - 31, np.int64(0))"
DOUBLE = "return shift_half_away(doubling_high_half_up(np.int64(value) << left, multiplier), right)"
SCALED = "value = scale_by(acc + np.int64(rq.bias[channel]), rq.multiplier[channel], rq.shift[channel], rq.law)"

LAWS = (
    _rounding("away-is-half-up", "N-7", "numerics", "ties go up", AWAY, AWAY_RESULT, flags=("tie_half_up",)),
    _rounding("away-is-floor", "N-7", "numerics", "the shift floors", AWAY, "return np.int64(value) >> np.int64(shift)",
              flags=("floor_for_round",)),
    _rounding("away-is-half-even", "N-7", "numerics", "ties go to even", AWAY, "return shift_half_even(value, shift)",
              flags=("tie_half_even",)),
    _rounding("away-is-truncation", "N-7", "numerics", "bits are dropped toward zero", AWAY,
              "return -(-np.int64(value) >> np.int64(shift)) if value < 0 else np.int64(value) >> np.int64(shift)",
              flags=("truncation",)),
    _rounding("away-is-half-to-zero", "N-7", "numerics", "ties go toward zero", AWAY,
              AWAY.replace("value < 0", "value > 0")),
    _rounding("away-int32", "N-7", "numerics", "the sum is held in 32 bits", AWAY_RESULT,
              "return np.int64((np.int64(value) + half).astype(np.int32)) >> np.int64(shift)", 0,
              flags=("narrow_accumulator",)),
    _rounding("doubling-floors", "N-8", "numerics", "the product is floored", DOUBLING,
              "(np.int64(a) * np.int64(b)) >> np.int64(31)", flags=("truncation",)),
    _rounding("doubling-half-away", "N-8", "numerics", "ties go away from zero", DOUBLING,
              "shift_half_away(np.int64(a) * np.int64(b), 31)", flags=("tie_away",)),
    _rounding("doubling-half-even", "N-8", "numerics", "ties go to even", DOUBLING,
              "shift_half_even(np.int64(a) * np.int64(b), 31)", flags=("tie_half_even",)),
    _rounding("doubling-shift-30", "N-8", "numerics", "the product is not halved", DOUBLING,
              DOUBLING.replace("int64(31)", "int64(30)")),
    _rounding("doubling-wraps", "N-8", "numerics", "-2^31 squared wraps",
              "return saturate(" + DOUBLING + ", INT32_MIN, INT32_MAX)",
              "return np.int64((" + DOUBLING + ").astype(np.int32))", flags=("saturation_high",)),
    _law("double-is-single", "G-6", "numerics", "one rounding stands in for two", "if law == LAW_SINGLE:", "if True:",
         flags=("single_rounding", "tie_away")),
    _law("double-half-up", "G-6", "numerics", "the right shift rounds half up", DOUBLE,
         DOUBLE.replace("shift_half_away", "shift_half_up"),
         flags=("tie_away",)),
    _law("double-right-floors", "G-6", "numerics", "the right shift floors", DOUBLE,
         "return doubling_high_half_up(np.int64(value) << left, multiplier) >> right", flags=("floor_for_round",)),
    _law("double-left-after", "G-6", "numerics", "the left shift comes after the product", DOUBLE,
         "return shift_half_away(doubling_high_half_up(np.int64(value), multiplier) << left, right)",
         flags=("narrow_accumulator",)),
    _law("double-left-dropped", "G-6", "numerics", "ratios above 1 are not shifted left", LEFT,
         LEFT.replace("31 - np.int64(shift)", "0")),
    _law("double-offset-dropped", "G-6", "numerics", "the output zero point is left out of the scaled laws", SCALED,
         SCALED + "\n        return saturate(value, rq.lowest, rq.highest)", flags=("zero_point_sign",)),
    _law("double-relu-ignored", "G-6", "numerics", "a fused ReLU does not bound", SCALED,
         SCALED + "\n        return saturate(value + np.int64(rq.offset), rq.lowest - 128 * (rq.lowest == 0), rq.highest)",
         flags=("relu_before_zero_point",)),
    _law("double-first-channel", "G-6", "numerics", "every channel takes the first one's multiplier", SCALED,
         SCALED.replace("rq.multiplier[channel]", "rq.multiplier[0]"), flags=("channel_constants",)),
    _law("double-bias-dropped", "G-6", "numerics", "the bias is left out", SCALED,
         SCALED.replace(" + np.int64(rq.bias[channel])", "")),
    _law("single-is-double", "G-7", "numerics", "two roundings stand in for one", "if law == LAW_SINGLE:", "if False:",
         flags=("double_rounding", "tie_half_even")),
    _law("single-floors", "G-7", "numerics", "the rounding constant is missing", SINGLE,
         "return (np.int64(value) * np.int64(multiplier)) >> np.int64(shift)", flags=("floor_for_round",)),
    _law("single-half-away", "G-7", "numerics", "ties go away from zero", SINGLE, SINGLE.replace("half_up", "half_away")),
    _law("single-half-even", "G-7", "numerics", "ties go to even", SINGLE,
         "product = np.int64(value) * np.int64(multiplier)\n"
         "        half = np.int64(1) << np.int64(shift - 1)\n"
         "        tie = (product & (2 * half - 1)) == half and ((product >> np.int64(shift)) & 1) == 0\n"
         "        return (product + half) >> np.int64(shift) if not tie else product >> np.int64(shift)",
         flags=("tie_half_even",)),
    _law("single-int32", "G-7", "numerics", "the product is held in 32 bits", SINGLE,
         SINGLE.replace("np.int64(value) * np.int64(multiplier)",
                        "np.int64((np.int64(value) * np.int64(multiplier)).astype(np.int32))")),
)  # fmt: skip

FAST_FACTOR = "np.float16((512.0 if function == SIGMOID else 1024.0) / 0.6931471805599453)"
FAST = "((v * factor) + np.float16(15360)).astype(np.int16)"
CODE = "x = np.float32(np.float64(np.int64(low) + index - np.int64(zero_point)) * scale)"

TABLES = (
    _tables("fast-not-cut", "T-5", "numerics", "the argument is cut to 8, not to 6", "CLIP = 6.0", "CLIP = 8.0",
            flags=("approximated_function",)),
    _tables("fast-rounds", "T-5", "numerics", "the bits are rounded, not truncated", FAST,
            "np.rint((v * factor) + np.float16(15360)).astype(np.int16)",
            equivalent="the FP16 sum lies between 4000 and 27000, where every FP16 number is an integer"),
    _tables("fast-fused", "T-5", "numerics", "product and sum are fused", FAST,
            "(v.astype(np.float32) * np.float32(factor) + np.float32(15360)).astype(np.float16).astype(np.int16)"),
    _tables("fast-same-factor", "T-5", "numerics", "both functions take the factor of the sigmoid", FAST_FACTOR,
            "np.float16(512.0 / 0.6931471805599453)"),
    _tables("fast-in-fp32", "T-5", "numerics", "the quotient is formed in FP32", "for v in (half, -half))\n",
            "for v in (half, -half))\n    a, b = a.astype(np.float32), b.astype(np.float32)\n"),
    _tables("fast-nan", "T-5", "numerics", "NaN gives the value at zero", "np.isnan(source), table)",
            "np.zeros(len(source), np.bool_), table)", flags=("bf16_nan_canonical",)),
    _tables("steps-rounded", "T-6", "numerics", "the step is the nearest, not the one below",
            "(magnitude * 4096.0).astype(np.int64) >>",
            "((magnitude * 4096.0).astype(np.int64) + (64 if function == SIGMOID else 32)) >>"),
    _tables("steps-same-shift", "T-6", "numerics", "tanh takes the shift of the sigmoid",
            ">> (7 if function == SIGMOID else 6)", ">> 7"),
    _tables("steps-last-kept", "T-6", "numerics", "the last step goes on for ever", "np.where(k > 255, np.float32(1), steps",
            "np.where(k > 255, steps[255], steps"),
    _tables("steps-not-mirrored", "T-6", "numerics", "the sigmoid of a negative value is that of its magnitude",
            "y = np.where(negative, np.float32(1) - s, s)", "y = s"),
    _tables("steps-zero-sign", "T-6", "numerics", "-0 is not mirrored", "negative = np.signbit(x)", "negative = x < 0",
            flags=("signed_zero",)),
    _tables("steps-interpolated", "T-6", "numerics", "values between steps are interpolated",
            "s = np.where(k > 255, np.float32(1), steps[np.minimum(k, 255)])",
            "s = np.interp(magnitude * (32 if function == SIGMOID else 64), np.arange(256), steps).astype(np.float32)",
            flags=("approximated_function",)),
    _tables("codes-argument-truncated", "T-7", "numerics", "the argument is truncated", "bf16[np.int64(bf16_encode(x))]",
            "bf16[np.int64(x.view(np.uint32) >> 16)]"),
    _tables("codes-zero-point", "T-7", "numerics", "the input zero point is left out", CODE,
            CODE.replace(" - np.int64(zero_point)", "")),
    _tables("codes-table-floors", "T-7", "numerics", "results are floored", "np.int64(np.rint(scaled))",
            "np.int64(np.floor(scaled))"),
    _tables("codes-exact", "T-7", "numerics", "the exact function is taken for the device's",
            'if tables.bf16[function] is variant("exact").bf16[function]:', "if True:",
            flags=("approximated_function",)),
)  # fmt: skip

FIRST = "first = scale_by((np.int64(p[i]) - za) << np.int64(left), ma, na, law)"
SECOND = "second = scale_by((np.int64(q[i]) - zb) << np.int64(left), mb, nb, law)"
SUM = "out[i] = saturate(scale_by(first + second, mo, no, law) + np.int64(zero_point), lowest, highest)"
PRODUCT = "out[i] = saturate(scale_by(product, m, n, law) + np.int64(zero_point), lowest, highest)"
CODES = "value = scale_by(np.int64(source[i]) - in_zero, m, n, law)"

ELEMENTS = (
    _element("scaled-add-first-zero", "E-10", "operators", "the first zero point is forgotten", FIRST,
             FIRST.replace(" - za", ""),
             flags=("zero_point_sign",)),
    _element("scaled-add-second-zero", "E-10", "operators", "the second operand takes the first one's zero point", SECOND,
             SECOND.replace("- zb", "- za"), flags=("zero_point_sign",)),
    _element("scaled-add-multipliers", "E-10", "operators", "both operands take the first multiplier", SECOND,
             SECOND.replace("mb, nb", "ma, na"), flags=("residual_order",)),
    _element("scaled-add-left-20", "E-10", "operators", "every width is shifted left by 20", FIRST,
             FIRST.replace("np.int64(left)", "np.int64(20)"), flags=("narrow_accumulator",)),
    _element("scaled-add-saturates-first", "E-10", "operators", "the zero point is added after the saturation", SUM,
             "total = saturate(scale_by(first + second, mo, no, law), lowest, highest)\n"
             "        out[i] = (total + np.int64(zero_point)).astype(out.dtype)"),
    _element("scaled-add-output-floors", "E-10", "operators", "the sum is floored in one step", SUM,
             "out[i] = saturate((((first + second) * np.int64(mo)) >> np.int64(no)) + np.int64(zero_point), lowest, highest)"),
    _element("scaled-product-zero", "E-11", "operators", "the output zero point is left out", PRODUCT,
             PRODUCT.replace(" + np.int64(zero_point)", ""), flags=("zero_point_sign",)),
    _element("scaled-product-wraps", "E-11", "operators", "the product wraps", PRODUCT,
             "out[i] = (scale_by(product, m, n, law) + np.int64(zero_point)).astype(out.dtype)",
             flags=("saturation_high", "saturation_low")),
    _element("scaled-product-shift", "E-11", "operators", "the shift is one too small", PRODUCT,
             PRODUCT.replace("m, n,", "m, n - 1,")),
    _convert("scaled-codes-in-zero", "Q-11", "operators", "the input zero point is forgotten", CODES,
             CODES.replace(" - in_zero", ""),
             flags=("zero_point_sign",)),
    _convert("scaled-codes-out-zero", "Q-11", "operators", "the output zero point is subtracted", CODES,
             CODES + " - 2 * np.int64(zero_point)",
             flags=("zero_point_sign",)),
    _convert("scaled-codes-floor", "Q-11", "operators", "the result is floored", CODES,
             "value = ((np.int64(source[i]) - in_zero) * np.int64(m)) >> np.int64(n)"),
)  # fmt: skip

SYMMETRIC = "largest = max(abs(low), abs(high))"
STEPS = "scale = largest / float((1 << (bits - 1)) - 1)"
POWER = "math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)"
LAYER = "least = max(float(np.abs(values).max()) / 127.0, float(np.max(smallest)))"
Q31 = "multiplier = math.floor(mantissa * 2.0**31 + 0.5)"
Q15 = "reduced = (multiplier + (1 << 15)) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF"

SCHEME = (
    _scheme("symmetric-high-only", "Q-12", "numerics", "only the upper end sets the scale", SYMMETRIC, "largest = abs(high)"),
    _scheme("symmetric-128", "Q-12", "numerics", "the range is divided by 2^(bits-1)", STEPS,
            "scale = largest / float(1 << (bits - 1))"),
    _scheme("symmetric-power-nearest", "Q-12", "numerics", "the power of two is the one below", POWER,
            "math.ldexp(1.0, exponent - 1)"),
    _scheme("symmetric-power-doubled", "Q-12", "numerics", "a power of two is doubled", POWER, "math.ldexp(1.0, exponent)"),
    _scheme("symmetric-power-ignored", "Q-12", "numerics", "the scale stays as it is",
            "next_power_of_two(scale) if power_of_two else scale",
            "scale"),
    _scheme("symmetric-empty", "Q-12", "numerics", "an empty range has scale 1", "return Format(kind, 2.0**-bits, 0)",
            "return Format(kind, 1.0, 0)", flags=("range_without_zero",)),
    _scheme("layer-smallest-ignored", "Q-13", "numerics", "no channel raises the layer's scale", LAYER,
            "least = float(np.abs(values).max()) / 127.0", flags=("dead_channel", "channel_constants")),
    _scheme("layer-128", "Q-13", "numerics", "the largest weight becomes 128", LAYER, LAYER.replace("127.0", "128.0 / 2")),
    _scheme("layer-truncates", "Q-13", "numerics", "codes are truncated", "np.rint(values / scale)",
            "np.trunc(values / scale)"),
    _lowering("layer-bias-unit", "Q-13", "numerics", "the bias is rounded to one unit of the accumulator",
              "quantized_bias = int(np.rint(b / (s * self.profile.bias_unit))) * self.profile.bias_unit",
              "quantized_bias = int(np.rint(b / s))"),
    _lowering("layer-bias-unscaled", "Q-13", "numerics", "the bias is stored in units of the accumulator",
              "* self.profile.bias_unit\n",
              "* 1\n", flags=("bias_dropped",)),
    _scheme("long-floor", "G-8", "numerics", "the multiplier is floored", Q31, Q31.replace(" + 0.5", ""),
            flags=("multiplier_search",)),
    _scheme("long-carry", "G-8", "numerics", "a carry to 2^31 is held at 2^31 - 1",
            "multiplier, exponent = 1 << 30, exponent + 1",
            "multiplier = (1 << 31) - 1", flags=("multiplier_search",)),
    _scheme("long-underflow", "G-8", "numerics", "ratios below 2^-32 keep their multiplier", "if exponent >= -31 else (0, 31)",
            "if True else (0, 31)", flags=("multiplier_search",)),
    _scheme("long-underflow-early", "G-8", "numerics", "ratios below 2^-31 are zero", "exponent >= -31", "exponent >= -30",
            flags=("multiplier_search",)),
    _scheme("short-floor", "G-8", "numerics", "15 bits are cut off", Q15,
            Q15.replace("(multiplier + (1 << 15)) >> 16", "multiplier >> 16"),
            flags=("multiplier_search",)),
    _scheme("short-carry", "G-8", "numerics", "a multiplier of 2^15 is kept", Q15, "reduced = (multiplier + (1 << 15)) >> 16",
            flags=("multiplier_search",)),
    _scheme("short-shift", "G-8", "numerics", "the shift stays that of 31 bits", "return reduced, shift - 16",
            "return reduced, shift"),
    _scheme("power-shift", "G-9", "numerics", "the shift is one too large", "return 1, 1 - exponent", "return 1, 2 - exponent",
            flags=("multiplier_search",)),
    _profile("profile-rtl-rounds", "G-5", "numerics", "the RTL's law rounds", "rounding_constant=False",
             "rounding_constant=True",
             flags=("floor_for_round",)),
    _profile("profile-symmetric-16", "Q-12", "numerics", "16-bit activations have zero points", "symmetric=(16,)",
             "symmetric=()"),
    _profile("profile-bias-unit", "Q-13", "numerics", "the bias is in units of 64", "bias_unit=128", "bias_unit=64",
             flags=("bias_dropped",)),
    _lowering("scaled-add-left", "E-10", "numerics", "every width is shifted left by 20", "20 if kinds == {\"int8\"} else 15",
              "20"),
    _lowering("scaled-add-larger", "E-10", "numerics", "inputs are scaled to the larger scale, not to twice",
              "twice = 2.0 * max(",
              "twice = 1.0 * max("),
    _lowering("scaled-product-output", "E-11", "numerics", "the output's scale is left out",
              "self._scaled(name, fa.scale * fb.scale / fy.scale,",
              "self._scaled(name, fa.scale * fb.scale,"),
    _lowering("scaled-convert-inverse", "Q-11", "numerics", "the ratio is upside down", "self._scaled(name, a.scale / b.scale,",
              "self._scaled(name, b.scale / a.scale,"),
)  # fmt: skip

MUTANTS = (*LAWS, *TABLES, *ELEMENTS, *SCHEME)
