"""One way that a step might be computed: the golden operator's arguments, and what is done otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.diagnosis.roundings import Law
from conformance.diagnosis.site import Array, Outputs, Site
from refimpl.numerics.requantize import LAW_RAW, Requantizer


@dataclass(frozen=True)
class Knobs:
    """What a NumPy model of a law does otherwise; all at their defaults is the golden law.

    first, last: the roundings of the law's shifts or conversions (None: the rule's own). accumulator changes bare sums, product
    what is shifted, middle what two-stage addition has between its stages, bounds the codes that saturation stops at.
    """

    first: Law | None = None
    last: Law | None = None
    joint: bool = False  # one rounding where the rule has two
    split: bool = False  # a rounding of each term where the rule has one
    scaling: Callable[[Array, Array, Array], Array] | None = None  # (value, M, n) to the rounded value
    shift: int = 0  # added to a shift that is no constant of the step
    pre_shift: int | None = None  # at most this much of a channel's shift first
    zero: int = 1  # how many times the output zero point or offset is added
    zero_first: bool = False  # the zero point is added before the conversion to an integer
    wraps: bool = False  # no saturation at all
    early: str = ""  # saturates before the zero point is added, to all "codes" or those of a "fused" ReLU, and wraps after
    bounds: Callable[[int, int], tuple[int, int]] | None = None
    accumulator: Callable[[Array], Array] | None = None
    sums: Callable[[Trial], Array] | None = None
    product: Callable[[Array], Array] | None = None
    middle: Callable[[Array], Array] | None = None
    signed: bool = False  # stored codes where the rule has unsigned ones
    index: int | None = None  # the axis of the output along which a law's constants are taken
    encode: Callable[[Array], Array] | None = None  # float to BF16
    decode: Callable[[Array], Array] | None = None  # BF16 to float
    wide: Callable[[Trial], Array] | None = None  # the value that is rounded to BF16


GOLDEN = Knobs()
MODELS: dict[str, Callable[[Trial], Outputs]] = {}  # filled by models.py: operators in NumPy, with knobs


@dataclass(frozen=True, eq=False)
class Trial:
    """Arguments of the site's operator with changes; edits make one trial from another and so can be combined."""

    site: Site
    inputs: tuple[Array, ...]
    constants: tuple[Any, ...]
    knobs: Knobs = GOLDEN
    instead: Callable[[Trial], Outputs] | None = None  # another computation altogether
    after: tuple[Callable[[Outputs], Outputs], ...] = field(default=())

    def predict(self) -> Outputs:
        if self.instead is not None:
            outputs = self.instead(self)
        elif self.knobs != GOLDEN:
            outputs = MODELS[self.site.operator](self)
        elif self.inputs is self.site.inputs and self.constants is self.site.step.constants:
            outputs = dict(self.site.golden)
        else:
            outputs = self.site.run(self.inputs, self.constants)
        for change in self.after:
            outputs = change(outputs)
        return outputs

    # -- arguments ----------------------------------------------------------------------------------------------------

    def constant(self, label: str) -> Any:
        return self.constants[self.site.labels.index(label)]

    @property
    def requantizer(self) -> Requantizer:
        found = next(c for c in self.constants if isinstance(c, Requantizer))
        return found

    def with_input(self, index: int, values: Array) -> Trial:
        values = np.ascontiguousarray(values)
        return replace(self, inputs=(*self.inputs[:index], values, *self.inputs[index + 1 :]))

    def with_constants(self, **values: Any) -> Trial:
        labels = self.site.labels
        return replace(self, constants=tuple(values.get(label, c) for label, c in zip(labels, self.constants, strict=True)))

    def with_requantizer(self, **fields: Any) -> Trial:
        rq = self.requantizer._replace(**fields)
        return replace(self, constants=tuple(rq if isinstance(c, Requantizer) else c for c in self.constants))

    def with_knobs(self, **values: Any) -> Trial:
        return replace(self, knobs=replace(self.knobs, **values))

    def with_instead(self, instead: Callable[[Trial], Outputs]) -> Trial:
        return replace(self, instead=instead)

    def with_after(self, change: Callable[[Array], Array], index: int | None = None) -> Trial:
        """Every output changed, or only the one of that index."""
        names = self.site.step.outputs

        def changed(outputs: Outputs) -> Outputs:
            return {n: change(a) if index is None or names[index] == n else a for n, a in outputs.items()}

        return replace(self, after=(*self.after, changed))

    # -- what models are made of --------------------------------------------------------------------------------------

    def output(self, values: Array) -> Outputs:
        """The step's one output in its dtype."""
        name = self.site.step.outputs[0]
        return {name: values.astype(self.site.case.tensors[name].values.dtype, copy=False)}

    def raw(self, inputs: Mapping[int, Array] | None = None, **constants: Any) -> Array:
        """The golden operator's bare sums, int64, under the raw law with a bias of zero; arguments may be replaced."""
        rq = self.requantizer
        bare = rq._replace(law=LAW_RAW, bias=np.zeros_like(rq.bias), pre_shift=0, lowest=0, highest=0, offset=0)
        changed = self.with_constants(**constants, rq=bare)
        for index, values in (inputs or {}).items():
            changed = changed.with_input(index, values)
        name = self.site.step.outputs[0]
        sums = self.site.run(changed.inputs, changed.constants, dtypes={name: np.int32})
        return sums[name].astype(np.int64)

    def weight_sums(self) -> Array:
        """For each element of the output the sum of the weights that its accumulator has multiplied."""
        padding = {"padding": 1} if "padding" in self.site.labels else {}
        return self.raw({0: np.ones_like(self.inputs[0])}, **padding)

    def accumulators(self) -> Array:
        if self.knobs.sums is not None:
            sums = self.knobs.sums(self)
        elif self.site.operator == "requantize_accumulators":
            sums = self.inputs[0].astype(np.int64)
        elif self._own_products():
            if "sums" not in self.site.memory:
                self.site.memory["sums"] = self.raw()
            sums = self.site.memory["sums"]
        else:
            sums = self.raw()
        return sums if self.knobs.accumulator is None else self.knobs.accumulator(sums)

    def _own_products(self) -> bool:
        """Whether inputs and constants are the site's own, but for the requantizer, which comes after the sums."""
        pairs = zip(self.constants, self.site.step.constants, strict=True)
        return self.inputs is self.site.inputs and all(a is b or isinstance(a, Requantizer) for a, b in pairs)

    def channels(self) -> Array:
        """Which entry of the law's constants serves each element of the output, in a shape that spreads to it."""
        shape = self.site.case.tensors[self.site.step.outputs[0]].values.shape
        operator = self.site.operator
        if operator == "requantize_accumulators":
            return self.inputs[1].astype(np.int64)
        last = np.arange(shape[-1])
        if self.knobs.index is not None:
            along = np.arange(shape[self.knobs.index]) % len(self.requantizer.bias)
            return along.reshape([-1 if a == self.knobs.index else 1 for a in range(len(shape))])
        if operator == "fully_connected_frequency":
            return np.arange(shape[1])[:, None]
        if operator == "conv_strided_transposed":
            taps = len(self.constant("weight"))
            rows: Array = (np.arange(shape[1]) % taps)[:, None] * shape[-1] + last
            return rows
        return last


def base(site: Site) -> Trial:
    return Trial(site, site.inputs, site.step.constants)
