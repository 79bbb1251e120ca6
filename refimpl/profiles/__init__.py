"""Arithmetic profiles: one small frozen table of facts per accelerator, every field with its source.

The lowering reads the fields; no operator and no lowering rule asks for a profile's name. "Ours": the source is silent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from refimpl.errors import InputError
from refimpl.numerics.requantize import LAW_DOUBLE, LAW_FOLDED, LAW_NORM_TWICE, LAW_SINGLE

ADD_TWO_STAGE = "two_stage"  # SPEC E-1
ADD_JOINT = "joint"  # SPEC E-2
ADD_SCALED = "scaled"  # SPEC E-10
SEARCH = "search"  # multipliers by SPEC G-1
Q31 = "q31"  # 31-bit multipliers, SPEC G-8
Q15 = "q15"  # the same, reduced to 15 bits, SPEC G-8
POWER_OF_TWO = "power_of_two"  # M = 1, SPEC G-9
ALL_FORMATS = ("int8", "int16", "bf16")


@dataclass(frozen=True)
class Profile:
    """What an accelerator's arithmetic is, as far as lowering must know it (SPEC G-5)."""

    name: str
    formats: tuple[str, ...]  # that tensors and weights may have; f32, the float reference, runs on every profile
    law_8: int  # requantization law where input and output are 8-bit
    law_16: int  # requantization law where either is 16-bit
    multiplier_8: str  # how a layer's (M, n) is found: law_8
    multiplier_16: str  # the same: law_16
    multiplier_bits: int  # widest M of SEARCH
    multiplier_headroom: int  # M's bits of SEARCH <= 31 - max(ceil(log2 K) + headroom, bits of the bias)
    largest_shift: int  # n
    largest_pre_shift: int  # p of LAW_NORM_TWICE
    rounding_constant: bool  # LAW_FOLDED: 2^(n - 1) is part of the addend; without it the law floors
    unsigned_codes: bool  # activations are unsigned on the device: the output zero point is folded as such
    symmetric: tuple[int, ...]  # widths in bits whose activations have zero point 0 (SPEC Q-12)
    power_of_two_scales: bool  # activation scales, and one weight scale per layer, are powers of two (SPEC)
    bias_unit: int  # accumulator units of one step of the stored bias
    bias_bits: int  # of the stored bias, signed
    add_8: str  # residual add of two 8-bit tensors into an 8-bit tensor
    add_16: str  # any other residual add
    scaled_law: int | None  # law of multiplications and changes of codes (SPEC E-11, Q-11); None: E-3 and Q-8
    width: int  # bits of accumulator, product, addend and their sum, where the law has no wider product by definition
    tables: str = "exact"  # sigmoid and tanh (SPEC T-5 to T-7): correctly rounded until a device's own are known


GAP9 = Profile(
    name="gap9",
    formats=ALL_FORMATS,  # NE16: 8 and 16 bits; BF16: the cluster's FPU
    law_8=LAW_FOLDED,  # GreenWaves nntool, NE16 lowering: bias and zero points folded, rounding constant in the bias
    law_16=LAW_NORM_TWICE,  # the same SDK: NE16 streams the INT32 accumulator out, software epilogue norm(norm(.) * M)
    multiplier_8=SEARCH,  # nntool's scale search
    multiplier_16=SEARCH,  # the same
    multiplier_bits=8,  # NE16: unsigned 8-bit scale per output channel
    multiplier_headroom=14,  # nntool: 31 - max(ceil(log2 K) + 14, bits of the bias)
    largest_shift=24,  # nntool: while n > 24, one bit less
    largest_pre_shift=8,  # SDK kernels: p = min(8, min n)
    rounding_constant=True,  # nntool: 1 << (n - 1) in the bias
    unsigned_codes=True,  # uint8 and uint16 activations
    symmetric=(),  # asymmetric at both widths
    power_of_two_scales=False,
    bias_unit=1,
    bias_bits=32,  # NE16: 32-bit bias
    add_8=ADD_TWO_STAGE,  # SDK kernel: norm((norm(a * Ma, na) + b) * Mo, no) + bias
    add_16=ADD_JOINT,  # the source is silent: ours (SPEC E-2)
    scaled_law=None,  # ours (SPEC E-3, Q-8)
    width=32,  # NE16 accumulators and the cluster's registers
)

