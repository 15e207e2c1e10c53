"""The generated click log: seeded, seekable, skewed as a Zipf law says, and learnable."""

import itertools

import numpy as np
import pytest

from bagpipe.config.document import SyntheticConfig
from bagpipe.data.synthetic import BLOCK, SyntheticLogs, table_sizes
from bagpipe.metrics.clicks import evaluate


def log(config, seed=7):
    source = SyntheticLogs(config, seed)
    blocks = [source.parse(p) for p in source.pieces(0)[1]]
    labels = np.concatenate([b.labels_BL[:, 0] for b in blocks])
    return source, blocks, labels


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_true_logits_rank_and_fit_the_labels(seed):
    """Whatever the seed: about 27 % clicks, and the true model reaches an AUC of 0.80 to 0.825, well calibrated."""
    source, _, labels = log(SyntheticConfig(examples=40_000), seed)
    best = evaluate(source.logits(0, 40_000), labels)
    assert 0.80 < best.auc < 0.825
    assert 0.97 < best.calibration < 1.03
    assert 0.25 < labels.mean() < 0.30


def test_most_of_it_is_learnable_from_frequent_rows():
    """Counting clicks by row in one half ranks the other half far better than chance, dense values aside."""
    _, blocks, labels = log(SyntheticConfig(examples=60_000, num_dense=0))
    rows = np.concatenate([b.codes_N.reshape(-1, 26).astype(np.int64) - 1 for b in blocks])
    half, score = len(labels) // 2, np.zeros(len(labels))
    for t in range(26):
        clicks = np.bincount(rows[:half, t], labels[:half], minlength=rows[:, t].max() + 1)
        shown = np.bincount(rows[:half, t], minlength=rows[:, t].max() + 1)
        rate = (clicks + 20 * labels[:half].mean()) / (shown + 20)
        score += np.log(rate / (1 - rate))[rows[:, t]]
    assert evaluate(score[half:], labels[half:]).auc > 0.64


def test_rows_follow_the_bounded_zipf_law():
    """The share of the first rows is that of the law with the exponent asked for; no id is out of range."""
    size, alpha = 10_000, 1.05
    _, blocks, _ = log(SyntheticConfig(examples=50_000, table_sizes=(size,), alpha=alpha, num_dense=0))
    rows = np.concatenate([b.codes_N for b in blocks]).astype(np.int64) - 1
    assert rows.min() == 0
    assert rows.max() < size
    for first in (1, 10, 100, 1000):
        law = ((first + 1) ** (1 - alpha) - 1) / ((size + 1) ** (1 - alpha) - 1)
        assert np.mean(rows < first) == pytest.approx(law, abs=0.01)


def test_any_example_is_made_without_those_before_it():
    """Starting in the middle costs one block and gives the same examples."""
    config = SyntheticConfig(examples=3 * BLOCK + 17)
    source, blocks, labels = log(config)
    before, pieces = SyntheticLogs(config, 7).pieces(2 * BLOCK + 5)
    assert before == 2 * BLOCK
    later = [SyntheticLogs(config, 7).parse(p) for p in pieces]
    assert [len(b) for b in later] == [BLOCK, 17]
    assert all(np.array_equal(a.codes_N, b.codes_N) for a, b in zip(blocks[2:], later, strict=True))
    assert len(labels) == config.examples == len(source.logits(0, config.examples))
    assert np.array_equal(source.logits(5000, 9000), source.logits(0, 9000)[5000:])


def test_more_examples_extend_a_log():
    """A longer log begins with the shorter one, so results can be compared as it grows."""
    short, long = (log(SyntheticConfig(examples=5000))[2], log(SyntheticConfig(examples=9000))[2])
    assert np.array_equal(short, long[:5000])


def test_multi_hot_features_have_one_to_m_lookups():
    config = SyntheticConfig(examples=5000, multi_hot=4, table_sizes=(50, 70))
    _, blocks, _ = log(config)
    lengths = np.concatenate([b.lengths_BT for b in blocks])
    assert lengths.shape == (5000, 2)
    assert np.array_equal(np.unique(lengths), [1, 2, 3, 4])
    assert all(b.lengths_BT.sum() == len(b.codes_N) for b in blocks)


@pytest.mark.parametrize("sizes", [(1,), (1, 2), (3, 1, 4)])
def test_tiny_tables_work(sizes):
    _, blocks, labels = log(SyntheticConfig(examples=100, table_sizes=sizes, num_dense=0))
    assert len(labels) == 100
    assert all((b.codes_N.reshape(-1, len(sizes)) <= np.array(sizes)).all() for b in blocks)


def test_default_tables_are_criteos_cut_to_a_demo():
    sizes = table_sizes(SyntheticConfig())
    assert len(sizes) == 26
    assert max(sizes) == 100_000
    assert sizes[0] == 1460


def test_seeds_differ_and_repeat():
    """Two seeds give two logs; the same seed gives the same bytes."""
    config = SyntheticConfig(examples=100)
    logs = [log(config, seed)[1][0] for seed in (1, 1, 2)]
    assert np.array_equal(logs[0].codes_N, logs[1].codes_N)
    assert not np.array_equal(logs[0].codes_N, logs[2].codes_N)


def test_the_dataset_of_a_synthetic_job(dataset, same):
    """Sizes are known without a pass, ids are rows, and epochs repeat the same examples."""
    data = dataset(format="synthetic", synthetic=SyntheticConfig(examples=10_000), test_fraction=0.1)
    assert (data.num_train_examples, data.num_test_examples, data.num_dense) == (9000, 1000, 13)
    batches = list(itertools.islice(data.train_batches(3000), 6))
    assert np.array_equal(batches[0].sparse[0].keys_N, batches[3].sparse[0].keys_N)
