"""Hypotheses by family, and the order in which equally good ones are named.

A family is a function from the site to edits: named changes of a trial. It yields only what applies to the site's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from conformance.diagnosis.site import Site
from conformance.diagnosis.trial import Trial

# The prior order: of several hypotheses that explain a device exactly, the one of the earlier family is named first.
# Within a family the order of its edits counts, in the order of its functions in the source.
PRIOR = (
    "layout",  # whole outputs that were never written, byte order, axes: nothing else looks like them
    "rounding",  # the commonest difference between two correct-looking ports
    "relu",
    "zero_point",
    "bias",
    "saturation",
    "bf16",  # rounding and special values of BF16
    "float",  # order and width of floating-point sums: small differences, which permuted weights only give by chance
    "transform",  # Fourier transform, windows, real and imaginary parts, speakers
    "table",  # activation functions
    "sign",  # signed for unsigned, negated
    "state",  # frames of the past
    "operand",  # the wrong tensor, or an operand left out
    "order",  # weights and channels in another order
    "constant",  # another channel's constants, a shift or a multiplier off by one
    "shift",  # bins, channels or frames off by one
    "width",  # words too narrow
    "permutation",  # any other order of outputs
    "copy",  # other contents altogether: last, for an operation with nothing to do is a copy too
)


@dataclass(frozen=True)
class Edit:
    """A named change of a trial. ``common`` edits are also tried in pairs, where no edit alone explains the device."""

    name: str
    sentence: str
    rule: str
    apply: Callable[[Trial], Trial]
    common: bool = False


Family = Callable[[Site], Iterator[Edit]]
FAMILIES: list[tuple[int, Family, frozenset[str] | None]] = []


def family(prior: str, operators: Collection[str] | None = None) -> Callable[[Family], Family]:
    """Registers a family of edits for some operators, or for all."""

    def register(function: Family) -> Family:
        FAMILIES.append((PRIOR.index(prior), function, None if operators is None else frozenset(operators)))
        return function

    return register


def families(site: Site) -> list[Family]:
    """The families that apply to a site, in the prior order."""
    known = [(rank, function) for rank, function, operators in FAMILIES if operators is None or site.operator in operators]
    return [function for _, function in sorted(known, key=lambda entry: entry[0])]
