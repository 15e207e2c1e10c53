"""One processor instruction that numpy and numba lack: ask for memory before it is needed.

Tables and their indices are far larger than any cache, and every kernel over them knows its addresses
long before it uses them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def prefetch_row(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line that holds `array[index]` (first axis), without waiting for it."""
    signature = types.void(array, index)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0])
        stride = builder.extract_value(view.strides, 0)
        number = builder.sext(args[1], stride.type) if args[1].type.width < 64 else args[1]
        base = builder.ptrtoint(view.data, ir.IntType(64))
        pointer = builder.inttoptr(builder.add(base, builder.mul(number, stride)), ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32]),
            "llvm.prefetch.p0",
        )
        # For writing or reading alike, keep in every level, data.
        builder.call(function, [pointer, int32(1), int32(3), int32(1)])
        return context.get_dummy_value()

    return signature, codegen
