"""The numerics and operators levels of the golden vectors: complete, small, and showing the bugs that they name.

Wrong ports are imitated here by exact arithmetic that shares nothing with refimpl, or by wrong constants and wrong states.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_vectors.__main__ import main
from golden_vectors.case import FOLDER, Case, case_folder, encode, read_case
from golden_vectors.execute import execute, first_difference, verify
from golden_vectors.export.prepare import cut_frames
from golden_vectors.functions import FUNCTIONS
from golden_vectors.integers import Integers
from golden_vectors.suite import (
    SUITES,
    constants,
    elementwise,
    large,
    network,
    numerics,
    operators,
    profile_numerics,
    profile_operators,
    transforms,
)
from refimpl.numerics.requantize import LAW_NAMES, Requantizer
from refimpl.program import OPERATORS

ROOT = Path(__file__).resolve().parent.parent
MODULES = (numerics, constants, profile_numerics, operators, elementwise, transforms, profile_operators)
ARITHMETIC_FAMILIES = "NBTQGOLCEFA"
FLAGS: dict[str, Any] = json.loads((ROOT / "golden_vectors" / "flags.json").read_text(encoding="utf-8"))
SPEC = (ROOT / "conformance" / "SPEC.md").read_text(encoding="utf-8")
RULES = re.findall(r"^#+ ([A-Z]-\d+)\b", SPEC, re.MULTILINE)
INT32 = range(-(1 << 31), 1 << 31)
Array = np.ndarray[Any, np.dtype[Any]]


@cache
def directed() -> tuple[Case, ...]:
    return tuple(case for module in MODULES for case in module.cases())


@cache
def made_on_demand() -> tuple[Case, ...]:
    return tuple(large.cases())


@cache
def of_networks() -> tuple[Case, ...]:
    return tuple(network.cases())


def flagged(flag: str, operator: str = "") -> list[Case]:
    """Directed cases with that flag, of operators whose names begin so."""
    found = [case for case in directed() if flag in case.flags and case.steps[0].operator.startswith(operator)]
    assert found, f"no case of {operator} has flag {flag}"
    return found


def digests() -> dict[str, str]:
    """SHA-256 of every file of every directed case."""
    return {f"{case.id}/{name}": hashlib.sha256(data).hexdigest() for case in directed() for name, data in encode(case).items()}


# -- completeness -------------------------------------------------------------------------------------------------------


def test_committed_suites_are_these() -> None:
    assert SUITES["committed"] == (*MODULES, network) and large in SUITES["large"]


@pytest.mark.parametrize("name", [*OPERATORS, *FUNCTIONS])
def test_every_operator_and_function_has_cases(name: str) -> None:
    level = "operators" if name in OPERATORS else "numerics"
    cases = [case for case in directed() if case.steps[0].operator == name and case.level == level]
    assert len(cases) >= (2 if name in OPERATORS else 1), name
    assert all(case.id.startswith(f"{level}/{name}/") for case in cases if len(case.steps) == 1)


def test_every_rule_has_a_case_and_every_case_a_rule() -> None:
    assert all(case.rules for case in (*directed(), *made_on_demand(), *of_networks()))
    cited = {rule for case in directed() for rule in case.rules}
    assert [rule for rule in RULES if rule[0] in ARITHMETIC_FAMILIES and rule not in cited] == []
    cited |= {rule for case in of_networks() for rule in case.rules}
    assert len(RULES) > 90 and [rule for rule in RULES if rule not in cited] == []


def test_every_cited_rule_exists() -> None:
    for case in (*directed(), *made_on_demand(), *of_networks()):
        assert set(case.rules) <= set(RULES), case.id
        assert len(set(case.rules)) == len(case.rules), case.id


def test_flags_are_defined_once_and_used() -> None:
    committed = {flag for case in (*directed(), *of_networks()) for flag in case.flags}
    assert committed == set(FLAGS)
    assert {flag for case in made_on_demand() for flag in case.flags} <= committed
    for name, entry in FLAGS.items():
        assert set(entry) == {"bug", "effect", "rules"}, name
        assert entry["bug"].endswith(".") and entry["effect"].endswith("."), name
        assert entry["rules"] and set(entry["rules"]) <= set(RULES), name
    for kind in ("bug", "effect"):
        assert len({entry["bug"] for entry in FLAGS.values()}) == len(FLAGS), kind


def test_flags_and_cases_name_the_same_rules() -> None:
    """A case with a flag cites one of the flag's rules; an arithmetic rule of a flag is cited by one of its cases."""
    cited: dict[str, set[str]] = {flag: set() for flag in FLAGS}
    for case in (*directed(), *made_on_demand()):
        assert case.flags, case.id
        for flag in case.flags:
            assert set(case.rules) & set(FLAGS[flag]["rules"]), f"{case.id}: {flag}"
            cited[flag] |= set(case.rules)
    for case in of_networks():
        for flag in case.flags:
            cited[flag] |= set(case.rules)
    lost = {flag: set(FLAGS[flag]["rules"]) - rules for flag, rules in cited.items()}
    assert {flag: rules for flag, rules in lost.items() if rules} == {}


