"""One processor instruction that numpy and numba lack: ask for memory before it is needed.

Tables and their indices are far larger than any cache, and every kernel over them knows its addresses
long before it uses them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_BYTES = 64


@intrinsic
def prefetch_row(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line in which `array[index]` begins (first axis), without waiting for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view, base = _address(context, builder, signature, args)
        _prefetch(builder, view, base)
        return context.get_dummy_value()

    return types.void(array, index), codegen


@intrinsic
def prefetch_rows(typingctx: Any, array: Any, index: Any, num_lines: Any) -> Any:
    """Ask for the first `num_lines` (a literal) cache lines of `array[index]`."""
    if not isinstance(num_lines, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        module, base = _address(context, builder, signature, args)
        for line in range(num_lines.literal_value):
            _prefetch(builder, module, builder.add(base, ir.Constant(ir.IntType(64), LINE_BYTES * line)))
        return context.get_dummy_value()

    return types.void(array, index, num_lines), codegen


def _address(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Any, Any]:
    """(module, address of `array[index]` as an integer)."""
    view = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
    stride = builder.extract_value(view.strides, 0)
    number = builder.sext(args[1], stride.type) if args[1].type.width < 64 else args[1]
    return builder.module, builder.add(builder.ptrtoint(view.data, ir.IntType(64)), builder.mul(number, stride))


def _prefetch(builder: Any, module: Any, address: Any) -> None:
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    int32 = ir.IntType(32)
    function = cgutils.get_or_insert_function(
        module, ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32]), "llvm.prefetch.p0"
    )
    # For writing or reading alike, keep in every level, data.
    builder.call(function, [pointer, int32(1), int32(3), int32(1)])
