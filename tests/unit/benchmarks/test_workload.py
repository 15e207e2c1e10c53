"""Is the stream of the benchmark against peers what it says: skewed, scattered, repeatable, cut by trainers?"""

from dataclasses import replace

import numpy as np
import pytest
from peers import clicks, workload
from peers.setting import Setting

SETTING = Setting("any", None, trainers=2, batch=512)


def test_the_model_has_the_shape_of_the_comparison() -> None:
    """26 tables, the five above a million rows divided by ten, and a top of 399 inputs at width 48."""
    assert len(workload.TABLE_ROWS) == 26
    assert sum(n > workload.LARGE for n in workload.CRITEO_KAGGLE_ROWS) == 5
    assert sum(n if n <= 1_000_000 else n // 10 for n in workload.CRITEO_KAGGLE_ROWS) == workload.NUM_ROWS
    assert 27 * 26 // 2 + 48 == 399


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    """The same step gives the same arrays again; another step gives others."""
    again, other = workload.global_batch(SETTING, 3), workload.global_batch(SETTING, 4)
    batch = workload.global_batch(SETTING, 3)
    for name in ("dense_BF", "rows_TB", "labels_B1"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(again, name))
    assert not np.array_equal(batch.rows_TB, other.rows_TB)


def test_every_row_is_within_its_table_and_keys_are_disjoint() -> None:
    """A row lies below the size of its table, and its key within the range of that table."""
    batch = workload.global_batch(SETTING, 0)
    assert batch.rows_TB.min() >= 0
    assert (batch.rows_TB < np.array(workload.TABLE_ROWS)[:, None]).all()
    tables = np.searchsorted(workload.OFFSETS, batch.keys(), side="right") - 1
    np.testing.assert_array_equal(tables, np.broadcast_to(np.arange(26), tables.shape))


def test_trainers_parts_make_up_the_batch() -> None:
    """Joined in the order of ranks they are the batch, example by example."""
    batch = workload.global_batch(SETTING, 1)
    parts = [batch.part(rank, 2) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate([p.keys() for p in parts]), batch.keys())
    np.testing.assert_array_equal(np.concatenate([p.dense_BF for p in parts]), batch.dense_BF)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.05, 1.3])
def test_ranks_follow_the_bounded_zipf_law(alpha: float) -> None:
    """The share of the most frequent ranks is that of the law's own integral."""
    num_rows, top = 10_000, 100
    uniform = (np.arange(200_000) + 0.5) / 200_000
    ranks = workload.zipf_ranks(uniform, num_rows, alpha)

    def mass(until: float) -> float:
        return np.log(until) if alpha == 1.0 else (until ** (1 - alpha) - 1) / (1 - alpha)

    expected = mass(top + 1.0) / mass(num_rows + 1.0)
    assert np.mean(ranks < top) == pytest.approx(expected, abs=1e-4)
    assert ranks.min() == 0
    assert num_rows - 3 <= ranks.max() < num_rows


@pytest.mark.parametrize("num_rows", [3, 1460, 145_000])
def test_scattering_is_one_to_one(num_rows: int) -> None:
    """Every row of a table is the image of exactly one rank of popularity."""
    found = workload.scattered(np.arange(num_rows), num_rows, table=5)
    np.testing.assert_array_equal(np.sort(found), np.arange(num_rows))


def test_scattering_splits_frequent_rows_over_halves_of_a_table() -> None:
    """Row-wise tables must not put all frequent rows on one trainer."""
    hot = workload.scattered(np.arange(1000), 1_013_122, table=2)
    assert 0.4 < np.mean(hot < 1_013_122 // 2) < 0.6


def test_real_examples_come_back_in_their_order(tmp_path, monkeypatch) -> None:
    """A Criteo file, hashed into the comparison's tables: every step the next examples, after the last the first."""
    lines = ["\t".join(["1", *map(str, range(13)), *(f"{i}-{n}" for i in range(26))]) for n in range(5)]
    file = tmp_path / "few.tsv"
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(clicks, "CACHE", tmp_path)
    setting = replace(SETTING, batch=4, trainers=1, clicks=clicks.prepare(file, workload.TABLE_ROWS))
    first, second = workload.global_batch(setting, 0), workload.global_batch(setting, 1)
    assert (first.rows_TB < np.array(workload.TABLE_ROWS)[:, None]).all()
    assert first.rows_TB.shape == (26, 4) and first.dense_BF.shape == (4, 13)
    assert np.array_equal(second.rows_TB[:, 1:], first.rows_TB[:, :3])
    assert not np.array_equal(second.rows_TB[:, 0], first.rows_TB[:, 0])
