"""Mutants below the operators: rounding, saturation, BF16, exp and its kin, tables, requantization laws (N, B, T, G-2, G-3)."""

from __future__ import annotations

from functools import partial

from golden_vectors.mutants.definition import Mutant

_rounding = partial(Mutant, "numerics/rounding.py")
_bfloat16 = partial(Mutant, "numerics/bfloat16.py")
_exp = partial(Mutant, "numerics/transcendental.py")
_tables = partial(Mutant, "numerics/tables.py")
_law = partial(Mutant, "numerics/requantize.py")

FLOOR = "return np.int64(value) >> np.int64(shift)\n\n\n@inline\ndef shift_half_up"
AFTER_FLOOR = "\n\n\n@inline\ndef shift_half_up"
HALF_UP = "return (np.int64(value) + (np.int64(1) << np.int64(shift - 1))) >> np.int64(shift)"
EVEN = "if rest > half or (rest == half and (floor & np.int64(1)) == 1):"
TRUNCATE = "return -(-np.int64(value) >> np.int64(shift)) if value < 0 else np.int64(value) >> np.int64(shift)"
AWAY = (
    "half = (np.int64(1) << np.int64(shift)) >> np.int64(1)\n    "
    "return -((half - value) >> np.int64(shift)) if value < 0 else (value + half) >> np.int64(shift)"
)
CLAMP = "return np.int64(min(max(np.int64(value), np.int64(lowest)), np.int64(highest)))"