def test_ids_and_comments() -> None:
    cases = (*directed(), *made_on_demand())
    assert len({case.id for case in cases}) == len(cases)
    comments: set[tuple[str, str]] = set()
    for case in cases:
        key = case.steps[0].operator, case.comment
        assert case.comment.strip() == case.comment and len(case.comment) > 5 and "\n" not in case.comment, case.id
        assert key not in comments, f"{case.id}: its comment is that of another case"
        comments.add(key)


def test_seeds_are_recorded() -> None:
    """The same case id made with other random numbers would be another vector: whatever is random says its seed."""
    named = [case for case in (*directed(), *made_on_demand()) if "random" in case.id]
    assert len(named) > 30
    assert [case.id for case in named if case.seed is None] == []


def test_small_enough_for_the_repository() -> None:
    sizes = {case.id: sum(len(data) for data in encode(case).values()) for case in directed()}
    assert sum(sizes.values()) < 5 << 20
    small = [case_id for case_id, size in sizes.items() if size > 20 << 10]
    assert len(small) <= 8, small  # whole tables


def test_large_suite() -> None:
    """Every file below 16 MiB, every operator at the network's size or exhaustively."""
    for case in made_on_demand():
        assert max(len(data) for data in encode(case).values()) < 16 << 20, case.id
    covered = {step.operator for case in made_on_demand() for step in case.steps}
    arithmetic = {name for name in OPERATORS if name not in ("dequantize_f32", "overlap_add", "to_pcm", "overlap_add_f32")}
    others = {"to_pcm_f32", "code_to_block", "add_scaled", "multiply_scaled", "requantize_codes_scaled"}  # not gap9's
    assert arithmetic - covered - others == set()
    encode_case = next(case for case in made_on_demand() if case.id == "numerics/bf16_encode/exhaustive")
    words = encode_case.tensors["value"].values.view(np.uint32)
    assert len(np.unique(words)) == 6 << 16 and len(np.unique(words >> 16)) == 1 << 16


# -- the same bytes -----------------------------------------------------------------------------------------------------


def test_made_again_they_are_the_same() -> None:
    again = [encode(case) for module in MODULES for case in module.cases()]
    assert again == [encode(case) for case in directed()]


def test_without_a_compiler() -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "import json; from tests.test_golden_suites import digests; print(json.dumps(digests()))",
    ]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found, here = json.loads(done.stdout), digests()
    assert {name for name in here if found.get(name) != here[name]} == set() and len(found) == len(here)


def test_read_back_they_verify(tmp_path: Path) -> None:
    """Through files every expected tensor is found again; one changed bit of one is not."""
    for case in directed()[::9]:
        folder = case_folder(tmp_path, case.id)
        folder.mkdir(parents=True)
        for name, data in encode(case).items():
            (folder / name).write_bytes(data)
        back = read_case(folder)
        assert verify(back) is None, case.id
        name = next(name for name in case.names("expected") if case.tensors[name].values.size)
        wrong = back.tensors[name].values.copy()
        wrong.reshape(-1).view(np.uint8)[0] ^= 1
        assert verify(back.with_values({name: wrong})) is not None or np.isnan(wrong.reshape(-1)[0]), case.id


