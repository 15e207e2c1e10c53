"""What fuzzing has kept is decoded again: a message or a WireError, for each; and the corpus grows by what is new."""

from collections import Counter
from pathlib import Path

import pytest

from bagpipe.net.wire import MESSAGE_TYPES
from bagpipe.testing import corpus
from bagpipe.testing.corpus import DECODERS, Entry, ending, read_corpus, search, write_corpus
from bagpipe.testing.mutate_frames import sample_messages

CORPUS = Path(__file__).with_name("corpus.jsonl")


def test_every_message_of_the_corpus_is_decoded_or_refused() -> None:
    """Also those that broke something once; a valid one is a message, and every decoder and place is there."""
    entries = read_corpus(CORPUS)
    ends = {entry.name: ending(entry.decoder, entry.frames) for entry in entries}
    assert [name for name, end in ends.items() if name.startswith("valid") and end.startswith("refused")] == []
    assert [name for name, end in ends.items() if name.startswith("once") and not end.startswith("refused")] == []
    assert {entry.decoder for entry in entries} == set(DECODERS)
    assert Counter(ends) == Counter({entry.name: ends[entry.name] for entry in entries}), "names are distinct"
    assert CORPUS.stat().st_size < 64 << 10


def test_the_corpus_has_a_valid_message_of_every_kind() -> None:
    """A new kind of message needs one: `python tools/fuzz.py --frames 0 --role-frames 0 --jobs 1` adds it."""
    kinds = {ending(entry.decoder, entry.frames) for entry in read_corpus(CORPUS) if entry.name.startswith("valid")}
    assert {kind.__name__ for kind in MESSAGE_TYPES} <= kinds


def test_a_search_keeps_what_is_new_and_what_breaks_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first search of an empty corpus keeps kinds and refusals; a second one nothing; a broken decoder is named."""
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, [])
    first = search(read_corpus(path), sample_messages(), 300, seed=1)
    assert not first.broken and sum(first.endings.values()) == 300
    names = [entry.name for entry in first.entries]
    assert sum(name.startswith("valid") for name in names) == len(MESSAGE_TYPES)
    assert {name.partition(" (seed")[0].removeprefix("valid ") for name in names} >= set(first.endings)
    write_corpus(path, first.entries)
    assert read_corpus(path) == first.entries
    assert search(first.entries, (), 0, seed=1).entries == first.entries

    def breaks(frames: list[bytes]) -> str:
        raise IndexError("list index out of range")

    monkeypatch.setattr(corpus, "DECODERS", {"message": breaks})
    found = search(first.entries[:1], sample_messages()[:1], 3, seed=1)
    assert found.broken == ["broke: IndexError: list index out of range"] * 3
    with pytest.raises(IndexError):
        ending("message", Entry("any", "message", [b"x"]).frames)
