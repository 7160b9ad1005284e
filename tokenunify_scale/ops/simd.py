"""Vectors inside numba kernels: LLVM vector values with arithmetic, loads, stores and exponentials.

A kernel takes a ``Lanes`` as its first argument; operations then work on that many numbers at
once, whatever the loop vectoriser thinks. The type of ``Lanes`` carries the width and a digest
of this folder, so code cached for another width or another version is never loaded.
Every operation propagates NaN: only multiply-add contraction is allowed to LLVM.
"""

import hashlib
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.core.datamodel.models import OpaqueModel, PrimitiveModel
from numba.core.imputils import lower_builtin
from numba.core.typing import Context, Signature
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, intrinsic, register_model, typeof_impl, unbox

Vector = object
"""In annotations of kernels: a vector value, which exists only in compiled code."""
Pointer = object
"""In annotations of kernels: a place in memory, from ``simd_memory.at``."""
Emitted = tuple[Signature, Callable]
"""What numba wants of an intrinsic: its signature, and a function that emits its code."""

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:12]
_I32 = ir.IntType(32)


class Lanes:
    """How many numbers of which type one vector holds; the host's register unless said.

    Args:
        dtype: ``np.float32`` or ``np.float64``.
        register: bytes of a vector register, a power of two.
    """

    def __init__(self, dtype: type, register: int | None = None) -> None:
        """Choose the type and the register."""
        self.dtype = np.dtype(dtype)
        self.width = (register or host_register()) // self.dtype.itemsize
        self.numba_type = LanesType(types.float64 if self.dtype.itemsize == 8 else types.float32,
                                    self.width)


def host_register() -> int:
    """Bytes of the widest vector register of this processor: 64, 32 or 16."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


class LanesType(types.Opaque):
    """Numba's type of a ``Lanes`` argument."""

    def __init__(self, scalar: types.Float, width: int) -> None:
        """Name the type by all that compiled code depends on."""
        self.scalar, self.width = scalar, width
        super().__init__(f"Lanes({scalar}, {width}, {_DIGEST})")


class VectorType(types.Type):
    """Numba's type of one vector value."""

    def __init__(self, scalar: types.Float, width: int) -> None:
        """Name the type by element and width."""
        self.scalar, self.width = scalar, width
        super().__init__(f"Vector({scalar}, {width})")


register_model(LanesType)(OpaqueModel)


@typeof_impl.register(Lanes)
def _typeof_lanes(value: Lanes, context: object) -> LanesType:
    return value.numba_type


@unbox(LanesType)
def _unbox_lanes(kind: LanesType, value: object, c: object) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def llvm_vector(kind: VectorType | LanesType) -> ir.VectorType:
    """LLVM's type of one vector."""
    element = ir.DoubleType() if kind.scalar == types.float64 else ir.FloatType()
    return ir.VectorType(element, kind.width)


@register_model(VectorType)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager: object, kind: VectorType) -> None:
        super().__init__(manager, kind, llvm_vector(kind))


# Arithmetic: vector with vector, and vector with scalar (which is spread over the lanes).


class _Arithmetic(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> object:
        vectors = [a for a in args if isinstance(a, VectorType)]
        if len(args) == 2 and vectors and all(a == vectors[0] or isinstance(a, types.Number)
                                              for a in args):
            return signature(vectors[0], *args)
        return None


def constant(kind: ir.VectorType, value: float | int) -> ir.Constant:
    """The vector that holds ``value`` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def spread(builder: ir.IRBuilder, kind: ir.VectorType, scalar: ir.Value) -> ir.Value:
    """The vector that holds a run-time ``scalar`` in every lane."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, first, zeros)


def _lower_arithmetic(emit: str) -> object:
    def lower(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        def vector(kind: types.Type, value: ir.Value) -> ir.Value:
            if isinstance(kind, VectorType):
                return value
            scalar = context.cast(builder, value, kind, sig.return_type.scalar)
            return spread(builder, llvm_vector(sig.return_type), scalar)

        left, right = (vector(k, v) for k, v in zip(sig.args, args, strict=True))
        return getattr(builder, emit)(left, right, flags=("contract",))

    return lower


for _operator, _emit in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    infer_global(_operator)(type(f"_Vector_{_emit}", (_Arithmetic,), {}))
    for _pair in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(_operator, *_pair)(_lower_arithmetic(_emit))


@intrinsic
def width(typingctx: Context, lanes: LanesType) -> Emitted:
    """How many numbers a vector of ``lanes`` holds, a constant when compiled."""

    def codegen(context: object, builder: ir.IRBuilder, sig: object, args: tuple) -> ir.Value:
        return context.get_constant(types.intp, lanes.width)

    return types.intp(lanes), codegen