NE16_RTL = replace(
    GAP9,  # the same lowering
    name="ne16_rtl",
    rounding_constant=False,  # open NE16 RTL: its rounding term is computed and never added; no 1 << (n - 1) in the bias
)

TFLITE_DOUBLE = Profile(
    name="tflite_double",
    formats=("int8", "int16"),  # the INT8 and 16x8 paths; BF16 is none of TFLite's quantized types
    law_8=LAW_DOUBLE,  # gemmlowp, TFLite reference kernels, CMSIS-NN default, TOSA DOUBLE_ROUND
    law_16=LAW_SINGLE,  # TFLite 16x8: (acc * M' + (1 << (14 - s))) >> (15 - s) in every build
    multiplier_8=Q31,  # TFLite QuantizeMultiplier
    multiplier_16=Q15,  # TFLite: M' = (M + 2^15) >> 16, or 0x7FFF
    multiplier_bits=31,
    multiplier_headroom=0,
    largest_shift=62,  # QuantizeMultiplier: s >= -31, so n = 31 - s <= 62; what lies below is 0
    largest_pre_shift=0,
    rounding_constant=True,
    unsigned_codes=False,  # int8 and int16
    symmetric=(16,),  # TFLite: zero point 0 at 16 bits
    power_of_two_scales=False,
    bias_unit=1,
    bias_bits=32,  # int32; int64 in 16x8, where 32 bits are proven enough
    add_8=ADD_SCALED,  # TFLite ADD: both inputs shifted left by 20, three multipliers
    add_16=ADD_SCALED,  # the same with 15
    scaled_law=LAW_DOUBLE,  # TFLite MUL and QUANTIZE
    width=32,
)

TFLITE_SINGLE = replace(
    TFLITE_DOUBLE,
    name="tflite_single",
    law_8=LAW_SINGLE,  # TFLITE_SINGLE_ROUNDING, CMSIS_NN_USE_SINGLE_ROUNDING, TOSA SINGLE_ROUND
    scaled_law=LAW_SINGLE,
)

MAX78002 = Profile(
    name="max78002",
    formats=("int8",),  # the CNN accelerator has 8-bit activations
    law_8=LAW_FOLDED,  # ai8x-synthesis: clip8(floor(0.5 + acc / 2^k)), which is M = 1 and no zero point
    law_16=LAW_FOLDED,
    multiplier_8=POWER_OF_TWO,  # ai8x: output_shift
    multiplier_16=POWER_OF_TWO,
    multiplier_bits=1,
    multiplier_headroom=0,
    largest_shift=22,  # ai8x: 7 - output_shift, output_shift from -15 to 15
    largest_pre_shift=0,
    rounding_constant=True,  # floor(0.5 + .)
    unsigned_codes=False,
    symmetric=(8, 16),  # ai8x: no zero points
    power_of_two_scales=True,  # ai8x: scales by shifts only
    bias_unit=128,  # ai8x: the bias is added shifted left by 7
    bias_bits=8,  # ai8x: 8-bit bias
    add_8=ADD_JOINT,  # the source is silent on operands of different scales: ours (SPEC E-2)
    add_16=ADD_JOINT,
    scaled_law=None,  # the accelerator has no multiplication of activations: ours (SPEC E-3)
    width=32,
)

PROFILES = {profile.name: profile for profile in (GAP9, NE16_RTL, TFLITE_DOUBLE, TFLITE_SINGLE, MAX78002)}


def profile_named(name: str) -> Profile:
    """The profile of that name; :class:`InputError` names the known ones."""
    if name not in PROFILES:
        raise InputError(f"profile {name!r} is unknown: use one of {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
