"""Training, validation and tests: every example is in exactly the part that a slow reading of the settings gives it."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.config.load import parse_job
from bagpipe.config.parts import Shares
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.split import Ranges
from bagpipe.errors import ConfigError, DataError

COLUMNS = ColumnsConfig(
    labels=(LabelColumn("y"),),
    dense=(DenseColumn("n"),),
    sparse=(SparseColumn("item"),),
    time="when",
    group="user",
    ignore=("*",),
)
ROWS = 400


def write(path: Path, first: int = 0, count: int = ROWS) -> str:
    """Times run backwards in pairs, users come again every 37 rows."""
    rows = (
        {"y": i % 2, "n": i, "item": f"i{i % 7}", "when": (ROWS - i) // 2, "user": f"u{i % 37}"}
        for i in range(first, first + count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(folder: Path, path: Any, **more: Any) -> Dataset:
    data = DataConfig(path=path, columns=COLUMNS, **more)
    return open_dataset(data, EmbeddingConfig(), seed=3, work_dir=folder / "work")


def numbers(dataset: Dataset) -> dict[str, list[int]]:
    parts = {
        "train": dataset.train_batches(64, epochs=1),
        "validation": dataset.validation_batches(64),
        "test": dataset.test_batches(64),
    }
    found = {name: [int(n) for batch in batches for n in batch.dense_BF[:, 0]] for name, batches in parts.items()}
    sizes = (dataset.num_train_examples, dataset.num_validation_examples, dataset.num_test_examples)
    assert sizes == tuple(map(len, found.values()))
    return found


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_by_order_the_last_examples_are_for_tests_and_those_before_for_validation(
    tmp_path: Path, encoding: str
) -> None:
    """Shares of one file, in file order; a share for training leaves examples out between it and validation."""
    path = write(tmp_path / "log.jsonl")
    found = numbers(opened(tmp_path, path, encoding=encoding, validation=0.2, test=0.1))
    assert found == {
        "train": list(range(280)),
        "validation": list(range(280, 360)),
        "test": list(range(360, 400)),
    }
    less = numbers(opened(tmp_path, path, encoding=encoding, train=0.5, validation=0.2, test_fraction=0.1))
    assert less == found | {"train": list(range(200))}


def test_by_time_validation_is_later_than_training_and_tests_are_last(tmp_path: Path) -> None:
    """Rows of one moment are in one part, and no part is earlier than the one before."""
    split = {"split_by": "time", "validation": 0.2, "test": 0.1}
    found = numbers(opened(tmp_path, write(tmp_path / "log.jsonl"), **split))
    moments = {part: {(ROWS - n) // 2 for n in rows} for part, rows in found.items()}
    assert max(moments["train"]) < min(moments["validation"])
    assert max(moments["validation"]) < min(moments["test"])
    assert sorted(n for rows in found.values() for n in rows) == list(range(ROWS))
    assert [len(rows) for rows in found.values()] == [279, 80, 41]


def test_by_group_nobody_is_in_two_parts(tmp_path: Path) -> None:
    """Users are dealt out whole; without a validation share, the same users are for tests."""
    path = write(tmp_path / "log.jsonl")
    found = numbers(opened(tmp_path, path, split_by="group", validation=0.3, test=0.2))
    users = [{n % 37 for n in rows} for rows in found.values()]
    assert sum(map(len, users)) == 37 == len(set.union(*users))
    assert all(users)
    assert sorted(n for rows in found.values() for n in rows) == list(range(ROWS))
    before = numbers(opened(tmp_path, path, split_by="group", test_fraction=0.2))
    assert before["test"] == found["test"]
    less = numbers(opened(tmp_path, path, split_by="group", train=0.3, validation=0.3, test=0.2))
    assert (less["validation"], less["test"]) == (found["validation"], found["test"])
    assert set(less["train"]) < set(found["train"])


def test_parts_with_data_of_their_own(tmp_path: Path) -> None:
    """Each of the three may be a path; all of it belongs to the part, and shares are cut off the training data."""
    paths = {name: write(tmp_path / f"{name}.jsonl", 1000 * i) for i, name in enumerate(("a", "b", "c"))}
    found = numbers(opened(tmp_path, (), train=paths["a"], validation=paths["b"], test=paths["c"]))
    assert {part: rows[0] for part, rows in found.items()} == {"train": 0, "validation": 1000, "test": 2000}
    assert {len(rows) for rows in found.values()} == {ROWS}
    mixed = numbers(opened(tmp_path, paths["a"], validation=0.25, test=paths["c"]))
    assert mixed == {"train": list(range(300)), "validation": list(range(300, 400)), "test": found["test"]}


@given(
    count=st.one_of(st.integers(0, 10_000), st.integers(0, 100).map(lambda k: 100 * k)),
    shares=st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)).filter(lambda s: sum(s) <= 100),
)
@settings(deadline=None)
def test_boundaries_are_rounded_down_exactly(count: int, shares: tuple[int, int, int]) -> None:
    """In whole numbers: no share is off by one because a decimal is no binary fraction."""
    train, validation, test = shares
    given_train = Fraction(train, 100) if train else None
    found = Ranges.in_order(count, Shares(given_train, Fraction(validation, 100), Fraction(test, 100)))
    tests, validations = count * (100 - test) // 100, count * (100 - test - validation) // 100
    assert found.test == (tests, count) and found.validation == (validations, tests)
    assert found.train == (0, count * train // 100 if train else validations)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"test": 0.99}, "training"),
        ({"validation": 0.01, "test": 0.1}, "validation"),
        ({"split_by": "time", "validation": 0.01, "test": 0.1}, "validation"),
        ({"split_by": "group", "test": 0.001}, "test"),
    ],
)
def test_a_split_that_leaves_a_part_empty_is_refused(tmp_path: Path, more: dict[str, Any], part: str) -> None:
    """One line that names the part and what the others have, whatever the data is split by."""
    path = write(tmp_path / "log.jsonl", 0, 12)
    for encoding in ("vocabulary", "hash"):
        with pytest.raises(DataError, match=rf"leaves the {part} part empty \(\d+ examples for training, .*\); choose"):
            opened(tmp_path, path, encoding=encoding, **more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"split_by": "time", "test": 0.1},
            "the test part is 90% of the examples where 10% are asked for (40 examples ",
        ),
        ({"split_by": "time", "test": 0.1}, "because all examples of one moment lie on one side"),
        ({"split_by": "group", "test": 0.1}, "because whole groups lie on one side"),
        ({"split_by": "order", "test": 0.1}, None),
    ],
)
def test_a_part_that_is_far_from_its_share_is_told(tmp_path: Path, more: dict[str, Any], words: str | None) -> None:
    """Times by the day, of which the last has nearly all rows, and one user with nearly all of them."""
    path = tmp_path / "log.jsonl"
    rows = (
        {"y": i % 2, "n": i, "item": f"i{i % 7}", "when": int(i >= 40), "user": f"u{min(20, i)}"} for i in range(ROWS)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = opened(tmp_path, str(path), **more).far_from_asked()
    assert told is None if words is None else words in str(told)


JOB = "apiVersion: bagpipe.dev/v1alpha1\nkind: BagpipeJob\nspec:\n  data: {{path: log.csv, {}}}\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("test: 0.2, testFraction: 0.1", "data.testFraction: has no effect when data.test names a share"),
        ("test: other.csv, testFraction: 0.1", "data.testFraction: has no effect when data.test names data of its own"),
        ("validation: 0.6, test: 0.4", "validation 0.6, test 0.4: nothing is left to train on"),
        ("train: 0.7, test: 0.4", "train 0.7, test 0.4: nothing is left to train on"),
        ("train: other.csv", "data.path: is given twice, as data.train too"),
        ("validation: 1.5", "data.validation"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(said: str, words: str) -> None:
    """By the setting and what to do about it."""
    with pytest.raises(ConfigError, match=words):
        parse_job(JOB.format(said), "job.yaml")


def test_a_path_for_training_is_the_path(tmp_path: Path) -> None:
    """`train: PATH` and `path: PATH` are the same job."""
    said = parse_job(JOB.format("validation: 0.1").replace("path: log.csv", "train: log.csv"), "job.yaml")
    assert said == parse_job(JOB.format("validation: 0.1"), "job.yaml")
