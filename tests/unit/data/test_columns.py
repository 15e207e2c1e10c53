"""Data of one's own: what a slow reading of one cell at a time in plain Python says it is, whatever the format."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import open_dataset
from bagpipe.data.transform import load_transform
from bagpipe.errors import ConfigError, DataError

MASK = 2**64 - 1
KEY = 0x5851F42D4C957F2D


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def text_code(text: str) -> int:
    raw = text.encode()
    if 0 < len(raw) <= 8 and all(0 < byte < 128 for byte in raw):
        return int.from_bytes(raw.ljust(8, b"\0"), "big")
    code = (len(raw) * 0x9E3779B97F4A7C15) & MASK
    for byte in raw:
        code = mixed(((code ^ byte) + 0x9E3779B97F4A7C15) & MASK)
    return code | 1 << 63


def code_of(value) -> int:
    """0 is missing."""
    if value is None:
        return 0
    return text_code(value) if isinstance(value, str) else (((value % 2**64) ^ KEY) + 1) & MASK


def vocabulary(lists) -> dict[int, int]:
    codes = [code_of(v) for one in lists for v in one]
    ordered = sorted(set(codes), key=lambda c: (-codes.count(c), c))
    return {code: row for row, code in enumerate(ordered, 1)}


def put(path, table: pa.Table, kind: str) -> str:
    target = path / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(table, target, row_group_size=7)
    elif kind == "arrow":
        feather.write_feather(table, target, chunksize=5, compression="zstd")
    elif kind == "jsonl":
        target.write_text(
            "".join(json.dumps({k: v for k, v in r.items() if v is not None}) + "\n" for r in table.to_pylist())
        )
    else:
        csv.write_csv(table, target, csv.WriteOptions(delimiter="\t" if kind == "tsv" else ",", quoting_style="needed"))
    return str(target)


def read(path, columns, tmp_path, name="work", kept=None, **more):
    data = DataConfig(path=path, columns=columns, **more)
    return open_dataset(data, EmbeddingConfig(), seed=3, work_dir=tmp_path / name, kept=kept)


def batch_of(dataset):
    (batch,) = dataset.train_batches(10_000, epochs=1)
    return batch


WORDS = st.text(st.characters(exclude_characters='\r\n\0,\t"|', exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
SPARSE = {
    "word": st.none() | st.just("") | WORDS,
    "number": st.none() | st.sampled_from([-1, 0, 2**63 - 1, -(2**63)]) | NUMBERS,
    "words": st.none() | st.lists(st.none() | st.just("") | WORDS, max_size=5),
    "numbers": st.none() | st.lists(NUMBERS, max_size=5),
}
TYPES = {
    "word": pa.string(),
    "number": pa.int64(),
    "words": pa.list_(pa.string()),
    "numbers": pa.large_list(pa.int64()),
}
ROWS = st.lists(st.fixed_dictionaries(SPARSE), min_size=2, max_size=25)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, limit=st.none() | st.integers(1, 3), keep=st.sampled_from(["first", "last"]))
def test_every_cell_becomes_the_row_that_a_slow_reading_gives(kind, rows, limit, keep, tmp_path_factory):
    """Text, integers of 64 bits and lists of them, missing and empty apart, cut at either end."""
    folder = tmp_path_factory.mktemp("rows")
    table = pa.table({n: pa.array([r[n] for r in rows], t) for n, t in TYPES.items()})
    table = table.append_column("y", pa.array([i % 2 for i in range(len(rows))]))
    if any(len({tuple(x) if isinstance(x, list) else x for x in table[n].to_pylist()}) < 2 for n in TYPES):
        return
    sparse = tuple(SparseColumn(n, max_length=limit if n.endswith("s") else None) for n in TYPES)
    sparse = tuple(SparseColumn(c.name, max_length=c.max_length, keep=keep if c.max_length else "last") for c in sparse)

    def values(name, cell):
        if not name.endswith("s") or cell is None:
            return [cell]
        return cell if limit is None else cell[:limit] if keep == "first" else cell[-limit:]

    lists = {n: [values(n, r[n]) for r in rows] for n in TYPES}
    tables = {n: vocabulary(one) for n, one in lists.items()}
    if any(len(rows) < 2 for rows in tables.values()):
        return
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=sparse)
    dataset = read(put(folder, table, kind), columns, folder)
    batch = batch_of(dataset)
    offsets = dict(zip(TYPES, dataset.layout.groups[0].offsets, strict=True))
    expected = [offsets[n] + tables[n][code_of(v)] for i in range(len(rows)) for n in TYPES for v in lists[n][i]]
    assert batch.sparse[0].keys_N.tolist() == expected
    assert batch.sparse[0].lengths_BT.tolist() == [[len(lists[n][i]) for n in TYPES] for i in range(len(rows))]


REALS = st.none() | st.floats(-1e6, 1e6, width=32) | st.integers(-9, 9).map(float)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(REALS, min_size=3, max_size=30),
    fill=st.floats(-3, 3, width=32),
    clip=st.just(()) | st.tuples(st.floats(-9, 0, width=32), st.floats(0, 9, width=32)),
    log1p=st.booleans(),
    standardise=st.booleans(),
)
def test_dense_values_are_filled_clipped_logged_and_standardised(
    cells, fill, clip, log1p, standardise, tmp_path_factory
):
    """In this order; mean and deviation are those of the training part alone."""
    folder = tmp_path_factory.mktemp("dense")
    table = pa.table({
        "y": pa.array([i % 2 for i in range(len(cells))]),
        "x": pa.array(cells, pa.float64()),
        "c": pa.array(["ab"[i % 2] for i in range(len(cells))]),
    })  # fmt: skip

    def one(x):
        x = fill if x is None else x
        x = x if not clip else min(max(x, clip[0]), clip[1])
        return float(np.float32(math.log1p(max(x, 0.0)) if log1p else x))

    prepared = [one(x) for x in cells]
    train = len(cells) * 3 // 4
    mean = math.fsum(prepared[:train]) / train
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in prepared[:train]) / train)
    if deviation < 1e-3 or train < 2:
        return
    dense = (DenseColumn("x", fill=fill, clip=clip, log1p=log1p, standardise=standardise),)
    columns = ColumnsConfig(labels=(LabelColumn("y"),), dense=dense, sparse=(SparseColumn("c"),))
    dataset = read(put(folder, table, "parquet"), columns, folder, test_fraction=0.25)
    assert dataset.num_train_examples == len(cells) - math.ceil(len(cells) * 0.25)
    found = [
        float(x) for b in (*dataset.train_batches(999, epochs=1), *dataset.test_batches(999)) for x in b.dense_BF[:, 0]
    ]
    train = dataset.num_train_examples
    mean = math.fsum(prepared[:train]) / train
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in prepared[:train]) / train)
    if standardise and deviation < 1e-3:
        return
    expected = [(x - mean) / deviation for x in prepared] if standardise else prepared
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


TABLE = pa.table({
    "user": ["u1", "u2", None, "", "u1", "u2"],
    "tags": ["a|b", "a", "", None, "b|b|c", "a|"],
    "price": ["1.5", "", "2e3", "-1", "7", "0"],
    "clicked": ["0", "1", "1", "0", "1", "0"],
})  # fmt: skip
COLUMNS = ColumnsConfig(
    labels=(LabelColumn("clicked"),),
    dense=(DenseColumn("price", fill=9.0),),
    sparse=(SparseColumn("user"), SparseColumn("tags", separator="|"), SparseColumn("band", column="price", boundaries=(0.0, 2.0))),
)  # fmt: skip


def text_of(kind: str) -> str:
    """The table above as CSV or TSV: a missing cell is empty, an empty text is quoted."""
    separator = "\t" if kind == "tsv" else ","
    rows = [separator.join(TABLE.column_names)]
    for row in TABLE.to_pylist():
        cells = ["" if v is None else '""' if v == "" and n != "price" else v for n, v in row.items()]
        rows.append(separator.join(cells))
    return "\r\n".join(rows) + "\r\n"


@pytest.mark.parametrize("kind", ["csv", "tsv", "bom", "reordered", "gz", "jsonl", "parquet", "arrow"])
def test_one_table_reads_the_same_in_every_format(kind, tmp_path):
    """Separators, line ends, a mark of byte order, columns in another order, compression: the same batch."""
    if kind in ("csv", "tsv", "bom"):
        path = tmp_path / "log"
        path.write_bytes((b"\xef\xbb\xbf" if kind == "bom" else b"") + text_of(kind).encode())
    elif kind == "gz":
        import gzip

        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(text_of("csv").encode()))
    elif kind == "reordered":
        path = tmp_path / "log"
        lines = [line.split(",") for line in text_of("csv").splitlines()]
        path.write_text("\n".join(",".join(cells[::-1]) for cells in lines))
    else:
        price = pa.array([v or None for v in TABLE["price"].to_pylist()])
        table = TABLE.set_column(2, "price", price)
        path = put(tmp_path, table, kind)
    batch = batch_of(read(str(path), COLUMNS, tmp_path))
    assert batch.labels_BL[:, 0].tolist() == [0, 1, 1, 0, 1, 0]
    assert batch.dense_BF[:, 0].tolist() == [1.5, 9.0, 2000.0, -1.0, 7.0, 0.0]
    assert batch.sparse[0].lengths_BT.tolist() == [[1, 2, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 3, 1], [1, 2, 1]]
    users = vocabulary([[v] for v in TABLE["user"].to_pylist()])
    keys = batch.sparse[0].keys_N.tolist()
    firsts = [keys[i] for i in (0, 4, 7, 9, 12, 17)]
    assert firsts == [users[code_of(v)] for v in TABLE["user"].to_pylist()]
    bands = [keys[i] for i in (3, 6, 8, 11, 16, 20)]
    base = min(bands)
    # Intervals below 0, from 0, from 2, and missing: by count, then by number, missing first.
    assert [b - base for b in bands] == [{None: 2, 0: 3, 1: 0, 2: 1}[x] for x in (1, None, 2, 0, 2, 1)]


def test_quoted_cells_may_hold_separators_quotes_and_line_ends(tmp_path):
    """The values of a quoted cell are its text."""
    path = tmp_path / "log.csv"
    path.write_text('y,c\n1,"a,b"\n0,"say ""hi""\nthere"\n1,"a,b"\n')
    dataset = read(str(path), ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("c"),)), tmp_path)
    codes = dataset.transform.info, batch_of(dataset).sparse[0].keys_N.tolist()
    assert codes[1] == [1, 2, 1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("stars >= 4", [0, 0, 1, 1]),
        ("stars<2", [1, 0, 0, 0]),
        ("stars != 5", [1, 1, 1, 0]),
        ("event == 'buy'", [0, 1, 0, 1]),
        ('event != "buy"', [1, 0, 1, 0]),
    ],
)
def test_a_rule_makes_a_label(rule, expected, tmp_path):
    """Comparisons of numbers and of text."""
    table = pa.table({"stars": [1, 3, 4, 5], "event": ["view", "buy", "view", "buy"], "c": ["a", "b", "a", "b"]})
    columns = ColumnsConfig(labels=(LabelColumn("liked", rule=rule),), sparse=(SparseColumn("c"),), ignore=("*",))
    assert batch_of(read(put(tmp_path, table, "csv"), columns, tmp_path)).labels_BL[:, 0].tolist() == expected


def test_features_may_share_a_table_and_one_column_may_feed_two(tmp_path):
    """`table` joins, `column` lets one column be looked up twice."""
    table = pa.table({"y": [0, 1, 0], "a": ["x", "y", "x"], "b": ["y", "z", "z"]})
    sparse = (SparseColumn("a", table="t"), SparseColumn("b", table="t"), SparseColumn("again", column="a"))
    dataset = read(put(tmp_path, table, "parquet"), ColumnsConfig(labels=(LabelColumn("y"),), sparse=sparse), tmp_path)
    assert [(t.name, t.feature_names, t.num_embeddings) for t in dataset.layout.tables] == [
        ("t", ("a", "b"), 4),
        ("again", ("again",), 3),
    ]
    assert batch_of(dataset).sparse[0].keys_N.tolist() == [1, 2, 5, 2, 3, 6, 1, 3, 5]


def test_unknown_values_share_the_first_rows_by_hash(tmp_path):
    """With three such rows, values of other data fall on all of them, and known ones keep theirs."""
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("c"),))
    train = put(tmp_path, pa.table({"y": [0, 1], "c": ["a", "b"]}), "parquet")
    first = read(train, columns, tmp_path, encoding="vocabulary", oov=3)
    assert batch_of(first).sparse[0].keys_N.tolist() == [3, 4]
    first.transform.save(tmp_path / "kept")
    (tmp_path / "other").mkdir()
    words = ["b", *(f"new{i}" for i in range(40)), "a"]
    other = put(tmp_path / "other", pa.table({"y": [0] * 42, "c": words}), "csv")
    kept = load_transform(tmp_path / "kept")
    found = batch_of(read(other, columns, tmp_path, name="second", kept=kept, encoding="vocabulary", oov=3))
    expected = [4, *(mixed(text_code(w)) % 3 for w in words[1:-1]), 3]
    assert found.sparse[0].keys_N.tolist() == expected
    assert set(expected) == {0, 1, 2, 3, 4}


def test_later_files_may_have_other_types_and_orders(tmp_path):
    """Integers as text, text by dictionary, columns in another order, folders that name a column."""
    one, two = tmp_path / "data" / "day=1", tmp_path / "data" / "day=2"
    one.mkdir(parents=True)
    two.mkdir()
    pq.write_table(pa.table({"y": [0, 1], "id": pa.array([-1, 2**40])}), one / "a.parquet")
    pq.write_table(pa.table({"id": ["1099511627776", "-1"], "y": [1.0, 0.0]}), two / "b.parquet")
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("id"), SparseColumn("day")))
    keys = batch_of(read(str(tmp_path / "data"), columns, tmp_path)).sparse[0].keys_N.reshape(-1, 2)
    assert keys[0, 0] == keys[3, 0] != keys[1, 0] == keys[2, 0]
    assert keys[0, 1] == keys[1, 1] != keys[2, 1] == keys[3, 1]


@pytest.mark.parametrize("by", ["time", "group"])
def test_splits_by_time_and_by_group(by, tmp_path):
    """The latest examples are for tests, ties together; a group is on one side; what is learned is of the training part."""
    rng = np.random.default_rng(1)
    times, users = rng.integers(0, 50, 400), rng.integers(0, 60, 400)
    table = pa.table({"y": rng.integers(0, 2, 400), "t": times, "u": [f"u{u}" for u in users], "i": np.arange(400)})
    columns = ColumnsConfig(
        labels=(LabelColumn("y"),), dense=(DenseColumn("i"),), sparse=(SparseColumn("u"),), time="t", group="u"
    )
    dataset = read(put(tmp_path, table, "csv"), columns, tmp_path, test_fraction=0.2, split_by=by)
    train = [int(i) for b in dataset.train_batches(64, epochs=1) for i in b.dense_BF[:, 0]]
    test = [int(i) for b in dataset.test_batches(64) for i in b.dense_BF[:, 0]]
    if by == "time":
        first = sorted(times.tolist())[320]
        assert test == [i for i in range(400) if times[i] >= first]
    else:
        shares = {u: (mixed(text_code(f"u{u}")) >> 11) / 2**53 for u in range(60)}
        assert test == [i for i in range(400) if shares[users[i]] < 0.2]
    assert train == [i for i in range(400) if i not in set(test)]
    assert (dataset.num_train_examples, dataset.num_test_examples) == (len(train), len(test))
    assert dataset.layout.tables[0].num_embeddings == 1 + len({users[i] for i in train})


GOOD = {"y": [0, 1, 0], "x": [1.0, 2.0, 3.0], "c": ["a", "b", "a"]}
BAD = {
    "a column that is not there": ({}, {"sparse": [{"name": "cc"}]}, ConfigError, "'cc' is no column of .*did you mean 'c'"),
    "a column that nobody speaks of": ({"more": [1, 2, 3]}, {}, ConfigError, "a column 'more' that is not spoken of"),
    "a label of three values": ({"y": [0, 1, 2]}, {}, DataError, "row 3: column y: expected a label of 0 or 1 .*found 2"),
    "a missing label": ({"y": [0, None, 1]}, {}, DataError, "row 2: column y: expected a number for the label .*, found nothing"),
    "a constant label": ({"y": [1, 1, 1]}, {}, DataError, "y is 1 in every example of the training part"),
    "text as a number": ({"x": ["1", "2", "drei"]}, {}, DataError, "row 3: column x: expected a finite number, found 'drei'"),
    "an infinite number": ({"x": [1.0, 1e39, 2.0]}, {}, DataError, "row 2: column x: expected a finite number"),
    "an id with a fraction": ({"c": [1.0, 2.0, 3.5]}, {}, DataError, "row 3: column c: expected a whole number of 64 bits, found 3.5"),
    "one value": ({"c": ["a", "a", "a"]}, {}, DataError, "c: there is one value only in the training part"),
    "no value": ({"c": pa.array([None] * 3, pa.string())}, {}, DataError, "c: all values are missing in the training part"),
    "no value and no type": ({"c": pa.array([None] * 3)}, {}, DataError, "column c: all values are missing; put it under"),
    "a nested column": ({"c": [{"a": 1}] * 3}, {}, DataError, "column c: expected text or whole numbers, found struct"),
    "a constant standardised": ({"x": [2.0] * 3}, {"dense": [{"name": "x", "standardise": True}]}, DataError, "x is 2 in every example"),
    "a time that is none": ({"x": [1.0, None, 2.0]}, {"time": "x"}, DataError, "row 2: column x: expected a time"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_columns_are_refused_in_one_line(name, tmp_path):
    """With column, row and remedy."""
    import msgspec

    change, columns, error, message = BAD[name]
    base = {"labels": [{"name": "y"}], "dense": [{"name": "x"}], "sparse": [{"name": "c"}]}
    config = msgspec.convert(base | columns, ColumnsConfig)
    split = {"split_by": "time", "test_fraction": 0.3} if "time" in columns else {}
    with pytest.raises(error, match=message) as caught:
        batch_of(read(put(tmp_path, pa.table(GOOD | change), "parquet"), config, tmp_path, **split))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_can_be_skipped_and_are_counted(kind, tmp_path):
    """Rows of another width, no JSON, labels and numbers that are none: the others remain."""
    path = tmp_path / "log"
    if kind == "csv":
        path.write_text("y,x,c\n0,1,a\n1,2\nmaybe,3,b\n1,four,a\n1,5,b\n")
    else:
        rows = [{"y": 0, "x": "1", "c": "a"}, {"y": 1, "x": "five", "c": "b"}, {"y": 1, "x": "5", "c": "b"}]
        path.write_text("\n".join([json.dumps(rows[0]), "{oops", *map(json.dumps, rows[1:]), "{'no'"]))
    columns = ColumnsConfig(labels=(LabelColumn("y"),), dense=(DenseColumn("x"),), sparse=(SparseColumn("c"),))
    with pytest.raises(DataError, match=r"log: row 2( \(line 3\))?: .*data.onBadLine: skip"):
        read(str(path), columns, tmp_path)
    dataset = read(str(path), columns, tmp_path, name="skipping", on_bad_line="skip")
    assert batch_of(dataset).dense_BF[:, 0].tolist() == [1.0, 5.0]
    assert dataset.report.bad_lines == 3
    assert "row 2" in str(dataset.report.first_bad)


@pytest.mark.parametrize("form", ["header", "no header", "empty lines", "json"])
def test_malformed_rows_belong_to_their_piece_and_all_others_keep_their_numbers(form, tmp_path, monkeypatch):
    """However far ahead the parser is: each row has its number in the file, in training, in messages and in scores."""
    from bagpipe.data import column_files, files

    monkeypatch.setattr(column_files, "BLOCK_BYTES", 40)
    monkeypatch.setattr(files.text_blocks, "__defaults__", (40,))
    bad = [*range(9, 61, 10), 61]
    if form == "json":
        lines = ["{oops" if row in bad else json.dumps({"a": str(row), "b": "1"}) for row in range(1, 62)]
    else:
        lines = ["7" if row in bad else f"{row},1" for row in range(1, 62)]
    head = ["a,b"] if form in ("header", "empty lines") else []
    path = tmp_path / "log"
    path.write_text(("\n\n" if form == "empty lines" else "\n").join([*head, *lines, ""]))
    (file,) = files.find_files(str(path))
    names, kind = ["f0", "f1"] if form == "no header" else ["a", "b"], "jsonl" if form == "json" else "csv"
    types, found, first = pa.schema([("a", pa.string()), ("b", pa.string())]), [], 1
    for piece in column_files.table_pieces(file, kind, names, types, skip_bad=True):
        table = piece.load()
        numbers = piece.row_numbers(table.num_rows).tolist()
        assert numbers == [int(text) for text in table.column(0).to_pylist()]
        assert piece.first_row == first
        assert piece.first_bad is None or f"log: row {piece.bad_rows[0]}" in piece.first_bad
        found += piece.bad_rows
        first += len(numbers) + len(piece.bad_rows)
    assert (found, first) == (bad, 62)
