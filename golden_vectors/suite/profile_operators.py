"""Operators level of the profiles beside gap9: scaled additions, products and conversions, layers under their laws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from golden_vectors.case import Case
from golden_vectors.integers import Integers
from golden_vectors.suite.elementwise import UNIT, pairwise, single
from golden_vectors.suite.making import folded, scaled
from golden_vectors.suite.operators import linear
from refimpl.numerics.requantize import LAW_DOUBLE, LAW_SINGLE
from refimpl.program import Format

LAWS = (("double", LAW_DOUBLE, "G-6 N-7 N-8"), ("single", LAW_SINGLE, "G-7 N-2"))
ONE = 1 << 30


def cases() -> Iterator[Case]:
    for name, law, rules in LAWS:
        yield from _additions(name, law, rules)
        yield from _products(name, law, rules)
        yield from _conversions(name, law, rules)
        yield from _layers(name, rules)
    yield from _powers_of_two()
    yield from _floors()


def _additions(name: str, law: int, rules: str) -> Iterator[Case]:
    operator, cited = "add_scaled", f"E-10 {rules} N-4 G-8"
    a, b = np.repeat(np.arange(-6, 7), 3), np.tile([-1, 0, 1], 13)
    constants = (0, 0, law, 20, ONE, 31, ONE, 32, ONE, 49, 0, -128, 127)
    comment = f"{name}: ties of both signs in the last step, after two scaled operands"
    flags = "residual_order narrow_accumulator"
    yield pairwise(operator, f"{name}_ties", comment, cited, flags, (UNIT, a), (UNIT, b), constants, UNIT)
    forms = Format("int8", 4 / 255, -64), Format("int8", 0.9 / 255, 14), Format("int8", 4.4 / 255, -53)
    source = Integers(92)
    a, b = source.between(-128, 127, (2, 2, 3, 8))
    constants = (-64, 14, law, 20, ONE, 31, 1932735283, 34, 1952257862, 50, -53, -128, 127)
    comment = f"{name}: three zero points, codes at random in two frames"
    flags = "zero_point_sign residual_order single_rounding" if name == "double" else "zero_point_sign residual_order"
    yield pairwise(operator, f"{name}_random", comment, cited, flags, (forms[0], a), (forms[1], b), constants, forms[2], 92)
    wide = Format("int16", 2.0**-13, 0)
    a, b = source.between(-32768, 32767, (2, 1, 2, 9))
    a[0, 0, :2], b[0, 0, :2] = (-32768, 32767), (-32768, 32767)
    constants = (0, 0, law, 15, ONE, 31, 1610612736, 33, 1500000000, 46, 0, -32768, 32767)
    comment = f"{name}: int16, shifted left by 15 and not by 20; both ends"
    flags = "narrow_accumulator residual_order"
    yield pairwise(operator, f"{name}_int16", comment, cited, flags, (wide, a), (wide, b), constants, wide, 92)


def _products(name: str, law: int, rules: str) -> Iterator[Case]:
    operator, cited = "multiply_scaled", f"E-11 {rules} N-4 G-8"
    fa, fb, fy = Format("int8", 1 / 255, -128), Format("int8", 4 / 255, 5), Format("int8", 3 / 255, 7)
    source = Integers(93)
    a, b = source.between(-128, 127, (2, 2, 3, 8))
    a[0, 0, :4], b[0, 0, :4] = (-128, 127, 127, -128), (-128, 127, -128, 127)
    comment = f"{name}: zero points of both factors and of the product, and its ends"
    flags = "zero_point_sign saturation_high saturation_low"
    constants = (-128, 5, law, 1437270102, 37, 7, -128, 127)
    yield pairwise(operator, f"{name}_random", comment, cited, flags, (fa, a), (fb, b), constants, fy, 93)
    wide = Format("int16", 2.0**-15, 0)
    a, b = [-32768, 32767, -32768, 181, -181, 3], [-32768, 32767, 32767, 181, 181, 5]
    comment = f"{name}: products of two int16 codes, 31 bits"
    constants = (0, 0, law, ONE, 46, 0, -32768, 32767)
    flags = "saturation_high"
    yield pairwise(operator, f"{name}_int16", comment, cited, flags, (wide, a), (wide, b), constants, wide)


def _conversions(name: str, law: int, rules: str) -> Iterator[Case]:
    operator, cited = "requantize_codes_scaled", f"Q-11 {rules} N-4 G-8"
    narrow, wide = Format("int8", 4 / 255, -64), Format("int16", 3 / 32767, 0)
    comment = f"{name}: every code to 16 bits, where the ends saturate"
    flags = "zero_point_sign saturation_low"
    constants = (-64, law, 1437226240, 22, 0, -32768, 32767)
    codes = np.arange(-128, 128)
    yield single(operator, f"{name}_to_int16", comment, cited, flags, narrow, codes, constants, wide)
    codes = np.array([-32768, -32767, -1, 0, 1, 86, 87, 257, 258, 15000, 32767])
    comment = f"{name}: 16 bits to 8, both ends"
    constants = (0, law, 1600000000, 39, -64, -128, 127)
    yield single(operator, f"{name}_to_int8", comment, cited, "zero_point_sign saturation_low", wide, codes, constants, narrow)


def _layers(name: str, rules: str) -> Iterator[Case]:
    source = Integers(94)
    narrow, wide = Format("int8", 2.0**-5, -9), Format("int16", 2.0**-12, 0)
    x, weight = source.between(-128, 127, (2, 6, 4)), source.between(-127, 127, (3, 6))
    rq = scaled(name, [300, -40, 0], [1431655765, ONE, 1999999999], [38, 38, 39], narrow)
    comment = f"{name}: int8 codes, a multiplier of 31 bits per channel"
    cited = rules if name == "double" else f"{rules} G-6 Q-12"
    flags = "channel_constants" if name == "double" else "floor_for_round"
    for axis in ("frequency", "channels"):
        case = linear(axis, f"{name}_law", comment, flags, x, weight, rq, narrow, narrow, 94)
        yield with_rules(case, cited)
    x = source.between(-32768, 32767, (2, 6, 4))
    rq = scaled("single", [30000, 0, -123456], [32767, 16385, 20001], [24, 25, 26], wide)
    if name == "single":
        comment = "int16 codes, a multiplier of 15 bits, one rounding in 64 bits"
        case = linear("channels", "single_law_int16", comment, "floor_for_round", x, weight, rq, wide, wide, 94)
        yield with_rules(case, cited)


def with_rules(case: Case, rules: str) -> Case:
    """The case with more rules cited behind its own."""
    return replace(case, rules=tuple(dict.fromkeys((*case.rules, *rules.split()))))


def _powers_of_two() -> Iterator[Case]:
    source = Integers(95)
    x, weight = source.between(-128, 127, (2, 6, 4)), source.between(-127, 127, (3, 6))
    plain = Format("int8", 2.0**-5, 0)
    total = np.array([256, -12800, 0])
    rq = folded(total, [1, 1, 1], [9, 9, 9])._replace(lowest=-128, highest=127, offset=0)
    comment = "a shift for a multiplier, no zero points, biases in steps of 128"
    yield with_rules(
        linear("channels", "power_of_two", comment, "bias_dropped", x, weight, rq, plain, plain, 95), "G-9 Q-13 N-1"
    )


def _floors() -> Iterator[Case]:
    source = Integers(96)
    x, weight = source.between(-128, 127, (2, 6, 4)), source.between(-127, 127, (3, 6))
    rq = folded([26436, 2000, 9000], [103, 27, 201], [14, 12, 15])
    rq = rq._replace(addend=rq.bias.astype(np.int64) * rq.multiplier)
    comment = "the folded law without its rounding constant: the result floors"
    yield with_rules(linear("channels", "folded_floor", comment, "floor_for_round", x, weight, rq, UNIT, UNIT, 96), "G-2 G-5")
