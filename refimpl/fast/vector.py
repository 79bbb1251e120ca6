"""The instructions that the fast kernels are made of, as Numba intrinsics; addresses are int64, lengths in elements.

Integer sums are exact modulo 2^32 whatever their order, so a tile may add four products at once. FP32 operations are the same
IEEE operations as the operators', one by one: LLVM contracts and reassociates only where it is told to, and it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as typed_intrinsic

from refimpl.fast.tier import chosen

TIER = chosen()
LANES = {"vnni": 16, "avx2": 8, "any": 4}[TIER]
ROWS = {"vnni": 12, "avx2": 2, "any": 1}[TIER]  # of a tile: as many as leave its sums in registers
COLUMNS = 32  # of a tile
BYTES = TIER == "vnni"  # 8-bit activations are summed as bytes, four at a time; otherwise as 16-bit words, two at a time

I1, I8, I16, I32, I64, F32 = (*(ir.IntType(n) for n in (1, 8, 16, 32, 64)), ir.FloatType())
Value = Any
Builder = Any
intrinsic: Any = typed_intrinsic


def vector(element: Any, count: int = LANES) -> Any:
    return ir.VectorType(element, count)


def constant(kind: Any, value: float) -> Any:
    """``value`` in every lane of ``kind``."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def like(kind: Any, element: Any) -> Any:
    """``kind`` with other elements."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def splat(b: Builder, value: Value, count: int = LANES) -> Value:
    kind = ir.VectorType(value.type, count)
    single = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return b.shuffle_vector(single, ir.Constant(kind, ir.Undefined), ir.Constant(vector(I32, count), [0] * count))


def load(b: Builder, address: Value, kind: Any) -> Value:
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(b: Builder, value: Value, address: Value) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 1


def plus(b: Builder, address: Value, offset: int) -> Value:
    return b.add(address, ir.Constant(I64, offset)) if offset else address


def call(b: Builder, name: str, result: Any, *arguments: Value) -> Value:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)  # type: ignore[no-untyped-call]


# -- rules of the numerics, for a scalar or for all lanes ---------------------------------------------------------------


def round_finite(b: Builder, x: Value) -> Value:
    """FP32, no NaN, to 32 bits whose high half is the BF16 pattern (SPEC B-1)."""
    kind = like(x.type, I32)
    bits = b.bitcast(x, kind)
    odd = b.and_(b.lshr(bits, constant(kind, 16)), constant(kind, 1))
    return b.add(b.add(bits, constant(kind, 0x7FFF)), odd)


def encode_finite(b: Builder, x: Value) -> Value:
    """FP32, no NaN, to a BF16 pattern in the low half of 32 bits."""
    return b.lshr(round_finite(b, x), constant(like(x.type, I32), 16))


def encode_pair(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """Two vectors of FP32, no NaN, to vectors of BF16: the high halves of the rounded words."""
    halves = vector(I16, 2 * LANES)
    high = ir.Constant(vector(I32), list(range(1, 2 * LANES, 2)))
    rounded = (b.bitcast(round_finite(b, value), halves) for value in (x, y))
    low, top = (b.shuffle_vector(value, ir.Constant(halves, ir.Undefined), high) for value in rounded)
    return low, top


def encode(b: Builder, x: Value) -> Value:
    """FP32 to a BF16 pattern; 33 bits would be needed for NaN alone, and that is replaced."""
    return b.select(b.fcmp_unordered("uno", x, x), constant(like(x.type, I32), 0x7FC0), encode_finite(b, x))


def decode(b: Builder, pattern: Value) -> Value:
    """16 bits to FP32 (SPEC B-2)."""
    wide = b.zext(pattern, like(pattern.type, I32))
    return b.bitcast(b.shl(wide, constant(wide.type, 16)), like(pattern.type, F32))


def clamp(b: Builder, x: Value, lowest: Value, highest: Value) -> Value:
    """``min(max(x, lowest), highest)`` of signed integers (SPEC N-4)."""
    raised = b.select(b.icmp_signed(">", x, lowest), x, lowest)
    return b.select(b.icmp_signed("<", raised, highest), raised, highest)


def round_clamp(b: Builder, x: Value, lowest: Value, highest: Value) -> Value:
    """FP32 to int32, half to even, within bounds below 2^24; NaN gives 0 (SPEC N-6): bounds are integers, so clamp first."""
    kind = x.type
    x = b.select(b.fcmp_unordered("uno", x, x), constant(kind, 0.0), x)
    low, high = b.sitofp(lowest, kind), b.sitofp(highest, kind)
    inside = b.select(b.fcmp_ordered("<=", x, low), low, b.select(b.fcmp_ordered(">=", x, high), high, x))
    return b.fptosi(call(b, "llvm.rint.f32", kind, inside), I32)


# -- scalars for plain loops, which LLVM turns into vectors of 32-bit lanes; Numba's own int32 arithmetic is 64 bits wide ----


def scalar(result: Any, arguments: Sequence[Any], emit: Callable[..., Value]) -> Any:
    """An intrinsic of one to three numbers from ``emit(builder, *values) -> value``."""
    signature = result(*arguments)

    def codegen(context, builder, signature, values):
        return emit(builder, *values)

    def one(typingctx, x):
        return signature, codegen

    def two(typingctx, x, y):
        return signature, codegen

    def three(typingctx, x, y, z):
        return signature, codegen

    return intrinsic((one, two, three)[len(arguments) - 1])


_i32 = types.int32
add32 = scalar(_i32, [_i32, _i32], lambda b, x, y: b.add(x, y))
sub32 = scalar(_i32, [_i32, _i32], lambda b, x, y: b.sub(x, y))
mul32 = scalar(_i32, [_i32, _i32], lambda b, x, y: b.mul(x, y))
sra32 = scalar(_i32, [_i32, _i32], lambda b, x, y: b.ashr(x, y))
clamp32 = scalar(_i32, [_i32, _i32, _i32], clamp)
bf16_of = scalar(types.uint16, [types.float32], lambda b, x: b.trunc(encode(b, x), I16))
f32_of = scalar(types.float32, [types.uint16], decode)
f32_bits = scalar(types.float32, [types.int64], lambda b, x: b.bitcast(b.trunc(x, I32), F32))
round32 = scalar(_i32, [types.float32, _i32, _i32], round_clamp)
pointer = scalar(types.voidptr, [types.int64], lambda b, x: b.inttoptr(x, I8.as_pointer()))


@intrinsic
def call_native(typingctx, function, words, first):
    """Call the C function at address ``function`` with the address of ``words[first]``."""

    def codegen(context, builder, signature, arguments):
        address, array, offset = arguments
        data = context.make_array(signature.args[1])(context, builder, array).data
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        builder.call(builder.inttoptr(address, kind.as_pointer()), [builder.gep(data, [offset])])
        return context.get_dummy_value()

    return types.void(types.int64, words, types.int64), codegen


# -- the tile ---------------------------------------------------------------------------------------------------------------


def dot(b: Builder, total: Value, left: Value, right: Value, unsigned: int | None) -> Value:
    """``total + `` the products of the 4 bytes or 2 words in each lane; of bytes, operand ``unsigned`` (0, 1) is so."""
    if unsigned is not None:
        pair = (left, right) if unsigned == 0 else (right, left)
        return call(b, "llvm.x86.avx512.vpdpbusd.512", total.type, total, *pair)
    if TIER == "vnni":
        return call(b, "llvm.x86.avx512.vpdpwssd.512", total.type, total, left, right)
    words = vector(I16, 2 * LANES)
    left, right = b.bitcast(left, words), b.bitcast(right, words)
    if TIER == "avx2":
        return b.add(total, call(b, "llvm.x86.avx2.pmadd.wd", total.type, left, right))
    wide = vector(I32, 2 * LANES)
    products = b.mul(b.sext(left, wide), b.sext(right, wide))
    halves = [
        b.shuffle_vector(products, ir.Constant(wide, ir.Undefined), ir.Constant(vector(I32), list(range(odd, 2 * LANES, 2))))
        for odd in (0, 1)
    ]
    return b.add(total, b.add(*halves))


def make_tile(as_bytes: bool, by_row: bool, output: str) -> Any:
    """An intrinsic for ``ROWS x COLUMNS`` outputs ``law(sum_k a[row, k] * b[k, column])``.

    ``tile(a, stride_a, b, steps, table, stride_table, out, stride_out, shift, lowest)``. Addresses and strides in bytes. One
    step is a 32-bit word of each row of a and of each column of b: 4 bytes (of which those of x are unsigned) or 2 words; b is
    packed [step][column]. table int32 [constants][channel]: what sums start from, M, addend, second shift (``"int8"``, where
    ``shift`` must be 0, and ``"int16"``: saturated, then no less than ``lowest``), or start and finite FP32 scale (``"bf16"``),
    or start (``"int32"``). Channels are rows (``by_row``) or columns.
    """
    blocks = COLUMNS // LANES
    words = vector(I32)

    def codegen(context, b, signature, arguments):
        a, stride_a, packed, steps, table, stride_table, out, stride_out, shift, lowest = arguments

        def constants(index: int, row: int, block: int) -> Value:
            at = b.add(table, b.mul(stride_table, ir.Constant(I64, index)))
            if by_row:
                return splat(b, load(b, plus(b, at, 4 * row), I32))
            return load(b, plus(b, at, 4 * LANES * block), words)

        cells = [(row, block) for row in range(ROWS) for block in range(blocks)]
        sums = {cell: cgutils.alloca_once(b, words) for cell in cells}  # type: ignore[no-untyped-call]
        for cell in cells:
            b.store(constants(0, *cell), sums[cell])
        row_address = [b.add(a, b.mul(stride_a, ir.Constant(I64, row))) for row in range(ROWS)]
        unsigned = None if not as_bytes else (1 if by_row else 0)
        with cgutils.for_range(b, steps) as loop:
            at = b.add(packed, b.mul(loop.index, ir.Constant(I64, 4 * COLUMNS)))
            right = [load(b, plus(b, at, 4 * LANES * block), words) for block in range(blocks)]
            for row in range(ROWS):
                left = splat(b, load(b, b.add(row_address[row], b.mul(loop.index, ir.Constant(I64, 4))), I32))
                for block in range(blocks):
                    total = b.load(sums[row, block])
                    b.store(dot(b, total, left, right[block], unsigned), sums[row, block])
        first, low = splat(b, b.trunc(shift, I32)), splat(b, b.trunc(lowest, I32))
        size = {"int8": 1, "int16": 2, "bf16": 2, "int32": 4}[output]
        results = []  # all before the first store, beyond which LLVM would load the constants again
        for row, block in cells:
            value = b.load(sums[row, block])
            if output == "bf16":
                scale = b.bitcast(constants(1, row, block), vector(F32))
                value = b.fmul(b.sitofp(value, vector(F32)), scale)
            elif output != "int32":
                value = b.ashr(value, first) if size == 2 else value
                value = b.add(b.mul(value, constants(1, row, block)), constants(2, row, block))
                value = b.ashr(value, constants(3, row, block))
                value = b.select(b.icmp_signed(">", value, low), value, low)
                limit = 1 << (8 * size - 1)
                value = clamp(b, value, constant(words, -limit), constant(words, limit - 1))
                value = b.trunc(value, vector(I8 if size == 1 else I16))
            results.append(value)
        if output == "bf16":
            results = [part for k in range(0, len(results), 2) for part in encode_pair(b, *results[k : k + 2])]
        for (row, block), value in zip(cells, results, strict=True):
            at = b.add(out, b.mul(stride_out, ir.Constant(I64, row)))
            store(b, value, plus(b, at, size * LANES * block))
        return context.get_dummy_value()

    i = types.int64

    @intrinsic
    def tile(typingctx, a, stride_a, b, steps, table, stride_table, out, stride_out, shift, lowest):
        return types.void(i, i, i, i, i, i, i, i, i, i), codegen

    return tile


def make_interleave(size: int, flip: bool) -> Any:
    """``interleave(source, stride, rows, out)``: COLUMNS elements of ``4 / size`` rows of ``size`` bytes to one step of b.

    Rows at and beyond ``rows`` repeat the last one (their weights are zero); ``flip`` turns signed bytes into unsigned ones.
    """
    kind = vector(I8 if size == 1 else I16, COLUMNS)
    ways = 4 // size
    i = types.int64

    def codegen(context, b, signature, arguments):
        source, stride, rows, out = arguments
        lines = []
        for way in range(ways):
            at = ir.Constant(I64, way)
            at = b.select(b.icmp_signed("<", at, rows), at, b.sub(rows, ir.Constant(I64, 1)))
            line = load(b, b.add(source, b.mul(at, stride)), kind)
            lines.append(b.xor(line, constant(kind, -128)) if flip else line)
        while len(lines) > 1:
            half, count = len(lines) // 2, lines[0].type.count
            order = [side * count + lane for lane in range(count) for side in (0, 1)]
            mask = ir.Constant(vector(I32, 2 * count), order)
            lines = [b.shuffle_vector(lines[k], lines[k + half], mask) for k in range(half)]
        store(b, lines[0], out)
        return context.get_dummy_value()

    @intrinsic
    def interleave(typingctx, source, stride, rows, out):
        return types.void(i, i, i, i), codegen

    return interleave


@intrinsic
def lookup64(typingctx, source, stride, table, out):
    """64 codes, 32 at ``source`` and 32 at ``source + stride``, through a table of 256 bytes (``vnni`` only)."""
    i = types.int64

    def codegen(context, b, signature, arguments):
        source, stride, table, out = arguments
        half, whole = vector(I8, 32), vector(I8, 64)
        lines = load(b, source, half), load(b, b.add(source, stride), half)
        index = b.shuffle_vector(*lines, ir.Constant(vector(I32, 64), list(range(64))))
        index = b.xor(index, constant(whole, -128))
        parts = [load(b, plus(b, table, 64 * k), whole) for k in range(4)]
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        low, high = call(b, name, whole, parts[0], index, parts[1]), call(b, name, whole, parts[2], index, parts[3])
        store(b, b.select(b.icmp_signed("<", index, constant(whole, 0)), high, low), out)
        return context.get_dummy_value()

    return types.void(i, i, i, i), codegen


TAPS_ROWS, TAPS_BLOCKS = 4, (3 if TIER == "vnni" else 2)
TAPS_LINE = LANES * TAPS_BLOCKS


@intrinsic
def taps(typingctx, planes, where, count, weight, stride_weight, bias, out, stride_out):
    """``out[o, f] = bf16(bias[o] + sum_k planes[where[k] + f] * weight[k, o])`` for TAPS_ROWS o and TAPS_LINE f.

    FP32, k ascending, each product and each sum rounded; addresses and strides in bytes, ``where`` int64 in elements.
    """
    i = types.int64

    def codegen(context, b, signature, arguments):
        planes, where, count, weight, stride_weight, bias, out, stride_out = arguments
        kind = vector(F32)
        cells = [(row, block) for row in range(TAPS_ROWS) for block in range(TAPS_BLOCKS)]
        sums = {cell: cgutils.alloca_once(b, kind) for cell in cells}  # type: ignore[no-untyped-call]
        for row, block in cells:
            b.store(splat(b, load(b, plus(b, bias, 4 * row), F32)), sums[row, block])
        with cgutils.for_range(b, count) as loop:
            offset = load(b, b.add(where, b.mul(loop.index, ir.Constant(I64, 8))), I64)
            at = b.add(planes, b.mul(offset, ir.Constant(I64, 4)))
            values = [load(b, plus(b, at, 4 * LANES * block), kind) for block in range(TAPS_BLOCKS)]
            line = b.add(weight, b.mul(loop.index, stride_weight))
            for row in range(TAPS_ROWS):
                factor = splat(b, load(b, plus(b, line, 4 * row), F32))
                for block in range(TAPS_BLOCKS):
                    total = b.load(sums[row, block])
                    b.store(b.fadd(total, b.fmul(values[block], factor)), sums[row, block])
        for row, block in cells:
            value = b.trunc(encode(b, b.load(sums[row, block])), vector(I16))
            at = b.add(out, b.mul(stride_out, ir.Constant(I64, row)))
            store(b, value, plus(b, at, 2 * LANES * block))
        return context.get_dummy_value()

    return types.void(i, i, i, i, i, i, i, i), codegen