ROUNDING = (
    _rounding("floor-is-half-up", "N-1", "numerics", "floor shift rounds half up", FLOOR,
              "return shift_half_up(value, shift)" + AFTER_FLOOR),
    _rounding("floor-is-half-even", "N-1", "numerics", "floor shift rounds half to even", FLOOR,
              "return shift_half_even(value, shift)" + AFTER_FLOOR),
    _rounding("floor-is-truncation", "N-1", "numerics", "floor shift truncates toward zero", FLOOR,
              TRUNCATE + AFTER_FLOOR, flags=("truncation",)),
    _rounding("floor-is-half-away", "N-1", "numerics", "floor shift rounds half away from zero", FLOOR, AWAY + AFTER_FLOOR),
    _rounding("half-up-is-floor", "N-2", "numerics", "the rounding constant of norm is missing", HALF_UP,
              "return np.int64(value) >> np.int64(shift)", flags=("floor_for_round",)),
    _rounding("half-up-is-half-even", "N-2", "numerics", "norm rounds half to even", HALF_UP,
              "return shift_half_even(value, shift)", flags=("tie_half_even",)),
    _rounding("half-up-is-half-away", "N-2", "numerics", "norm rounds half away from zero", HALF_UP, AWAY, flags=("tie_away",)),
    _rounding("half-up-is-truncation", "N-2", "numerics", "norm truncates toward zero", HALF_UP, TRUNCATE),
    _rounding("half-up-is-half-down", "N-2", "numerics", "the rounding constant of norm is 2^(n-1) - 1", HALF_UP,
              HALF_UP.replace("(np.int64(1) << np.int64(shift - 1))", "(np.int64(1) << np.int64(shift - 1)) - 1")),
    _rounding("half-up-constant-doubled", "N-2", "numerics", "the rounding constant of norm is 2^n", HALF_UP,
              HALF_UP.replace("shift - 1", "shift")),
    _rounding("half-up-int32", "N-2", "numerics", "norm adds its constant in 32 bits", HALF_UP,
              HALF_UP.replace("(np.int64(value) + (np.int64(1) << np.int64(shift - 1)))",
                              "np.int64(np.int32(np.int64(value) + (np.int64(1) << np.int64(shift - 1))))"),
              flags=("narrow_accumulator",)),
    _rounding("half-up-zero-shift", "N-2", "numerics", "norm adds one half of a unit at shift 0, so that it adds 1",
              "if shift <= 0:\n        return np.int64(value)\n    return",
              "if shift <= 0:\n        return np.int64(value) + np.int64(1)\n    return", flags=("shift_zero",)),
    _rounding("half-even-is-half-up", "N-3", "numerics", "half even rounds half up", EVEN, "if rest >= half:",
              flags=("tie_half_up",)),
    _rounding("half-even-is-half-odd", "N-3", "numerics", "ties go to the odd neighbour", EVEN, EVEN.replace("== 1", "== 0")),
    _rounding("half-even-is-floor", "N-3", "numerics", "half even floors", EVEN, "if False:", flags=("floor_for_round",)),
    _rounding("half-even-is-half-away", "N-3", "numerics", "half even rounds half away from zero", EVEN,
              "if rest > half or (rest == half and value >= 0):", flags=("tie_away",)),
    _rounding("half-even-is-half-to-zero", "N-3", "numerics", "half even rounds half toward zero", EVEN,
              "if rest > half or (rest == half and value < 0):"),
    _rounding("half-even-is-truncation", "N-3", "numerics", "half even truncates toward zero", EVEN,
              "if value < 0 and rest != 0:"),
    _rounding("half-even-range", "N-3", "numerics", "shifts of 32 and more give 0",
              "if shift >= 63:\n        return np.int64(0)\n"
              "    floor", "if shift >= 32:\n        return np.int64(0)\n    floor", flags=("shift_range",)),
    _rounding("half-even-int32", "N-3", "numerics", "half even works on 32 bits",
              "floor = np.int64(value) >> np.int64(shift)\n", "floor = np.int64(np.int32(value)) >> np.int64(shift)\n",
              flags=("narrow_accumulator",)),
    _rounding("saturate-high-off-by-one", "N-4", "numerics", "the upper bound is one too low", CLAMP,
              CLAMP.replace("np.int64(highest)", "np.int64(highest) - 1"), flags=("saturation_high",)),
    _rounding("saturate-low-off-by-one", "N-4", "numerics", "the lower bound is one too high", CLAMP,
              CLAMP.replace("np.int64(lowest)", "np.int64(lowest) + 1"), flags=("saturation_low",)),
    _rounding("saturate-high-not", "N-4", "numerics", "values above the range are not saturated", CLAMP,
              "return max(np.int64(value), np.int64(lowest))", flags=("saturation_high",)),
    _rounding("saturate-low-not", "N-4", "numerics", "values below the range are not saturated", CLAMP,
              "return min(np.int64(value), np.int64(highest))", flags=("saturation_low",)),
    _rounding("saturate-wraps", "N-4", "numerics", "values wrap around instead of saturating", CLAMP,
              "return np.int64(lowest) + (np.int64(value) - lowest) % (np.int64(highest) - lowest + 1)", flags=("wraparound",)),
    _rounding("shift-saturate-left-ignored", "N-5", "numerics", "a negative shift is taken as 0",
              "bounded << np.int64(min(-shift, 31))", "bounded"),
    _rounding("shift-saturate-left-30", "N-5", "numerics", "a left shift stops at 30", "min(-shift, 31)", "min(-shift, 30)"),
    _rounding("shift-saturate-left-wraps", "N-5", "numerics", "a left shift is not saturated",
              "return saturate(bounded << np.int64(min(-shift, 31)), INT32_MIN, INT32_MAX)",
              "return np.int64(np.int32(bounded << np.int64(min(-shift, 31))))"),
    _rounding("shift-saturate-right-wraps", "N-5", "numerics", "a right shift is not saturated to 32 bits",
              "return saturate(shift_half_up(value, shift), INT32_MIN, INT32_MAX)",
              "return np.int64(np.int32(shift_half_up(value, shift)))"),
    _rounding("shift-saturate-far", "N-5", "numerics", "a right shift of 63 or more gives -1 for negative values",
              "if shift >= 63:\n        return np.int64(0)\n    if",
              "if shift >= 63:\n        return np.int64(value < 0) * -1\n    if"),
    _rounding("shift-saturate-symmetric", "N-5", "numerics", "the lower bound of int32 is taken as -(2^31 - 1)",
              "INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1", "INT32_MIN, INT32_MAX = -(1 << 31) + 1, (1 << 31) - 1"),
    _rounding("shift-saturate-first-cut", "N-5", "numerics", "the saturation before the left shift is left out",
              "bounded = saturate(value, INT32_MIN, INT32_MAX)", "bounded = np.int64(value)"),
    _rounding("float-nan", "N-6", "numerics", "NaN gives the lower bound instead of 0",
              "if np.isnan(x):\n        return np.int64(0)", "if np.isnan(x):\n        return np.int64(lowest)",
              flags=("nan_to_integer",)),
    _rounding("float-high", "N-6", "numerics", "the upper bound is one too low", "return np.int64(highest)\n",
              "return np.int64(highest) - 1\n", flags=("saturation_high",)),
    _rounding("float-low", "N-6", "numerics", "the lower bound is one too high", "return np.int64(lowest)\n",
              "return np.int64(lowest) + 1\n", flags=("saturation_low",)),
    _rounding("float-half-up", "N-6", "numerics", "floats round half up", "np.rint(x)", "np.floor(np.float64(x) + 0.5)",
              flags=("tie_half_up",)),
    _rounding("float-half-up-in-fp32", "N-6", "numerics", "floats round as floor(x + 0.5) in FP32", "np.rint(x)",
              "np.floor(x + np.float32(0.5))"),
    _rounding("float-half-away", "N-6", "numerics", "floats round half away from zero (C's round)", "np.rint(x)",
              "np.trunc(np.float64(x) + np.copysign(0.5, x))", flags=("tie_away",)),
    _rounding("float-truncation", "N-6", "numerics", "floats are truncated (a C cast)", "np.rint(x)", "np.trunc(x)",
              flags=("truncation",)),
    _rounding("float-floor", "N-6", "numerics", "floats are floored", "np.rint(x)", "np.floor(x)", flags=("floor_for_round",)),
)  # fmt: skip

