"""Are the paper's files what the paper says, and do they hold what the logs held?"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import open_dataset
from bagpipe.data.paper_formats import Sequences, write_paper_format
from bagpipe.errors import ConfigError, DataError


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sizes(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "emb_table_info.txt").read_text().splitlines()]


def test_kaggle(criteo_file: Path, tmp_path: Path) -> None:
    """A line for each example, in order; read back, its batches are those of the log itself, to the bit."""
    out = tmp_path / "out"
    write_paper_format(DataConfig(path=str(criteo_file)), "kaggle-json", out)
    found = records(out / "kaggle_criteo_weekly.txt")
    raw = [line.split("\t") for line in criteo_file.read_text().splitlines()]
    assert [r["label"] for r in found] == [float(line[0]) for line in raw]
    logs = [[float(np.float32(np.log1p(max(int(x or 0), 0)))) for x in line[1:14]] for line in raw]
    assert [r["dense"] for r in found] == logs
    for table, size in enumerate(sizes(out)):
        values: dict[str, set[int]] = {}
        for line, record in zip(raw, found, strict=True):
            values.setdefault(line[14 + table], set()).add(record["sparse"][table])
        ids = [id_ for seen in values.values() for id_ in seen]
        assert len(set(ids)) == len(values) == len(ids), "one id for each value"
        assert max(ids) < size


def test_fgcnn(criteo_file: Path, tmp_path: Path) -> None:
    """39 ids and no dense value; missing integers have a bin of their own."""
    write_paper_format(DataConfig(path=str(criteo_file)), "fgcnn-json", tmp_path / "out")
    found = records(tmp_path / "out" / "parsed_train.txt")
    assert {len(r["sparse"]) for r in found} == {39} and {len(r["dense"]) for r in found} == {0}
    assert len(sizes(tmp_path / "out")) == 39


def test_parts_hold_the_same_lines(criteo_file: Path, tmp_path: Path) -> None:
    """Cut in equal parts, in order, nothing else beside them but the sizes and our mark."""
    data = DataConfig(path=str(criteo_file))
    write_paper_format(data, "kaggle-json", tmp_path / "whole")
    write_paper_format(data, "kaggle-json", tmp_path / "cut", parts=3)
    parts = [records(tmp_path / "cut" / f"part_{i}.txt") for i in range(3)]
    assert [len(part) for part in parts] == [67, 67, 66]
    assert [r for part in parts for r in part] == records(tmp_path / "whole" / "kaggle_criteo_weekly.txt")
    beside = {p.name for p in (tmp_path / "cut").iterdir()} - {f"part_{i}.txt" for i in range(3)}
    assert beside == {"emb_table_info.txt", "_bagpipe.json"}


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.tsv"
    lines = [(0, item, 5, 100 - item) for item in range(6)] + [(1, 2, 1, 7), (1, 9, 1, 8)]
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return path


def test_caser(ratings: Path, tmp_path: Path) -> None:
    """Windows by time, users with too few ratings left out, negatives never rated, the same for the same seed."""
    shape = Sequences(sequence=3, targets=2, negatives=2)
    write_paper_format(DataConfig(path=str(ratings)), "caser-json", tmp_path / "a", sequences=shape)
    write_paper_format(DataConfig(path=str(ratings)), "caser-json", tmp_path / "b", sequences=shape)
    found = records(tmp_path / "a" / "parsed_caser.txt")
    assert [(r["sparse"], r["label"]) for r in found] == [([[0], [5, 4, 3]], [2, 1]), ([[0], [4, 3, 2]], [1, 0])]
    assert all(item in (6, 7, 8, 9) for r in found for item in r["dense"])
    assert sizes(tmp_path / "a") == [2, 10]
    assert found == records(tmp_path / "b" / "parsed_caser.txt")


def test_caser_is_read_as_three_features(ratings: Path, tmp_path: Path) -> None:
    """What came next and the negatives are looked up as candidates; labels tell which is which."""
    shape = Sequences(sequence=3, targets=2, negatives=2)
    write_paper_format(DataConfig(path=str(ratings)), "caser-json", tmp_path / "out", sequences=shape)
    file = tmp_path / "out" / "parsed_caser.txt"
    data = DataConfig(path=str(file), format="caser-json")
    dataset = open_dataset(data, EmbeddingConfig(), seed=0, work_dir=tmp_path / "work")
    (batch,) = dataset.train_batches(10, epochs=1)
    assert batch.labels_BL.tolist() == [[1, 1, 0, 0]] * 2
    lengths = batch.sparse[0].lengths_BT
    assert lengths is not None and lengths.tolist() == [[1, 3, 4]] * 2
    offsets = dataset.layout.groups[0].offsets
    expected = []
    for r in records(file):
        for offset, ids in zip(offsets, (*r["sparse"], r["label"] + r["dense"]), strict=True):
            expected += [offset + i for i in ids]
    assert batch.sparse[0].keys_N.tolist() == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"label": [1], "dense": [2], "sparse": [[0], [1]]}', "expected 2 next items and 2 negatives"),
        ('{"label": [1, 2], "dense": [2, 3], "sparse": [[0, 1], [1]]}', "length"),
        ('{"label": [1, -2], "dense": [2, 3], "sparse": [[0], [1]]}', ">= 0"),
    ],
)
def test_malformed_caser_lines_are_named(line: str, problem: str, tmp_path: Path) -> None:
    """File, line and what was expected."""
    path = tmp_path / "parsed_caser.txt"
    path.write_text('{"label": [1, 2], "dense": [3, 4], "sparse": [[0], [5, 6, 7]]}\n' + line + "\n")
    data = DataConfig(path=str(path), format="caser-json")
    with pytest.raises(DataError, match=rf"parsed_caser.txt:2: malformed record: .*{problem}"):
        open_dataset(data, EmbeddingConfig(), seed=0, work_dir=tmp_path / "work")


def test_what_cannot_be_written_leaves_nothing(criteo_lines: Callable[[int], list[str]], tmp_path: Path) -> None:
    """A bad line ends it by name, an existing folder is kept, and no half-written file remains."""
    bad = tmp_path / "bad.txt"
    bad.write_text("\n".join([*criteo_lines(3), "1\t2"]) + "\n")
    with pytest.raises(DataError, match=r"bad.txt:4: expected 40"):
        write_paper_format(DataConfig(path=str(bad), format="criteo-tsv"), "kaggle-json", tmp_path / "out")
    with pytest.raises(DataError, match=r"bad.txt:1: expected user, item, rating and time"):
        write_paper_format(DataConfig(path=str(bad)), "caser-json", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.txt"]
    with pytest.raises(ConfigError, match="exists already"):
        write_paper_format(DataConfig(path=str(bad)), "kaggle-json", tmp_path)
