"""Ranges for sums: one for all that residuals add up, and such that the SDK's residual add leaves no offset.

A residual add of one scale and one zero point is an exact sum of codes (SPEC E-1, E-2, E-10), where other scales round what is
handed on from block to block once more at every sum. So the tensors that residual adds read and write share a range.

Elsewhere, SPEC E-1 scales twice by 8-bit multipliers and folds three zero points into one integer. In the mean its sums
therefore come out up to a code too high or too low, always the same way, depending on the last digits of the three scales.
Between layers that is more than rounding's own error (0.29 codes); an LSTM's cell adds it up over all the frames that it
remembers. An output range that is a few percent wider finds scales at which next to nothing is left.
"""

from __future__ import annotations

from refimpl.profiles import GAP9
from refimpl.program import Format, Program
from refimpl.quantization.scheme import activation_format, two_stage_constants

Range = tuple[float, float]
STEPS = 1024  # candidate ranges are so many to the width
WIDEST = 32  # of them
SPAN = 30.0  # codes that a stream's values usually reach: what a relative error counts


def residual_streams(program: Program) -> list[tuple[str, ...]]:
    """The tensors that residual adds of the fp32 ``program`` connect, in its order; adds of an LSTM's loop are no residuals.

    Of the paper's network it is one stream: encoder, all sums of mixers and blocks, and what is added to them.
    """
    stream: dict[str, set[str]] = {}
    for step in program.steps:
        if step.operator == "add_f32" and not step.loop:
            joined = {step.outputs[0], *(ref.tensor for ref in step.inputs)}
            joined |= {name for one in tuple(joined) for name in stream.get(one, ())}
            stream |= dict.fromkeys(joined, joined)
    found = {id(stream[name]): stream[name] for name in program.tensors if name in stream}
    return [tuple(name for name in program.tensors if name in joined) for joined in found.values()]


def residual_errors(a: Format, b: Format, y: Format) -> tuple[float, float, float]:
    """What SPEC E-1 with the constants of ``gap9`` does in the mean: (offset, error of a's gain, error of b's gain).

    offset: codes of ``y`` by which a sum is too high, that of the zero points and that of rounding half up (``2^-(n+1)``
    after a shift by n). The gains' errors are relative; a is the input of the larger scale, whichever comes first.
    """
    if b.scale > a.scale:
        a, b = b, a
    ma, na, mo, no, bias = two_stage_constants(a, b, y, GAP9.multiplier_bits, GAP9.largest_shift)
    first, second = ma * 2.0**-na, mo * 2.0**-no
    za, zb, zo = (form.zero_point + 128 for form in (a, b, y))
    upward = (second * 2.0 ** -(na + 1) if na else 0.0) + (2.0 ** -(no + 1) if no else 0.0)
    offset = second * (zb + first * za) + bias - zo + upward
    return offset, first * second * y.scale / a.scale - 1, second * y.scale / b.scale - 1


def without_offset(a: Range, b: Range, y: Range) -> Range:
    """The 8-bit range ``y`` of a sum of tensors of the ranges ``a`` and ``b``, widened by up to 1/32 so that E-1 errs least.

    Least is the offset and what the gains' errors make of ``SPAN`` codes, in codes; half a code for doubling the range.
    """
    one, other = activation_format(*a, 8), activation_format(*b, 8)

    def cost(wider: int) -> float:
        factor = 1 + wider / STEPS
        offset, *gains = residual_errors(one, other, activation_format(y[0] * factor, y[1] * factor, 8))
        return abs(offset) + SPAN * sum(map(abs, gains)) + 0.5 * (factor - 1)

    best = 1 + min(range(WIDEST + 1), key=cost) / STEPS
    return y[0] * best, y[1] * best
