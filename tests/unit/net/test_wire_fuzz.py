"""Whatever the bytes, decoding ends in a message or in a WireError: of frames, plans, packed floats and integers."""

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.errors import WireError
from bagpipe.net import messages as m
from bagpipe.net import pack_floats, pack_integers, wire
from bagpipe.net.plan_codec import unpack_plan
from bagpipe.net.wire import MAX_ARRAYS, decode, encode
from bagpipe.testing.mutate_frames import mutated, sample_messages

PING = b"\x81\xa4type\xa4Ping"


def header(arrays: object, message: bytes = PING) -> bytes:
    return msgspec.msgpack.encode((arrays, msgspec.Raw(message)))


HEADERS = {
    "a length beyond memory beside a length of 0": header([(0, (0, 1 << 62), 0)]),
    "a length beyond 63 bits": header([(0, (0, (1 << 64) - 1), 0)]),
    "70 dimensions of 1": header([(0, (1,) * 70, 0)]),
    "70 dimensions of 0": header([(0, (0,) * 70, 0)]),
    "lengths whose product exceeds 64 bits": header([(0, (1 << 22, 1 << 22, 1 << 22, 0), 0)]),
    "a packed array beyond memory": header([(0, (0, 1 << 62), 1)]),
    "4 GiB of floats packed in 64 bytes": header([(0, ((1 << 30) - 1,), 64)]),
    "a negative length": header([(0, (-1,), 0)]),
    "an unknown element type": header([(99, (1,), 0)]),
    "packed integers": header([(1, (1,), 4)]),
    "a number too many of arrays": header([(0, (0,), 0)] * (MAX_ARRAYS + 1)),
    "nesting in an unknown field": header([], b"\x82\xa4type\xa4Ping\xa1x" + b"\x91" * 900_000 + b"\xc0"),
    "nesting in place of arrays": b"\x92" + b"\x91" * 900_000 + b"\xc0",
    "a reason that is not UTF-8": header([], b"\x83\xa4type\xa7Refused\xa6reason\xa2\xff\xfe\xa9exit_code\x01"),
    "a type that is not UTF-8": header([], b"\x81\xa4type\xa4\xff\xfe\xff\xfe"),
    "an array of 4 G elements": b"\x92\xdd\xff\xff\xff\xff\xc0",
    "a map of 4 G entries": header([], b"\xdf\xff\xff\xff\xff\xa4type\xa4Ping"),
    "bytes of 4 GiB": header([], b"\x82\xa4type\xa4Ping\xa1x\xc6\xff\xff\xff\xff"),
    "a header of more than its limit": header([], PING) + bytes(1 << 20),
}


@pytest.mark.parametrize("first", HEADERS.values(), ids=HEADERS)
def test_headers_that_lie_are_refused(first: bytes) -> None:
    """Lengths, depths, numbers and text that cannot be are a WireError before any memory is taken for them."""
    with pytest.raises(WireError):
        decode([first, bytes(64)])


def test_an_array_in_a_million_frames_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has as many frames as its arrays need, and no other is gone through: that would take seconds."""
    monkeypatch.setattr(wire, "_join", lambda *_: pytest.fail("the frames were gone through"))
    for pieces in ([b"x"] * 1_000_000, [b""] * 1_000_000 + [bytes(1_000_000)], [bytes(500_000)] * 2, []):
        with pytest.raises(WireError, match=f"expected 2 frames for 1 arrays, found {1 + len(pieces)}"):
            decode([header([(4, (1_000_000,), 0)]), *pieces])


STEP = {"type": "Finished", "rank": 1}


@pytest.mark.parametrize(
    "rank",
    [1.0, -0.0, float("nan"), float("inf"), True, None, "1", b"1", [1], {}, 2**31, -1, msgspec.msgpack.Ext(5, b"1")],
    ids=lambda value: "an extension" if isinstance(value, msgspec.msgpack.Ext) else repr(value),
)
def test_numbers_are_whole_numbers(rank: object) -> None:
    """No float, truth, text, bytes, list or extension passes for a rank."""
    assert decode([header([], msgspec.msgpack.encode(STEP))])[0] == m.Finished(rank=1)
    with pytest.raises(WireError):
        decode([header([], msgspec.msgpack.encode(STEP | {"rank": rank}))])


KEY_TWICE = b"\x82\xa4type\xa4Ping\xa4type\xa4Stop"
TYPE_BY_NUMBER = b"\x81\x01\xa4Ping"
TYPE_IN_BYTES = b"\x81\xc4\x04type\xa4Ping"
TYPE_AS_EXTENSION = b"\x81\xa4type\xc7\x04\x01Ping"


@pytest.mark.parametrize(
    "message", [KEY_TWICE, TYPE_BY_NUMBER, TYPE_IN_BYTES, TYPE_AS_EXTENSION, PING + b"\0", b"\xc0"]
)
def test_a_message_is_of_one_type(message: bytes) -> None:
    """Two types, a key that is no text, an extension and bytes behind the end are refused."""
    with pytest.raises(WireError):
        decode([header([], message)])


def test_no_memory_is_taken_for_floats_that_cannot_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that announces more floats than its packed bytes can hold is refused before they are unpacked."""
    monkeypatch.setattr(wire, "unpack", lambda packed, out: pytest.fail("memory was taken"))
    with pytest.raises(WireError, match="at most 128 floats"):
        decode([header([(0, (129,), 64)]), bytes(64)])


@pytest.mark.parametrize("value", [(1 << 64) - 1, 1 << 62, -2, -(1 << 63)])
def test_a_step_that_is_none_is_refused(value: int) -> None:
    """A step beyond 2^53 or below -1 does not get through, so that it can be stored as it is."""
    with pytest.raises(WireError):
        decode(encode(msgspec.structs.replace(m.Fetch(rank=0, step=0, group=0, after=0, num_records=0), step=value)))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_mutated_messages_are_messages_or_refused(seed: int) -> None:
    """Flipped bits, cut, doubled and exchanged frames, headers spliced from two messages: nothing else escapes."""
    rng = random.Random(seed)
    for frames in mutated(rng, sample_messages(), 8):
        try:
            message, arrays = decode(frames)
            if isinstance(message, m.Plan):
                unpack_plan(message, arrays)
        except WireError:
            pass


@settings(max_examples=200, deadline=None)
@given(packed=st.binary(max_size=400), count=st.integers(0, 300))
def test_any_bytes_unpack_to_floats_or_are_refused(packed: bytes, count: int) -> None:
    """Bytes that hold another number of floats are a WireError."""
    try:
        pack_floats.unpack(np.frombuffer(packed, np.uint8), np.empty(count, np.float32))
    except WireError:
        pass


@given(count=st.integers(0, 500), zeros=st.floats(0, 1))
def test_no_more_floats_than_announced_fit(count: int, zeros: float) -> None:
    """The bound that is checked before memory is taken admits everything that packing makes."""
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    values[: int(count * zeros)] = 0
    packed = pack_floats.pack(values)
    assert packed is None or count <= pack_floats.most_floats(packed.size)


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), bits=st.integers(-5, 80), count=st.integers(0, 90)
)
def test_any_words_unpack_to_integers_or_are_refused(words: list[int], bits: int, count: int) -> None:
    """Words that hold another number of integers, or wider ones, are a WireError."""
    for dtype in (np.int32, np.int64):
        try:
            pack_integers.unpack(np.array(words, np.int64), bits, np.empty(count, dtype))
        except WireError:
            pass
