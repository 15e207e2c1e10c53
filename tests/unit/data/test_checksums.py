"""Damaged bytes in Parquet are noticed: in pages, in what prepared parts say about themselves, in raw columns."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig
from bagpipe.data.dataset import Dataset
from bagpipe.data.describe import describe
from bagpipe.data.prepare import prepare
from bagpipe.data.remedies import prepare_again
from bagpipe.errors import BagpipeError, DataError


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def middles(path: Path) -> dict[str, int]:
    """A byte in the values of each column of a Parquet file's first row group."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return {c.path_in_schema: c.data_page_offset + c.total_compressed_size - 8 for c in columns}


@pytest.mark.parametrize("kind", ["criteo_file", "ragged_file"])
def test_a_description_notices_every_damaged_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One bit of any column of prepared data: the part and the row group are named; it was another value in silence."""
    whole = prepare(DataConfig(path=str(request.getfixturevalue(kind)), encoding="vocabulary"), tmp_path / "out").folder
    assert "checksums   every page is as it was written" in str(describe(DataConfig(path=str(whole))))
    places = middles(whole / "part-00000.parquet")
    assert len(places) >= 7
    for name in [*places][:: max(1, len(places) // 7)]:
        damaged = tmp_path / "damaged"
        shutil.copytree(whole, damaged)
        flip(damaged / "part-00000.parquet", places[name])
        with pytest.raises(DataError, match=r"part-00000.parquet: row group 0 is damaged .*; prepare the data again"):
            describe(DataConfig(path=str(damaged)))
        shutil.rmtree(damaged)


def test_what_a_part_says_about_itself_has_a_checksum(criteo_file: Path, tmp_path: Path) -> None:
    """The size of a table, and the number of bad lines: numbers whose damage would be another number."""
    part = prepare(DataConfig(path=str(criteo_file)), tmp_path / "out").folder / "part-00000.parquet"
    whole, content = pq.read_table(part), part.read_bytes()
    flip(part, content.index(b'{"badLines":0') + len('{"badLines":'))
    with pytest.raises(DataError, match=r"part-00000.parquet: damaged report \(its checksum differs\); prepare"):
        describe(DataConfig(path=str(part)))
    said = dict(whole.schema.metadata)
    said[b"bagpipe"] = said[b"bagpipe"].replace(b'"numEmbeddings":', b'"numEmbeddings":1', 1)
    pq.write_table(whole.replace_schema_metadata(said), part)
    with pytest.raises(DataError, match=r"part-00000.parquet: damaged table list \(its checksum differs\); prepare"):
        describe(DataConfig(path=str(part)))


def test_parts_without_checksums_are_named(criteo_file: Path, tmp_path: Path) -> None:
    """Prepared before there were any, or rewritten by another program: read as ever, and the description says so."""
    part = prepare(DataConfig(path=str(criteo_file)), tmp_path / "out").folder / "part-00000.parquet"
    for dictionary in (True, False):
        pq.write_table(pq.read_table(part), part, use_dictionary=dictionary)
        found = describe(DataConfig(path=str(part)))
        assert f"checksums   none in {part}; prepare the data again to have damage noticed" in str(found)
    pq.write_table(pq.read_table(part), part, write_page_checksum=True)
    assert describe(DataConfig(path=str(part))).checked == "every page is as it was written"


@pytest.mark.parametrize("compression", ["NONE", "zstd"])
def test_checksums_of_raw_parquet_are_compared(
    compression: str, dataset: Callable[..., object], tmp_path: Path
) -> None:
    """Other programs (Spark) write them too: a damaged number is one line, not another number."""
    rows = np.arange(200)
    table = pa.table({"clicked": rows % 2, "price": rows * 0.5, "item": rows % 7})
    path = tmp_path / "raw.parquet"
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression=compression)
    columns = ColumnsConfig(
        labels=(LabelColumn(name="clicked"),),
        dense=(DenseColumn(name="price"),),
        sparse=(SparseColumn(name="item"),),
    )
    dataset(str(path), columns=columns)
    flip(path, middles(path)["price"])
    with pytest.raises(DataError, match=r"raw.parquet: cannot be read: .*CRC.*; fix the file"):
        dataset(str(path), columns=columns)


def test_damaged_data_of_a_run_names_the_folder_to_delete(
    criteo_file: Path, dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    """A run prepares raw data by itself: "prepare the data again" tells its user nothing; deleting the folder helps."""
    dataset(criteo_file, encoding="vocabulary")
    (folder,) = (tmp_path / "work").iterdir()
    part = folder / "part-00000.parquet"
    content = part.read_bytes()
    vocabulary = (content.index(b"ARROW1") + content.rindex(b"ARROW1")) // 2
    damages: list[Callable[[], object]] = [
        lambda: os.truncate(part, 2000),
        lambda: part.write_bytes(b""),
        lambda: flip(part, len(content) - 20),
        lambda: flip(part, content.index(b'{"badLines":0') + len('{"badLines":')),
        lambda: flip(part, vocabulary),
        lambda: part.rename(folder / "part-00001.parquet"),
    ]
    for damage in damages:
        damage()
        with pytest.raises(BagpipeError, match=rf"delete (the folder|{folder}), and .* (it|made) again$"):
            dataset(criteo_file, encoding="vocabulary")
        shutil.rmtree(folder)
        dataset(criteo_file, encoding="vocabulary")
        assert part.read_bytes() == content


def test_the_remedy_follows_a_link_to_the_data_of_a_run(tmp_path: Path) -> None:
    """`bagpipe evaluate` works in links, gone when its message is read; the remedy for a user's own data stays."""
    folder = tmp_path / "data" / "prepared-0123456789abcdef-01234567"
    folder.mkdir(parents=True)
    link = tmp_path / folder.name
    link.symlink_to(folder)
    for place in (folder, link):
        assert prepare_again(str(place / "part-00000.parquet")).startswith(f"delete {folder}, and ")
    for place in ("prepared/part-00000.parquet", "prepared-1/part-00000.parquet", "part-00000.parquet"):
        assert prepare_again(place) == "prepare the data again"