# -- SplitMix64 ---------------------------------------------------------------------------------------------------------


def words(seed: int) -> Iterator[int]:
    """SplitMix64 as its authors' C code runs it, on Python's integers."""
    mask, state = (1 << 64) - 1, seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_published_outputs() -> None:
    """The first outputs of the reference implementation for the seed 1234567, and for 0."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert Integers(1234567).words(5).tolist() == published
    assert [hex(word) for word in Integers(0).words(3).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@pytest.mark.parametrize("seed", [0, 1, 70, (1 << 64) - 1])
def test_words_in_any_portions(seed: int) -> None:
    stream = words(seed)
    expected = [next(stream) for _ in range(300)]
    source = Integers(seed)
    assert [word for count in (1, 0, 7, 292) for word in source.words(count).tolist()] == expected
    assert Integers(seed).between(-5, 250, 300).tolist() == [((w >> 32) * 256 >> 32) - 5 for w in expected]
    whole = [((w >> 32) * (1 << 24) >> 32) - (1 << 23) for w in expected]
    assert [float(v) for v in Integers(seed).fractions(300)] == [v * 2.0**-23 for v in whole]
    assert (
        Integers(seed).between(-(1 << 31), (1 << 31) - 1, (3, 100)).tolist()
        == np.reshape([(w >> 32) - (1 << 31) for w in expected], (3, 100)).tolist()
    )


# -- rounding: exact quotients ------------------------------------------------------------------------------------------


def floor(x: Fraction) -> int:
    return math.floor(x)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_even(x: Fraction) -> int:
    return round(x)


def half_away(x: Fraction) -> int:
    return -half_up(-x) if x < 0 else half_up(x)


def truncated(x: Fraction) -> int:
    return math.trunc(x)


ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "floor_for_round": floor,
    "tie_half_up": half_up,
    "tie_half_even": half_even,
    "tie_away": half_away,
    "truncation": truncated,
}
SHIFTS = {"shift_floor": floor, "shift_half_up": half_up, "shift_half_even": half_even}


def column(case: Case, name: str) -> list[int]:
    return [int(v) for v in case.tensors[name].values.reshape(-1)]


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_by_exact_quotients(name: str) -> None:
    """The vectors are the rule, and each rounding that a flag names gives another vector."""
    cases = [case for case in directed() if case.steps[0].operator == name]
    for case in cases:
        quotients = [Fraction(v, 1 << max(n, 0)) for v, n in zip(column(case, "value"), column(case, "shift"), strict=True)]
        assert column(case, "y") == [SHIFTS[name](q) for q in quotients], case.id
        for flag in set(case.flags) & set(ROUNDINGS):
            assert column(case, "y") != [ROUNDINGS[flag](q) for q in quotients], f"{case.id}: {flag}"
        if case.id.endswith("/ties"):
            ties = [q for q in quotients if q.denominator == 2]
            assert {(q > 0, math.floor(q) % 2) for q in ties} == {(sign, odd) for sign in (False, True) for odd in (0, 1)}


def test_floats_to_integers_by_exact_quotients() -> None:
    cases = [case for case in directed() if case.steps[0].operator == "round_half_even_f32"]
    for case in cases:
        low, high = case.steps[0].constants
        values = [float(v) for v in case.tensors["value"].values]
        expected = [0 if math.isnan(v) else low if v <= low else high if v >= high else round(Fraction(v)) for v in values]
        assert column(case, "y") == expected, case.id
        finite = [(v, y) for v, y in zip(values, expected, strict=True) if math.isfinite(v)]
        for flag in set(case.flags) & set(ROUNDINGS):
            wrong = [min(max(ROUNDINGS[flag](Fraction(v)), low), high) for v, _ in finite]
            assert wrong != [y for _, y in finite], f"{case.id}: {flag}"


def test_saturation_shows_both_ends() -> None:
    for case in (case for case in directed() if case.steps[0].operator == "saturate"):
        low, high = case.steps[0].constants
        pairs = list(zip(column(case, "value"), column(case, "y"), strict=True))
        assert all(y == min(max(v, low), high) for v, y in pairs), case.id
        wanted = {(low - 1, low), (low, low), (low + 1, low + 1), (high - 1, high - 1), (high, high), (high + 1, high)}
        assert wanted <= set(pairs), case.id


# -- BF16: exact values -------------------------------------------------------------------------------------------------


def value_of(pattern: int) -> Fraction:
    """The exact value of a finite BF16 pattern."""
    field, units = (pattern >> 7) & 255, pattern & 127
    magnitude = Fraction(units + (128 if field else 0)) * Fraction(2) ** (max(field, 1) - 134)
    return -magnitude if pattern >> 15 else magnitude


def nearest(x: Fraction, rounding: Callable[[Fraction], int] = half_even, flush: bool = False) -> int:
    """The BF16 pattern of a value that is not zero, rounded once."""
    exponent = max(math.floor(math.log2(abs(x))), -126)
    exponent += (abs(x) >= Fraction(2) ** (exponent + 1)) - (exponent > -126 and abs(x) < Fraction(2) ** exponent)
    units = abs(rounding(x / Fraction(2) ** (exponent - 7)))
    if units == 256:
        exponent, units = exponent + 1, 128
    if flush and units < 128:
        units = 0
    field = exponent + 127 if units >= 128 else 0
    return (0x8000 if x < 0 else 0) | (0x7F80 if field > 254 else (field << 7) + units - (128 if field else 0))


def is_finite(pattern: int) -> bool:
    return pattern & 0x7F80 != 0x7F80


@pytest.mark.parametrize(("name", "combine"), [("bf16_add", Fraction.__add__), ("bf16_mul", Fraction.__mul__)])
def test_bf16_by_exact_values(name: str, combine: Callable[[Fraction, Fraction], Fraction]) -> None:
    """Sums and products rounded once from their exact values; cut off, flushed or tied otherwise, some differ."""
    wrongs: dict[str, Any] = {
        "truncation": {"rounding": truncated},
        "tie_half_up": {"rounding": half_away},  # magnitudes are rounded: up is away from zero
        "bf16_subnormal_flushed": {"flush": True},
    }
    for case in (case for case in directed() if case.steps[0].operator == name):
        a, b, y = (column(case, key) for key in "aby")
        chosen = [i for i in range(len(y)) if is_finite(a[i]) and is_finite(b[i])]
        exact = {i: combine(value_of(a[i]), value_of(b[i])) for i in chosen}
        exact = {i: x for i, x in exact.items() if x}
        assert len(exact) > 4 and all(nearest(x) == y[i] for i, x in exact.items()), case.id
        for flag, options in wrongs.items():
            if flag in case.flags:
                assert any(nearest(x, **options) != y[i] for i, x in exact.items()), f"{case.id}: {flag}"


def test_bf16_special_pairs_are_all_there() -> None:
    """Every ordered pair of special values; NaN is one pattern, infinities and the sign of zero are IEEE 754's."""
    for name, combine in (("bf16_add", np.add), ("bf16_mul", np.multiply)):
        case = next(case for case in directed() if case.id == f"numerics/{name}/special_pairs")
        a, b, y = (case.tensors[key].values for key in "aby")
        assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(np.unique(a)) ** 2 >= 900
        wide = [(p.astype(np.uint32) << np.uint32(16)).view(np.float32) for p in (a, b)]
        with np.errstate(all="ignore"):
            result = combine(*wide)
        nan, zero = np.isnan(result), result == 0
        assert nan.any() and (y[nan] == 0x7FC0).all() and ((y == 0x7FC0) == nan).all()
        assert (y[zero] == np.where(np.signbit(result[zero]), 0x8000, 0)).all() and {0, 0x8000} <= set(y[zero].tolist())
        infinite = np.isinf(result)
        assert (y[infinite] == np.where(result[infinite] > 0, 0x7F80, 0xFF80)).all() and infinite.any()


