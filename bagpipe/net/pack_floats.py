"""Packs floats into fewer bytes without loss: for links so slow that a byte costs more than the work of saving it.

The exponents of gradients and weights lie close together. Of every `BLOCK` floats the largest exponent is kept, and
for each float its distance from that, as a code of four bits; sign and mantissa, which look like noise, stay as they
are. A zero has a code of its own and no mantissa: inactive units of a layer have many. An exponent too far away for a
code is kept as a whole byte. Packed rows take 88 % of their bytes, dense gradients about 80 %. Packing and unpacking
take a nanosecond or two for each float.

A packed array holds the floats after the last whole block, then, of all blocks together, the codes (two in a byte: the
first half of a block in the low bits, the second in the high bits), the blocks' exponents, the three mantissa planes of
all floats that are not zero, and the exponents that fit no code.
"""

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Floats
from bagpipe.errors import WireError

BLOCK = 64
HALF = BLOCK // 2
ZERO, FAR = 14, 15
"""Codes from here on are not distances: plus zero, and an exponent more than 13 below the block's."""

Bytes = npt.NDArray[np.uint8]


def pack(values: Floats) -> Bytes | None:
    """The packed array of these floats, of any shape; None where that would not be shorter."""
    flat = np.ascontiguousarray(values).reshape(-1)
    whole = flat.size // BLOCK * BLOCK
    bits = flat[:whole].view(np.uint32).reshape(-1, BLOCK)
    codes = np.empty((bits.shape[0], HALF), np.uint8)
    exponents = np.empty(bits.shape[0], np.uint8)
    zeros, far = _encode(bits, codes, exponents)
    num_bytes = _num_bytes(flat.size, zeros, far)
    if num_bytes >= flat.nbytes:
        return None
    packed = np.empty(num_bytes, np.uint8)
    rest, code_bytes, exponent_bytes, first, second, third, far_bytes = _split(packed, flat.size, zeros, far)
    rest[:] = flat[whole:].view(np.uint8)
    code_bytes[:] = codes.reshape(-1)
    exponent_bytes[:] = exponents
    _write_mantissas(bits, exponents, first, second, third, far_bytes)
    return packed


