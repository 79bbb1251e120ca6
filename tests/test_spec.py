"""The specification and the code name the same rules, and every worked example of the specification is recomputed."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refimpl.networks.tf_mlpnet import Config, build, parameters
from refimpl.numerics import bfloat16, rounding, transcendental
from refimpl.numerics.activation import NAMES as NAMES_OF
from refimpl.numerics.activation import device_code_table, variant
from refimpl.numerics.requantize import LAW_BF16, LAW_DOUBLE, LAW_FOLDED, LAW_NORM_TWICE, LAW_SINGLE, Requantizer, requantize
from refimpl.numerics.tables import code_table, shipped
from refimpl.operators import convert, fourier
from refimpl.presets import NAMES, Preset, load_preset
from refimpl.profiles import ADD_JOINT, ADD_SCALED, ADD_TWO_STAGE, GAP9, POWER_OF_TWO, PROFILES, Profile, profile_named
from refimpl.program import OPERATORS, Program, Tensor
from refimpl.quantization.lowering import Builder, analysis_window, synthesis_window
from refimpl.quantization.scheme import (
    activation_format,
    frexp_multiplier,
    largest_multipliers,
    q15_multiplier,
    q31_multiplier,
    quantize_layer,
    quantize_weights,
    sdk_multiplier,
    symmetric_format,
)
from refimpl.session import frames_of
from refimpl.version import ARITHMETIC
from refimpl.weights_io import Container

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "conformance" / "SPEC.md").read_text(encoding="utf-8")
Values = dict[str, Any]

# -- rules and citations ----------------------------------------------------------------------------------------------

HEADING = re.compile(r"^#+ ([A-Z]-\d+)\b", re.MULTILINE)
RULES = HEADING.findall(TEXT)
ONE = r"[A-Z]-\d+"
LIST = re.compile(rf"SPEC\s+({ONE}(?:(?:\s*,\s*|\s+to\s+|\s+and\s+|\s+or\s+)(?:SPEC\s+)?{ONE})*)")
CODE_FAMILIES = "NBTQGOLCEF"


def cited(text: str) -> tuple[set[str], set[str]]:
    """The rules that ``text`` cites: all of them, and those named by their own id rather than inside a range."""
    every: set[str] = set()
    named: set[str] = set()
    for match in LIST.finditer(text):
        parts = re.split(r"(\s*,\s*|\s+to\s+|\s+and\s+|\s+or\s+)", match.group(1).replace("SPEC", "").strip())
        ids, links = parts[::2], [link.strip() for link in parts[1::2]]
        ranged = {at for at, link in enumerate(links) if link == "to"}
        every |= set(ids)
        named |= {name for at, name in enumerate(ids) if at not in ranged and at - 1 not in ranged}
        for at in ranged:
            family, first = ids[at].split("-")
            last = ids[at + 1].split("-")
            assert family == last[0], f"a range over two families: {match.group(0)!r}"
            every |= {f"{family}-{n}" for n in range(int(first), int(last[1]) + 1)}
    return every, named


def sources() -> dict[str, str]:
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in sorted((ROOT / "refimpl").rglob("*.py"))}


def section(rule: str) -> str:
    """The text of one rule, from its heading to the next heading."""
    start = re.search(rf"^#+ {rule}\b", TEXT, re.MULTILINE)
    assert start is not None, rule
    rest = TEXT[start.end() :]
    end = re.search(r"^#+ ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def test_citations_are_understood() -> None:
    assert cited("(SPEC C-1 to C-3)") == ({"C-1", "C-2", "C-3"}, set())
    assert cited("(SPEC G-2, G-3, Q-9).") == ({"G-2", "G-3", "Q-9"},) * 2
    assert cited("g of SPEC T-2, T-3 (SPEC E-9)") == ({"T-2", "T-3", "E-9"},) * 2
    assert cited("SPEC Q-3, G-1 to G-3, Q-9")[1] == {"Q-3", "Q-9"}


def test_rule_ids_are_unique_and_consecutive() -> None:
    assert len(RULES) == len(set(RULES)) > 80
    for family in sorted({rule[0] for rule in RULES}):
        numbers = [int(rule[2:]) for rule in RULES if rule[0] == family]
        assert numbers == list(range(1, len(numbers) + 1)), f"family {family}: {numbers}"


@pytest.mark.parametrize("name", sources())
def test_every_cited_rule_exists(name: str) -> None:
    unknown = cited(sources()[name])[0] - set(RULES)
    assert not unknown, f"{name} cites {sorted(unknown)}, which SPEC.md does not have"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_cites_a_rule(name: str) -> None:
    kernel = getattr(OPERATORS[name], "py_func", OPERATORS[name])
    rules = cited(kernel.__doc__ or "")[0]
    assert rules and rules <= set(RULES), f"{name} cites no rule of SPEC.md"


def test_every_arithmetic_rule_is_cited_by_its_id() -> None:
    named = set().union(*(cited(text)[1] for text in sources().values()))
    orphans = [rule for rule in RULES if rule[0] in CODE_FAMILIES and rule not in named]
    assert not orphans, f"no code cites {orphans}"


def test_cross_references_exist() -> None:
    """A rule named anywhere in the specification is one of its rules."""
    unknown = set(re.findall(rf"\b{ONE}\b", TEXT)) - set(RULES)
    assert not unknown, sorted(unknown)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_names_its_width_and_its_source(rule: str) -> None:
    for label in ("Width", "Source"):
        assert re.search(rf"^{label}: ", section(rule), re.MULTILINE), f"{rule} has no line '{label}: ...'"


def test_contents_link_to_headings() -> None:
    titles = re.findall(r"^## (.*)", TEXT, re.MULTILINE)
    slugs = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([^)]*)\)", TEXT))
    assert links and links <= slugs, links - slugs


def test_form() -> None:
    assert max(len(line) for line in TEXT.splitlines()) <= 120
    assert f'version is `"{ARITHMETIC}"`' in TEXT


# -- worked examples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One fenced block ``example rule=X-n``: given values, then lines ``-> name = value``."""

    rule: str
    line: int
    given: Values
    wanted: Values


