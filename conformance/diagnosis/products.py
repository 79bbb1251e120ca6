"""The single products of a layer's sums, in the order of the rule; the golden operator itself says which input meets which.

Running it with all weights zero but those of one term, which are one, gives the inputs that this term multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from conformance.diagnosis.site import Array
from conformance.diagnosis.trial import Trial

LARGEST = 1 << 23  # products of one layer that are looked at singly


def terms(t: Trial) -> tuple[list[Array], list[Array]]:
    """Per term the inputs, in the output's shape, and the weights, in a shape that spreads to it."""
    weight = t.constant("weight")
    operator = t.site.operator.removesuffix("_f32").removesuffix("_bf16")
    shape = t.site.golden[t.site.step.outputs[0]].shape
    count = {"fully_connected_frequency": weight.shape[-1], "conv_strided_transposed": weight.shape[1]}.get(
        operator, weight.size // weight.shape[-1]
    )
    if count * int(np.prod(shape)) > LARGEST:
        raise ValueError("too many products to look at singly")
    inputs, weights = [], []
    for k in range(count):
        one = np.zeros_like(weight)
        if operator == "fully_connected_frequency":
            one[:, k] = 1
            weights.append(weight[:, k][:, None])
        elif operator == "conv_strided_transposed":
            one[:, k] = 1
            weights.append(weight[np.arange(shape[1]) % len(weight), k])
        else:
            one.reshape(count, -1)[k] = 1
            weights.append(weight.reshape(count, -1)[k])
        inputs.append(_gathered(t, one))
    return inputs, weights


def _gathered(t: Trial, one: Array) -> Array:
    if one.dtype.kind != "f":
        return t.raw(weight=one)
    name = t.site.step.outputs[0]
    changed = t.with_constants(weight=one, bias=np.zeros_like(t.constant("bias")), relu=False)
    if t.site.operator.endswith("_bf16"):
        from conformance.diagnosis.models import conv_bf16

        return conv_bf16(changed)
    return t.site.run(changed.inputs, changed.constants)[name]


def remembered(t: Trial) -> tuple[list[Array], list[Array]]:
    """:func:`terms`, computed once for the site's own arguments."""
    if t.inputs is not t.site.inputs or t.constants is not t.site.step.constants:
        return terms(t)
    if "terms" not in t.site.memory:
        t.site.memory["terms"] = terms(t)
    found: tuple[list[Array], list[Array]] = t.site.memory["terms"]
    return found


def integer_products(t: Trial) -> Iterator[Array]:
    for x, w in zip(*remembered(t), strict=True):
        yield x * w.astype(np.int64)
