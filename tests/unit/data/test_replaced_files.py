"""A file that is changed or replaced while a job uses it is noticed, wherever it is looked at once more."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from bagpipe.config.document import DataConfig
from bagpipe.data.column_files import TableFormat, table_pieces, table_schema
from bagpipe.data.dataset import Dataset
from bagpipe.data.files import find_files, text_blocks
from bagpipe.data.prepare import prepare
from bagpipe.errors import DataError, StorageError

REFUSED = "was changed or replaced since it was first looked at.*; start again, with data "


def rows(seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table({"clicked": draw.integers(0, 2, 200), "item": draw.integers(0, 9, 200)})


def test_prepared_data_that_is_prepared_again_in_the_middle_of_a_run(
    criteo_file: Path, tmp_path: Path, dataset: Callable[..., Dataset]
) -> None:
    """The second epoch read the new file by the old one's footer: other rows, in silence."""
    data = DataConfig(path=str(criteo_file))
    found = dataset(str(prepare(data, tmp_path / "out").folder))
    before = [batch.sparse[0].keys_N.tobytes() for batch in found.train_batches(50, epochs=1)]
    assert [batch.sparse[0].keys_N.tobytes() for batch in found.train_batches(50, epochs=1)] == before
    lines = criteo_file.read_text().splitlines()
    criteo_file.write_text("\n".join(reversed(lines)) + "\n")
    prepare(data, tmp_path / "out", overwrite=True)
    with pytest.raises(DataError, match=f"part-00000.parquet: {REFUSED}"):
        list(found.train_batches(50, epochs=1))
    (tmp_path / "out" / "part-00000.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"part-00000.parquet: no such file; check data.path$"):
        list(found.train_batches(50, epochs=1))


def test_a_disk_that_fails_is_no_damage(criteo_file: Path, tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    """It may pass, so the run is tried again; of damaged data it is not."""
    found = dataset(str(prepare(DataConfig(path=str(criteo_file)), tmp_path / "out").folder))
    limit = r"Too many open files; raise the limit of open files \(ulimit -n\), [\d,]+ here$"
    for number, words, code in ((errno.EIO, "Input/output error$", 75), (errno.EMFILE, limit, 78)):
        failed = OSError(number, os.strerror(number), "part")
        with (
            patch("pyarrow.parquet.ParquetFile.read_row_group", side_effect=failed),
            pytest.raises(StorageError, match=rf"part-00000.parquet: {words}") as told,
        ):
            list(found.train_batches(50, epochs=1))
        assert told.value.exit_code == code


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_a_raw_file_that_is_written_between_two_looks(kind: TableFormat, tmp_path: Path) -> None:
    """Of the same size or another: what was learned from it would not fit it."""
    path = tmp_path / f"rows.{kind}"
    write: dict[TableFormat, Callable[[int], object]] = {
        "csv": lambda seed: csv.write_csv(rows(seed), path),
        "parquet": lambda seed: pq.write_table(rows(seed), path),
        "arrow": lambda seed: feather.write_feather(rows(seed), path, compression="uncompressed"),
    }
    write[kind](1)
    (found,) = find_files(str(path))
    write[kind](2)
    os.utime(path, ns=(0, int(found.stamp) + 1))
    with pytest.raises(DataError, match=f"rows.{kind}: {REFUSED}"):
        list(table_pieces(found, kind, ["item"], table_schema(found, kind), skip_bad=False))


def test_a_log_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """At its end at the latest, for the next look would find more."""
    path = tmp_path / "log.csv"
    path.write_text("user,clicked\n" + "u1,1\n" * 50)
    found = find_files(str(path))
    blocks = text_blocks(found)
    assert next(blocks).text.count(b"\n") == 51
    with path.open("a") as log:
        log.write("u2,0\n")
    with pytest.raises(DataError, match=r"log.csv: was .* looked at \(263 bytes then, 268 now\); start again"):
        list(blocks)
