"""What `bagpipe init` takes a column of numbers for: an id, a time, a feature or nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bagpipe.config.load import parse_job
from bagpipe.data.suggest import suggest_job


@pytest.mark.parametrize(
    ("name", "values", "use"),
    [
        ("user_id", lambda i: 600_000_000 + i % 90 * 4_000_000, 'name: "user_id"}'),
        ("itemId", lambda i: 600_000_000 + i % 90 * 4_000_000, 'name: "itemId"}'),
        ("session", lambda i: 1_200_000_000 + i % 90, 'name: "session"}'),
        ("created_at", lambda i: 1_700_000_000 + i * 7919 % 1000, 'time: "created_at"\n'),
        ("eventTime", lambda i: 1_700_000_000_000 + i * 7919 % 1000, 'time: "eventTime"\n'),
        ("ts", lambda i: f"{1_700_000_000 + i * 7919 % 1000 + 0.25:.2f}", 'time: "ts"\n'),
        ("f3", lambda i: 1_700_000_000 + i * 7919 % 1000, 'time: "f3"  # its numbers may be Unix times\n'),
    ],
)
def test_numbers_of_ids_are_no_times(name: str, values: Any, use: str, tmp_path: Path) -> None:
    """Nine digits are a Unix time as well: a name says which they are, also in camel case."""
    lines = [f"{values(i)},i{i % 7},{i % 2}" for i in range(300)]
    (tmp_path / "log.csv").write_text("\n".join([f"{name},item,click", *lines]))
    suggestion = suggest_job(str(tmp_path / "log.csv"))
    assert use in suggestion.text
    assert any("f3, which is a guess" in note for note in suggestion.notes) == (name == "f3")


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (1_700_000_000_000, "times in seconds and in milliseconds; write all in one unit"),
        (0, "most values are times, but 0 is none; write nothing there"),
        (-1, "most values are times, but -1 is none; write nothing there"),
    ],
)
def test_times_without_an_order_are_told(odd: int, told: str, tmp_path: Path) -> None:
    """Of several units, or with a number for no time: they were a feature, standardised."""
    lines = [f"{odd + i if odd > 0 and i % 9 == 0 else odd if i % 9 == 0 else 1_700_000_000 + i},i{i % 7},{i % 2}"
             for i in range(300)]  # fmt: skip
    (tmp_path / "log.csv").write_text("\n".join(["ts,item,click", *lines]))
    suggestion = suggest_job(str(tmp_path / "log.csv"))
    assert any(f"ts: {told}" in note for note in suggestion.notes)
    assert "ignore:\n        # ts: " in suggestion.text
    assert '"ts", standardise' not in suggestion.text


@pytest.mark.parametrize(
    ("name", "use", "told"),
    [("item", "sparse", False), ("last_movie", "sparse", False), ("views", "dense", False), ("thing", "dense", True)],
)
def test_numbers_of_things_are_ids_and_doubtful_ones_are_told(name: str, use: str, told: bool, tmp_path: Path) -> None:
    """Popular items have small numbers, as counts do; where the name does not say which they are, init does."""
    numbers = np.random.default_rng(0).zipf(1.3, 4000) % 5000
    lines = [f"{number},c{i % 7},{i % 2}" for i, number in enumerate(numbers)]
    (tmp_path / "log.csv").write_text("\n".join([f"{name},category,click", *lines]))
    suggestion = suggest_job(str(tmp_path / "log.csv"))
    columns = parse_job(suggestion.text, "job.yaml").spec.data.columns
    assert (name in {c.name for c in columns.sparse}) == (use == "sparse")
    assert (f"{name}: whole numbers, taken as a number; if they are ids" in str(suggestion.notes)) == told


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "index", "", "amount"])
def test_the_index_of_a_frame_is_no_feature(name: str, shuffled: bool, tmp_path: Path) -> None:
    """Of some rows of a frame it does not count by one; it was a number, which tells where in the log a row was."""
    kept = [number for number in range(1200) if number * 7919 % 10 < 3]
    rows = sorted(kept, key=lambda number: number * 7919 % 1200) if shuffled else kept
    lines = [f"{number},i{number % 7},{number // 3 % 2}" for number in rows]
    (tmp_path / "log.csv").write_text("\n".join([f"{name},category,click", *lines]))
    columns = parse_job(suggest_job(str(tmp_path / "log.csv")).text, "job.yaml").spec.data.columns
    assert [c.name for c in columns.dense] == (["amount"] if name == "amount" else [])
    assert {c.name for c in columns.sparse} == {"category"}
