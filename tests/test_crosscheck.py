"""The cross-checks' own promises, without the oracles; and the one oracle that the test extra has, ml_dtypes, in small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from refimpl.operators import elementwise
from refimpl.profiles import PROFILES
from refimpl.quantization.scheme import q15_multiplier, q31_multiplier
from tests.crosscheck import __main__ as cli
from tests.crosscheck import bf16
from tests.crosscheck.layers import INPUTS, KINDS, OUTPUTS, Kind, Layer, lower, random_case, random_scale
from tests.crosscheck.rows import DIFFERS, EQUAL, Oracle, Row, Tally, installed


@pytest.mark.parametrize(
    ("values", "differing", "expected", "passed"),
    [
        (9, 0, EQUAL, True),
        (9, 1, EQUAL, False),
        (9, 1, DIFFERS, True),
        (9, 0, DIFFERS, False),
        (9, 3, None, True),
        (0, 0, EQUAL, False),
        (0, 0, None, False),
    ],
)
def test_a_row_is_judged(values: int, differing: int, expected: str | None, passed: bool) -> None:
    assert Row("x", values, differing, expected).passed is passed


def test_a_tally_counts_and_keeps_the_largest() -> None:
    tally = Tally("x")
    tally.add(np.array([1, 2, -128], np.int8), np.array([1, 5, 127], np.int8))
    tally.add(np.array([7], np.int8), np.array([7], np.int8))
    assert tally.row() == Row("x", 4, 2, EQUAL, 255)
    with pytest.raises(ValueError, match="shapes"):
        tally.add(np.zeros(2), np.zeros(3))


def container_axes(kind: Kind, codes: np.ndarray) -> np.ndarray:
    """[out, time, bins, in] as refimpl's kernels hold weights."""
    if kind.size == (1, 1):
        return codes.reshape(OUTPUTS, INPUTS).T
    moved = codes.transpose(1, 2, 3, 0)
    return moved if kind.size[0] == 3 else moved[0]


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lowering_finds_what_the_oracle_is_given(kind: Kind, activations: str) -> None:
    """Codes, biases and FP32 scales exactly; then the multipliers are those of the scales that the file holds."""
    rng = np.random.default_rng(3)
    for index in range(8):
        layer, _ = random_case(rng, kind, activations, index)
        step = lower(kind, layer, PROFILES["tflite_double"])
        weight, rq = step.constants[0], step.constants[-1]
        np.testing.assert_array_equal(weight, container_axes(kind, layer.codes))
        for scale in (layer.x.scale, layer.y.scale, *layer.scales):
            assert float(np.float32(scale)) == scale
        assert_constants(layer, rq)


def assert_constants(layer: Layer, rq: object) -> None:
    """Of every channel, or of channel and tap: the bias with the folded zero point, and (M, n) of ``Sx * Sw / Sy``."""
    rule = q31_multiplier if layer.x.bits == 8 else q15_multiplier
    pairs = [rule(layer.x.scale * float(d) / layer.y.scale) for d in layer.scales]
    channels = len(rq.bias)  # type: ignore[attr-defined]
    sums = layer.codes.astype(np.int64).reshape(OUTPUTS, channels // OUTPUTS, -1).sum(2).T.ravel()
    expected = np.tile(layer.bias, channels // OUTPUTS) - layer.x.zero_point * sums
    np.testing.assert_array_equal(rq.bias, expected)  # type: ignore[attr-defined]
    found = list(zip(rq.multiplier.tolist(), rq.shift.tolist(), strict=True))  # type: ignore[attr-defined]
    assert found == pairs * (channels // OUTPUTS)


def test_scales_have_the_bits_asked_for() -> None:
    rng = np.random.default_rng(4)
    for bits in (16, 24):
        scales = [random_scale(rng, -12, 4, bits) for _ in range(200)]
        fractions = np.frexp(scales)[0] * 2.0**bits
        assert (fractions == np.rint(fractions)).all() and (fractions % 2 == 1).any()


def oracle(*rows: Row, version: str | None = "1", broken: bool = False) -> Oracle:
    def run(seed: int) -> Iterator[Row]:
        yield from rows
        if broken:
            raise RuntimeError("no such kernel")

    return Oracle("fake", "install it", lambda: version, run)


GOOD, BAD = Row("good", 5, 0), Row("bad", 5, 1)


@pytest.mark.parametrize(
    ("fake", "code", "words"),
    [
        (oracle(GOOD), 0, "1 of 1 rows as expected"),
        (oracle(GOOD, BAD), 1, "1 of 2 rows as expected"),
        (oracle(), 1, "0 of 0 rows"),
        (oracle(GOOD, broken=True), 1, "broke off: RuntimeError: no such kernel"),
        (oracle(GOOD, version=None), 2, "missing: fake: install it\nerror: no oracle is installed"),
    ],
)
def test_exit_codes(
    fake: Oracle, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "ORACLES", (fake,))
    assert cli.main([]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert ("FAILED" in captured.out) is (code == 1 and "1 of 2" in words)


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--only", "none"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
        assert stopped.value.code == 2 and "error:" in capsys.readouterr().err


def test_ml_dtypes_in_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle passes; a wrong multiplication does not."""
    monkeypatch.setattr(bf16, "ML_DTYPES_PAIRS", 30_000)
    assert cli.main(["--only", "ml_dtypes", "--markdown"]) == 0
    assert capsys.readouterr().out.count("| equal |") == 3
    monkeypatch.setattr(elementwise, "multiply_bf16", elementwise.add_bf16)
    assert cli.main(["--only", "ml_dtypes"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_installed_needs_all_packages() -> None:
    assert installed("ml_dtypes")() and not installed("ml_dtypes", "no-such-package")()
