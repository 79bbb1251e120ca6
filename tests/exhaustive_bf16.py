"""Every FP32 pattern through the BF16 encoding, against ml_dtypes: ``python -m tests.exhaustive_bf16``.

All 2^32 inputs of SPEC B-1 in chunks of 2^24, with the progress on standard output. A number must have ml_dtypes'
pattern, a NaN the canonical 0x7FC0. Takes half a minute to a few minutes on one core, and 500 MB; ends with code 1 at
the first chunk that differs.
"""

from __future__ import annotations

import sys
import time

import ml_dtypes
import numpy as np

from refimpl.operators.convert import narrow_bf16

CHUNK = 1 << 24
NAN = 0x7FC0


def differing(first: int) -> np.ndarray:
    """The FP32 patterns of ``first .. first + CHUNK - 1`` whose encoding is wrong, uint32."""
    bits = np.arange(first, first + CHUNK, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    got = np.empty(CHUNK, np.uint16)
    narrow_bf16(values, got)
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    expected[np.isnan(values)] = NAN
    wrong: np.ndarray = bits[got != expected]
    return wrong


def main() -> int:
    begin = time.perf_counter()
    for index in range((1 << 32) // CHUNK):
        wrong = differing(index * CHUNK)
        if wrong.size:
            print(f"\n{wrong.size} patterns differ in chunk {index}; the first: 0x{int(wrong[0]):08x}")
            return 1
        print(f"\r{index + 1:3d} of 256 chunks, {time.perf_counter() - begin:5.0f} s", end="", flush=True)
    print(f"\nall {1 << 32} FP32 patterns encode as ml_dtypes does, NaN as 0x{NAN:04x}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
