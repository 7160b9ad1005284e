"""Loads and stores of vectors and scalars inside numba kernels.

Pointers come from ``at``; offsets and counts are in elements. Nothing checks bounds. An array of
uint16 holds bfloat16 numbers: they are widened when loaded and rounded to nearest when stored.
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

LOCALITY = 3
_I16, _I32 = ir.IntType(16), ir.IntType(32)


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


@intrinsic
def beyond(typingctx: Context, pointer: types.CPointer, offset: types.Type) -> Emitted:
    """The pointer ``offset`` elements further."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), codegen


@intrinsic
def prefetch(typingctx: Context, pointer: types.CPointer) -> Emitted:
    """Ask for the cache line at ``pointer``, which need not exist."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        place = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, _I32(0), _I32(LOCALITY), _I32(1)])
        return context.get_dummy_value()

    return types.void(pointer), codegen


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
        value = args[2]
        if sig.args[0].dtype == types.uint16:
            lane = builder.insert_element(ir.Constant(ir.VectorType(value.type, 1), ir.Undefined),
                                          value, _I32(0))
            narrow = _narrow(builder, ir.VectorType(_I16, 1), lane)
            value = builder.extract_element(narrow, _I32(0))
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, scalar), codegen


@intrinsic
def number(typingctx: Context, lanes: LanesType, value: types.Type) -> Emitted:
    """A scalar of an array as the precision of ``lanes``."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        if sig.args[1] == types.uint16:
            bits = builder.shl(builder.zext(args[1], _I32), _I32(16))
            return builder.bitcast(bits, ir.FloatType())
        return context.cast(builder, args[1], sig.args[1], sig.return_type)

    return lanes.scalar(lanes, value), codegen


def _first(builder: ir.IRBuilder, kind: ir.VectorType, count: ir.Value) -> ir.Value:
    """Mask of the lanes below ``count``."""
    lanes = ir.VectorType(_I32, kind.count)
    limit = spread(builder, lanes, builder.trunc(count, _I32))
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(kind.count))), limit)


def _masked(builder: ir.IRBuilder, action: str, result: ir.Type, vector: ir.VectorType,
            args: list) -> ir.Value:
    kinds = {ir.DoubleType(): "f64", ir.FloatType(): "f32", _I16: "i16"}
    name = f"llvm.masked.{action}.v{vector.count}{kinds[vector.element]}.p0"
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _in_memory(kind: VectorType, pointer: types.CPointer) -> tuple[ir.VectorType, int]:
    """The vector as an array holds it, and the bytes of one element."""
    if pointer.dtype == types.uint16:
        return ir.VectorType(_I16, kind.width), 2
    return llvm_vector(kind), kind.scalar.bitwidth // 8


def _widen(builder: ir.IRBuilder, kind: VectorType, value: ir.Value) -> ir.Value:
    """Numbers as an array holds them, as numbers to compute with."""
    if value.type == llvm_vector(kind):
        return value
    words = ir.VectorType(_I32, kind.width)
    bits = builder.shl(builder.zext(value, words), constant(words, 16))
    return builder.bitcast(bits, llvm_vector(kind))


def _narrow(builder: ir.IRBuilder, memory: ir.VectorType, value: ir.Value) -> ir.Value:
    """The inverse of ``_widen``: to nearest, ties to even; NaN stays."""
    if value.type == memory:
        return value
    words = ir.VectorType(_I32, memory.count)
    bits = builder.bitcast(value, words)
    odd = builder.and_(builder.lshr(bits, constant(words, 16)), constant(words, 1))
    rounded = builder.add(bits, builder.add(odd, constant(words, 0x7FFF)))
    ordered = builder.fcmp_ordered("ord", value, value)
    rounded = builder.select(ordered, rounded, constant(words, 0x7FC00000))
    return builder.trunc(builder.lshr(rounded, constant(words, 16)), memory)


@intrinsic
def load_some(typingctx: Context, lanes: LanesType, pointer: types.CPointer,
              count: types.Type) -> Emitted:
    """The first ``count`` elements at ``pointer``; other lanes are zero, their memory unread."""
    kind = VectorType(lanes.scalar, lanes.width)

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        vector, align = _in_memory(kind, sig.args[1])
        place = builder.bitcast(args[1], vector.as_pointer())
        whole = builder.icmp_signed(">=", args[2], args[2].type(kind.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                full, full_block = builder.load(place, align=align), builder.block
            with otherwise:
                part = _masked(builder, "load", vector, vector, [
                    place, _I32(align), _first(builder, vector, args[2]), constant(vector, 0)])
                part_block = builder.block
        result = builder.phi(vector)
        result.add_incoming(full, full_block)
        result.add_incoming(part, part_block)
        return _widen(builder, kind, result)

    return kind(lanes, pointer, types.intp), codegen


@intrinsic
def store_some(typingctx: Context, pointer: types.CPointer, count: types.Type,
               vector: VectorType) -> Emitted:
    """Write the first ``count`` lanes to ``pointer``, and nothing beyond."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        kind, align = _in_memory(vector, sig.args[0])
        place = builder.bitcast(args[0], kind.as_pointer())
        value = _narrow(builder, kind, args[2])
        whole = builder.icmp_signed(">=", args[1], args[1].type(vector.width))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(value, place, align=align)
            with otherwise:
                _masked(builder, "store", ir.VoidType(), kind, [
                    value, place, _I32(align), _first(builder, kind, args[1])])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, vector), codegen
