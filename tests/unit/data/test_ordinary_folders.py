"""A prepared folder is ordinary Parquet to every program, and keeps its vocabulary all the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data import prepared, prepared_parts
from bagpipe.data.dataset import open_dataset
from bagpipe.data.describe import describe
from bagpipe.data.enclosed import prepared_transform
from bagpipe.data.files import find_files
from bagpipe.data.output import made_once
from bagpipe.data.prepare import learn, prepare
from bagpipe.data.prepared import read_info
from bagpipe.errors import CheckpointError, DataError, StorageError

ROWS, PART_ROWS = 200, 80


def query(what: str) -> pd.DataFrame:
    return duckdb.sql(f"select * from {what}").df()


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "polars": lambda folder: pl.read_parquet(folder).to_pandas(),
    "polars, lazily": lambda folder: pl.scan_parquet(folder).collect().to_pandas(),
    "duckdb, the folder": lambda folder: query(f"read_parquet('{folder}')"),
    "duckdb, its files": lambda folder: query(f"'{folder}/*.parquet'"),
    "duckdb, all below": lambda folder: query(f"'{folder}/**/*.parquet'"),
    "pandas": pd.read_parquet,
    "pyarrow": lambda folder: pq.read_table(folder).to_pandas(),
    "pyarrow.dataset": lambda folder: ds.dataset(folder).to_table().to_pandas(),
}


@pytest.fixture
def data(criteo_file):
    return DataConfig(path=str(criteo_file), encoding="vocabulary", min_count=2, test_fraction=0.1)


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    """Three parts of which the first encloses a vocabulary, in several row groups."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 16)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", PART_ROWS)
    return prepare(data, tmp_path / "a folder").folder


def transform_of(path: Any) -> Any:
    files = find_files(str(path))
    return prepared_transform(read_info(files[0]), files[0])


@pytest.mark.parametrize("program", READERS)
def test_every_program_reads_the_folder_as_it_is(program, folder):
    """All rows in their order, all columns, and nothing else, whatever program is given the folder."""
    expected = pd.concat([pq.ParquetFile(p).read().to_pandas() for p in sorted(folder.iterdir())], ignore_index=True)
    found = READERS[program](folder)
    assert list(found.columns) == list(expected.columns)
    assert len(found) == ROWS
    if program.startswith("duckdb"):  # It reads files side by side.
        found, expected = (frame.sort_values(list(expected.columns)) for frame in (found, expected))
    for name in expected.columns:
        np.testing.assert_array_equal(found[name].to_numpy(), expected[name].to_numpy())


def test_the_folder_holds_parts_and_nothing_else(folder):
    assert sorted(p.name for p in folder.iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]


@pytest.mark.parametrize("of", ["{0}", "file://{0}", "{0}/part-00001.parquet", "memory://prepared"])
def test_the_vocabulary_is_found_from_any_part_and_place(of, folder, data, tmp_path):
    """In a folder that was moved, by the name of a later part, and behind a URL."""
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    if of.startswith("memory://"):
        import fsspec

        store = fsspec.filesystem("memory")
        for part in moved.iterdir():
            store.pipe(f"/prepared/{part.name}", part.read_bytes())
    found = transform_of(of.format(moved))
    expected = learn(data)
    assert found.info == expected.info
    for name, vocabulary in expected.vocabularies.items():
        np.testing.assert_array_equal(found.vocabularies[name].codes, vocabulary.codes)
        np.testing.assert_array_equal(found.vocabularies[name].counts, vocabulary.counts)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_part_that_was_lost_is_named(lost, folder, tmp_path, monkeypatch):
    """Whatever is to be done with the others: their examples would be split at other places than before."""
    monkeypatch.setattr(prepared, "ROWS_PER_PART", PART_ROWS)
    (folder / f"part-0000{lost}.parquet").unlink()
    named = DataConfig(path=str(folder))
    for use in (describe, lambda one: open_dataset(one, EmbeddingConfig(dim=4), seed=0, work_dir=tmp_path)):
        with pytest.raises(DataError, match=f"a folder: part-0000{lost}.parquet is missing, so 2 parts are not all"):
            use(named)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("of", ["{0}", "{0}/*.parquet", "memory://two"])
def test_one_part_that_is_left_of_two_is_not_all_of_the_data(of, lost, folder, data, tmp_path, monkeypatch):
    """Found in a folder, by a pattern or behind a URL; by its own name it is read as what was asked for."""
    monkeypatch.setattr(prepared, "ROWS_PER_PART", PART_ROWS)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", PART_ROWS)
    two = tmp_path / "two"
    whole = Path(data.path).read_text().splitlines(keepends=True)
    (tmp_path / "less").write_text("".join(whole[: PART_ROWS + 20]))
    prepare(DataConfig(path=str(tmp_path / "less"), hash_size=100), two)
    (two / f"part-0000{lost}.parquet").unlink()
    left = two / f"part-0000{1 - lost}.parquet"
    path, alone = of.format(two), str(left)
    if of.startswith("memory://"):
        import fsspec

        store = fsspec.filesystem("memory")
        store.rm("/two", recursive=True) if store.exists("/two") else None
        store.pipe(f"/two/{left.name}", left.read_bytes())
        alone = f"{path}/{left.name}"

    def opened(path):
        return open_dataset(DataConfig(path=path), EmbeddingConfig(dim=4), seed=0, work_dir=tmp_path)

    told = (
        f"two: part-0000{lost}.parquet is missing, so 1 part is not all of the data; put it back, .* {left.name} itself"
    )
    for use in (opened, lambda path: describe(DataConfig(path=path))):
        with pytest.raises(DataError, match=told):
            use(path)
    read_info(find_files(alone)[0])
    assert describe(DataConfig(path=alone)).files == 1


