"""Two tensors bit by bit: where, by how much, how many, and which mistake of storage explains it all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.compare import Comparison, compare_digests, compare_tensors, explain, heat_map, histogram
from golden_vectors.layouts import map_features

Array = np.ndarray[Any, np.dtype[Any]]
MAP = ("frame", "bin", "channel")
random = np.random.default_rng(5)
CODES = random.integers(-128, 128, (3, 6, 6)).astype(np.int8)


def changed(values: Array, *places: tuple[tuple[int, ...], int]) -> Array:
    """``values`` with a number added at each place."""
    out = values.copy()
    for at, by in places:
        out[at] += by
    return out


def bf16(*patterns: int) -> Array:
    return np.array(patterns, np.uint16)


def f32(*patterns: int) -> Array:
    return np.array(patterns, np.uint32).view(np.float32)


def first_distance(form: str, expected: Array, actual: Array) -> int | None:
    first = compare_tensors("x", form, expected, actual).first
    assert first is not None
    return first.distance


def test_equal() -> None:
    found = compare_tensors("x", "int8", CODES, CODES.copy(), MAP)
    assert found == Comparison("x", "int8", (3, 6, 6), "equal", 108, frames=(0, 3))


def test_the_first_difference_is_named() -> None:
    actual = changed(CODES, ((2, 0, 0), 1), ((1, 5, 2), -3), ((1, 5, 4), 1))
    found = compare_tensors("x", "int8", CODES, actual, MAP)
    assert (found.status, found.mismatched, found.compared) == ("differs", 3, 108)
    assert found.first is not None
    assert (found.first.index, found.first.place) == ((1, 5, 2), "frame 1, bin 5, channel 2")
    assert (found.first.expected, found.first.actual) == (str(CODES[1, 5, 2]), str(actual[1, 5, 2]))
    assert found.first.expected_bits == f"0x{int(CODES[1, 5, 2]) & 0xFF:02X}"
    assert found.first.actual_bits == f"0x{int(actual[1, 5, 2]) & 0xFF:02X}"
    assert found.bad_frames == (1, 2)


def test_the_first_in_time_of_samples_by_speaker() -> None:
    expected = np.zeros((2, 100), np.int16)
    actual = changed(expected, ((0, 90), 1), ((1, 30), 1))
    found = compare_tensors("pcm_out", "int16", expected, actual, ("speaker", "sample"), time_axis=1)
    assert found.first is not None and found.first.place == "speaker 1, sample 30"
    assert found.frames is None


def test_a_part_is_compared_with_its_frames() -> None:
    actual = changed(CODES[1:2], ((0, 3, 3), 2))
    found = compare_tensors("x", "int8", CODES, actual, MAP, first=1)
    assert (found.frames, found.complete, found.compared, found.shape) == ((1, 2), False, 36, (3, 6, 6))
    assert found.first is not None and found.first.place == "frame 1, bin 3, channel 3"
    assert found.bad_frames == (1,)


@pytest.mark.parametrize(
    ("form", "expected", "actual", "distance"),
    [
        ("int8", np.array([-128], np.int8), np.array([127], np.int8), 255),
        ("uint8", np.array([255], np.uint8), np.array([0], np.uint8), -255),
        ("int32", np.array([-(2**31)], np.int32), np.array([2**31 - 1], np.int32), 2**32 - 1),
        ("int64", np.array([-(2**63)], np.int64), np.array([2**63 - 1], np.int64), 2**64 - 1),
        ("bf16", bf16(0x3F80), bf16(0x3F81), 1),
        ("bf16", bf16(0xBF80), bf16(0xBF81), -1),
        ("bf16", bf16(0x0000), bf16(0x8000), -1),  # the zeros differ in their bits, so they are not at distance zero
        ("bf16", bf16(0x8001), bf16(0x0001), 3),
        ("bf16", bf16(0x7F7F), bf16(0x7F80), 1),  # the largest number and infinity
        ("bf16", bf16(0x7F80), bf16(0xFF80), -2 * 0x7F80 - 1),
        ("f32", f32(0x3F800000), f32(0x3F7FFFFF), -1),
        ("f32", f32(0x00000000), f32(0x80000001), -2),
        ("f64", np.array([1.0]), np.array([np.nextafter(1.0, 2)]), 1),
    ],
)
def test_distances(form: str, expected: Array, actual: Array, distance: int) -> None:
    assert first_distance(form, expected, actual) == distance
    assert first_distance(form, actual, expected) == -distance


def test_nan() -> None:
    """Any NaN of a float is a NaN; of BF16 only 0x7FC0 is."""
    quiet, other = f32(0x7FC00000), f32(0xFFC12345)
    assert compare_tensors("x", "f32", quiet, other).status == "equal"
    assert compare_tensors("x", "f64", np.array([np.nan]), np.array([-np.nan])).status == "equal"
    found = compare_tensors("x", "bf16", bf16(0x7FC0, 0x3F80), bf16(0xFFC1, 0x3F82))
    assert found.status == "differs" and found.mismatched == 2
    assert found.first is not None and found.first.distance is None
    assert (found.first.expected, found.first.expected_bits, found.first.actual_bits) == ("nan", "0x7FC0", "0xFFC1")
    assert found.histogram == (("+2", 1), ("NaN", 1))
    assert found.largest == 2
    assert compare_tensors("x", "f32", f32(0x3F800000), quiet).histogram == (("NaN", 1),)
    assert compare_tensors("x", "bf16", bf16(0x7FC0), bf16(0x7FC0)).status == "equal"


def test_tolerance() -> None:
    actual = changed(CODES.astype(np.int16), ((0, 0, 0), 2), ((2, 1, 1), -1))
    expected = CODES.astype(np.int16)
    assert compare_tensors("x", "int16", expected, actual, tolerance=1).status == "differs"
    found = compare_tensors("x", "int16", expected, actual, tolerance=2)
    assert (found.status, found.mismatched, found.largest) == ("tolerated", 2, 2)
    assert compare_tensors("x", "f32", f32(0x3F800000), f32(0x7FC00000), tolerance=1 << 40).status == "differs"
    assert compare_tensors("x", "bf16", bf16(0x7FC0), bf16(0x7FC1), tolerance=1 << 40).status == "differs"


def test_histogram() -> None:
    distances = np.array([-300, -256, -255, -5, -4, -1, 1, 1, 2, 3, 15, 16, 17, 63, 64, 10**6])
    assert histogram(distances, 2) == (
        ("-256 and more", 2), ("-64 to -255", 1), ("-4 to -15", 2), ("-1", 1), ("+1", 2), ("+2", 1), ("+3", 1),
        ("+4 to +15", 1), ("+16 to +63", 3), ("+64 to +255", 1), ("+256 and more", 1), ("NaN", 2),
    )  # fmt: skip


def test_heat_map() -> None:
    unequal = np.zeros((2, 129, 4), bool)
    unequal[0, 7, 3] = unequal[1, 7, 3] = unequal[1, 128, 0] = True
    heat = heat_map(unequal, MAP)
    assert heat is not None and (heat.rows, heat.columns, heat.sizes) == ("bin", "channel", (129, 4))
    assert len(heat.counts) == 43 and heat.counts[2][3] == 2 and heat.counts[42][0] == 1
    assert sum(map(sum, heat.counts)) == 3
    long = heat_map(np.ones((100, 129, 4), bool), MAP)
    assert long is not None and (long.rows, long.columns) == ("frame", "bin")
    assert sum(map(sum, long.counts)) == 100 * 129 * 4
    flat = heat_map(np.ones(5, bool), ("element",))
    assert flat is not None and flat.counts == ((1, 1, 1, 1, 1),)
    assert heat_map(np.array(True), ()) is None


def test_a_single_number() -> None:
    found = compare_tensors("x", "int32", np.array(3, np.int32), np.array(5, np.int32))
    assert found.first is not None and (found.first.index, found.first.distance) == ((), 2)


WIDE = random.integers(-32768, 32768, (3, 6, 6)).astype(np.int16)


@pytest.mark.parametrize(
    ("form", "expected", "actual", "words"),
    [
        ("int16", WIDE, np.zeros_like(WIDE), "every element is 0"),
        ("int16", WIDE, WIDE.byteswap(), "--big-endian"),
        ("bf16", WIDE.view(np.uint16), WIDE.view(np.uint16).byteswap(), "--big-endian"),
        ("int8", CODES, (CODES.astype(np.int16) + 128).astype(np.uint8).view(np.int8), "off by 128"),
        ("int8", CODES, map_features(CODES, "chw").reshape(CODES.shape), "--layout chw"),
        ("int8", CODES, map_features(CODES, "ctf").reshape(CODES.shape), "--layout ctf"),
        ("int8", CODES, np.concatenate([CODES[:1], CODES[:-1]]), "the one before it"),
        ("int8", CODES, np.concatenate([CODES[1:], CODES[:1]]), "the one after it"),
    ],
)
def test_mistakes_of_storage(form: str, expected: Array, actual: Array, words: str) -> None:
    found = compare_tensors("x", form, expected, actual)
    assert words in found.explanation
    wrong = actual.copy()
    wrong[1, 5, 5] ^= 1
    assert words not in compare_tensors("x", form, expected, wrong).explanation


def test_no_mistake_where_one_value_is_everywhere() -> None:
    constant = np.full((3, 2), 0x0101, np.int16)
    assert explain("int16", constant, np.zeros_like(constant)) == ""
    assert explain("int8", CODES, CODES ^ 1) == ""


def test_digests() -> None:
    same = compare_digests("x", "int8", (2, 5), ("0000abcd", "12345678"), ("0000abcd", "12345678"))
    assert (same.status, same.by_digest, same.complete) == ("equal", True, True)
    other = compare_digests("x", "int8", (2, 5), ("0000abcd", "12345678"), ("0000abcd", "12345679"))
    assert (other.status, other.mismatched, other.bad_frames) == ("differs", 1, (1,))
    assert other.first is not None and other.first.place == "frame 1"
    short = compare_digests("x", "int8", (2, 5), ("0000abcd", "12345678"), ("0000abcd",))
    assert short.status == "unreadable" and "1 CRC-32 for 2" in short.explanation
