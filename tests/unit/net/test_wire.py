"""Frames decode to what was encoded, and anything else is refused before it is trusted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.errors import WireError
from bagpipe.net import wire
from bagpipe.net.messages import Fetch, Pong
from bagpipe.net.wire import DTYPES, decode, encode

FETCH = Fetch(rank=1, step=2, group=0, after=-1, num_records=3)

arrays = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), min_size=1, max_size=3)).map(
        lambda drawn: np.arange(int(np.prod(drawn[1]))).astype(drawn[0]).reshape(drawn[1])
    ),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(sent=arrays, frame_bytes=st.integers(1, 64))
def test_round_trip(sent: list[np.ndarray], frame_bytes: int) -> None:
    """Message and arrays arrive as sent, however arrays are split over frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "FRAME_BYTES", frame_bytes)
        frames = encode(FETCH, sent)
        message, received = decode([bytes(f) for f in frames])
    assert message == FETCH
    assert [(a.dtype, a.shape, a.tobytes()) for a in received] == [(a.dtype, a.shape, a.tobytes()) for a in sent]


@pytest.mark.parametrize("frame_bytes", [100, 8 << 20])
def test_floats_arrive_to_the_bit_in_fewer_bytes(frame_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed where that is shorter: numbers near each other, but not noise, and not other types."""
    monkeypatch.setattr(wire, "FRAME_BYTES", frame_bytes)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 16)).astype(np.float32)
    noise = rng.integers(0, 2**32, 640, dtype=np.uint32).view(np.float32)
    sent = [np.arange(640), rows, noise, rows.astype(np.float64), np.zeros((0, 16), np.float32)]
    plain, packed = encode(FETCH, sent), encode(FETCH, sent, packed=True)
    assert sum(map(len, packed[1:])) < sum(map(len, plain[1:])) - rows.nbytes // 10
    _, received = decode([bytes(f) for f in packed])
    assert [(a.dtype, a.shape, a.tobytes()) for a in received] == [(a.dtype, a.shape, a.tobytes()) for a in sent]
    # Nor does what is cut off, or of another shape, become floats.
    with pytest.raises(WireError):
        decode([bytes(f) for f in packed[:-1]])


def test_large_arrays_are_split() -> None:
    """No frame exceeds FRAME_BYTES."""
    frames = encode(FETCH, [np.zeros(5_000_000, np.float32)])
    assert [len(f) for f in frames[1:]] == [8 << 20, 8 << 20, 20_000_000 - (16 << 20)]


@settings(max_examples=200, deadline=None)
@given(frames=st.lists(st.binary(max_size=40), max_size=4))
def test_noise_is_refused(frames: list[bytes]) -> None:
    """Random bytes are a WireError, never another exception."""
    with pytest.raises(WireError):
        decode(frames)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f[:-1],
        lambda f: [*f, b"more"],
        lambda f: [f[0], f[1][:-1]],
        lambda f: [f[0][:-2], f[1]],
        lambda f: [],
    ],
)
def test_damage_is_refused(damage: object) -> None:
    """A missing, additional or short frame is noticed."""
    frames = [bytes(f) for f in encode(FETCH, [np.arange(5)])]
    with pytest.raises(WireError):
        decode(damage(frames))  # type: ignore[operator]


def test_sizes_are_bounded_before_memory_is_taken() -> None:
    """A header that announces more than the limit is refused."""
    with pytest.raises(WireError, match="exceeds the limit"):
        decode(encode(Pong(), [np.zeros(100)]), limit_bytes=799)
