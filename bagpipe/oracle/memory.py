"""Array access for the planner's inner loops: no wrap-around of negative indices, and prefetching.

numba lets `a[i]` count from the end where i is negative, which costs four instructions at every
access that it cannot prove away. The planner's loops are bound by the number of their instructions,
so they use `load` and `store`: the index must be within the array, as the kernels make sure.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = cgutils.create_struct_proxy(array_type)(context, builder, array)
    return builder.gep(view.data, [index])


def _is_flat(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"


@intrinsic
def _load(typingctx: Any, array: Any, index: Any) -> Any:
    """`array[index]` of a flat integer array, as int64."""
    if not (_is_flat(array) and isinstance(array.dtype, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, sig.args[0], *args))
        if value.type.width == 64:
            return value
        widen = builder.sext if sig.args[0].dtype.signed else builder.zext
        return widen(value, ir.IntType(64))

    return types.int64(array, types.int64), codegen


@intrinsic
def _store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """`array[index] = value` of a flat integer array; the value must fit its type."""
    if not (_is_flat(array) and isinstance(array.dtype, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _address(context, builder, sig.args[0], args[0], args[1])
        width = place.type.pointee.width if hasattr(place.type, "pointee") else sig.args[0].dtype.bitwidth
        word = args[2] if width == 64 else builder.trunc(args[2], ir.IntType(width))
        builder.store(word, place)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]`, without waiting for it. Any index is safe."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _address(context, builder, sig.args[0], *args)
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32]),
            "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, int32(1), int32(3), int32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


# numba's own annotations describe what an intrinsic is to numba, not to its callers.
load: Any = _load
store: Any = _store
prefetch: Any = _prefetch
