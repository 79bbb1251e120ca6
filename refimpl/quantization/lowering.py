"""From float weights, ranges, a preset and a profile to a program of integer constants: a pure function.

:class:`Builder` has one method per layer kind. A method looks up the formats that the preset names, picks the operator for
them, computes its constants by the rules of ``scheme`` and the fields of the profile, proves its widths, and appends a step.
Networks call these methods and know nothing of formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl.errors import InputError, NotExpressible
from refimpl.numerics.activation import NAMES as FUNCTION_NAMES
from refimpl.numerics.activation import ActivationTables, device_code_table, variant
from refimpl.numerics.requantize import LAW_BF16, LAW_DOUBLE, LAW_FOLDED, LAW_NORM_TWICE, Requantizer
from refimpl.numerics.tables import shipped
from refimpl.operators import convert
from refimpl.presets import Preset
from refimpl.profiles import ADD_SCALED, ADD_TWO_STAGE, Q15, Q31, SEARCH, Profile
from refimpl.program import Format, Program, Ref, Step, Tensor
from refimpl.quantization.scheme import (
    activation_format,
    frexp_multiplier,
    largest_code,
    largest_multipliers,
    power_of_two_multiplier,
    q15_multiplier,
    q31_multiplier,
    quantize_layer,
    quantize_weights,
    symmetric_format,
    two_stage_constants,
)

Array = np.ndarray[Any, np.dtype[Any]]
HOP, BACK_PAD, SYNTHESIS, N_FFT, BINS = 96, 96, 160, 256, 129


def analysis_window(name: str) -> Array:
    """The analysis window as int32 Q1.30 [256]: ``hann`` (symmetric) or ``rect`` (SPEC F-2)."""
    if name == "rect":
        return np.full(N_FFT, 1 << 30, np.int32)
    if name == "hann":
        return shipped("hann_q30")
    raise InputError(f"window {name!r} is unknown: use hann or rect")


def synthesis_window(analysis: Array) -> Array:
    """The 160-point window that makes overlap-add at hop 96 exact, float64 (SPEC F-16).

    ``64 <= i < 96: 1 / a[96 + i]``; else ``a[96 + i] / (a[96 + i mod 96]^2 + a[192 + i mod 96]^2)``.
    """
    a = analysis.astype(np.float64) / float(1 << 30)
    window = np.zeros(SYNTHESIS)
    for i in range(SYNTHESIS):
        if SYNTHESIS - HOP <= i < HOP:
            window[i] = 1.0 / a[BACK_PAD + i]
        else:
            first = BACK_PAD + i % HOP
            window[i] = a[BACK_PAD + i] / (a[first] * a[first] + a[first + HOP] * a[first + HOP])
    return window


class Builder:
    """Collects tensors and steps. Every method returns the tensor it made; ``loop`` labels the steps of a recurrence."""

    def __init__(
        self,
        weights: Mapping[str, Array],
        ranges: Mapping[int, Mapping[str, tuple[float, float]]],
        preset: Preset,
        profile: Profile,
        tables: ActivationTables | None = None,
    ) -> None:
        self.activation_tables = tables or variant(profile.tables)
        self.looked_up: dict[str, tuple[int, tuple[Any, ...]]] = {}  # steps with a table: function and formats
        self.weights, self.ranges, self.preset, self.profile = weights, ranges, preset, profile
        self.tensors: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        self.origin: dict[str, str] = {}  # a converted tensor keeps the range of the tensor that it was made from
        self.proofs: dict[str, dict[str, int]] = {}
        self.widths: dict[str, dict[str, int]] = {}  # bits of the word that each proof is about
        self.scale_error: dict[str, Array] = {}  # |M / 2^n / ratio - 1| per channel, by step

    # -- tensors ------------------------------------------------------------------------------------------------------

    def tensor(self, name: str, shape: tuple[int, ...], kind: str | None = None, origin: str = "") -> Tensor:
        """A new tensor in the preset's format (or ``kind``), its scale and zero point from the calibrated range."""
        kind = kind or self._supported(name, self.preset.kind(name))
        self.origin[name] = origin or name
        form = Format(kind)
        if form.is_code:
            key = self.origin[name]
            table = self.ranges.get(form.bits, {})
            if key not in table:
                raise InputError(
                    f"preset {self.preset.name!r} needs a {form.bits}-bit range of {key!r}, which the weights do not hold: "
                    "calibrate them with python -m refimpl.quantize"
                )
            if form.bits in self.profile.symmetric:
                form = symmetric_format(*table[key], form.bits, self.profile.power_of_two_scales)
            else:
                form = activation_format(*table[key], form.bits)
        self.tensors[name] = Tensor(name, shape, form)
        return self.tensors[name]

    def source(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The program's input: PCM frames, int16 in units of 2^-15."""
        self.tensors[name] = Tensor(name, shape, Format("int16", 2.0**-15, 0))
        return self.tensors[name]

    def step(self, operator: str, inputs: tuple[Ref, ...], constants: tuple[Any, ...], *out: Tensor, loop: str = "") -> None:
        frozen = tuple(_freeze(constant) for constant in constants)
        names = tuple(tensor.name for tensor in out)
        self.steps.append(Step(names[0], operator, inputs, frozen, names, loop))

    def convert(self, name: str, x: Tensor, loop: str = "") -> Tensor:
        """``x`` in the format that the preset gives ``name``; ``x`` itself where it already is (SPEC Q-4 to Q-8, Q-11)."""
        kind = self.preset.kind(name)
        if kind == x.format.kind:
            return x
        y = self.tensor(name, x.shape, kind, self.origin[x.name])
        a, b, ref = x.format, y.format, (Ref(x.name),)
        if a.is_code and b.is_code and self.profile.scaled_law is not None:
            m, n = self._scaled(name, a.scale / b.scale, largest_code(a))
            constants: tuple[Any, ...] = (a.zero_point, self.profile.scaled_law, m, n, b.zero_point, b.lowest, b.highest)
            self.step("requantize_codes_scaled", ref, constants, y, loop=loop)
        elif a.is_code and b.is_code:
            (m,), n = self._common_shift(name, (a.scale / b.scale,), (largest_code(a),))
            self.step("requantize_codes", ref, (a.zero_point, m, n, b.zero_point, b.lowest, b.highest), y, loop=loop)
        elif a.is_code:
            operator = "dequantize_bf16" if b.kind == "bf16" else "dequantize_f32"
            self.step(operator, ref, (np.float32(a.scale), a.zero_point), y, loop=loop)
        elif b.is_code:
            operator = "quantize_bf16" if a.kind == "bf16" else "quantize_f32"
            constants = (np.float32(1.0 / b.scale), b.zero_point, b.lowest, b.highest)
            self.step(operator, ref, constants, y, loop=loop)
        else:
            self.step("narrow_bf16" if b.kind == "bf16" else "widen_bf16", ref, (), y, loop=loop)
        return y

    # -- layers with weights ------------------------------------------------------------------------------------------

    def fully_connected(
        self, name: str, x: Tensor, key: str, axis: str, relu: bool = False, bias_key: str = "", past: int = 0, loop: str = ""
    ) -> Tensor:
        """A linear layer [out, in] along ``axis`` ``"frequency"`` or ``"channels"`` (SPEC L-1 to L-4).

        With ``past`` = 1 it reads the previous frame instead of this one (the LSTM's recurrent convolution).
        """
        weight, bias = self._layer(key, bias_key)
        out, bins, channels = weight.shape[0], *x.shape
        shape = (out, channels) if axis == "frequency" else (bins, out)
        ref = (Ref(x.name, past, past == 0),)
        y = self.tensor(name, shape)
        if self._kind(name, x, y) == "f32":
            stored = weight if axis == "frequency" else weight.T
            operator = f"fully_connected_{axis}_f32"
            self.step(operator, ref, (stored.astype(np.float32), bias.astype(np.float32), relu), y, loop=loop)
            return y
        self._integers_only(name)
        codes, scales = self._codes(weight, 0, x.format, y.format, bias)
        rq = self._requantizer(name, x.format, y.format, codes, scales, bias, relu)
        self.step(f"fully_connected_{axis}", ref, (codes if axis == "frequency" else codes.T, rq), y, loop=loop)
        return y

    def conv_causal(self, name: str, x: Tensor, key: str, below: int, transposed: bool = False) -> Tensor:
        """The causal 3x3 convolution [out, in, time, bins], or its transpose [in, out, time, bins] (SPEC C-1 to C-6)."""
        weight, bias = self._layer(key)
        weight = weight.transpose(2, 3, 0, 1) if transposed else weight.transpose(2, 3, 1, 0)
        operator = "conv_transposed_causal" if transposed else "conv_causal"
        y = self.tensor(name, (x.shape[0], weight.shape[3]))
        ref, kind = (Ref(x.name, 2),), self._kind(name, x, y)
        if kind in ("f32", "bf16"):
            if kind == "bf16":
                weight, bias = _to_bf16(weight), _to_bf16(bias)
            self.step(f"{operator}_{kind}", ref, (weight.astype(np.float32), bias.astype(np.float32), below), y)
            return y
        codes, scales = self._codes(weight, 3, x.format, y.format, bias)
        rq = self._requantizer(name, x.format, y.format, np.moveaxis(codes, 3, 0), scales, bias, False)
        self.step(operator, ref, (codes, below, x.format.zero_point, rq), y)
        return y

    def conv_strided(self, name: str, x: Tensor, key: str, relu: bool) -> Tensor:
        """Frequency compression: 1-D convolution [out, in, a] with stride a, ReLU fused (SPEC C-7, C-9)."""
        weight, bias = self._layer(key)
        weight = weight.transpose(2, 1, 0)
        y = self.tensor(name, (x.shape[0] // weight.shape[0], weight.shape[2]))
        if self._kind(name, x, y) == "f32":
            self.step("conv_strided_f32", (Ref(x.name),), (weight.astype(np.float32), bias.astype(np.float32), relu), y)
            return y
        self._integers_only(name)
        codes, scales = self._codes(weight, 2, x.format, y.format, bias)
        rq = self._requantizer(name, x.format, y.format, np.moveaxis(codes, 2, 0), scales, bias, relu)
        self.step("conv_strided", (Ref(x.name),), (codes, rq), y)
        return y

    def conv_strided_transposed(self, name: str, x: Tensor, key: str, bins: int) -> Tensor:
        """Frequency expansion: transposed 1-D convolution [in, out, a] with stride a to ``bins`` (SPEC C-8, C-10)."""
        weight, bias = self._layer(key)
        weight = weight.transpose(2, 0, 1)
        y = self.tensor(name, (bins, weight.shape[2]))
        if self._kind(name, x, y) == "f32":
            constants = (weight.astype(np.float32), bias.astype(np.float32))
            self.step("conv_strided_transposed_f32", (Ref(x.name),), constants, y)
            return y
        self._integers_only(name)
        codes, scales = self._codes(weight, 2, x.format, y.format, bias)
        taps, inputs, outputs = codes.shape
        # Each tap has its own sum of weights, hence its own folded zero point: one "channel" per (tap, output).
        rows = codes.transpose(0, 2, 1).reshape(taps * outputs, inputs)
        rq = self._requantizer(name, x.format, y.format, rows, np.tile(scales, taps), np.tile(bias, taps), False)
        self.step("conv_strided_transposed", (Ref(x.name),), (codes, x.format.zero_point, rq), y)
        return y

    # -- element by element -------------------------------------------------------------------------------------------

    def add(self, name: str, a: Tensor, b: Tensor, loop: str = "") -> Tensor:
        """``a + b``: the profile's residual add, one BF16 or one FP32 addition (SPEC E-1, E-2, E-5, E-7, E-10)."""
        y = self.tensor(name, a.shape)
        kinds = {a.format.kind, b.format.kind, y.format.kind}
        refs = (Ref(a.name), Ref(b.name))
        if kinds == {"bf16"} or kinds == {"f32"}:
            self.step(f"add_{a.format.kind}", refs, (), y, loop=loop)
        elif not kinds <= {"int8", "int16"}:
            raise InputError(f"{name}: no addition takes formats {sorted(kinds)}; make them equal in the preset")
        elif (rule := self.profile.add_8 if kinds == {"int8"} else self.profile.add_16) == ADD_TWO_STAGE:
            self._add_two_stage(name, a, b, y, loop)
        elif rule == ADD_SCALED:
            self._add_scaled(name, a, b, y, 20 if kinds == {"int8"} else 15, loop)
        else:
            fa, fb, fy = a.format, b.format, y.format
            ratios = (fa.scale / fy.scale, fb.scale / fy.scale)
            (ma, mb), n = self._common_shift(name, ratios, (largest_code(fa), largest_code(fb)))
            constants = (fa.zero_point, fb.zero_point, ma, mb, n, fy.zero_point, fy.lowest, fy.highest)
            self.step("add_joint", refs, constants, y, loop=loop)
        return y

    def _add_two_stage(self, name: str, a: Tensor, b: Tensor, y: Tensor, loop: str) -> None:
        """Constants of SPEC E-1: Ma / 2^na ~ Sa / Sb, Mo / 2^no ~ Sb / So, and the bias of the three zero points."""
        if b.format.scale > a.format.scale:
            a, b = b, a
        limits = self.profile.multiplier_bits, self.profile.largest_shift
        ma, na, mo, no, bias = two_stage_constants(a.format, b.format, y.format, *limits)
        scaled = (255 * ma + ((1 << na) >> 1)) >> na
        total = (scaled + 255) * mo + ((1 << no) >> 1)
        self._prove(name, "sum", total, 32)
        self._prove(name, "bias", abs(bias), 16)
        self.step("add_two_stage", (Ref(a.name), Ref(b.name)), (ma, na, mo, no, bias), y, loop=loop)

    def _add_scaled(self, name: str, a: Tensor, b: Tensor, y: Tensor, left: int, loop: str) -> None:
        """Constants of SPEC E-10: inputs by ``S / (2 * max(Sa, Sb))``, their sum by ``2 * max(Sa, Sb) / (2^left * Sy)``."""
        fa, fb, fy = a.format, b.format, y.format
        twice = 2.0 * max(fa.scale, fb.scale)
        inputs = [self._scaled(name, f.scale / twice, largest_code(f) << left) for f in (fa, fb)]
        total = sum(-(-(largest_code(f) << left) * m >> n) + 1 for f, (m, n) in zip((fa, fb), inputs, strict=True))
        out = self._scaled(name, twice / (float(1 << left) * fy.scale), total)
        pairs = (*inputs[0], *inputs[1], *out)
        law = self.profile.scaled_law
        constants = (fa.zero_point, fb.zero_point, law, left, *pairs, fy.zero_point, fy.lowest, fy.highest)
        self.step("add_scaled", (Ref(a.name), Ref(b.name)), constants, y, loop=loop)

    def _scaled(self, name: str, ratio: float, bound: int) -> tuple[int, int]:
        """(M, n) of SPEC G-8 for one ratio of scales; proven for values up to ``bound`` in magnitude."""
        m, n = q31_multiplier(ratio)
        if n < 1:
            raise NotExpressible(f"{name}: scale ratio {ratio:.3g} is beyond the multipliers of profile {self.profile.name!r}")
        self._prove(name, "value to scale", bound << max(31 - n, 0), self.profile.width)
        self._prove(name, "scaled value", ((bound * m) >> n) + 2, self.profile.width)
        return m, n

    def _common_shift(self, name: str, ratios: tuple[float, ...], bounds: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Multipliers of SPEC Q-10, and the bound that they prove."""
        multipliers, n = largest_multipliers(ratios, bounds, name)
        total = sum(m * bound for m, bound in zip(multipliers, bounds, strict=True)) + ((1 << n) >> 1)
        self._prove(name, "sum", total, 32)
        return multipliers, n

    def multiply(self, name: str, a: Tensor, b: Tensor, past: int = 0, loop: str = "") -> Tensor:
        """``a * b`` (SPEC E-3, E-6, E-8, E-11); with ``past`` = 1, b is the previous frame's."""
        y = self.tensor(name, a.shape)
        kinds = {a.format.kind, b.format.kind, y.format.kind}
        refs = (Ref(a.name), Ref(b.name, past, past == 0))
        if kinds == {"bf16"} or kinds == {"f32"}:
            self.step(f"multiply_{a.format.kind}", refs, (), y, loop=loop)
            return y
        if not kinds <= {"int8", "int16"}:
            raise InputError(f"{name}: no multiplication takes formats {sorted(kinds)}; make them equal in the preset")
        fa, fb, fy = a.format, b.format, y.format
        if self.profile.scaled_law is not None:
            m, n = self._scaled(name, fa.scale * fb.scale / fy.scale, largest_code(fa) * largest_code(fb))
            law = (fa.zero_point, fb.zero_point, self.profile.scaled_law)
            self.step("multiply_scaled", refs, (*law, m, n, fy.zero_point, fy.lowest, fy.highest), y, loop=loop)
            return y
        (m,), n = self._common_shift(name, (fa.scale * fb.scale / fy.scale,), (largest_code(fa) * largest_code(fb),))
        constants = (fa.zero_point, fb.zero_point, m, n, fy.zero_point, fy.lowest, fy.highest)
        self.step("multiply", refs, constants, y, loop=loop)
        return y

    def activation(self, name: str, x: Tensor, function: int, start: int, channels: int, loop: str = "") -> Tensor:
        """Sigmoid (0) or tanh (1) of channels ``start`` onward, by table (SPEC E-4, B-6, T-4 to T-7), or E-9."""
        y = self.tensor(name, (x.shape[0], channels))
        a, b, ref = x.format, y.format, (Ref(x.name),)
        if a.kind == b.kind == "f32":
            self.step("activate_f32", ref, (function, start), y, loop=loop)
        elif a.kind == b.kind == "bf16":
            self.looked_up[name] = function, ("bf16",)
            self.step("lookup", ref, (self.activation_tables.bf16[function], 0, start), y, loop=loop)
        elif a.is_code and b.is_code:
            tables = self.activation_tables
            self.looked_up[name] = function, (a, b)
            own = tables.of_codes(function, name) if a.bits == b.bits == 8 else None
            formats = (a.bits, a.scale, a.zero_point, b.bits, b.scale, b.zero_point)
            table = own if own is not None else device_code_table(tables, function, *formats)
            self.step("lookup", ref, (table, a.lowest, start), y, loop=loop)
        else:
            raise InputError(f"{name}: no table from {a.kind} to {b.kind}; make the formats equal in the preset")
        return y

    # -- the transform at both ends -----------------------------------------------------------------------------------

    def stft(self, frame: Tensor, window: str) -> Tensor:
        """PCM frames to ``spectrum`` [F, 2] (re, im) (SPEC F-4 to F-6, F-12)."""
        twiddle, table = shipped("twiddle_q30"), analysis_window(window)
        y = self.tensor("spectrum", (BINS, 2))
        form = y.format
        if form.kind == "f32":
            self.step("stft_f32", (Ref(frame.name),), (_from_q30(table), _from_q30(twiddle)), y)
            return y
        mantissa = self.tensor("stft.mantissa", (BINS, 2), "int32")
        exponent = self.tensor("stft.exponent", (1,), "int32")
        self.step("stft", (Ref(frame.name),), (table, twiddle), mantissa, exponent)
        refs = (Ref(mantissa.name), Ref(exponent.name))
        if form.kind == "bf16":
            self.step("block_to_bf16", refs, (), y)
            return y
        fraction, power = math.frexp(2.0**-22 / form.scale)
        m, n = int(np.rint(fraction * 2.0**24)), 24 - power
        if n < 0:
            raise InputError(f"spectrum: scale {form.scale} is too small; calibrate on louder audio")
        self.step("block_to_code", refs, (m, n, form.zero_point, form.lowest, form.highest), y)
        return y

    def istft(self, x: Tensor, window: str, re: Array, im: Array) -> tuple[Tensor, Tensor]:
        """Spectra [F, 2S] to PCM int16 [S, 96] and the number of clipped samples [S] (SPEC F-7 to F-15, F-17)."""
        speakers, form, twiddle = len(re), x.format, shipped("twiddle_q30")
        synthesis = synthesis_window(analysis_window(window))
        kind, suffix = ("f32", "_f32") if form.kind == "f32" else ("int32", "")
        if kind == "int32":
            mantissa = self.tensor("istft.mantissa", (speakers, BINS, 2), "int32")
            exponent = self.tensor("istft.exponent", (speakers,), "int32")
            if form.kind == "bf16":
                self.step("bf16_to_block", (Ref(x.name),), (re, im), mantissa, exponent)
                table, base = np.rint(synthesis * 2.0**29), 10
            else:
                shift = 13 if form.bits == 8 else 5
                self.step("code_to_block", (Ref(x.name),), (re, im, form.zero_point, shift), mantissa, exponent)
                power = 30 - math.frexp(float(synthesis.max()) * form.scale)[1]
                table, base = np.rint(synthesis * form.scale * 2.0**power), power + shift - 19
        head = self.tensor("istft.head", (speakers, HOP), kind)
        tail = self.tensor("istft.tail", (speakers, SYNTHESIS - HOP), kind)
        if kind == "f32":
            constants: tuple[Any, ...] = (re, im, synthesis.astype(np.float32), _from_q30(twiddle))
            self.step("istft_f32", (Ref(x.name),), constants, head, tail)
        else:
            refs = (Ref(mantissa.name), Ref(exponent.name))
            self.step("istft", refs, (table.astype(np.int32), twiddle, base), head, tail)
        total = self.tensor("overlap_add", (speakers, HOP), kind)
        self.step(f"overlap_add{suffix}", (Ref(head.name), Ref(tail.name, 1, False)), (), total)
        pcm = Tensor("pcm", (speakers, HOP), Format("int16", 2.0**-15, 0))
        clipped = Tensor("clipped", (speakers,), Format("int32"))
        self.tensors.update({t.name: t for t in (pcm, clipped)})
        self.step(f"to_pcm{suffix}", (Ref(total.name),), (), pcm, clipped)
        return pcm, clipped

    def _check_tables(self) -> None:
        """Every table that was handed in is used, and one for several steps only where these have one format."""
        tables = self.activation_tables
        steps = {f: [step for step, (g, _) in self.looked_up.items() if g == f] for f in FUNCTION_NAMES}
        for function in tables.own:
            if not steps[function]:
                raise InputError(f"preset {self.preset.name!r} looks up no {FUNCTION_NAMES[function]}: leave its table out")
        for function, codes in tables.codes.items():
            what = FUNCTION_NAMES[function]
            eight = [s for s in steps[function] if self.looked_up[s][1] != ("bf16",) and self.tensors[s].format.bits == 8]
            if not eight:
                raise InputError(
                    f"preset {self.preset.name!r} has no 8-bit {what} step: give its table as 65,536 BF16 patterns"
                )
            unknown = sorted(set(codes) - {"", *eight})
            if unknown:
                raise InputError(
                    f"a table is given for {unknown[0]!r}, which is no 8-bit {what} step; these are: {', '.join(eight)}"
                )
            if "" in codes and len({self.looked_up[step][1] for step in eight}) > 1:
                raise InputError(
                    f"the {what} steps {', '.join(eight)} differ in format: give one table per step, in an .npz file"
                )

    def build(self, source: Tensor, results: tuple[Tensor, ...]) -> Program:
        self._check_tables()
        facts = {
            "proofs": self.proofs,
            "widths": self.widths,
            "origin": self.origin,
            "scale_error": self.scale_error,
        }
        return Program(self.tensors, tuple(self.steps), source.name, tuple(t.name for t in results), facts)

    # -- constants ----------------------------------------------------------------------------------------------------

    def _layer(self, key: str, bias_key: str = "") -> tuple[Array, Array]:
        names = (key if bias_key else f"{key}.weight", bias_key or f"{key}.bias")
        return self.weights[names[0]], self.weights[names[1]]

    def _kind(self, name: str, x: Tensor, y: Tensor) -> str:
        """The arithmetic of a layer: its weights' format, which its input and output must fit."""
        kind = self._supported(f"{name}.weight", self.preset.kind(f"{name}.weight"))
        fits = {
            "int8": x.format.is_code and (y.format.is_code or y.format.kind == "bf16"),
            "bf16": x.format.kind == y.format.kind == "bf16",
            "f32": x.format.kind == y.format.kind == "f32",
        }
        if not fits.get(kind, False):
            raise InputError(
                f"{name}: no operator takes {x.format.kind} input, {kind} weights and {y.format.kind} output; "
                f"change preset {self.preset.name!r}"
            )
        return kind

    def _supported(self, name: str, kind: str) -> str:
        """``kind`` where the profile has it; the float reference runs on every profile."""
        if kind != "f32" and kind not in self.profile.formats:
            raise NotExpressible(
                f"profile {self.profile.name!r} has no {kind} ({name} of preset {self.preset.name!r}), only "
                f"{', '.join(self.profile.formats)}: use another preset or profile"
            )
        return kind

    def _codes(self, weight: Array, axis: int, x: Format, y: Format, bias: Array) -> tuple[Array, Array]:
        """Weight codes, and their scale per output channel: each its own (SPEC Q-2), or the layer's (SPEC Q-13)."""
        smallest = self._smallest_scale(x, y, bias)
        if not self.profile.power_of_two_scales:
            return quantize_weights(weight, axis, smallest)
        codes, scale = quantize_layer(weight, smallest)
        return codes, np.full(weight.shape[axis], scale)

    def _integers_only(self, name: str) -> None:
        if self.preset.kind(f"{name}.weight") != "int8":
            raise InputError(f"{name}: weights of this layer can be int8 or f32; change preset {self.preset.name!r}")

    def _prove(self, name: str, what: str, bound: int, width: int) -> None:
        """Record a proven bound; refuse the program where it does not fit a signed ``width``-bit word (SPEC O-1)."""
        proofs = self.proofs.setdefault(name, {})
        self.widths.setdefault(name, {})[what] = width
        proofs[what] = max(proofs.get(what, 0), int(bound))
        if bound >= 1 << (width - 1):
            raise InputError(f"{name}: {what} can reach {bound}, beyond {width} bits; calibrate again or widen the range")

    def _smallest_scale(self, x: Format, y: Format, bias: Array) -> Array:
        """Per channel the weight scale below which no shift could follow, or the bias would pass 2^23 (SPEC Q-2).

        Where the profile stores a narrower bias it must not pass that (SPEC Q-13).
        """
        largest = float(min(1 << 23, ((1 << (self.profile.bias_bits - 1)) - 1) * self.profile.bias_unit))
        least = np.abs(bias.astype(np.float64)) * (1.0 / largest)
        if y.is_code:
            least = np.maximum(least, y.scale * 2.0 ** -(self.profile.largest_shift - 2))
        smallest: Array = least / x.scale
        return smallest

    def _requantizer(
        self, name: str, x: Format, y: Format, codes: Array, scales: Array, bias: Array, relu: bool
    ) -> Requantizer:
        """Constants of the layer's law, channel by channel (SPEC Q-3, G-1 to G-3, G-6 to G-9, Q-9, O-1).

        codes int8 [channel, ...]; scales float64 [channel]; bias float [channel].
        """
        flat = codes.reshape(len(codes), -1).astype(np.int64)
        sums = flat.sum(1)
        high = np.maximum(flat, 0).sum(1) * x.highest + np.minimum(flat, 0).sum(1) * x.lowest
        low = np.maximum(flat, 0).sum(1) * x.lowest + np.minimum(flat, 0).sum(1) * x.highest
        products = flat.shape[1]
        empty = np.abs(flat).max(1) == 0
        eight = x.bits == 8 and y.bits == 8
        law = LAW_BF16 if y.kind == "bf16" else (self.profile.law_8 if eight else self.profile.law_16)
        rule = self.profile.multiplier_8 if eight else self.profile.multiplier_16
        if relu and law == LAW_BF16:
            raise InputError(f"{name}: no ReLU into bf16 output; change preset {self.preset.name!r}")
        if self.profile.unsigned_codes and x.is_code:  # the device sums unsigned codes: its partial sums must fit as well
            widest = max(int(np.maximum(flat, 0).sum(1).max()), int(np.maximum(-flat, 0).sum(1).max()))
            self._prove(name, "accumulator of unsigned codes", widest * ((1 << x.bits) - 1), self.profile.width)
        count = len(flat)
        total, multiplier, shift = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
        unit, error = np.zeros(count), np.zeros(count)
        half = (1 << (y.bits - 1)) if self.profile.unsigned_codes else 0
        for c in range(count):
            s = x.scale * float(scales[c])
            b = float(bias[c])
            if empty[c] and not self.profile.power_of_two_scales:
                # No weight fixes the accumulator's unit: one fine enough for the bias (SPEC Q-3).
                s = (abs(b) / 32768.0 or 1.0) if law == LAW_BF16 else y.scale / 256.0
            unit[c] = s
            if abs(b / s) >= 2.0**31:
                raise InputError(f"{name}: bias of channel {c} is {b / s:.0f} accumulator units, beyond 32 bits")
            quantized_bias = int(np.rint(b / (s * self.profile.bias_unit))) * self.profile.bias_unit
            total[c] = quantized_bias - x.zero_point * int(sums[c])
            if law != LAW_BF16:
                if law == LAW_FOLDED:
                    total[c] += math.floor((y.zero_point + half) * y.scale / s + 0.5)
                used = max((products - 1).bit_length() + self.profile.multiplier_headroom, abs(quantized_bias).bit_length())
                bounds = (int(low[c]), int(high[c]), int(total[c]))
                multiplier[c], shift[c] = self._fit(name, c, s / y.scale, 31 - used, *bounds, law, rule)
                error[c] = abs(float(multiplier[c]) * 2.0 ** -float(shift[c]) / (s / y.scale) - 1.0)
            self._prove(name, "accumulator", max(abs(int(low[c])), abs(int(high[c]))), self.profile.width)
            self._prove(name, "accumulator + bias", _widest(int(low[c]), int(high[c]), int(total[c])), self.profile.width)
        pre = 0
        addend = np.zeros(count, np.int64)
        if law == LAW_FOLDED:
            addend = total * multiplier + (((1 << shift) >> 1) if self.profile.rounding_constant else 0)
        elif law == LAW_NORM_TWICE:
            pre = min(self.profile.largest_pre_shift, int(shift.min()))
            for c in range(count):
                widest = _widest(int(low[c]), int(high[c]), int(total[c])) + ((1 << pre) >> 1)
                self._prove(name, "accumulator + bias", widest, self.profile.width)
                bound = (widest >> pre) * int(multiplier[c]) + ((1 << int(shift[c] - pre)) >> 1)
                self._prove(name, "product", bound, self.profile.width)
        # Before the offset: unsigned codes where the zero point is folded, codes without their zero point where it is not.
        origin = -half if law == LAW_FOLDED else y.zero_point
        lowest, highest = (y.lowest - origin, y.highest - origin) if y.is_code else (0, 0)
        if law != LAW_BF16:
            self.scale_error[name] = _freeze(error)
        return Requantizer(
            law,
            pre,
            max(lowest, y.zero_point - origin) if relu else lowest,
            highest,
            origin if y.is_code else 0,
            _freeze(total.astype(np.int32)),
            _freeze(multiplier.astype(np.int32)),
            _freeze(addend),
            _freeze(shift.astype(np.int32)),
            _freeze((unit if law == LAW_BF16 else np.zeros(count)).astype(np.float32)),
        )

    def _fit(
        self, name: str, channel: int, ratio: float, allowed: int, low: int, high: int, total: int, law: int, rule: str
    ) -> tuple[int, int]:
        """(M, n) by the profile's rule: the finest of SPEC G-1 whose products fit, or that of SPEC G-8, G-9 (SPEC O-1)."""
        profile = self.profile
        if rule != SEARCH:
            m, n = {Q31: q31_multiplier, Q15: q15_multiplier}.get(rule, power_of_two_multiplier)(ratio)
            if not (1 if rule in (Q31, Q15) else 0) <= n <= profile.largest_shift:
                raise NotExpressible(
                    f"{name}: channel {channel} has scale ratio {ratio:.3g}, beyond the shifts of profile {profile.name!r}; "
                    "calibrate again"
                )
            widest = _widest(low, high, total)
            if law == LAW_DOUBLE:
                self._prove(name, "accumulator to scale", widest << max(31 - n, 0), profile.width)
            elif law == LAW_FOLDED:
                self._prove(name, "product + addend", widest * m + ((1 << n) >> 1), profile.width)
            else:
                self._prove(name, "product", widest * m + ((1 << n) >> 1), 64)
            return m, n
        for bits in range(min(profile.multiplier_bits, allowed), -1, -1):
            m, n = frexp_multiplier(ratio, bits, profile.largest_shift)
            if not 0 <= n <= profile.largest_shift:
                continue
            if law == LAW_FOLDED:
                addend = total * m + (((1 << n) >> 1) if profile.rounding_constant else 0)
                bound = max(abs(low * m), abs(high * m), abs(addend), _widest(low * m, high * m, addend))
            else:
                pre = min(profile.largest_pre_shift, n)
                bound = ((_widest(low, high, total) + ((1 << pre) >> 1)) >> pre) * m + ((1 << (n - pre)) >> 1)
            if bound < 1 << (profile.width - 1):
                self._prove(name, "product + addend" if law == LAW_FOLDED else "product", bound, profile.width)
                return m, n
        raise NotExpressible(
            f"{name}: channel {channel} has scale ratio {ratio:.3g} and accumulators up to {max(-low, high)}: "
            f"no multiplier of profile {profile.name!r} fits {profile.width} bits; calibrate again"
        )


def _widest(low: int, high: int, offset: int) -> int:
    """The largest magnitude of ``[low + offset, high + offset]``."""
    return max(abs(low + offset), abs(high + offset))


def _to_bf16(values: Array) -> Array:
    """Float weights as BF16 values held in FP32 (SPEC B-1)."""
    source = np.ascontiguousarray(values, np.float32)
    patterns, wide = np.empty(source.shape, np.uint16), np.empty(source.shape, np.float32)
    convert.narrow_bf16(source, patterns)
    convert.widen_bf16(patterns, wide)
    return wide


def _from_q30(table: Array) -> Array:
    """A Q1.30 table as FP32 (one rounding)."""
    return (table.astype(np.float64) * 2.0**-30).astype(np.float32)


def _freeze(constant: Any) -> Any:
    """Arrays become read-only and C-contiguous: kernels compile once per type, and nothing can change a constant."""
    if isinstance(constant, np.ndarray) and not isinstance(constant, Requantizer):
        constant = np.ascontiguousarray(constant)
        if constant.flags.writeable:
            constant.flags.writeable = False
    return constant