ENCODE = "return np.uint16((bits + np.int64(0x7FFF) + ((bits >> np.int64(16)) & np.int64(1))) >> np.int64(16))"
DECODE = "return np.uint32(np.int64(pattern) << np.int64(16)).view(np.float32)"
IS_NAN = "if (bits & np.int64(0x7FFFFFFF)) > np.int64(0x7F800000):"
ADD = "return bf16_encode(bf16_decode(a) + bf16_decode(b))"
MULTIPLY = "return bf16_encode(bf16_decode(a) * bf16_decode(b))"
TIE = "if rest > half or (rest == half and (kept & np.int64(1)) == 1):"

BFLOAT16 = (
    _bfloat16("bf16-truncation", "B-1", "numerics", "FP32 to BF16 drops the low half", ENCODE,
              "return np.uint16(bits >> np.int64(16))", flags=("truncation",)),
    _bfloat16("bf16-half-away", "B-1", "numerics", "FP32 to BF16 rounds half away from zero", ENCODE,
              "return np.uint16((bits + np.int64(0x8000)) >> np.int64(16))", flags=("tie_away",)),
    _bfloat16("bf16-half-to-zero", "B-1", "numerics", "FP32 to BF16 rounds half toward zero", ENCODE,
              "return np.uint16((bits + np.int64(0x7FFF)) >> np.int64(16))"),
    _bfloat16("bf16-half-up", "B-1", "numerics", "FP32 to BF16 rounds half toward plus infinity", ENCODE,
              "return np.uint16((bits + np.int64(0x8000) - (bits >> np.int64(31))) >> np.int64(16))", flags=("tie_half_up",)),
    _bfloat16("bf16-half-odd", "B-1", "numerics", "ties go to the odd neighbour", ENCODE,
              "return np.uint16((bits + np.int64(0x8000) - ((bits >> np.int64(16)) & np.int64(1))) >> np.int64(16))"),
    _bfloat16("bf16-nan-not-canonical", "B-1", "numerics", "NaN keeps its sign and high payload bits",
              "return np.uint16(NAN)", "return np.uint16((bits >> np.int64(16)) | np.int64(0x40))",
              flags=("bf16_nan_canonical",)),
    _bfloat16("bf16-nan-signed", "B-1", "numerics", "NaN keeps its sign", "return np.uint16(NAN)",
              "return np.uint16(NAN | (bits >> np.int64(16)) & SIGN)", flags=("bf16_nan_canonical",)),
    _bfloat16("bf16-no-nan-check", "B-1", "numerics", "NaN is rounded like a number", IS_NAN, "if False:",
              flags=("bf16_nan_canonical",)),
    _bfloat16("bf16-infinity-is-nan", "B-1", "numerics", "infinity becomes NaN", IS_NAN, IS_NAN.replace(" > ", " >= ")),
    _bfloat16("bf16-flush-result", "B-1", "numerics", "subnormal results are flushed to zero", ENCODE,
              "if (bits & np.int64(0x7F800000)) == 0:\n        return np.uint16((bits >> np.int64(16)) & SIGN)\n    " + ENCODE,
              flags=("bf16_subnormal_flushed",)),
    _bfloat16("bf16-no-overflow", "B-1", "numerics", "overflow gives the largest finite value", ENCODE,
              "if 0x7F7F8000 <= (bits & 0x7FFFFFFF) < 0x7F800000:\n        bits = bits & np.int64(0xFF7F0000)\n    " + ENCODE,
              flags=("bf16_overflow",)),
    _bfloat16("bf16-flush-operand", "B-2", "numerics", "subnormal operands are read as zero", DECODE,
              "return np.uint32((np.int64(pattern) << np.int64(16)) if pattern & 0x7F80 else 0).view(np.float32)",
              flags=("bf16_subnormal_flushed",)),
    _bfloat16("bf16-sign-lost", "B-2", "numerics", "the sign bit is lost in decoding", DECODE,
              "return np.uint32((np.int64(pattern) & 0x7FFF) << np.int64(16)).view(np.float32)"),
    _bfloat16("bf16-is-fp16", "B-2", "numerics", "patterns are read as IEEE half precision", DECODE,
              "return np.float32(np.uint16(pattern).view(np.float16))"),
    _bfloat16("bf16-add-truncates", "B-3", "numerics", "sums are truncated to BF16", ADD,
              "return np.uint16((bf16_decode(a) + bf16_decode(b)).view(np.uint32) >> 16)", flags=("truncation",)),
    _bfloat16("bf16-add-half-away", "B-3", "numerics", "sums round half away from zero", ADD,
              "total = bf16_decode(a) + bf16_decode(b)\n    return np.uint16((np.int64(total.view(np.uint32)) + 0x8000) >> 16)",
              flags=("tie_away",)),
    _bfloat16("bf16-add-aligns-9-bits", "B-3", "numerics", "the smaller operand is cut to 9 bits when it is aligned", ADD,
              "x, y = bf16_decode(a), bf16_decode(b)\n    big = max(abs(x), abs(y))\n"
              "    if 0 < big < 1e30:\n        unit = np.float32(np.ldexp(1.0, max(int(np.frexp(big)[1]) - 9, -140)))\n"
              "        x, y = np.float32(np.trunc(x / unit) * unit), np.float32(np.trunc(y / unit) * unit)\n"
              "    return bf16_encode(x + y)"),
    _bfloat16("bf16-add-subtracts", "B-3", "numerics", "the second operand's sign is reversed", ADD, ADD.replace("+", "-")),
    _bfloat16("bf16-mul-truncates", "B-4", "numerics", "products are truncated to BF16", MULTIPLY,
              "return np.uint16((bf16_decode(a) * bf16_decode(b)).view(np.uint32) >> 16)", flags=("truncation",)),
    _bfloat16("bf16-mul-half-away", "B-4", "numerics", "products round half away from zero", MULTIPLY,
              "y = bf16_decode(a) * bf16_decode(b)\n    return np.uint16((np.int64(y.view(np.uint32)) + 0x8000) >> 16)",
              flags=("tie_away",)),
    _bfloat16("bf16-mul-flushes", "B-4", "numerics", "subnormal products are flushed to zero", MULTIPLY,
              "y = bf16_decode(a) * bf16_decode(b)\n"
              "    return bf16_encode(y if abs(y) >= 2.0**-126 or y != y else np.copysign(np.float32(0), y))",
              flags=("bf16_subnormal_flushed",)),
    _bfloat16("scaled-through-fp32", "B-5", "numerics", "the integer is rounded to FP32 first, so that it rounds twice",
              "magnitude = abs(np.int64(mantissa))",
              "if mantissa != 0:\n        return bf16_encode(np.float32(mantissa) * np.float32(2.0**exponent))\n"
              "    magnitude = np.int64(0)", flags=("double_rounding",)),
    _bfloat16("scaled-half-away", "B-5", "numerics", "ties go away from zero", TIE, "if rest >= half:", flags=("tie_away",)),
    _bfloat16("scaled-half-up", "B-5", "numerics", "ties go toward plus infinity", TIE,
              "if rest > half or (rest == half and mantissa > 0):", flags=("tie_half_up",)),
    _bfloat16("scaled-truncation", "B-5", "numerics", "the low bits are cut off", TIE, "if False:", flags=("truncation",)),
    _bfloat16("scaled-carry-lost", "B-5", "numerics", "a carry out of the fraction is lost", "(kept - np.int64(128))",
              "(kept & np.int64(127))", flags=("exponent_carry",)),
    _bfloat16("scaled-sign-lost", "B-5", "numerics", "the sign is lost", "pattern |= np.int64(SIGN)", "pattern |= np.int64(0)"),
    _bfloat16("scaled-bias", "B-5", "numerics", "the exponent's bias is 126", "exponent + 127)", "exponent + 126)"),
    _bfloat16("scaled-seven-bits", "B-5", "numerics", "only seven significant bits are kept",
              "drop = max(width - 8, 0)\n    kept = magnitude >> np.int64(drop)\n",
              "drop = max(width - 8, 0)\n    kept = (magnitude >> np.int64(drop)) & np.int64(~1)\n"),
    _bfloat16("scaled-smallest-int", "B-5", "numerics", "the magnitude of -2^31 overflows 32 bits",
              "abs(np.int64(mantissa))", "np.int64(abs(np.int32(mantissa)))"),
)  # fmt: skip