def test_bf16_from_integers_by_exact_values() -> None:
    seen = False
    for case in (case for case in directed() if case.steps[0].operator == "bf16_from_scaled"):
        triples = zip(column(case, "mantissa"), column(case, "exponent"), column(case, "y"), strict=True)
        for m, k, y in triples:
            exact = m * Fraction(2) ** k
            assert y == (nearest(exact) if m else 0), case.id
            seen |= bool(m) and nearest(Fraction(float(np.float32(m))) * Fraction(2) ** k) != y
    assert seen, "no integer shows the rounding through FP32"


# -- laws and layers: exact sums ----------------------------------------------------------------------------------------


def law(acc: int, channel: int, rq: Requantizer, merged: bool = False) -> int:
    """SPEC G-2, G-3, G-6 and G-7 from total, M and n, one rounding where ``merged``."""
    total, m, n = int(rq.bias[channel]), int(rq.multiplier[channel]), int(rq.shift[channel])
    name = LAW_NAMES[rq.law]
    if name == "folded" and not merged and n:
        constant = int(rq.addend[channel]) - total * m  # a profile may leave the rounding constant out
        assert constant in (0, 1 << (n - 1))
        value = math.floor(Fraction((acc + total) * m + constant, 1 << n))
    elif name == "double" and not merged:
        high = half_up(Fraction(((acc + total) << max(31 - n, 0)) * m, 1 << 31))
        value = half_away(Fraction(high, 1 << max(n - 31, 0)))
    elif name in ("folded", "single") or merged:
        value = half_up(Fraction((acc + total) * m, 1 << n)) if n else (acc + total) * m
    else:
        first = half_up(Fraction(acc + total, 1 << rq.pre_shift)) if rq.pre_shift else acc + total
        rest = n - rq.pre_shift
        value = half_up(Fraction(first * m, 1 << rest)) if rest else first * m
    return min(max(value, rq.lowest), rq.highest) + rq.offset


