"""Encodes messages as frames and decodes them. Pure: no socket, no clock.

A message is a list of frames: one msgpack header, then the raw bytes of its arrays. The header holds the message, the
attempt in which it was said and, for each array, its element type and shape; an array longer than `FRAME_BYTES` lies in
several frames, because large frames cost the transport two to three times as much per byte. Arrays of floats may be
packed (`net/pack_floats.py`); the header says how long they are then.

Decoding raises `WireError` and nothing else, whatever the bytes are: only listed element types exist, every length is
compared with a limit before memory is taken and with the frames before it is used, and an array lies in as few frames
as `FRAME_BYTES` allows: a million frames of one byte would take seconds to join.
"""

import functools
import operator
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bagpipe.errors import WireError
from bagpipe.net import messages
from bagpipe.net.messages import Message
from bagpipe.net.pack_floats import most_floats, pack, unpack

Array = npt.NDArray[Any]
Frame = bytes | memoryview

FRAME_BYTES = 8 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS = 1 << 16
MAX_DIMENSIONS = 8
MAX_MESSAGE_BYTES = 4 << 30
"""More than any plan, fetch or write-back of one step; a longer message is an attack or a bug."""

DTYPES = tuple(np.dtype(t) for t in ("f4", "i8", "i4", "u2", "u1", "f8"))
_CODE_OF = {dtype: code for code, dtype in enumerate(DTYPES)}
MESSAGE_TYPES = tuple(
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
)
UNTOLD = -1
"""In the place of an attempt: of none, or it is not known yet."""
OF_ANY_ATTEMPT = (messages.Hello, messages.Refused, messages.SayHello, messages.Ping, messages.Pong)
"""What roles of two attempts say to each other: a `Hello`, which names its own attempt, and what answers it."""
_UNDECODABLE = (msgspec.DecodeError, ValueError, RecursionError, MemoryError, OverflowError)
"""What msgspec raises for bytes that are no message: beside its own error, those for text that is not UTF-8 and for
nesting deeper than the interpreter's stack."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The header frame: of each array the element type's code, the shape, and the bytes it is packed in (0: it is not
    packed); the message's own bytes; and its attempt.
    """

    arrays: tuple[tuple[int, tuple[int, ...], int], ...]
    message: msgspec.Raw
    attempt: int = UNTOLD


_encoder = msgspec.msgpack.Encoder()
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_message_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(functools.reduce(operator.or_, MESSAGE_TYPES))


def encode(
    message: Message, arrays: Sequence[Array] = (), *, packed: bool = False, attempt: int = UNTOLD
) -> list[Frame]:
    """The frames of a message. Contiguous arrays are not copied, so they must not change until sent.

    Args:
        packed: pack arrays of float32 where that makes them shorter.
        attempt: the one in which it is said.
    """
    tight = [np.ascontiguousarray(a) for a in arrays]
    small = [pack(a) if packed and a.dtype == np.float32 else None for a in tight]
    about = tuple((_CODE_OF[a.dtype], a.shape, 0 if s is None else s.size) for a, s in zip(tight, small, strict=True))
    frames: list[Frame] = [_encoder.encode(_Envelope(about, msgspec.Raw(_encoder.encode(message)), attempt))]
    for array, short in zip(tight, small, strict=True):
        whole = array.reshape(-1).view(np.uint8).data if short is None else short.data
        frames += [whole[at : at + FRAME_BYTES] for at in range(0, len(whole), FRAME_BYTES)]
    return frames


def decode(
    frames: Sequence[Frame], *, limit_bytes: int = MAX_MESSAGE_BYTES, attempt: int = UNTOLD
) -> tuple[Message, list[Array]]:
    """The message and its arrays (read-only views where an array lies in one frame and is not packed).

    Args:
        attempt: the one in which it is heard.

    Raises:
        WireError: the frames are not one whole message of this protocol, or it was said in another attempt.
    """
    if not frames or len(frames[0]) > MAX_HEADER_BYTES:
        raise WireError(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {len(frames)} frames")
    try:
        envelope = _envelope_decoder.decode(frames[0])
        message = _message_decoder.decode(envelope.message)
    except _UNDECODABLE as error:
        raise WireError(f"a header is not one of this protocol's messages: {error}") from None
    name = type(message).__name__
    told = envelope.attempt
    if told != attempt and UNTOLD not in (told, attempt) and not isinstance(message, OF_ANY_ATTEMPT):
        raise WireError(f"{name}: it was said in attempt {told}, this is attempt {attempt}")
    if len(envelope.arrays) > MAX_ARRAYS:
        raise WireError(f"{name}: expected at most {MAX_ARRAYS} arrays, found {len(envelope.arrays)}")
    room = limit_bytes
    sizes = []
    for code, shape, packed_bytes in envelope.arrays:
        num_bytes = _array_bytes(name, code, shape, packed_bytes, room)
        room -= num_bytes
        sizes.append(packed_bytes or num_bytes)
    if (expected := 1 + sum(-(-size // FRAME_BYTES) for size in sizes)) != len(frames):
        raise WireError(f"{name}: expected {expected} frames for {len(sizes)} arrays, found {len(frames)}")
    rest = iter(frames[1:])
    arrays = []
    for (code, shape, packed_bytes), size in zip(envelope.arrays, sizes, strict=True):
        found = _join(rest, size, name)
        arrays.append(_unpacked(found, shape) if packed_bytes else found.view(DTYPES[code]).reshape(shape))
    return message, arrays


def _array_bytes(name: str, code: int, shape: tuple[int, ...], packed_bytes: int, room: int) -> int:
    """Bytes of an announced array once it is unpacked.

    Raises:
        WireError: no array is like that, or it exceeds the `room` that is left in its message.
    """
    if not 0 <= code < len(DTYPES) or packed_bytes < 0 or (packed_bytes and code):
        raise WireError(f"{name}: expected an element type of {len(DTYPES)}, found {code} in {packed_bytes} bytes")
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise WireError(f"{name}: expected up to {MAX_DIMENSIONS} dimensions from 0 on, found {shape[:MAX_DIMENSIONS]}")
    # A length of 0 takes no memory, but the others beside it must fit an array's shape all the same.
    if DTYPES[code].itemsize * prod(n or 1 for n in shape) > room:
        raise WireError(f"{name}: an array of shape {shape} exceeds the limit of {room} bytes that are left")
    count = prod(shape)
    if packed_bytes and count > most_floats(packed_bytes):
        raise WireError(f"{name}: expected at most {most_floats(packed_bytes)} floats, found {count} announced")
    return count * DTYPES[code].itemsize


def _unpacked(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Array:
    values = np.empty(shape, np.float32)
    unpack(packed, values)
    return values


def _join(frames: Iterable[Frame], num_bytes: int, what: str) -> npt.NDArray[np.uint8]:
    """The next `num_bytes` bytes, which must end with a frame."""
    parts = []
    missing = num_bytes
    for frame in frames if num_bytes else ():
        parts.append(np.frombuffer(frame, np.uint8))
        missing -= len(frame)
        if missing <= 0:
            break
    if missing:
        raise WireError(f"{what}: expected an array of {num_bytes} bytes, found {num_bytes - missing}")
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)