HORNER = "for n in range(1, 15):\n        y = y * r + FACTORIALS[n]"
REDUCE = "(x - np.float64(k) * LN2_HIGH) - np.float64(k) * LN2_LOW"

EXP = (
    _exp("exp-ln2-low-fp32", "T-1", "numerics", "the low part of ln 2 is rounded to FP32", "0x1.a39ef35793c76p-33",
         "0x1.a39ef40000000p-33"),
    _exp("exp-ln2-one-part", "T-1", "numerics", "the low part of ln 2 is forgotten", REDUCE, "x - np.float64(k) * LN2_HIGH"),
    _exp("exp-ln2-high-ulp", "T-1", "numerics", "the high part of ln 2 is off by one ulp", "0x1.62e42fee00000p-1",
         "0x1.62e42fee00001p-1"),
    _exp("exp-reduction-order", "T-1", "numerics", "the low part is subtracted first", REDUCE,
         "(x - np.float64(k) * LN2_LOW) - np.float64(k) * LN2_HIGH"),
    _exp("exp-truncated-k", "T-1", "numerics", "k is the floor of x / ln 2, not the nearest integer",
         "np.floor(x * INVERSE_LN2 + 0.5)", "np.floor(x * INVERSE_LN2)"),
    _exp("exp-coefficient-ulp", "T-1", "numerics", "the coefficient 1/2! is off by one ulp", "6.0, 2.0, 1.0, 1.0,",
         "6.0, 1.9999999999999998, 1.0, 1.0,"),
    _exp("exp-coefficient-wrong", "T-1", "numerics", "4! is 25", "120.0, 24.0,", "120.0, 25.0,"),
    _exp("exp-degree-13", "T-1", "numerics", "the polynomial stops at degree 13",
         "y = FACTORIALS[0]\n    for n in range(1, 15)", "y = FACTORIALS[1]\n    for n in range(2, 15)"),
    _exp("exp-ascending", "T-1", "numerics", "the terms are summed from the lowest power upward",
         "y = FACTORIALS[0]\n    " + HORNER,
         "y, power = 1.0, 1.0\n    for n in range(13, -1, -1):\n        power = power * r\n"
         "        y = y + power * FACTORIALS[n]"),
    _exp("sigmoid-fp32-bound", "T-2", "numerics", "arguments are limited to 88, as FP32 would need", "700.0", "88.0"),
    _exp("sigmoid-of-negative", "T-2", "numerics", "a negative argument takes 1 - sigmoid(-x)", "return e / (1.0 + e)",
         "return 1.0 - 1.0 / (1.0 + e)"),
    _exp("sigmoid-positive-branch", "T-2", "numerics", "a positive argument takes 1 - e / (1 + e)", "return 1.0 / (1.0 + e)",
         "return 1.0 - e / (1.0 + e)"),
    _exp("sigmoid-nan", "T-2", "numerics", "NaN gives one half", "return np.float64(np.nan)", "return np.float64(0.5)", 0),
    _exp("sigmoid-hard", "T-2", "numerics", "a piecewise linear sigmoid stands in for the function",
         "magnitude = np.float64(min(abs(np.float64(x)), 700.0))",
         "if x == x:\n        return min(max(0.2 * np.float64(x) + 0.5, 0.0), 1.0)\n"
         "    magnitude = np.float64(min(abs(np.float64(x)), 700.0))"),
    _exp("tanh-by-sigmoid", "T-3", "numerics", "tanh is 2 sigmoid(2x) - 1", "result = (1.0 - e) / (1.0 + e)",
         "result = 2.0 / (1.0 + e) - 1.0"),
    _exp("tanh-threshold", "T-3", "numerics", "the series is used up to 2^-4", "0.03125", "0.0625"),
    _exp("tanh-no-series", "T-3", "numerics", "small arguments cancel, for want of the series", "magnitude < 0.03125",
         "magnitude < 0.0"),
    _exp("tanh-short-series", "T-3", "numerics", "the series lacks its last term", "series = -1382.0 / 155925.0",
         "series = 0.0"),
    _exp("tanh-zero-sign", "T-3", "numerics", "tanh of -0 is +0", "return np.float64(x)\n", "return np.float64(0.0)\n",
         flags=("signed_zero",)),
    _exp("tanh-sign", "T-3", "numerics", "tanh of a negative value is positive", "return -result if x < 0.0 else result",
         "return result"),
    _exp("tanh-nan", "T-3", "numerics", "NaN gives zero", "return np.float64(np.nan)", "return np.float64(0.0)", 1),
    _exp("tanh-bound", "T-3", "numerics", "the argument is limited to 18", "300.0", "18.0"),
)  # fmt: skip

