"""Times in forms that programs write, and what is none."""

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.load import parse_job
from bagpipe.data.column_values import moments_of
from bagpipe.data.dataset import open_dataset
from bagpipe.errors import BagpipeError


def timed(folder: Path, times: list[str], **more: Any) -> Any:
    """A data set split by time, of rows whose labels tell their number's parity."""
    path = folder / "log.csv"
    path.write_text("\n".join(["item,y,when", *(f"i{i % 7},{i % 2},{when}" for i, when in enumerate(times)), ""]))
    columns = {"labels": [{"name": "y"}], "sparse": [{"name": "item"}], "time": "when"}
    data = {"path": str(path), "columns": columns, "splitBy": "time", "testFraction": 0.25} | more
    spec = parse_job(msgspec.json.encode({"spec": {"data": data}}).decode(), "job.yaml").spec
    return open_dataset(spec.data, spec.embedding, seed=1, work_dir=folder / "work")


def test_a_row_whose_time_cannot_be_read_is_named_or_skipped(tmp_path: Path) -> None:
    """The bad row and no other; skipped, it belongs to no part and is counted once."""
    times = [(dt.datetime(2024, 1, 1) + dt.timedelta(hours=i)).isoformat() for i in range(40)]
    times[7], times[30] = "yesterday", ""
    with pytest.raises(BagpipeError, match=r"row 8: column when: expected a time .*, found 'yesterday'; fix"):
        timed(tmp_path, times)
    dataset = timed(tmp_path, times, onBadLine="skip")
    assert (dataset.num_train_examples, dataset.num_test_examples) == (28, 10)
    labels = [y for batch in dataset.train_batches(64, epochs=1) for y in batch.labels_BL[:, 0].tolist()]
    assert labels == [float(i % 2) for i in range(30) if i != 7][:28]
    assert dataset.report.bad_lines == 2 and "row 8: column when" in str(dataset.report.first_bad)


def test_moments_of_other_units_are_the_same_moments(tmp_path: Path) -> None:
    """A file of nanoseconds and one of days: later rows are later, and a date is one category in both."""
    days = [dt.date(2024, 1, 1 + i) for i in range(20)]
    for number, kind in enumerate([pa.timestamp("ns"), pa.date32(), pa.timestamp("s"), pa.date64()]):
        part = days[number * 5 : number * 5 + 5]
        table = pa.table(
            {"y": [i % 2 for i in range(5)], "day": pa.array(part).cast(kind), "item": ["a", "b"] * 2 + ["a"]}
        )
        pq.write_table(table, tmp_path / f"part-{9 - number}.parquet")
    columns = {"labels": [{"name": "y"}], "dense": [{"name": "day"}], "sparse": [{"name": "item"}], "time": "day"}
    data = {"path": str(tmp_path / "*.parquet"), "columns": columns, "splitBy": "time", "testFraction": 0.25}
    spec = parse_job(msgspec.json.encode({"spec": {"data": data}}).decode(), "job.yaml").spec
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")
    found = [x for batch in dataset.test_batches(64) for x in batch.dense_BF[:, 0].tolist()]
    epoch = dt.date(1970, 1, 1)
    assert found == [float(np.float32((day - epoch).days * 86_400e6)) for day in days[15:]]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-01 10:00:00.000000000+0200", "2024-01-01 08:00:00+00:00"),
        ("2024-01-01 10:00:00.123456789 +0200", "2024-01-01 08:00:00.123456+00:00"),
        ("2024-01-01T10:00:00 -03:30", "2024-01-01 13:30:00+00:00"),
        ("2024-01-01T10:00:00.123456789Z", "2024-01-01 10:00:00.123456+00:00"),
        ("2024-01-01 10:00:00.1234567 UTC", "2024-01-01 10:00:00.123456+00:00"),
        ("2024-01-01 10:00:00.999999999", "2024-01-01 10:00:00.999999"),
        ("2024-01-01 10:00:00.999999999+2", "None"),
    ],
)
def test_nanoseconds_and_an_offset_by_itself_are_moments(text: str, moment: str) -> None:
    """Each is cut to the microsecond, also beside a text that is none."""
    assert str(moments_of(pa.array([text]), "")[0]) == moment
    assert [str(found) for found in moments_of(pa.array([text, "soon", None]), "")] == [moment, "None", "None"]