def examples() -> Iterator[Example]:
    lines = TEXT.splitlines()
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"```example rule=(\S+)", line)
        if not match:
            continue
        given: Values = {}
        wanted: Values = {}
        block = "\n".join(lines[number : lines.index("```", number)])
        for text in re.split(r"\n(?! )", block):  # an indented line continues the value before it
            target = wanted if text.startswith("-> ") else given
            name, value = text.removeprefix("-> ").split(" = ", 1)
            target[name] = ast.literal_eval(value)
        yield Example(match.group(1), number, given, wanted)


def i32(values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def f32(bits: list[int]) -> np.ndarray:
    return np.array(bits, np.uint32).view(np.float32)


def bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32).tolist()


def sha(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def out(operator: Callable[..., None], arguments: tuple[Any, ...], dtype: Any, like: np.ndarray) -> list[int]:
    y = np.empty(like.shape, dtype)
    operator(*arguments, y)
    return y.tolist()


def builder(
    kinds: dict[str, str], ranges: dict[str, Any], weights: dict[str, np.ndarray] | None = None, profile: str = "gap9"
) -> Builder:
    """A builder over tensors of the given formats and ranges (the same range at 8 and at 16 bits)."""
    table = {name: (float(lo), float(hi)) for name, (lo, hi) in ranges.items()}
    preset = Preset("example", (*kinds.items(), ("*", "int8")))
    return Builder(weights or {}, {8: table, 16: table}, preset, profile_named(profile))


def layer(given: Values, kind: str) -> Values:
    """One fully connected channel: weights, ranges and bias to the constants of its law, and some outputs."""
    weight = np.array([given["weights"]], np.float32)
    bias = np.array([given["bias"]], np.float32)
    ranges = {"x": given["x_range"], "y": given["y_range"]}
    made = builder({"x": kind, "y": kind}, ranges, {"l.weight": weight, "l.bias": bias}, given.get("profile", "gap9"))
    x = made.tensor("x", (1, weight.shape[1]))
    y = made.fully_connected("y", x, "l", "channels", relu=given.get("relu", False))
    codes, rq = made.steps[0].constants
    inputs = np.array(given["x"], np.int8 if kind == "int8" else np.int16).reshape(-1, 1, weight.shape[1])
    result = np.empty((len(inputs), 1, 1), inputs.dtype)
    OPERATORS["fully_connected_channels"](inputs, codes, rq, result)
    found = {
        "x_scale": x.format.scale, "x_zero_point": x.format.zero_point,
        "y_scale": y.format.scale, "y_zero_point": y.format.zero_point,
        "weight_codes": codes[:, 0].tolist(), "weight_scale": float(quantize_weights(weight, 0)[1][0]),
        "total": int(rq.bias[0]), "M": int(rq.multiplier[0]), "n": int(rq.shift[0]), "lowest": rq.lowest,
        "acc": (inputs[:, 0].astype(np.int64) @ codes[:, 0].astype(np.int64)).tolist(), "y": result.ravel().tolist(),
    }  # fmt: skip
    return found | ({"B": int(rq.addend[0])} if rq.law == LAW_FOLDED else {"p": rq.pre_shift})


def binary(given: Values, kinds: dict[str, str], method: str, names: tuple[str, ...]) -> Values:
    """An addition or multiplication of two tensors: the step's integer constants and its outputs."""
    made = builder(kinds, {name: given[f"{name}_range"] for name in "aby"}, profile=given.get("profile", "gap9"))
    tensors = [made.tensor(name, (1, 1)) for name in "ab"]
    y = getattr(made, method)("y", *tensors)
    step = made.steps[0]
    dtypes = {"int8": np.int8, "int16": np.int16}
    arrays = {t.name: np.array(given[t.name], dtypes[t.format.kind]) for t in tensors}
    result = np.empty(len(given["a"]), dtypes[y.format.kind])
    OPERATORS[step.operator](*(arrays[ref.tensor] for ref in step.inputs), *step.constants, result)
    found = dict(zip(names, (int(v) for v in step.constants), strict=False))
    zero_points = {f"{t.name}_zero_point": t.format.zero_point for t in (*tensors, y)}
    return found | zero_points | {"order": [r.tensor for r in step.inputs], "y": result.tolist()}


def multiplier_search(given: Values) -> Values:
    found = [frexp_multiplier(ratio, given["bits"], given["largest_shift"]) for ratio in given["ratios"]]
    return {"M": [m for m, _ in found], "n": [n for _, n in found]}


def beyond(given: Values) -> Values:
    found = [sdk_multiplier(ratio, GAP9.multiplier_bits, GAP9.largest_shift) for ratio in given["ratios"]]
    return {"M": [m for m, _ in found], "n": [n for _, n in found]}


def profiles(_: Values) -> Values:
    laws = {LAW_FOLDED: "G-2", LAW_NORM_TWICE: "G-3", LAW_DOUBLE: "G-6", LAW_SINGLE: "G-7", None: "-"}
    additions = {ADD_TWO_STAGE: "E-1", ADD_JOINT: "E-2", ADD_SCALED: "E-10"}
    made = list(PROFILES.values())

    def law_of(profile: Profile, law: int, rule: str) -> str:
        return "G-9" if rule == POWER_OF_TWO else laws[law]

    found: Values = {name: [getattr(p, name) for p in made] for name in ("unsigned_codes", "rounding_constant", "bias_unit")}
    wide = ["int16" in p.formats for p in made]
    return found | {
        "law_8": [law_of(p, p.law_8, p.multiplier_8) for p in made],
        "law_16": [law_of(p, p.law_16, p.multiplier_16) if w else "-" for p, w in zip(made, wide, strict=True)],
        "multiplier_bits": GAP9.multiplier_bits,
        "headroom": GAP9.multiplier_headroom,
        "largest_shift": [p.largest_shift for p in made],
        "largest_pre_shift": GAP9.largest_pre_shift,
        "width": GAP9.width,
        "add_8": [additions[p.add_8] for p in made],
        "add_16": [additions[p.add_16] if w else "-" for p, w in zip(made, wide, strict=True)],
        "scaled_law": [laws[p.scaled_law] for p in made],
    }


def scaled_codes(given: Values) -> Values:
    made = builder({"y": "int16"}, {"x": given["x_range"]}, profile=given["profile"])
    made.convert("y", made.tensor("x", (1, 1)))
    step = made.steps[0]
    result = np.empty(len(given["x"]), np.int16)
    OPERATORS[step.operator](np.array(given["x"], np.int8), *step.constants, result)
    return {"M": step.constants[2], "n": step.constants[3], "y": result.tolist()}


def long_multipliers(given: Values) -> Values:
    wide, reduced = ([f(r) for r in given["ratios"]] for f in (q31_multiplier, q15_multiplier))
    columns = zip(*wide, strict=True), zip(*reduced, strict=True)
    return dict(zip(("M", "n", "M_15", "n_15"), (list(c) for pair in columns for c in pair), strict=True))


def variant_tables(name: str) -> Callable[[Values], Values]:
    def made(given: Values) -> Values:
        tables = {NAMES_OF[function]: table for function, table in variant(name).bf16.items()}
        at = given["patterns"]
        return {n: t[at].tolist() for n, t in tables.items()} | {f"{n}_sha256": sha(t) for n, t in tables.items()}

    return made


def codes_through_table(given: Values) -> Values:
    g = given
    formats = (g["bits"], g["scale"], g["zero_point"], g["out_bits"], g["out_scale"], g["out_zero_point"])
    table = device_code_table(variant(g["variant"]), g["function"], *formats)
    low = -(1 << (g["bits"] - 1))
    return {"y": [int(table[q - low]) for q in g["codes"]], "sha256": sha(table)}


def bf16_tables(given: Values) -> Values:
    at = np.array(given["patterns"])
    tables = {name: shipped(f"{name}_bf16") for name in ("sigmoid", "tanh")}
    return {n: t[at].tolist() for n, t in tables.items()} | {f"{n}_sha256": sha(t) for n, t in tables.items()}


def activation_table(given: Values) -> Values:
    table = code_table(
        given["function"], given["bits"], given["scale"], given["zero_point"],
        given["out_bits"], given["out_scale"], given["out_zero_point"],
    )  # fmt: skip
    low = -(1 << (given["bits"] - 1))
    return {"y": [int(table[q - low]) for q in given["codes"]], "sha256": sha(table)}


def accumulator_to_bf16(given: Values) -> Values:
    one = np.zeros(1, np.int32)
    scale = f32([given["scale_bits"]])
    rq = Requantizer(LAW_BF16, 0, 0, 0, 0, i32([given["total"]]), one, one.astype(np.int64), one, scale)
    return {"y": [int(requantize(acc, 0, rq)) for acc in given["acc"]]}


def change_codes(given: Values) -> Values:
    made = builder({"x": "int8", "y": "int16"}, {"x": given["range"]})
    x = made.tensor("x", (1,))
    y = made.convert("y", x)
    _, m, n, *_ = made.steps[0].constants
    codes = np.array(given["x"], np.int8)
    found = out(OPERATORS["requantize_codes"], (codes, *made.steps[0].constants), np.int16, codes)
    return {"M": m, "n": n, "x_zero_point": x.format.zero_point, "y_zero_point": y.format.zero_point, "y": found}


def quantize(given: Values, operator: str) -> Values:
    inverse = np.float32(1.0 / given["scale"])
    source = f32(given["x"]) if operator == "quantize_f32" else np.array(given["x"], np.uint16)
    constants = (source, inverse, given["zero_point"], -128, 127)
    return {"inverse_bits": bits(np.array([inverse]))[0], "y": out(OPERATORS[operator], constants, np.int8, source)}


def dequantize(given: Values, operator: str) -> Values:
    codes = np.array(given["x"], np.int8)
    dtype = np.float32 if operator == "dequantize_f32" else np.uint16
    y = np.empty(codes.shape, dtype)
    OPERATORS[operator](codes, np.float32(given["scale"]), given["zero_point"], y)
    scale_bits = bits(np.array([given["scale"]]))[0]
    return {"scale_bits": scale_bits, "y": bits(y) if dtype == np.float32 else y.tolist()}


def fft(given: Values) -> Values:
    n = np.arange(128)
    zr, zi = (1000 * n - 60000).astype(np.int64), (500 * ((n * n) % 128) - 30000).astype(np.int64)
    fourier._complex_fft_128(zr, zi, shipped("twiddle_q30"), given["sign"])
    both = np.stack([zr, zi], 1)
    return {"z": both[given["bins"]].tolist(), "sha256": sha(both.astype(np.int32))}


def example_frame() -> np.ndarray:
    n = np.arange(256)
    return np.where(n == 10, 300, np.where(n == 200, -77, (n * n) % 7 - 3)).astype(np.int16)[None]


def forward(given: Values) -> Values:
    mantissa, exponent = np.empty((1, 129, 2), np.int32), np.empty((1, 1), np.int32)
    fourier.stft(example_frame(), analysis_window(given["window"]), shipped("twiddle_q30"), mantissa, exponent)
    return {"e": int(exponent[0, 0]), "m": mantissa[0][given["bins"]].tolist(), "sha256": sha(mantissa)}


def forward_f32(given: Values) -> Values:
    made = builder({"*": "f32"}, {})
    made.stft(made.source("frame", (256,)), given["window"])
    y = np.empty((1, 129, 2), np.float32)
    fourier.stft_f32(example_frame(), *made.steps[0].constants, y)
    return {"y": [bits(pair) for pair in y[0][given["bins"]]], "sha256": sha(y)}


def spectrum_codes(given: Values) -> Values:
    made = builder({}, {"spectrum": given["range"]})
    y = made.stft(made.source("frame", (256,)), "hann")
    m, n, zero_point, *_ = made.steps[1].constants
    codes = np.empty((1, 1, 2), np.int8)
    convert.block_to_code(i32([[given["m"]]]), i32([[given["e"]]]), *made.steps[1].constants, codes)
    return {"scale": y.format.scale, "M": m, "n": n, "zero_point": zero_point, "y": codes[0, 0].tolist()}


def spectrum_bf16(given: Values) -> Values:
    y = np.empty((1, 1, 2), np.uint16)
    convert.block_to_bf16(i32([[given["m"]]]), i32([[given["e"]]]), y)
    return {"y": y[0, 0].tolist()}


def to_block(given: Values) -> Values:
    x = np.zeros((1, 129, 2), np.uint16)
    x[0, : len(given["x"])] = given["x"]
    mantissa, exponent = np.empty((1, 1, 129, 2), np.int32), np.empty((1, 1), np.int32)
    convert.bf16_to_block(x, np.array([0]), np.array([1]), mantissa, exponent)
    return {"p": int(exponent[0, 0]), "m": mantissa[0, 0, : len(given["x"])].tolist()}


def codes_to_block(given: Values) -> Values:
    x = np.zeros((1, 129, 2), np.int8)
    x[0, : len(given["x"])] = given["x"]
    mantissa, exponent = np.empty((1, 1, 129, 2), np.int32), np.empty((1, 1), np.int32)
    convert.code_to_block(x, np.array([0]), np.array([1]), given["zero_point"], given["shift"], mantissa, exponent)
    return {"p": int(exponent[0, 0]), "m": mantissa[0, 0, : len(given["x"])].tolist()}


def inverse(given: Values) -> Values:
    k = np.arange(129)
    mantissa = np.stack([(k * 7919) % 2000003 - 1000001, (k * 104729) % 2000003 - 1000001], 1).astype(np.int32)
    window = np.rint(synthesis_window(analysis_window(given["window"])) * 2.0**29).astype(np.int32)
    head, tail = np.empty((1, 1, 96), np.int32), np.empty((1, 1, 64), np.int32)
    exponent = i32([[given["p"]]])
    fourier.istft(mantissa[None, None], exponent, window, shipped("twiddle_q30"), given["base"], head, tail)
    y = np.concatenate([head, tail], 2)[0, 0]
    return {"y": y[given["samples"]].tolist(), "sha256": sha(y)}


def inverse_f32(given: Values) -> Values:
    k = np.arange(129)
    parts = np.stack([(k * 7919) % 2003 - 1001, (k * 10473) % 2003 - 1001], 1).astype(np.float32)
    made = builder({"*": "f32"}, {})
    x = Tensor("x", (129, 2), made.tensor("x", (129, 2)).format)
    made.istft(x, given["window"], np.array([0]), np.array([1]))
    head, tail = np.empty((1, 1, 96), np.float32), np.empty((1, 1, 64), np.float32)
    fourier.istft_f32(parts[None], *made.steps[0].constants, head, tail)
    y = np.concatenate([head, tail], 2)[0, 0]
    return {"y": bits(y[given["samples"]]), "sha256": sha(y)}


def pcm(given: Values) -> Values:
    x = i32(given["x"]).reshape(1, 1, -1)
    y, clipped = np.empty(x.shape, np.int16), np.empty((1, 1), np.int32)
    fourier.to_pcm(x, y, clipped)
    return {"y": y.ravel().tolist(), "clipped": int(clipped[0, 0])}


def pcm_f32(given: Values) -> Values:
    x = f32(given["x"]).reshape(1, 1, -1)
    y, clipped = np.empty(x.shape, np.int16), np.empty((1, 1), np.int32)
    fourier.to_pcm_f32(x, y, clipped)
    return {"y": y.ravel().tolist(), "clipped": int(clipped[0, 0])}


def synthesis_constants(given: Values) -> Values:
    """The inverse's integer window and base shift, as the lowering makes them for a BF16 or a coded spectrum."""
    made = builder({"decoder": given["format"]}, {"decoder": given["range"]})
    x = made.tensor("decoder", (129, 2))
    made.istft(x, given["window"], np.array([0]), np.array([1]))
    table, _, base = next(step.constants for step in made.steps if step.operator == "istft")
    return {"base": base, "window": table[given["samples"]].tolist(), "sha256": sha(table)}


def tiny_container(_: Values) -> Values:
    config = Config(blocks=1, channels=1, hidden=1, mixers=1, compression=129)
    weights = {name: np.full(shape, 0.5, np.float32) for name, shape in parameters(config).items()}
    made = Container(config, weights, {8: {"encoder": (-1.0, 0.1)}}, ("fp32",), {"name": "x"})
    return {"header": json.dumps(made._header(), sort_keys=True), "sha256": made.digest}


def rounds(law: Callable[[int, int], int]) -> Callable[[Values], Values]:
    return lambda g: {"y": [int(law(value, g["n"])) for value in g["v"]]}


RECOMPUTE: dict[str, Callable[[Values], Values]] = {
    "N-1": rounds(rounding.shift_floor),
    "N-2": rounds(rounding.shift_half_up),
    "N-3": rounds(rounding.shift_half_even),
    "N-5": lambda g: {"y": [int(rounding.shift_saturate_int32(v, n)) for v, n in g["v_n"]]},
    "N-6": lambda g: {
        "y": [int(rounding.round_half_even_f32(np.float32(v), g["lowest"], g["highest"])) for v in g["x"]]
    },
    "N-7": rounds(rounding.shift_half_away),
    "N-8": lambda g: {"y": [int(rounding.doubling_high_half_up(a, b)) for a, b in g["a_b"]]},
    "B-1": lambda g: {"y": [int(bfloat16.bf16_encode(v)) for v in f32(g["x"])]},
    "B-3": lambda g: {"y": [int(bfloat16.bf16_add(np.uint16(a), np.uint16(b))) for a, b in g["a_b"]]},
    "B-4": lambda g: {"y": [int(bfloat16.bf16_mul(np.uint16(a), np.uint16(b))) for a, b in g["a_b"]]},
    "B-5": lambda g: {"y": [int(bfloat16.bf16_from_scaled(np.int32(m), k)) for m, k in g["m_k"]]},
    "B-6": bf16_tables,
    "T-1": lambda g: {
        "coefficients": [c.hex() for c in transcendental.FACTORIALS],
        "LN2_HIGH": transcendental.LN2_HIGH.hex(),
        "LN2_LOW": transcendental.LN2_LOW.hex(),
        "INVERSE_LN2": transcendental.INVERSE_LN2.hex(),
        "y": [float(transcendental.exp64(x)).hex() for x in g["x"]],
    },
    "T-2": lambda g: {"y": [float(transcendental.sigmoid64(x)).hex() for x in g["x"]]},
    "T-3": lambda g: {"y": [float(transcendental.tanh64(x)).hex() for x in g["x"]]},
    "T-4": activation_table,
    "T-5": variant_tables("sdk_fast"),
    "T-6": variant_tables("sdk_table"),
    "T-7": codes_through_table,
    "Q-1": lambda g: {
        "scale": [activation_format(lo, hi, g["bits"]).scale for lo, hi in g["ranges"]],
        "zero_point": [activation_format(lo, hi, g["bits"]).zero_point for lo, hi in g["ranges"]],
    },
    "Q-2": lambda g: {
        "codes": quantize_weights(np.array([g["w"]], np.float32), 0)[0][0].tolist(),
        "d": float(quantize_weights(np.array([g["w"]], np.float32), 0)[1][0]),
    },
    "Q-4": lambda g: quantize(g, "quantize_f32"),
    "Q-5": lambda g: quantize(g, "quantize_bf16"),
    "Q-6": lambda g: dequantize(g, "dequantize_f32"),
    "Q-7": lambda g: dequantize(g, "dequantize_bf16"),
    "Q-8": change_codes,
    "Q-9": accumulator_to_bf16,
    "Q-10": lambda g: dict(
        zip(("M", "n"), largest_multipliers(tuple(g["ratios"]), tuple(g["bounds"]), "x"), strict=True)
    ),
    "Q-11": scaled_codes,
    "Q-12": lambda g: {
        "scale": [symmetric_format(lo, hi, g["bits"], False).scale for lo, hi in g["ranges"]],
        "power_of_two": [symmetric_format(lo, hi, g["bits"], True).scale for lo, hi in g["ranges"]],
    },
    "Q-13": lambda g: dict(
        zip(("codes", "d"), (lambda c, d: (c.tolist(), d))(*quantize_layer(np.array(g["w"], np.float32))), strict=True)
    ),
    "G-1": multiplier_search,
    "G-2": lambda g: layer(g, "int8"),
    "G-3": lambda g: layer(g, "int16"),
    "G-4": beyond,
    "G-5": profiles,
    "G-6": lambda g: layer(g, "int8"),
    "G-7": lambda g: layer(g, "int8"),
    "G-8": long_multipliers,
    "G-9": lambda g: layer(g, "int8"),
    "E-1": lambda g: binary(g, {}, "add", ("Ma", "na", "Mo", "no", "bias")),
    "E-2": lambda g: binary(g, {"b": "int16"}, "add", ("za", "zb", "Ma", "Mb", "n")),
    "E-3": lambda g: binary(g, {}, "multiply", ("za", "zb", "M", "n")),
    "E-10": lambda g: binary(g, {}, "add", ("za", "zb", "law", "left", "Ma", "na", "Mb", "nb", "Mo", "no")),
    "E-11": lambda g: binary(g, {}, "multiply", ("za", "zb", "law", "M", "n")),
    "F-1": lambda g: {"table": shipped("twiddle_q30")[g["k"]].tolist(), "sha256": sha(shipped("twiddle_q30"))},
    "F-2": lambda g: {"table": shipped("hann_q30")[g["n"]].tolist(), "sha256": sha(shipped("hann_q30"))},
    "F-3": fft,
    "F-4": forward,
    "F-5": spectrum_bf16,
    "F-6": spectrum_codes,
    "F-7": to_block,
    "F-8": codes_to_block,
    "F-9": inverse,
    "F-11": pcm,
    "F-12": forward_f32,
    "F-13": inverse_f32,
    "F-15": pcm_f32,
    "F-16": lambda g: {"w": [float(synthesis_window(analysis_window(g["window"]))[i]).hex() for i in g["samples"]]},
    "F-17": synthesis_constants,
    "P-4": lambda g: {"frames": [len(frames_of(np.zeros(n, np.int16))) for n in g["n"]]},
    "W-2": tiny_container,
}  # fmt: skip


@pytest.mark.parametrize("example", list(examples()), ids=lambda e: f"{e.rule}-line{e.line}")
def test_worked_example(example: Example) -> None:
    found = RECOMPUTE[example.rule](example.given)
    assert example.wanted, "an example that gives nothing"
    for name, value in example.wanted.items():
        assert found[name] == value, f"SPEC.md:{example.line} {example.rule} {name}"


def test_every_recomputed_rule_has_an_example() -> None:
    assert {e.rule for e in examples()} == set(RECOMPUTE)
    for example in examples():
        assert f"line {example.line}" and example.rule in RULES


# -- tables of the network --------------------------------------------------------------------------------------------


def table(title: str) -> list[list[str]]:
    """The rows of the Markdown table under the line ``Table: title``."""
    lines = TEXT.splitlines()
    at = lines.index(f"Table: {title}")
    start = next(n for n in range(at, len(lines)) if lines[n].startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


@cache
def lowered(preset: str, compression: int) -> Program:
    config = Config(compression=compression)
    weights = {name: np.full(shape, 0.01, np.float32) for name, shape in parameters(config).items()}
    floats = build(config, weights, {}, load_preset("fp32"), GAP9)
    ranges = {bits: {name: (-1.0, 1.0) for name in floats.tensors} for bits in (8, 16)}
    return build(config, weights, ranges, load_preset(preset), GAP9)


@pytest.mark.parametrize("compression", [1, 2])
def test_table_of_formats(compression: int) -> None:
    """Every tensor of every shipped preset, its shape and its format, and no other."""
    rows = table("formats")
    for column, preset in enumerate(NAMES, 2):
        wanted: dict[str, tuple[str, str]] = {}
        for row in rows:
            if row[0].endswith(".weight"):
                steps = [step.name for step in lowered(preset, 1).steps if step.operator.startswith("fully_connected")]
                layer_names = [f"{name}.weight" for name in steps] if "*" in row[0] else [row[0]]
                assert all(load_preset(preset).kind(name) == row[column] for name in layer_names), row
                continue
            if compression == 1 and "(a > 1)" in row[1]:
                continue
            for block in range(1, 7) if "{b}" in row[0] else [0]:
                for mixer in (1, 2) if "{m}" in row[0] else [0]:
                    kinds = row[column].split(" / ")
                    kind = kinds[0] if len(kinds) == 1 or block % 2 else kinds[1]
                    if kind != "-":
                        name = row[0].replace("{b}", str(block)).replace("{m}", str(mixer))
                        wanted[name] = (row[1].replace(" (a > 1)", "").replace("F'", str(129 // compression)), kind)
        tensors = lowered(preset, compression).tensors
        assert {n: (str(list(t.shape)), t.format.kind) for n, t in tensors.items()} == wanted, preset


def test_table_of_parameters() -> None:
    config = Config(compression=2)
    wanted: dict[str, str] = {}
    for name, shape, *_ in table("parameters"):
        for block in range(6) if "{k}" in name else [0]:
            for mixer in range(2) if "{j}" in name else [0]:
                shown = shape.replace(" (a > 1)", "").replace("F'", "64").replace("a]", "2]")
                wanted[name.replace("{k}", str(block)).replace("{j}", str(mixer))] = shown
    assert {name: str(list(shape)) for name, shape in parameters(config).items()} == wanted


def test_table_of_steps() -> None:
    """The order of execution, by the names of the first output of each step, in the fp32 preset without compression."""
    rows = [row[0] for row in table("steps")]
    expanded: list[str] = []
    first = next(n for n, name in enumerate(rows) if "{b}" in name)
    last = max(n for n, name in enumerate(rows) if "{b}" in name)
    mixer = [name for name in rows if "{m}" in name]
    for n, name in enumerate(rows):
        if n == first:
            for block in range(1, 7):
                for inner in rows[first : last + 1]:
                    if inner == mixer[0]:
                        expanded += [m.replace("{m}", str(k)).replace("{b}", str(block)) for k in (1, 2) for m in mixer]
                    elif inner not in mixer:
                        expanded.append(inner.replace("{b}", str(block)))
        elif not first <= n <= last:
            expanded.append(name)
    for preset in NAMES:
        for compression in (1, 2):
            steps = [step.name for step in lowered(preset, compression).steps]
            order = [name for name in expanded if name in set(steps)]
            assert steps == order, (preset, compression)
