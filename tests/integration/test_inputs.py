"""A table of inputs: whatever program wrote a file, its rows are counted, encoded and trained on as they are."""

import bz2
import gzip
import json
import lzma
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from bagpipe.config.document import Job
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.raw import value_text
from bagpipe.testing.threads import run_in_threads

HERE = Path(__file__).parent / "foreign"
ROWS, TRAINED, BATCH = 64, 48, 16
Row = dict[str, Any]
FOREIGN = sorted(p.name for p in HERE.iterdir() if p.suffix != ".json" and p.suffix != ".py")
SPARSE = [{"name": "user"}, {"name": "item"}]
Writer = Callable[[Path, list[Row]], Path]


def rows() -> list[Row]:
    """A label, a whole number, a text, a number with gaps: what every input of the table holds."""
    found: list[Row] = json.loads((HERE / "rows.json").read_text())
    return found


def job_of(path: str, **columns: Any) -> Job:
    stated = {
        "labels": [{"name": "y"}],
        "dense": [{"name": "price", "fill": -1}],
        "sparse": SPARSE,
        "ignore": ["*"],
    } | columns
    spec = {
        "model": {"name": "dlrm", "bottomMlp": [4], "overMlp": [4]},
        "data": {"path": path, "testFraction": 0.25, "columns": stated},
        "embedding": {"dim": 4},
        "batchSize": BATCH,
        "lookahead": 2,
        "servers": {"storage": "memory"},
        "trainers": {"device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec}, Job)


def trained(job: Job, run_dir: Path) -> Dataset:
    """Train and evaluate; the data set that was read."""
    run = run_in_threads(job, run_dir)
    spec = job.spec
    dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=run_dir / "data")
    evaluation = run.report["evaluation"]
    assert (dataset.num_train_examples, dataset.num_test_examples) == (TRAINED, evaluation["examples"])
    assert 0 <= evaluation["auc"] <= 1 and math.isfinite(evaluation["logLoss"])
    return dataset


def first_values(dataset: Dataset) -> list[list[list[str]]]:
    """The values of the first batch, by example and feature, as the kept vocabularies name its rows."""
    batch = next(iter(dataset.train_batches(BATCH, epochs=1)))
    (group,), (block,) = dataset.layout.groups, batch.sparse
    kinds = {f.name: f.kind for f in dataset.transform.info.features}
    features = [
        (table.name, name, offset)
        for table, offset in zip(group.tables, group.offsets, strict=True)
        for name in table.feature_names
    ]
    lengths = block.lengths_BT if block.lengths_BT is not None else np.ones((BATCH, len(features)), np.int32)
    keys, found = iter(block.keys_N.tolist()), []
    assert dataset.transform.vocabularies is not None
    for counts in lengths.tolist():
        example = []
        for (table, name, offset), count in zip(features, counts, strict=True):
            vocabulary = dataset.transform.vocabularies[table]
            codes = [int(vocabulary.codes[next(keys) - offset - vocabulary.first_row]) for _ in range(count)]
            example.append([value_text(code, kinds[name]) for code in codes])
        found.append(example)
    return found


def check(dataset: Dataset, expected: list[Row]) -> None:
    """The first batch holds the first rows: labels, dense values, and what each row of a table stands for."""
    batch = next(iter(dataset.train_batches(BATCH, epochs=1)))
    first = expected[:BATCH]
    assert batch.labels_BL[:, 0].tolist() == [row["y"] for row in first]
    prices = [np.float32(-1 if row["price"] is None else row["price"]) for row in first]
    assert batch.dense_BF[:, 0].tolist() == [float(price) for price in prices]
    assert first_values(dataset) == [[[text_of(row["user"])], [text_of(row["item"])]] for row in first]


def text_of(value: Any) -> str:
    return "(missing)" if value is None else str(value)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


def cells(found: list[Row], names: list[str], separator: str, end: str) -> str:
    lines = [names, *([("" if row[n] is None else str(row[n])) for n in names] for row in found)]
    return "".join(separator.join(line) + end for line in lines)


def text(suffix: str, names: str = "y user item price", separator: str = ",", end: str = "\n", head: bytes = b"",
         squeeze: Callable[[bytes], bytes] = bytes) -> Writer:  # fmt: skip
    def write(folder: Path, found: list[Row]) -> Path:
        path = folder / f"log.{suffix}"
        path.write_bytes(squeeze(head + cells(found, names.split(), separator, end).encode()))
        return path

    return write


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


def quoted(folder: Path, found: list[Row]) -> Path:
    """Texts with a separator, a quote and a line end in them, in a column that is ignored."""
    path = folder / "log.csv"
    lines = [
        f'{row["user"]},"a, ""b""\nc {i}",{row["item"]},{row["y"]},{text_of(row["price"])}'
        for i, row in enumerate(found)
    ]
    path.write_text("user,comment,item,y,price\n" + "\n".join(lines).replace("(missing)", "") + "\n")
    return path


KINDS = {"y": pa.int64(), "user": pa.int64(), "item": pa.string(), "price": pa.float64()}


def table(found: list[Row], **kinds: pa.DataType) -> pa.Table:
    return pa.Table.from_pylist(found, pa.schema((KINDS | kinds).items()))


def parquet(change: Callable[[pa.Table], pa.Table] = lambda t: t, **options: Any) -> Writer:
    def write(folder: Path, found: list[Row]) -> Path:
        pq.write_table(change(table(found)), folder / "log.parquet", **options)
        return folder / "log.parquet"

    return write


def cast(**kinds: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(given: pa.Table) -> pa.Table:
        for name, kind in kinds.items():
            place = given.schema.get_field_index(name)
            column = given.column(name)
            column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
            given = given.set_column(place, name, column)
        return given

    return change


def prices_as_decimals(given: pa.Table) -> pa.Table:
    values = [None if v is None else Decimal(str(v)) for v in given.column("price").to_pylist()]
    return given.set_column(3, "price", pa.array(values, pa.decimal128(12, 3)))


def feathered(**options: Any) -> Writer:
    def write(folder: Path, found: list[Row]) -> Path:
        feather.write_feather(table(found), folder / "log.feather", **options)
        return folder / "log.feather"

    return write


def json_lines(folder: Path, found: list[Row]) -> Path:
    """Keys whose value is missing are left out, in another order in every line."""
    lines = [{k: v for k, v in sorted(row.items(), reverse=i % 2 == 0) if v is not None} for i, row in enumerate(found)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "log.jsonl"


def several_files(folder: Path, found: list[Row]) -> Path:
    """Another order and other types of columns, other row groups, empty files, a mark and a checksum."""
    out = folder / "logs"
    out.mkdir()
    pq.write_table(table(found[:20]), out / "part-1.parquet", row_group_size=7)
    pq.write_table(table([]), out / "part-2.parquet")
    (out / "part-3.parquet").write_bytes(b"")
    later = cast(user=pa.int64(), item=pa.large_string(), y=pa.int8())(table(found[20:]))
    pq.write_table(later.select(["price", "item", "y", "user"]), out / "part-10.parquet", row_group_size=1000)
    (out / "_SUCCESS").write_bytes(b"")
    (out / ".part-1.parquet.crc").write_bytes(b"crc")
    return out


def hive(folder: Path, found: list[Row]) -> Path:
    """The label is in the names of the folders; rows come folder by folder."""
    for at in range(0, ROWS, 16):
        for y in (0, 1):
            part = [row for row in found[at : at + 16] if row["y"] == y]
            place = folder / "days" / f"day={at}" / f"y={y}"
            place.mkdir(parents=True)
            pq.write_table(table(part).drop_columns(["y"]), place / "part.parquet")
    return folder / "days"


WRITERS: dict[str, Writer] = {
    "csv": text("csv"),
    "csv-another-order": text("csv", "price item user y"),
    "csv-bom": text("csv", head=b"\xef\xbb\xbf"),
    "csv-crlf": text("csv", end="\r\n"),
    "csv-quoted-newlines": quoted,
    "tsv": text("tsv", separator="\t"),
    "csv.gz": text("csv.gz", squeeze=gzip.compress),
    "csv.xz": text("csv.xz", squeeze=lzma.compress),
    "csv.bz2": text("csv.bz2", squeeze=bz2.compress),
    "csv.zst": text("csv.zst", squeeze=zstd),
    "jsonl-missing-keys": json_lines,
    "parquet": parquet(),
    "parquet-dictionary": parquet(cast(item="dictionary", user="dictionary")),
    "parquet-large-string": parquet(cast(item=pa.large_string())),
    "parquet-string-view": parquet(cast(item=pa.string_view())),
    "parquet-decimal": parquet(prices_as_decimals),
    "parquet-decimal-ids": parquet(cast(user=pa.decimal128(20, 0))),
    "parquet-bool-label": parquet(cast(y=pa.bool_())),
    "parquet-other-pages": parquet(use_deprecated_int96_timestamps=True, version="1.0", data_page_version="2.0"),
    "parquet-row-groups": parquet(row_group_size=5),
    "feather-lz4": feathered(compression="lz4"),
    "feather-zstd-chunks": feathered(compression="zstd", chunksize=9),
    "several-files": several_files,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_trained_on_as_they_are(name: str, tmp_path: Path) -> None:
    """The right number of rows, the right first encoded batch, a finite AUC."""
    found = rows()
    path = WRITERS[name](tmp_path, found)
    check(trained(job_of(str(path)), tmp_path / "run"), found)


@pytest.mark.parametrize("name", FOREIGN)
def test_rows_of_other_programs_are_trained_on_as_they_are(name: str, tmp_path: Path) -> None:
    """Files that pandas, polars, DuckDB and Spark wrote (`foreign/make.py`)."""
    check(trained(job_of(str(HERE / name)), tmp_path / "run"), rows())


def test_folders_are_columns(tmp_path: Path) -> None:
    """Hive partitions, here the label itself, with the rows of each folder in their order."""
    found = rows()
    ordered = [row for at in range(0, ROWS, 16) for y in (0, 1) for row in found[at : at + 16] if row["y"] == y]
    check(trained(job_of(str(hive(tmp_path, found))), tmp_path / "run"), ordered)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_lists_are_several_values(form: str, kind: str, tmp_path: Path) -> None:
    """Lists of numbers or texts, cells with a separator; a missing list is one missing value, an empty one none."""
    found = rows()
    value: Callable[[int], Any] = (lambda k: k) if kind == "numbers" else (lambda k: f"t{k}")
    tags = [None if i % 9 == 4 else [value(k % 5) for k in range(i % 4)] for i in range(ROWS)]
    path, separator = tmp_path / f"log.{form}", ""
    if form == "parquet":
        inner = pa.int64() if kind == "numbers" else pa.string()
        pq.write_table(table(found).append_column("tags", pa.array(tags, pa.list_(inner))), path)
    elif form == "jsonl":
        lines = [row | {"tags": one} for row, one in zip(found, tags, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        separator = ";"
        lines = [
            row | {"tags": "" if one is None else ";".join(map(str, one)) or '""'}
            for row, one in zip(found, tags, strict=True)
        ]
        path.write_text(cells(lines, ["y", "user", "item", "price", "tags"], ",", "\n"))
    job = job_of(str(path), sparse=[*SPARSE, {"name": "tags", "separator": separator}])
    expected = [[text_of(v) for v in ([None] if one is None else one)] for one in tags]
    assert [example[2] for example in first_values(trained(job, tmp_path / "run"))] == expected[:BATCH]


@pytest.mark.parametrize(
    ("form", "ids"),
    [
        ("parquet", pa.array([-(2**63) if i % 7 == 6 else -(i % 7) for i in range(ROWS)], pa.int64())),
        ("parquet", pa.array([2**64 - 1 - i % 7 for i in range(ROWS)], pa.uint64())),
        ("jsonl", pa.array([2**63 - 1 - i % 7 for i in range(ROWS)], pa.int64())),
        ("csv", pa.array([2**64 - 1 - i % 7 for i in range(ROWS)], pa.uint64())),
    ],
)
def test_any_number_of_64_bits_is_an_id(form: str, ids: pa.Array, tmp_path: Path) -> None:
    """Negative ones, and those beyond what a signed integer holds (the 64 bits of both are the same)."""
    found = [row | {"user": user} for row, user in zip(rows(), ids.to_pylist(), strict=True)]
    path = tmp_path / f"log.{form}"
    if form == "parquet":
        pq.write_table(table(found, user=ids.type), path)
    else:
        path = json_lines(tmp_path, found) if form == "jsonl" else text("csv")(tmp_path, found)
    values = first_values(trained(job_of(str(path)), tmp_path / "run"))
    expected = [row["user"] for row in found[:BATCH]]
    signed = [v if form == "csv" or v < 2**63 else v - 2**64 for v in expected]
    if form == "csv":
        assert len({v[0][0] for v in values}) == 7, "longer than 8 bytes: known by a hash"
    else:
        assert [v[0] for v in values] == [[str(v)] for v in signed]


@pytest.mark.parametrize("count", [1, 26, 2000])
def test_one_feature_or_thousands(count: int, tmp_path: Path) -> None:
    """As many sparse columns as the data has."""
    columns = {f"c{j}": pa.array([(i * (j % 9 + 1)) % 11 for i in range(ROWS)]) for j in range(count)}
    pq.write_table(pa.table({"y": [i % 2 for i in range(ROWS)], **columns}), tmp_path / "log.parquet")
    job = job_of(str(tmp_path / "log.parquet"), dense=[], sparse=[{"name": name} for name in columns])
    wide = msgspec.convert({"name": "wdl", "bottomMlp": [4], "deepInputs": "all"}, type(job.spec.model))
    job = msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, model=wide))
    values = first_values(trained(job, tmp_path / "run"))
    assert values[3] == [[str((3 * (j % 9 + 1)) % 11)] for j in range(count)]
