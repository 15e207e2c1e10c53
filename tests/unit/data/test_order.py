"""Contract X5: batches are a pure function of (files, order, batch size, seed), from any cursor."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Cursor, SparseBlock
from bagpipe.config.parts import Shares
from bagpipe.data.examples import Examples, concatenate
from bagpipe.data.order import EpochOrder, batches_of_epoch, cut
from bagpipe.data.split import Ranges


def numbered(start: int, stop: int, *, jagged: bool) -> Examples:
    """Examples whose every value tells their number."""
    n = np.arange(start, stop)
    lengths = np.stack([n % 3, (n + 1) % 2], axis=1).astype(np.int32) if jagged else None
    keys = np.repeat(n, lengths.sum(axis=1)) if lengths is not None else np.repeat(n, 2)
    return Examples(
        n.astype(np.float32).reshape(-1, 1), np.zeros((len(n), 0), np.float32), (SparseBlock(keys, lengths),)
    )


class Numbers:
    """A source of `size` numbered examples in pieces of 7."""

    def __init__(self, size: int, *, jagged: bool) -> None:
        self.size, self.jagged = size, jagged

    def read(self, start, stop):
        end = self.size if stop is None else min(stop, self.size)
        for at in range(start, end, 7):
            yield numbered(at, min(at + 7, end), jagged=self.jagged)


@settings(deadline=None, max_examples=60)  # the first example compiles
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 11), st.booleans())
def test_cut_keeps_every_example_and_its_lookups(sizes, size, jagged):
    """Pieces of any size become pieces of one size, the last one shorter, nothing lost or reordered."""
    bounds = [0, *itertools.accumulate(sizes)]
    pieces = list(cut((numbered(a, b, jagged=jagged) for a, b in itertools.pairwise(bounds)), size))
    assert [len(p) for p in pieces] == [size] * (bounds[-1] // size) + [bounds[-1] % size] * (bounds[-1] % size > 0)
    if pieces:
        joined, expected = concatenate(pieces), numbered(0, bounds[-1], jagged=jagged)
        assert np.array_equal(joined.labels_BL, expected.labels_BL)
        assert np.array_equal(joined.sparse[0].keys_N, expected.sparse[0].keys_N)


@settings(deadline=None, max_examples=60)  # the first example compiles
@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_a_shuffled_epoch_is_a_permutation_within_windows(size, window, seed, epoch):
    """Each window holds its own examples in another order, which depends on (seed, epoch, window) only."""
    order = EpochOrder(seed, "always", window)
    read = [int(x) for p in order.read(Numbers(size, jagged=True), epoch, 0, None) for x in p.labels_BL[:, 0]]
    for at in range(0, size, window):
        assert sorted(read[at : at + window]) == list(range(at, min(at + window, size)))
    again = [int(x) for p in order.read(Numbers(size, jagged=False), epoch, 0, size) for x in p.labels_BL[:, 0]]
    assert read == again


@settings(deadline=None, max_examples=60)  # the first example compiles
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 70), st.booleans(), st.booleans(), st.data())
def test_starting_at_a_batchs_end_gives_the_remaining_batches(size, batch, window, jagged, drop_last, data):
    """Within a shuffled epoch too, and whether or not the size of the part is known."""
    order, source = EpochOrder(3, "always", window), Numbers(size, jagged=jagged)

    def epoch_from(start: Cursor, stop):
        pieces = order.read(source, start.epoch, start.position, stop)
        return list(batches_of_epoch(pieces, batch, start, drop_last=drop_last))

    full = epoch_from(Cursor(4, 0), size)
    assert len(full) == (size // batch if drop_last else -(-size // batch))
    if not full:
        return
    assert full[-1].end == Cursor(5, 0)
    assert all(a.end == b.cursor for a, b in itertools.pairwise(full))
    skip = data.draw(st.integers(0, len(full) - 1))
    rest = epoch_from(full[skip].cursor, None)
    assert [b.cursor for b in rest] == [b.cursor for b in full[skip:]]
    for a, b in zip(rest, full[skip:], strict=True):
        assert np.array_equal(a.labels_BL, b.labels_BL)
        assert np.array_equal(a.sparse[0].keys_N, b.sparse[0].keys_N)


def test_permutation_is_fixed_forever():
    """A checkpoint's cursor means the same examples in every version."""
    assert EpochOrder(7, "always", 100).permutation(1, 2, 8).tolist() == [6, 7, 5, 2, 1, 3, 0, 4]