LOAD = "table.flags.writeable = False"


def _entry(change: str) -> str:
    return f"table = table.copy()\n    {change}\n    {LOAD}"


TABLES = (
    _tables("table-sigmoid-entry", "B-6", "numerics", "one entry of the sigmoid table is off by one", LOAD,
            _entry("table[0x3F9B] += name == 'sigmoid_bf16'")),
    _tables("table-tanh-entry", "B-6", "numerics", "one entry of the tanh table is off by one", LOAD,
            _entry("table[0xBE8F] += name == 'tanh_bf16'")),
    _tables("table-tanh-zero", "B-6", "numerics", "tanh of -0 is +0", LOAD,
            _entry("table[(name == 'tanh_bf16') * 0x8000] = 0 if name == 'tanh_bf16' else table[0]")),
    _tables("table-tanh-subnormals", "B-6", "numerics", "tanh of a subnormal is zero", LOAD,
            _entry("table[1:0x80] *= np.uint16(name != 'tanh_bf16') if table.ndim == 1 and len(table) > 256 else 1")),
    _tables("table-nan", "B-6", "numerics", "NaN gives the value of infinity", LOAD,
            _entry("table[0x7F81:0x8000] = table[0x7F80] if len(table) == 65536 else 0")),
    _tables("table-signed-index", "B-6", "numerics", "the table is indexed by the pattern as a signed number", LOAD,
            _entry("table = np.roll(table, 32768) if len(table) == 65536 else table")),
    _tables("table-twiddle-entry", "F-1", "numerics", "one twiddle factor is off by one", LOAD,
            _entry("table[5] += name == 'twiddle_q30'")),
    _tables("table-twiddle-floor", "F-1", "numerics", "the twiddle factors are floored, not rounded", LOAD,
            _entry("angle = np.pi * np.arange(129) / 128\n"
                   "    table = (np.floor(np.stack([np.cos(angle), -np.sin(angle)], 1) * 2.0**30).astype(np.int32)"
                   " if name == 'twiddle_q30' else table)")),
    _tables("table-twiddle-sign", "F-1", "numerics", "the twiddle factors are conjugate", LOAD,
            _entry("table = table * np.array([1, -1], table.dtype) if name == 'twiddle_q30' else table"),
            flags=("conjugate_sign",)),
    _tables("table-hann-periodic", "F-2", "numerics", "the Hann window is periodic, not symmetric", LOAD,
            _entry("table = (np.rint(2.0**29 * (1 - np.cos(2 * np.pi * np.arange(256) / 256))).astype(np.int32)"
                   " if name == 'hann_q30' else table)")),
    _tables("table-hann-shifted", "F-2", "numerics", "the Hann window is off by one sample", LOAD,
            _entry("table = np.roll(table, 1) if name == 'hann_q30' else table")),
    _tables("table-hann-root", "F-2", "numerics", "the square root of the Hann window is used", LOAD,
            _entry("table = (np.sqrt(table / 2.0**30) * 2.0**30).astype(np.int32) if name == 'hann_q30' else table")),
    _tables("codes-swapped-functions", "T-4", "numerics", "sigmoid and tanh are swapped", "if function == SIGMOID",
            "if function != SIGMOID"),
    _tables("codes-zero-point-sign", "T-4", "numerics", "the input zero point is added", "index - np.int64(in_zero)",
            "index + np.int64(in_zero)", flags=("zero_point_sign",)),
    _tables("codes-zero-point-dropped", "T-4", "numerics", "the input zero point is forgotten", "index - np.int64(in_zero)",
            "index"),
    _tables("codes-output-zero-dropped", "T-4", "numerics", "the output zero point is forgotten",
            "np.int64(np.rint(scaled)) + np.int64(out_zero)", "np.int64(np.rint(scaled))"),
    _tables("codes-index-unsigned", "T-4", "numerics", "the table is indexed by the unsigned bits of the code",
            "    return table\n", "    return np.roll(table, len(table) // 2)\n", 1, flags=("table_index_sign",)),
    _tables("codes-inverse-fp32", "T-4", "numerics", "the reciprocal of the output scale is rounded to FP32",
            "1.0 / out_scale", "float(np.float32(1.0 / out_scale))"),
    _tables("codes-divides", "T-4", "numerics", "the value is divided by the scale, not multiplied by its rounded reciprocal",
            "y * out_inverse", "y / (1.0 / out_inverse)"),
    _tables("codes-half-up", "T-4", "numerics", "codes round half up", "np.rint(scaled)", "np.floor(scaled + 0.5)",
            flags=("tie_half_up",)),
    _tables("codes-truncation", "T-4", "numerics", "codes are truncated", "np.rint(scaled)", "np.trunc(scaled)"),
    _tables("codes-clip", "T-4", "numerics", "the highest code is clipped", "-half, half - 1, table", "-half, half - 2, table",
            flags=("saturation_high",)),
)  # fmt: skip