def unpack(packed: Bytes, out: Floats) -> None:
    """Fill `out` with the floats that were packed.

    Raises:
        WireError: the bytes do not hold as many floats as `out` has.
    """
    flat = out.reshape(-1)
    whole = flat.size // BLOCK * BLOCK
    least = (flat.size - whole) * 4
    codes = packed[least : least + whole // 2]
    zeros, far = _count(codes)
    if codes.size != whole // 2 or packed.size != _num_bytes(flat.size, zeros, far):
        raise WireError(f"expected {flat.size} packed floats, found {packed.size} bytes that hold another number")
    rest, _, exponents, first, second, third, far_bytes = _split(packed, flat.size, zeros, far)
    flat[whole:].view(np.uint8)[:] = rest
    bits = flat[:whole].view(np.uint32).reshape(-1, BLOCK)
    _decode(codes.reshape(-1, HALF), exponents, first, second, third, far_bytes, bits)


def most_floats(packed_bytes: int) -> int:
    """An upper bound of the floats in that many packed bytes: a block of zeros takes only its codes and an exponent."""
    return packed_bytes // (HALF + 1) * BLOCK + BLOCK


def _sizes(count: int, zeros: int, far: int) -> list[int]:
    """Bytes of each part of a packed array, in order."""
    blocks = count // BLOCK
    mantissas = blocks * BLOCK - zeros
    return [count % BLOCK * 4, blocks * HALF, blocks, mantissas, mantissas, mantissas, far]


def _num_bytes(count: int, zeros: int, far: int) -> int:
    return sum(_sizes(count, zeros, far))


def _split(packed: Bytes, count: int, zeros: int, far: int) -> list[Bytes]:
    ends = accumulate(_sizes(count, zeros, far), initial=0)
    return [packed[start:end] for start, end in pairwise(ends)]


@njit(cache=True, nogil=True)
def _encode(bits: Any, codes: Any, exponents: Any) -> Any:
    """Fills codes and exponents; returns how many floats are zero, and how many are far."""
    zeros, far = 0, 0
    for b in range(bits.shape[0]):
        block = bits[b]
        most = np.uint32(0)
        for i in range(BLOCK):
            most = max(most, block[i] & np.uint32(0x7FFFFFFF))
        top = most >> np.uint32(23)
        exponents[b] = top
        zeros_here, far_here = np.uint32(0), np.uint32(0)
        for i in range(HALF):
            low, high = _code(block[i], top), _code(block[i + HALF], top)
            zeros_here += np.uint32(low == ZERO) + np.uint32(high == ZERO)
            far_here += np.uint32(low == FAR) + np.uint32(high == FAR)
            codes[b, i] = low | (high << np.uint32(4))
        zeros += int(zeros_here)
        far += int(far_here)
    return zeros, far


@njit(cache=True, nogil=True)
def _code(value: Any, top: Any) -> Any:
    distance = top - ((value >> np.uint32(23)) & np.uint32(255))
    near = np.uint32(FAR) if distance >= np.uint32(ZERO) else distance
    return np.uint32(ZERO) if value == np.uint32(0) else near


@njit(cache=True, nogil=True)
def _write_mantissas(bits: Any, exponents: Any, first: Any, second: Any, third: Any, far: Any) -> None:
    at, far_at = 0, 0
    kept = np.empty(BLOCK, np.uint32)
    for b in range(bits.shape[0]):
        block, top = bits[b], np.uint32(exponents[b])
        least = np.uint32(0xFFFFFFFF)
        for i in range(BLOCK):
            least = min(least, block[i] & np.uint32(0x7FFFFFFF))
        count = BLOCK
        if least >> np.uint32(23) < np.uint32(max(1, int(top) - ZERO + 1)):
            count = 0
            for i in range(BLOCK):
                code = _code(block[i], top)
                kept[count] = block[i]
                count += code != np.uint32(ZERO)
                if code == np.uint32(FAR):
                    far[far_at] = (block[i] >> np.uint32(23)) & np.uint32(255)
                    far_at += 1
            block = kept
        one, two, three = first[at : at + count], second[at : at + count], third[at : at + count]
        for i in range(count):
            one[i] = np.uint8(block[i] & np.uint32(255))
            two[i] = np.uint8((block[i] >> np.uint32(8)) & np.uint32(255))
            three[i] = np.uint8(
                ((block[i] >> np.uint32(16)) & np.uint32(0x7F)) | ((block[i] >> np.uint32(24)) & np.uint32(0x80))
            )
        at += count


@njit(cache=True, nogil=True)
def _count(codes: Any) -> Any:
    zeros, far = 0, 0
    for i in range(codes.shape[0]):
        low, high = codes[i] & 15, codes[i] >> 4
        zeros += (low == ZERO) + (high == ZERO)
        far += (low == FAR) + (high == FAR)
    return zeros, far


@njit(cache=True, nogil=True)
def _decode(codes: Any, exponents: Any, first: Any, second: Any, third: Any, far: Any, out: Any) -> None:
    at, far_at = 0, 0
    code = np.empty(BLOCK, np.uint32)
    kept = np.empty(BLOCK, np.uint32)
    for b in range(out.shape[0]):
        block, top = out[b], np.uint32(exponents[b])
        for i in range(HALF):
            code[i] = codes[b, i] & np.uint8(15)
            code[i + HALF] = codes[b, i] >> np.uint8(4)
        most, zeros = np.uint32(0), np.uint32(0)
        for i in range(BLOCK):
            most = max(most, code[i])
            zeros += np.uint32(code[i] == np.uint32(ZERO))
        count = BLOCK - int(zeros)
        one, two, three = first[at : at + count], second[at : at + count], third[at : at + count]
        at += count
        for i in range(count):
            kept[i] = _mantissa(one[i], two[i], three[i])
        if most < np.uint32(ZERO):
            for i in range(BLOCK):
                block[i] = kept[i] | ((top - code[i]) << np.uint32(23))
            continue
        place = 0
        for i in range(BLOCK):
            exponent = top - code[i]
            if code[i] == np.uint32(FAR):
                exponent = np.uint32(far[far_at])
                far_at += 1
            value = kept[place] | (exponent << np.uint32(23))
            block[i] = np.uint32(0) if code[i] == np.uint32(ZERO) else value
            place += code[i] != np.uint32(ZERO)


@njit(cache=True, nogil=True)
def _mantissa(first: Any, second: Any, third: Any) -> Any:
    """Sign and mantissa where a float has them."""
    low = (
        np.uint32(first) | (np.uint32(second) << np.uint32(8)) | ((np.uint32(third) & np.uint32(0x7F)) << np.uint32(16))
    )
    return low | ((np.uint32(third) & np.uint32(0x80)) << np.uint32(24))
