"""Sums over the lanes of eight vectors at once inside numba kernels."""

from llvmlite import ir
from numba.core import types
from numba.core.typing import Context
from numba.extending import intrinsic

from tokenunify_scale.ops.simd import Emitted, LanesType, VectorType, llvm_vector

EIGHT = 8
"""Vectors that ``add_totals`` sums at once."""


def _place(i: int, lanes: int) -> tuple[int, int]:
    """Vector and first lane of the i-th of eight sums, as ``_fold`` leaves them."""
    levels = min(3, lanes.bit_length() - 1)
    lane = sum((i >> level & 1) * (lanes >> level + 1) for level in range(levels))
    return i >> levels, lane


def _fold(builder: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
    """Add the lanes of eight vectors, until one vector holds the sums or a sum is one lane.

    Two vectors become one whose alternate blocks of lanes belong to the first and the second; a
    blend, a shuffle and an addition each.
    """
    lanes = values[0].type.count
    index, size = ir.VectorType(ir.IntType(32), lanes), lanes // 2
    while len(values) > 1 and size:
        own = [lane + lanes * bool(lane & size) for lane in range(lanes)]
        other = [(lane ^ size) + lanes * bool(lane & size) for lane in range(lanes)]
        keep, swap = ir.Constant(index, own), ir.Constant(index, other)
        values = [builder.fadd(builder.shuffle_vector(a, b, keep),
                               builder.shuffle_vector(a, b, swap))
                  for a, b in zip(values[::2], values[1::2], strict=True)]
        size //= 2
    return values


@intrinsic
def add_totals(typingctx: Context, lanes: LanesType, pointer: types.CPointer, a: VectorType,
               b: VectorType, c: VectorType, d: VectorType, e: VectorType, f: VectorType,
               g: VectorType, h: VectorType) -> Emitted:
    """Add the sums of the lanes of eight vectors to max(8, lanes) numbers in memory.

    What lies there is for ``finish_totals``, which puts the eight sums in order.
    """
    kind = VectorType(lanes.scalar, lanes.width)

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        vector, align = llvm_vector(kind), kind.scalar.bitwidth // 8
        start = builder.bitcast(args[1], vector.as_pointer())
        for i, value in enumerate(_fold(builder, list(args[2:]))):
            place = builder.gep(start, [ir.IntType(64)(i)])
            total = builder.fadd(builder.load(place, align=align), value)
            builder.store(total, place, align=align)
        return context.get_dummy_value()

    return types.void(lanes, pointer, *[kind] * EIGHT), codegen


@intrinsic
def finish_totals(typingctx: Context, lanes: LanesType, pointer: types.CPointer) -> Emitted:
    """Turn what ``add_totals`` has left into eight numbers in a row."""
    kind = VectorType(lanes.scalar, lanes.width)

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        long, size = ir.IntType(64), max(1, kind.width // EIGHT)
        sums = []
        for i in range(EIGHT):
            vector, lane = _place(i, kind.width)
            first = vector * kind.width + lane
            parts = [builder.load(builder.gep(args[1], [long(first + k)])) for k in range(size)]
            total = parts[0]
            for part in parts[1:]:
                total = builder.fadd(total, part)
            sums.append(total)
        for i, total in enumerate(sums):
            builder.store(total, builder.gep(args[1], [long(i)]))
        return context.get_dummy_value()

    return types.void(lanes, pointer), codegen