@pytest.mark.parametrize("lost", [0, 2])
def test_a_part_that_was_lost_of_one_folder_is_named_beside_a_whole_one(lost, folder, data, tmp_path, monkeypatch):
    """Also the last of the first folder, and one that is there without its content."""
    monkeypatch.setattr(prepared, "ROWS_PER_PART", PART_ROWS)
    another = shutil.copytree(folder, tmp_path / "another")
    both = DataConfig(path=(str(folder), str(another)))
    assert describe(both).files == 6
    (folder / f"part-0000{lost}.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=f"a folder: part-0000{lost}.parquet is empty, so 2 parts are not all"):
        describe(both)
    (folder / f"part-0000{lost}.parquet").unlink()
    with pytest.raises(DataError, match=f"a folder: part-0000{lost}.parquet is missing, so 2 parts are not all"):
        describe(both)


def test_data_that_a_run_has_prepared_and_whose_first_part_was_lost_is_named(tmp_path):
    """At once, and not after it was prepared once more and found no place."""
    kept = tmp_path / "prepared-1"
    kept.mkdir()
    (kept / "part-00001.parquet").touch()
    with (
        pytest.raises(DataError, match=r"prepared-1: part-00000.parquet is missing; put it back, or delete the folder"),
        made_once(kept, "part-00000.parquet"),
    ):
        raise AssertionError("was made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared-1"]


def test_some_parts_of_a_folder_that_has_the_others_are_read(folder, monkeypatch):
    """They were asked for by their names."""
    monkeypatch.setattr(prepared, "ROWS_PER_PART", PART_ROWS)
    for some in ((0, 2), (0, 1), (1, 2), (1,)):
        files = find_files([str(folder / f"part-0000{number}.parquet") for number in some])
        info = read_info(files[0])
        assert prepared.with_report(info, files).shape == info.shape


def test_a_folder_without_a_vocabulary_encloses_none(criteo_file, tmp_path):
    """Hashed values need none: the bytes end with the footer as any Parquet file's do."""
    done = prepare(DataConfig(path=str(criteo_file), hash_size=100), tmp_path / "out").folder
    assert b"bagpipe.vocabulary" not in pq.read_metadata(done / "part-00000.parquet").metadata
    assert transform_of(done).vocabularies is None


def test_a_rewritten_part_loses_the_vocabulary_and_no_row(folder):
    """Another program copies the key and not the bytes: what lies there is not taken for a vocabulary."""
    first = folder / "part-00000.parquet"
    table = pq.read_table(first).replace_schema_metadata(pq.read_metadata(first).metadata)
    pq.write_table(table, first)
    assert b"bagpipe.vocabulary" in pq.read_metadata(first).metadata
    found = transform_of(folder)
    assert found.info.vocabulary is not None
    assert found.vocabularies is None


def test_a_damaged_vocabulary_is_refused_by_its_part(folder):
    """A byte that changed is no reason to score with other rows."""
    first = folder / "part-00000.parquet"
    place = json.loads(pq.read_metadata(first).metadata[b"bagpipe.vocabulary"])
    content = bytearray(first.read_bytes())
    at = place["offset"] + place["length"] // 2
    content[at : at + 64] = bytes(64)
    first.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"part-00000.parquet: (cannot be read|not the vocabulary)"):
        transform_of(folder)


def test_folders_of_the_old_layout_keep_their_vocabulary(folder, data):
    """Those have it in `_transform/`, and no part encloses one."""
    learn(data).save(folder / "_transform")
    for part in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(part).replace_schema_metadata(pq.read_schema(part).metadata), part)
    assert transform_of(folder).vocabularies is not None


def test_a_first_part_that_cannot_be_read_is_not_taken_for_none(folder):
    """Nobody knows what vocabulary it has: who goes on without it would give values other rows."""
    first = folder / "part-00000.parquet"
    first.write_bytes(b"no parquet" * 9)
    for path in (folder / "part-00001.parquet", f"file://{folder}/part-00001.parquet"):
        with pytest.raises(DataError, match=r"part-00000.parquet: cannot be read for the vocabulary"):
            transform_of(path)
    first.unlink()
    first.mkdir()
    with pytest.raises((DataError, StorageError), match=r"part-00000.parquet"):
        transform_of(folder / "part-00001.parquet")
    first.rmdir()
    for path in (folder / "part-00001.parquet", f"file://{folder}/part-00001.parquet"):
        assert transform_of(path).vocabularies is None