FORMATS = ["text", "prepared", "ragged", "synthetic", "synthetic-multi"]


@pytest.fixture
def open_any(dataset, criteo_file, ragged_file):
    """A data set of each kind, with the given settings."""
    from bagpipe.config.document import SyntheticConfig

    small = {"examples": 9000, "table_sizes": (5, 300), "num_dense": 2}

    def make(kind, **settings):
        settings = {"test_fraction": 0.1, **settings}
        if kind == "text":
            return dataset(criteo_file, **settings)
        if kind == "prepared":
            return dataset(criteo_file, encoding="vocabulary", **settings)
        if kind == "ragged":
            return dataset(ragged_file, **settings)
        multi = 3 if kind == "synthetic-multi" else 1
        return dataset(format="synthetic", synthetic=SyntheticConfig(multi_hot=multi, **small), **settings)

    return make


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shuffle", ["never", "after-first", "always"])
def test_readers_and_cursors_never_change_the_batches(kind, shuffle, open_any, same):
    """Two epochs and a bit are the same with 0 and 2 readers, and from any batch's end cursor in a fresh process."""
    batch_size = 700 if kind.startswith("synthetic") else 32
    chosen = {"shuffle": shuffle, "shuffle_window": 100}
    full = list(itertools.islice(open_any(kind, **chosen).train_batches(batch_size), 14))
    threaded = open_any(kind, readers=2, **chosen).train_batches(batch_size)
    assert all(same(a, b) for a, b in zip(full, threaded, strict=False))
    for skip in (0, 3, 4, 5, 8, 12):
        rest = open_any(kind, **chosen).train_batches(batch_size, start=full[skip].end)
        assert all(same(a, b) for a, b in zip(full[skip + 1 :], rest, strict=False))


def test_only_the_stated_epochs_are_shuffled(open_any):
    """after-first: epoch 0 in file order, epoch 1 not; a different seed gives another order."""

    def labels(seed_settings, epochs=2):
        batches = list(open_any("ragged", **seed_settings).train_batches(1000, epochs=epochs))
        return [b.labels_BL[:, 0].tolist() for b in batches]

    never, after = labels({"shuffle": "never"}), labels({"shuffle": "after-first"})
    assert never[0] == never[1] == after[0] != after[1]
    assert sorted(after[1]) == sorted(never[1])
    assert labels({"shuffle": "after-first", "seed": 6})[1] != after[1]


def test_drop_last_drops_only_the_short_batch_and_says_so(criteo_file, dataset):
    """The short last batch is kept by default; dropped examples are reported; a part below one batch is an error."""
    from bagpipe.errors import DataError

    kept = list(dataset(criteo_file).train_batches(64, epochs=1))
    assert [b.num_examples for b in kept] == [64, 64, 64, 8]
    data = dataset(criteo_file, drop_last=True)
    dropped = list(data.train_batches(64, epochs=2))
    assert [b.num_examples for b in dropped] == [64] * 6
    assert dropped[2].end == Cursor(1, 0)
    assert data.report.dropped_examples == 16
    with pytest.raises(DataError, match="200 examples, fewer than one batch"):
        next(dataset(criteo_file, drop_last=True).train_batches(201))


def test_the_split_is_exact():
    """floor(n (1 - f)) with f as it is written, not as binary fractions round it."""

    def train_size(examples: int, share: str) -> int:
        return Ranges.in_order(examples, Shares(test=Fraction(share))).train[1]

    assert train_size(137_139, "0.1") == 123_425
    assert [train_size(10, f) for f in ("0.0", "0.1", "0.3", "0.7", "0.99")] == [10, 9, 7, 3, 0]
    assert train_size(1000, "0.9") == 100


def test_train_and_test_are_the_two_parts_of_the_file(criteo_file, dataset):
    """The test part is the rest, in file order; shuffling never moves an example across."""
    data = dataset(criteo_file, test_fraction=0.3, shuffle="always")
    everything = np.concatenate([b.dense_BF for b in dataset(criteo_file).train_batches(1000, epochs=1)])
    train = np.concatenate([b.dense_BF for b in data.train_batches(9, epochs=1)])
    test = np.concatenate([b.dense_BF for b in data.test_batches(9)])
    assert np.array_equal(test, everything[140:])
    assert sorted(map(tuple, train.tolist())) == sorted(map(tuple, everything[:140].tolist()))
