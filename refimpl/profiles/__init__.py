"""Arithmetic profiles: one small frozen table of facts per accelerator, every field with its source.

The lowering reads the fields; no operator and no lowering rule asks for a profile's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from refimpl.errors import InputError
from refimpl.numerics.requantize import LAW_FOLDED, LAW_NORM_TWICE

ADD_TWO_STAGE = "two_stage"  # SPEC E-1
ADD_JOINT = "joint"  # SPEC E-2


@dataclass(frozen=True)
class Profile:
    """What an accelerator's arithmetic is, as far as lowering must know it (SPEC G-5)."""

    name: str
    law_8: int  # requantization law where input and output are 8-bit
    law_16: int  # requantization law where either is 16-bit
    multiplier_bits: int  # widest M
    multiplier_headroom: int  # M's bits <= 31 - max(ceil(log2 K) + headroom, bits of the bias)
    largest_shift: int  # n
    largest_pre_shift: int  # p of LAW_NORM_TWICE
    unsigned_codes: bool  # activations are unsigned on the device: the output zero point is folded as such
    add_8: str  # residual add of two 8-bit tensors into an 8-bit tensor
    add_16: str  # any other residual add
    width: int  # bits of accumulator, product, addend and their sum


GAP9 = Profile(
    name="gap9",
    law_8=LAW_FOLDED,  # GreenWaves nntool, NE16 lowering: bias and zero points folded, rounding constant in the bias
    law_16=LAW_NORM_TWICE,  # the same SDK: NE16 streams the INT32 accumulator out, software epilogue norm(norm(.) * M)
    multiplier_bits=8,  # NE16: unsigned 8-bit scale per output channel
    multiplier_headroom=14,  # nntool: 31 - max(ceil(log2 K) + 14, bits of the bias)
    largest_shift=24,  # nntool: while n > 24, one bit less
    largest_pre_shift=8,  # SDK kernels: p = min(8, min n)
    unsigned_codes=True,  # uint8 and uint16 activations
    add_8=ADD_TWO_STAGE,  # SDK kernel: norm((norm(a * Ma, na) + b) * Mo, no) + bias
    add_16=ADD_JOINT,  # the source is silent: ours (SPEC E-2)
    width=32,  # NE16 accumulators and the cluster's registers
)

PROFILES = {profile.name: profile for profile in (GAP9,)}


def profile_named(name: str) -> Profile:
    """The profile of that name; :class:`InputError` names the known ones."""
    if name not in PROFILES:
        raise InputError(f"profile {name!r} is unknown: use one of {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
