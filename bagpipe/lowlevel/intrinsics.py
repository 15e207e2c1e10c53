"""Processor instructions that numpy and numba lack, for compiled loops: prefetch, unchecked access, fused multiply-add.

Tables, caches and the planner's index are far larger than any processor cache, and the loops over them know every
address long before they use it: they ask for memory ahead of time (`prefetch`, `prefetch_row`, `prefetch_lines`,
`prefetch_item`). No prefetch changes a value, and any index is safe.

numba lets `a[i]` count from the end where i is negative, which costs four instructions at every access that it cannot
prove away. The planner's loops are bound by the number of their instructions, so they use `load` and `store`: the index
must be within the array, as the kernels make sure.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite ships no types
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_BYTES = 64
"""Bytes of a cache line."""

LLVM: Any = cgutils
"""numba's code generation helpers, which carry no types."""
_FOR_READING, _FOR_WRITING = 0, 1
_KEEP_IN_ALL_LEVELS, _DATA = 3, 1


def _emit_prefetch(context: Any, builder: Any, pointer: Any, access: int) -> Any:
    """Emit a prefetch instruction; `access` says whether the line will be written."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    word = ir.IntType(32)
    function = LLVM.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word]), "llvm.prefetch.p0"
    )
    builder.call(function, [pointer, word(access), word(_KEEP_IN_ALL_LEVELS), word(_DATA)])
    return context.get_dummy_value()


def _flat_item(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to `array[index]` of a flat array."""
    view = LLVM.create_struct_proxy(array_type)(context, builder, array)
    return builder.gep(view.data, [index])


def _item(context: Any, builder: Any, signature: Any, arguments: Sequence[Any], offset_bytes: int = 0) -> Any:
    """Pointer to `array[i]`, or `array[i, j]`, of an array of any layout, `offset_bytes` further on."""
    view = LLVM.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    int64 = ir.IntType(64)
    address = builder.ptrtoint(view.data, int64)
    for axis, index in enumerate(arguments[1:]):
        stride = builder.extract_value(view.strides, axis)
        number = builder.sext(index, stride.type) if index.type.width < 64 else index
        address = builder.add(address, builder.mul(number, stride))
    if offset_bytes:
        address = builder.add(address, ir.Constant(int64, offset_bytes))
    return builder.inttoptr(address, ir.IntType(8).as_pointer())


def _is_flat(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"


@intrinsic
def _load(typingctx: Any, array: Any, index: Any) -> Any:
    if not (_is_flat(array) and isinstance(array.dtype, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_flat_item(context, builder, signature.args[0], *args))
        if value.type.width == 64:
            return value
        widen = builder.sext if signature.args[0].dtype.signed else builder.zext
        return widen(value, ir.IntType(64))

    return types.int64(array, types.int64), codegen


@intrinsic
def _store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    if not (_is_flat(array) and isinstance(array.dtype, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _flat_item(context, builder, signature.args[0], args[0], args[1])
        width = place.type.pointee.width if hasattr(place.type, "pointee") else signature.args[0].dtype.bitwidth
        word = args[2] if width == 64 else builder.trunc(args[2], ir.IntType(width))
        builder.store(word, place)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_prefetch(context, builder, _flat_item(context, builder, signature.args[0], *args), _FOR_WRITING)

    return types.void(array, types.int64), codegen


@intrinsic
def _prefetch_row(typingctx: Any, array: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_prefetch(context, builder, _item(context, builder, signature, args), _FOR_WRITING)

    return types.void(array, index), codegen


@intrinsic
def _prefetch_lines(typingctx: Any, array: Any, index: Any, num_lines: Any) -> Any:
    if not isinstance(num_lines, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for line in range(num_lines.literal_value):
            pointer = _item(context, builder, signature, args[:2], LINE_BYTES * line)
            _emit_prefetch(context, builder, pointer, _FOR_WRITING)
        return context.get_dummy_value()

    return types.void(array, index, num_lines), codegen


@intrinsic
def _prefetch_item(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _emit_prefetch(context, builder, _item(context, builder, signature, args), _FOR_READING)

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def _fused(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


# `Any`: numba's own annotations describe what an intrinsic is to numba, not to its callers.
load: Any = _load
"""`array[index]` of a flat integer array, as int64; the index must be within the array."""
store: Any = _store
"""`array[index] = value` of a flat integer array; the index must be within the array, and the value fit its type."""
prefetch: Any = _prefetch
"""Ask for the cache line of `array[index]` of a flat array."""
prefetch_row: Any = _prefetch_row
"""Ask for the cache line in which `array[index]` begins (first axis), in an array of any layout."""
prefetch_lines: Any = _prefetch_lines
"""Ask for the first `num_lines` (a literal) cache lines of `array[index]`, in an array of any layout."""
prefetch_item: Any = _prefetch_item
"""Ask for the cache line of `array[row, column]`, which will only be read."""
fused: Any = _fused
"""a * b + c in float32 with a single rounding."""