FOLDED = "value = (acc * np.int64(rq.multiplier[channel]) + rq.addend[channel]) >> np.int64(rq.shift[channel])"
FIRST = "value = shift_half_up(acc + np.int64(rq.bias[channel]), rq.pre_shift)"
SECOND = "value = shift_half_up(value * np.int64(rq.multiplier[channel]), rq.shift[channel] - rq.pre_shift)"
TOTAL = "total = np.float32(np.int32(acc + np.int64(rq.bias[channel])))"
SCALED = "return np.int64(bf16_encode(total * rq.scale[channel]))"
LAST = "return saturate(value, rq.lowest, rq.highest) + np.int64(rq.offset)"

LAWS = (
    _law("folded-addend-dropped", "G-2", "numerics", "the folded bias is dropped", " + rq.addend[channel]", ""),
    _law("folded-addend-after", "G-2", "numerics", "the folded bias is shifted by itself and added after", FOLDED,
         "n = np.int64(rq.shift[channel])\n        value = ((acc * np.int64(rq.multiplier[channel])) >> n)"
         " + (np.int64(rq.addend[channel]) >> n)"),
    _law("folded-rounds-again", "G-2", "numerics", "the rounding constant is added a second time", FOLDED,
         "value = shift_half_up(acc * np.int64(rq.multiplier[channel]) + rq.addend[channel], rq.shift[channel])"),
    _law("folded-floors", "G-2", "numerics", "the rounding constant is taken out again: floor", FOLDED,
         FOLDED.replace("rq.addend[channel])", "rq.addend[channel] - ((1 << rq.shift[channel]) >> 1))"),
         flags=("floor_for_round",)),
    _law("folded-truncates", "G-2", "numerics", "the shift truncates toward zero", FOLDED,
         "value = acc * np.int64(rq.multiplier[channel]) + rq.addend[channel]\n        n = np.int64(rq.shift[channel])\n"
         "        value = -(-value >> n) if value < 0 else value >> n",
         equivalent="the lower bound of the law is never below 0, so whatever a negative value is rounded to saturates there"),
    _law("folded-shift-off-by-one", "G-2", "numerics", "the shift is one too large", ">> np.int64(rq.shift[channel])",
         ">> np.int64(rq.shift[channel] + 1)"),
    _law("folded-multiplier-off-by-one", "G-2", "numerics", "the multiplier is one too large",
         "acc * np.int64(rq.multiplier[channel])", "acc * np.int64(rq.multiplier[channel] + 1)"),
    _law("folded-multiplier-signed", "G-2", "numerics", "the 8-bit multiplier is read as signed",
         "acc * np.int64(rq.multiplier[channel])", "acc * np.int64(np.int8(rq.multiplier[channel]))"),
    _law("folded-first-channel", "G-2", "numerics", "every channel takes the multiplier of the first",
         "acc * np.int64(rq.multiplier[channel])", "acc * np.int64(rq.multiplier[0])", flags=("channel_constants",)),
    _law("folded-int16-accumulator", "G-2", "numerics", "the accumulator is cut to 16 bits", FOLDED,
         FOLDED.replace("(acc *", "(np.int64(np.int16(acc)) *")),
    _law("folded-int32-product", "G-2", "numerics", "the product wraps at 32 bits", FOLDED,
         FOLDED.replace("(acc * np.int64(rq.multiplier[channel])",
                        "(np.int64(np.int32(acc * np.int64(rq.multiplier[channel])))"),
         equivalent="O-1 proves at lowering that the product fits 32 bits for every accumulator that codes can make; "
         "all constants of the suite are within that proof"),
    _law("twice-bias-dropped", "G-3", "numerics", "the bias is dropped", FIRST, "value = shift_half_up(acc, rq.pre_shift)",
         flags=("bias_dropped",)),
    _law("twice-bias-after", "G-3", "numerics", "the bias is added after the first shift", FIRST,
         "value = shift_half_up(acc, rq.pre_shift) + shift_half_up(np.int64(rq.bias[channel]), rq.pre_shift)"),
    _law("twice-first-floors", "G-3", "numerics", "the first rounding floors", FIRST,
         "value = (acc + np.int64(rq.bias[channel])) >> np.int64(rq.pre_shift)", flags=("single_rounding", "floor_for_round")),
    _law("twice-first-half-even", "G-3", "numerics", "the first rounding is half to even", FIRST,
         "value = np.int64(np.rint(np.float64(acc + np.int64(rq.bias[channel])) / (1 << rq.pre_shift)))"),
    _law("twice-first-half-away", "G-3", "numerics", "the first rounding is half away from zero", FIRST,
         "value = acc + np.int64(rq.bias[channel])\n"
         "        value = -shift_half_up(-value, rq.pre_shift) if value < 0 else shift_half_up(value, rq.pre_shift)"),
    _law("twice-first-truncates", "G-3", "numerics", "the first rounding truncates toward zero", FIRST,
         "value = acc + np.int64(rq.bias[channel])\n        p = np.int64(rq.pre_shift)\n"
         "        value = -(-value >> p) if value < 0 else value >> p"),
    _law("twice-second-floors", "G-3", "numerics", "the second rounding floors", SECOND,
         "value = value * np.int64(rq.multiplier[channel]) >> np.int64(rq.shift[channel] - rq.pre_shift)"),
    _law("twice-second-half-even", "G-3", "numerics", "the second rounding is half to even", SECOND,
         "n = rq.shift[channel] - rq.pre_shift\n"
         "        value = np.int64(np.rint(np.float64(value * np.int64(rq.multiplier[channel])) / (1 << n)))"),
    _law("twice-second-half-away", "G-3", "numerics", "the second rounding is half away from zero", SECOND,
         "n, value = rq.shift[channel] - rq.pre_shift, value * np.int64(rq.multiplier[channel])\n"
         "        value = -shift_half_up(-value, n) if value < 0 else shift_half_up(value, n)"),
    _law("twice-second-truncates", "G-3", "numerics", "the second rounding truncates toward zero", SECOND,
         "n, value = rq.shift[channel] - rq.pre_shift, value * np.int64(rq.multiplier[channel])\n"
         "        value = -(-value >> np.int64(n)) if value < 0 else value >> np.int64(n)"),
    _law("twice-once", "G-3", "numerics", "one rounding instead of two", FIRST + "\n        " + SECOND,
         "value = shift_half_up((acc + np.int64(rq.bias[channel])) * np.int64(rq.multiplier[channel]), rq.shift[channel])",
         flags=("single_rounding",)),
    _law("twice-pre-shift-kept", "G-3", "numerics", "the second shift is not reduced by the first",
         "rq.shift[channel] - rq.pre_shift", "rq.shift[channel]"),
    _law("twice-pre-shift-eight", "G-3", "numerics", "the first shift is always 8",
         FIRST + "\n        " + SECOND, (FIRST + "\n        " + SECOND).replace("rq.pre_shift", "8")),
    _law("twice-offset-dropped", "G-3", "numerics", "the output zero point is dropped", " + np.int64(rq.offset)",
         " + np.int64(rq.offset if rq.law == LAW_FOLDED else 0)"),
    _law("twice-offset-before", "G-3", "numerics", "the output zero point is added before the saturation", LAST,
         "if rq.law == LAW_FOLDED:\n        " + LAST + "\n    return saturate(value + rq.offset, rq.lowest, rq.highest)",
         flags=("zero_point_order", "relu_before_zero_point")),
    _law("twice-first-channel", "G-3", "numerics", "every channel takes the shift of the first",
         "rq.shift[channel] - rq.pre_shift", "rq.shift[0] - rq.pre_shift", flags=("channel_constants",)),
    _law("law-wraps", "G-2", "numerics", "the output wraps instead of saturating", LAST,
         "return np.int64(np.int8(value + rq.offset)) if rq.highest == 255 else " + LAST.removeprefix("return "),
         flags=("wraparound",)),
    _law("law-relu-at-zero", "G-2", "numerics", "the fused ReLU of the folded law cuts at code 0, not at the zero point", LAST,
         LAST.replace("rq.lowest", "128 if rq.law == LAW_FOLDED and rq.lowest > 0 else rq.lowest"),
         flags=("relu_before_zero_point",)),
    _law("law-relu-dropped", "G-2", "numerics", "the fused ReLU of the folded law is forgotten", LAST,
         LAST.replace("rq.lowest", "0 if rq.law == LAW_FOLDED else rq.lowest")),
    _law("law-unsigned-kept", "G-2", "numerics", "the unsigned code is not taken back to the stored one", LAST,
         LAST.replace("np.int64(rq.offset)", "np.int64(0 if rq.law == LAW_FOLDED else rq.offset)")),
    _law("to-bf16-bias-dropped", "Q-9", "numerics", "the bias is dropped", TOTAL, "total = np.float32(np.int32(acc))",
         flags=("bias_dropped",)),
    _law("to-bf16-wide", "Q-9", "numerics", "the sum is not rounded to FP32 before the product", TOTAL,
         "total = np.float64(np.int32(acc + np.int64(rq.bias[channel])))", flags=("float_width", "single_rounding")),
    _law("to-bf16-one-rounding", "Q-9", "numerics", "the product is rounded to BF16 without FP32 between", SCALED,
         "exact = np.float64(total) * np.float64(rq.scale[channel])\n"
         "        mantissa, power = np.frexp(exact)\n"
         "        return np.int64(bf16_encode(np.float32(np.ldexp(np.rint(mantissa * 256.0), int(power) - 8))))",
         flags=("single_rounding",)),
    _law("to-bf16-total-in-bf16", "Q-9", "numerics", "the sum is rounded to BF16 before the product", SCALED,
         "bits = np.uint32(np.int64(bf16_encode(total)) << 16)\n"
         "        return np.int64(bf16_encode(bits.view(np.float32) * rq.scale[channel]))"),
    _law("to-bf16-scale-in-bf16", "Q-9", "numerics", "the scale is rounded to BF16", SCALED,
         "bits = np.uint32(np.int64(bf16_encode(rq.scale[channel])) << 16)\n"
         "        return np.int64(bf16_encode(total * bits.view(np.float32)))"),
    _law("to-bf16-first-channel", "Q-9", "numerics", "every channel takes the scale of the first", "rq.scale[channel]",
         "rq.scale[0]", flags=("channel_constants",)),
    _law("to-bf16-truncates", "Q-9", "numerics", "the product is truncated to BF16", SCALED,
         "return np.int64((total * rq.scale[channel]).view(np.uint32) >> 16)", flags=("truncation",)),
    _law("raw-bias-dropped", "O-1", "numerics", "the bare accumulator is shown without its bias",
         "return acc + np.int64(rq.bias[channel])\n", "return acc\n"),
)  # fmt: skip

MUTANTS = (*ROUNDING, *BFLOAT16, *EXP, *TABLES, *LAWS)
