"""Loads and stores of vectors and scalars inside numba kernels.

Pointers come from ``at``; offsets and counts are in elements. Nothing checks bounds.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import Context
from numba.extending import intrinsic

from tokenunify_scale.ops.simd import (
    Emitted,
    LanesType,
    VectorType,
    constant,
    llvm_vector,
    spread,
)

_I32 = ir.IntType(32)


@intrinsic
def at(typingctx: Context, array: types.Array, index: types.BaseTuple) -> Emitted:
    """Pointer to ``array[index]``: any strides, no bounds check, no negative indices."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        kind, where = sig.args
        view = context.make_array(kind)(context, builder, args[0])
        places = [context.cast(builder, i, t, types.intp)
                  for i, t in zip(cgutils.unpack_tuple(builder, args[1]), where, strict=True)]
        return cgutils.get_item_pointer2(
            context, builder, view.data, cgutils.unpack_tuple(builder, view.shape),
            cgutils.unpack_tuple(builder, view.strides), "A", places)

    return types.CPointer(array.dtype)(array, index), codegen


def _vector_pointer(builder: ir.IRBuilder, pointer: ir.Value, kind: VectorType) -> ir.Value:
    return builder.bitcast(pointer, llvm_vector(kind).as_pointer())


@intrinsic
def load(typingctx: Context, lanes: LanesType, pointer: types.CPointer,
         offset: types.Type) -> Emitted:
    """The full vector at ``pointer + offset``."""
    kind = VectorType(lanes.scalar, lanes.width)

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        place = _vector_pointer(builder, builder.gep(args[1], [args[2]]), kind)
        return builder.load(place, align=kind.scalar.bitwidth // 8)

    return kind(lanes, pointer, types.intp), codegen


@intrinsic
def store(typingctx: Context, pointer: types.CPointer, offset: types.Type,
          vector: VectorType) -> Emitted:
    """Write the full vector to ``pointer + offset``."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        place = _vector_pointer(builder, builder.gep(args[0], [args[1]]), vector)
        builder.store(args[2], place, align=vector.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), codegen


@intrinsic
def peek(typingctx: Context, pointer: types.CPointer, offset: types.Type) -> Emitted:
    """The scalar at ``pointer + offset``."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        return builder.load(builder.gep(args[0], [args[1]]))

    return pointer.dtype(pointer, types.intp), codegen


@intrinsic
def poke(typingctx: Context, pointer: types.CPointer, offset: types.Type,
         scalar: types.Type) -> Emitted:
    """Write the scalar to ``pointer + offset``."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, pointer.dtype), codegen


def _first(builder: ir.IRBuilder, kind: ir.VectorType, count: ir.Value) -> ir.Value:
    """Mask of the lanes below ``count``."""
    lanes = ir.VectorType(_I32, kind.count)
    limit = spread(builder, lanes, builder.trunc(count, _I32))
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(kind.count))), limit)


def _masked(builder: ir.IRBuilder, action: str, result: ir.Type, vector: ir.VectorType,
            args: list) -> ir.Value:
    bits = 64 if vector.element == ir.DoubleType() else 32
    name = f"llvm.masked.{action}.v{vector.count}f{bits}.p0"
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def load_some(typingctx: Context, lanes: LanesType, pointer: types.CPointer,
              count: types.Type) -> Emitted:
    """The first ``count`` elements at ``pointer``; other lanes are zero, their memory unread."""
    kind = VectorType(lanes.scalar, lanes.width)

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        vector, align = llvm_vector(kind), kind.scalar.bitwidth // 8
        place = _vector_pointer(builder, args[1], kind)
        whole = builder.icmp_signed(">=", args[2], args[2].type(kind.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                full, full_block = builder.load(place, align=align), builder.block
            with otherwise:
                part = _masked(builder, "load", vector, vector, [
                    place, _I32(align), _first(builder, vector, args[2]), constant(vector, 0.0)])
                part_block = builder.block
        result = builder.phi(vector)
        result.add_incoming(full, full_block)
        result.add_incoming(part, part_block)
        return result

    return kind(lanes, pointer, types.intp), codegen


@intrinsic
def store_some(typingctx: Context, pointer: types.CPointer, count: types.Type,
               vector: VectorType) -> Emitted:
    """Write the first ``count`` lanes to ``pointer``, and nothing beyond."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        kind, align = llvm_vector(vector), vector.scalar.bitwidth // 8
        place = _vector_pointer(builder, args[0], vector)
        whole = builder.icmp_signed(">=", args[1], args[1].type(vector.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(args[2], place, align=align)
            with otherwise:
                _masked(builder, "store", ir.VoidType(), kind, [
                    args[2], place, _I32(align), _first(builder, kind, args[1])])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), codegen
