"""The corpus of fuzzing: messages that every run decodes once more, and from which `tools/fuzz.py` makes others.

It holds a valid message of each kind, what has ever made a decoder do anything but return a message or raise
`WireError`, and a message for each place in the code that refuses one. It is a file of JSON lines, each with a name,
the decoder and the frames, compressed (some consist of a million equal bytes) and in base64:

    {"name": "valid Ping", "decoder": "message", "frames": ["eJy..."]}
"""

import base64
import json
import random
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bagpipe
from bagpipe.errors import WireError
from bagpipe.lowlevel.strict_json import encode as to_json
from bagpipe.net import messages, pack_floats, pack_integers
from bagpipe.net.plan_codec import unpack_plan
from bagpipe.net.wire import decode, encode
from bagpipe.testing.mutate_frames import Frames, Sample, damaged

MOST_BYTES = 4096
"""A message that is longer, compressed, is not added."""
MUTATED_BYTES = 1 << 16
"""Longer messages are replayed only: damaging and decoding thousands of them would take hours."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the corpus."""

    name: str
    decoder: str
    """A key of `DECODERS`."""
    frames: Frames


def read_corpus(path: Path) -> list[Entry]:
    """The entries, in the file's order."""
    found = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return [
        Entry(one["name"], one["decoder"], [zlib.decompress(base64.b64decode(frame)) for frame in one["frames"]])
        for one in found
    ]


def write_corpus(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file."""
    path.write_text("".join(_line(entry) + "\n" for entry in entries), encoding="ascii")


def _line(entry: Entry) -> str:
    frames = [base64.b64encode(zlib.compress(frame, 9)).decode() for frame in entry.frames]
    return to_json({"name": entry.name, "decoder": entry.decoder, "frames": frames})


def _decode_message(frames: Frames) -> str:
    message, arrays = decode(frames)
    if isinstance(message, messages.Plan):
        unpack_plan(message, arrays)
    return type(message).__name__


def _unpack_floats(frames: Frames) -> str:
    count, packed = frames
    pack_floats.unpack(np.frombuffer(packed, np.uint8), np.empty(int(count), np.float32))
    return "floats"


def _unpack_integers(frames: Frames) -> str:
    bits, count, words = frames
    pack_integers.unpack(np.frombuffer(words, np.int64), int(bits), np.empty(int(count), np.int64))
    return "integers"


DECODERS: Mapping[str, Callable[[Frames], str]] = {
    "message": _decode_message,
    "floats": _unpack_floats,
    "integers": _unpack_integers,
}
"""Each takes frames, raises `WireError` where they are none of its kind, and otherwise returns what they are.

`message`: what a listener does with them, and a trainer with a plan. `floats` and `integers`: the packed parts alone,
after frames with the numbers that a header gives of them, as text.
"""


def ending(decoder: str, frames: Frames) -> str:
    """What decoding these ends in: the kind of message, or the place in the code that refuses them.

    Raises:
        whatever a decoder must not raise.
    """
    try:
        return DECODERS[decoder](frames)
    except WireError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"refused at {Path(place.filename).relative_to(Path(bagpipe.__file__).parent)}:{place.lineno}"


@dataclass(slots=True)
class Search:
    """What a search has found; `entries` grows by what is new."""

    entries: list[Entry]
    endings: Counter[str]
    """How often decoding ended in what."""
    broken: list[str]
    """Exceptions that no decoder may raise."""


def search(entries: Sequence[Entry], samples: Sequence[Sample], count: int, seed: int) -> Search:
    """Decode `count` damaged messages; keep the first one with each ending, above all with an exception.

    Args:
        entries: the corpus, whose short messages are damaged too.
        samples: valid messages to damage, which are kept too if the corpus has none of their kind.
    """
    known = {_outcome(entry.decoder, entry.frames)[0] for entry in entries}
    found = Search(list(entries), Counter(), [])
    short = [e.frames for e in entries if e.decoder == "message" and 0 < sum(map(len, e.frames)) <= MUTATED_BYTES]
    whole = [frames_of(sample, packed=packed) for sample in samples for packed in (False, True)]
    for frames in whole:
        end, _ = _outcome("message", frames)
        if end not in known:
            known.add(end)
            found.entries.append(Entry(f"valid {end}", "message", frames))
    for number, frames in enumerate(damaged(random.Random(seed), [*whole, *short], count)):
        end, error = _outcome("message", frames)
        found.endings[end] += 1
        if error:
            found.broken.append(f"{end}: {error}")
        entry = Entry(f"{end} (seed {seed}, number {number})", "message", frames)
        if end not in known and len(_line(entry)) <= MOST_BYTES:
            known.add(end)
            found.entries.append(entry)
    return found


def _outcome(decoder: str, frames: Frames) -> tuple[str, str]:
    """As `ending`; for any other exception its type, and what it says."""
    try:
        return ending(decoder, frames), ""
    except Exception as error:  # noqa: BLE001  # what a search is for
        return f"broke: {type(error).__name__}", str(error)


def frames_of(sample: Sample, *, packed: bool) -> Frames:
    """A valid message as it is sent."""
    return [bytes(frame) for frame in encode(*sample, packed=packed)]