def widths(acc: int, channel: int, rq: Requantizer) -> Iterator[int]:
    """Every intermediate value of a law that must fit 32 bits (SPEC O-1)."""
    total, m, n = int(rq.bias[channel]), int(rq.multiplier[channel]), int(rq.shift[channel])
    yield from (acc, acc + total)
    if LAW_NAMES[rq.law] == "folded":
        addend = int(rq.addend[channel])
        yield from (acc * m, addend, acc * m + addend)
    if LAW_NAMES[rq.law] == "double":
        yield (acc + total) << max(31 - n, 0)
    if LAW_NAMES[rq.law] == "norm_twice":
        p = rq.pre_shift
        first = acc + total + ((1 << p) >> 1)
        yield from (first, (first >> p) * m + ((1 << (n - p)) >> 1))


def requantizers(case: Case) -> list[Requantizer]:
    return [c for step in case.steps for c in step.constants if isinstance(c, Requantizer)]


def sums(case: Case) -> Iterator[tuple[int, int, int, int]]:
    """Of an integer layer: accumulator, the same of unsigned codes, the law's channel, and the expected value."""
    step, y = case.steps[0], case.tensors["y"].values
    x, weight = case.tensors["x"].values.astype(np.int64), np.asarray(step.constants[0]).astype(np.int64)
    half = 128 if case.tensors["x"].format == "int8" else 32768
    if step.operator == "fully_connected_frequency":
        terms = lambda at: (weight[at[1]], x[at[0], :, at[2]], at[1])  # noqa: E731
    elif step.operator == "fully_connected_channels":
        if step.inputs[0].past:
            x = np.concatenate([case.tensors["x.past"].values, x[:-1]])
        terms = lambda at: (weight[:, at[2]], x[at[0], at[1]], at[2])  # noqa: E731
    elif step.operator == "conv_strided":
        a = len(weight)
        terms = lambda at: (weight[..., at[2]], x[at[0], at[1] * a : at[1] * a + a], at[2])  # noqa: E731
    elif step.operator == "conv_strided_transposed":
        a, padding = len(weight), int(step.constants[1])
        wide = np.concatenate([x, np.full((len(x), a, x.shape[2]), padding)], 1)
        terms = lambda at: (weight[at[1] % a, :, at[2]], wide[at[0], at[1] // a], at[1] % a * y.shape[2] + at[2])  # noqa: E731
    else:
        below, padding = int(step.constants[1]), int(step.constants[2])
        wide = np.concatenate([case.tensors["x.past"].values, x])
        wide = np.pad(wide, ((0, 0), (2, 2), (0, 0)), constant_values=padding)
        if step.operator == "conv_causal":
            terms = lambda at: (weight[..., at[2]], wide[at[0] : at[0] + 3, at[1] + 2 - below :][:, :3], at[2])  # noqa: E731
        else:  # tap k, j reads frame 2 - k of three and bin f - j + below
            flipped = weight[::-1, ::-1]
            terms = lambda at: (flipped[..., at[2]], wide[at[0] : at[0] + 3, at[1] + below :][:, :3], at[2])  # noqa: E731
    for at in np.ndindex(y.shape):
        w, values, channel = terms(at)
        yield int((w * values).sum()), int((w * (values + half)).sum()), channel, int(y[at])


def integer_layers() -> list[Case]:
    return [case for case in directed() if case.level == "operators" and requantizers(case)]


def test_layers_by_exact_sums() -> None:
    """Every integer layer's expected values from plain sums, and every intermediate value within 32 bits."""
    seen, checked = set(), 0
    for case in integer_layers():
        rq = requantizers(case)[0]
        for acc, unsigned, channel, y in sums(case):
            assert all(value in INT32 for value in (unsigned, *widths(acc, channel, rq))), f"{case.id}: {acc}"
            if LAW_NAMES[rq.law] == "raw":
                assert y == acc + int(rq.bias[channel]), case.id
            elif LAW_NAMES[rq.law] != "bf16":
                assert y == law(acc, channel, rq), case.id
            checked += 1
        seen.add((case.steps[0].operator, LAW_NAMES[rq.law]))
    assert checked > 2000
    names = [name for name in OPERATORS if name.startswith(("fully_connected", "conv")) and not name.endswith(("f32", "bf16"))]
    assert {(name, kind) for name in names for kind in ("folded", "norm_twice", "raw")} <= seen


def test_accumulators_of_the_laws() -> None:
    """The laws alone: by exact arithmetic, within 32 bits, and different with one rounding where a flag says so."""
    for case in (case for case in directed() if case.steps[0].operator == "requantize_accumulators"):
        rq = requantizers(case)[0]
        acc, channel, y = (column(case, name) for name in ("accumulator", "channel", "y"))
        for a, c in zip(acc, channel, strict=True):
            assert all(value in INT32 for value in widths(a, c, rq)), f"{case.id}: {a}"
        if LAW_NAMES[rq.law] in ("folded", "norm_twice", "double", "single"):
            assert y == [law(a, c, rq) for a, c in zip(acc, channel, strict=True)], case.id
            if "single_rounding" in case.flags:
                assert y != [law(a, c, rq, merged=True) for a, c in zip(acc, channel, strict=True)], case.id
            if "saturation_high" in case.flags:
                assert rq.highest + rq.offset in y, case.id
            if "saturation_low" in case.flags:
                assert rq.lowest + rq.offset in y, case.id
            if "tie_half_even" in case.flags:
                ratio = [
                    Fraction((a + int(rq.bias[c])) * int(rq.multiplier[c]), 1 << int(rq.shift[c]))
                    for a, c in zip(acc, channel, strict=True)
                ]
                assert {math.floor(r) % 2 for r in ratio if r.denominator == 2} == {0, 1}, case.id


# -- wrong constants and wrong states show ------------------------------------------------------------------------------


def differs(case: Case, changed: Case) -> bool:
    return first_difference(case, execute(changed)) is not None


def with_requantizer(case: Case, change: Callable[[Requantizer], Requantizer]) -> Case:
    steps = tuple(
        replace(step, constants=tuple(change(c) if isinstance(c, Requantizer) else c for c in step.constants))
        for step in case.steps
    )
    return replace(case, steps=steps)


def without_bias(rq: Requantizer) -> Requantizer:
    return rq._replace(bias=np.zeros_like(rq.bias), addend=rq.addend - rq.bias.astype(np.int64) * rq.multiplier)


def first_channel(rq: Requantizer) -> Requantizer:
    arrays = {key: np.full_like(value, value[0]) for key, value in rq._asdict().items() if isinstance(value, np.ndarray)}
    return rq._replace(**arrays)


@pytest.mark.parametrize("flag", ["bias_dropped", "channel_constants", "relu_before_zero_point"])
def test_a_wrong_requantizer_shows(flag: str) -> None:
    changes = {
        "bias_dropped": without_bias,
        "channel_constants": first_channel,
        "relu_before_zero_point": lambda rq: rq._replace(lowest=rq.highest - (255 if rq.law == 0 else 65535)),
    }
    cases = [case for case in flagged(flag) if requantizers(case)]
    assert len(cases) > 5
    for case in cases:
        assert differs(case, with_requantizer(case, changes[flag])), case.id


@pytest.mark.parametrize("operator", ["conv_causal", "conv_transposed_causal"])
@pytest.mark.parametrize("kind", ["", "_f32", "_bf16"])
def test_exchanged_or_stale_frames_and_paddings_show(operator: str, kind: str) -> None:
    name = operator + kind
    cases = [case for case in directed() if case.steps[0].operator == name]
    for case in cases:
        past = case.tensors["x.past"].values
        if "swapped_state" in case.flags:
            # An impulse may be past in one frame only.
            cuts = [cut_frames(case, t, None) for t in range(len(case.tensors["x"].values))]
            swapped = [cut.with_values({"x.past": cut.tensors["x.past"].values[::-1].copy()}) for cut in cuts]
            assert any(map(differs, cuts, swapped)), case.id
        if "stale_state" in case.flags:
            assert differs(case, case.with_values({"x.past": np.stack([past[0], past[0]])})), case.id
        if "padding_side" in case.flags:
            step = case.steps[0]
            at = 1 if kind == "" else 2
            values = (*step.constants[:at], 1 - step.constants[at], *step.constants[at + 1 :])
            assert differs(case, replace(case, steps=(replace(step, constants=values),))), case.id
    flags = {flag for case in cases for flag in case.flags}
    assert {"swapped_state", "padding_side"} <= flags


@pytest.mark.parametrize("flag", ["stale_state", "frame_off_by_one"])
def test_the_current_frame_is_not_the_one_before(flag: str) -> None:
    """Operators that read a past frame only: the current one in its place gives other values."""
    cases = [case for case in flagged(flag) if [ref for ref in case.steps[0].inputs if ref.past and not ref.current]]
    assert len({case.steps[0].operator for case in cases}) >= 5
    for case in cases:
        name = next(ref.tensor for ref in case.steps[0].inputs if ref.past)
        given, past = case.tensors[name].values, case.tensors[f"{name}.past"].values
        moved = np.concatenate([given, given[-1:]])
        assert differs(case, case.with_values({f"{name}.past": moved[:1], name: moved[1:]})), case.id
        assert not np.array_equal(given[:1], past), case.id


def changed_constant(case: Case, name: str, value: Any) -> Case:
    """The case with one constant replaced, by the position of its name among the operator's parameters."""
    step = case.steps[0]
    function: Any = OPERATORS[step.operator]
    code = getattr(function, "py_func", function).__code__
    at = code.co_varnames[: code.co_argcount].index(name) - len(step.inputs)
    return replace(case, steps=(replace(step, constants=(*step.constants[:at], value, *step.constants[at + 1 :])),))


def test_zero_points_speakers_and_gates_show() -> None:
    for operator, names in (("add_joint", ("za", "zb", "zero_point")), ("multiply", ("za", "zb", "zero_point"))):
        for case in flagged("zero_point_sign", operator):
            for name in names:
                assert differs(case, changed_constant(case, name, 0)), f"{case.id}: {name}"
    for case in [*flagged("channel_order", "bf16_to_block"), *flagged("channel_order", "code_to_block")]:
        step = case.steps[0]
        swapped = replace(step, constants=(step.constants[1], step.constants[0], *step.constants[2:]))
        assert differs(case, replace(case, steps=(swapped,))), case.id
    for case in flagged("gate_order"):
        if case.steps[0].operator in ("lookup", "activate_f32"):
            assert differs(case, changed_constant(case, "start", 1)), case.id


def test_order_of_float_sums_shows() -> None:
    """Bias last, all in FP64, gives other bits than the rule in every case that claims it."""
    for axis in ("frequency", "channels"):
        for case in flagged("sum_order", f"fully_connected_{axis}_f32"):
            weight, bias, relu = case.steps[0].constants
            x = case.tensors["x"].values.astype(np.float64)
            if axis == "frequency":
                late = np.einsum("gf,tfc->tgc", weight.astype(np.float64), x) + bias.astype(np.float64)[:, None]
            else:
                late = np.einsum("cd,tfc->tfd", weight.astype(np.float64), x) + bias.astype(np.float64)
            assert not relu and not np.array_equal(late.astype(np.float32), case.tensors["y"].values), case.id


def test_transforms_are_near_the_exact_ones() -> None:
    """The forward transform of every frame against NumPy's, within the rounding of its stages."""
    cases = [case for case in directed() if case.steps[0].operator == "stft"]
    for case in cases:
        window = case.steps[0].constants[0].astype(np.float64) / 2**30
        frame, exponent = case.tensors["frame"].values.astype(np.float64), case.tensors["exponent"].values
        exact = np.fft.rfft(frame * window) / 2**15
        found = case.tensors["mantissa"].values * 2.0 ** -(22.0 + exponent[:, :, None])
        error = np.abs(found[..., 0] + 1j * found[..., 1] - exact) * 2.0 ** (22.0 + exponent)
        assert error.max() < 64, case.id
        peak = np.abs(case.tensors["frame"].values.astype(np.int64)).max(1)
        for p, e in zip(peak.tolist(), exponent[:, 0].tolist(), strict=True):
            assert (e == 0 and p == 0) or (p << e >= 1 << 14 and (e == 0 or p << (e - 1) < 1 << 14)), case.id
    exponents = {int(e) for case in cases for e in case.tensors["exponent"].values.reshape(-1)}
    assert {0, 1, 2, 14} <= exponents


def test_pcm_is_rounded_half_to_even_and_counted() -> None:
    for case in (case for case in directed() if case.steps[0].operator == "to_pcm"):
        x = case.tensors["x"].values
        exact = [[[round(Fraction(int(v), 1 << 12)) for v in row] for row in frame] for frame in x]
        clipped = [[sum(not -32768 <= v <= 32767 for v in row) for row in frame] for frame in exact]
        assert case.tensors["pcm"].values.tolist() == np.clip(exact, -32768, 32767).tolist(), case.id
        assert case.tensors["clipped"].values.tolist() == clipped, case.id


def test_levels_come_in_order() -> None:
    """A reader who goes from the first case to the last meets every rule before what is made of it."""
    ranks = ["numerics", "operators"]
    levels = [ranks.index(case.level) for case in directed()]
    assert all(first <= second for first, second in pairwise(levels))


def test_committed_suite_is_what_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    """The gate: every file of the repository's suite is as refimpl computes it now, and its bytes as made anew."""
    assert main(["verify", "--regenerate"]) == 0, capsys.readouterr()
    total = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert total < 20 << 20
