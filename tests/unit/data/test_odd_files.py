"""Files as other programs leave them: `init` writes a job for each, and an export reads it as training does."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.load import parse_job
from bagpipe.data.column_files import hive_values
from bagpipe.data.dataset import open_dataset
from bagpipe.data.files import find_files
from bagpipe.data.formats import open_raw
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import BagpipeError
from bagpipe.local.beginning import check_header
from bagpipe.standalone.columns import OwnColumns
from bagpipe.standalone.readers import files_of, tables_of, types_of

ROWS = 120
Row = dict[str, Any]
Writer = Callable[[Path, list[Row]], Path]


def rows() -> list[Row]:
    rng = random.Random(3)
    return [
        {"user": f"u{rng.randrange(9)}", "item": rng.randrange(7), "price": None if i % 9 == 2 else i / 8,
         "when": 1_700_000_000 + 60 * i, "clicked": rng.randrange(2)}
        for i in range(ROWS)
    ]  # fmt: skip


def text(found: list[Row], names: list[str] | None = None, quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, lineterminator=end)
    writer.writerow(names or list(found[0]))
    writer.writerows(["" if value is None else value for value in row.values()] for row in found)
    return out.getvalue()


def named(name: str, content: Callable[[list[Row]], bytes | str]) -> Writer:
    def write(folder: Path, found: list[Row]) -> Path:
        data = content(found)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return folder / name

    return write


def parquet(**columns: Callable[[Row], Any]) -> Writer:
    """The log with some columns more, or other ones."""

    def write(folder: Path, found: list[Row]) -> Path:
        table = pa.Table.from_pylist(found)
        for name, make in columns.items():
            made = make(found)
            place = table.schema.get_field_index(name)
            table = table.append_column(name, made) if place < 0 else table.set_column(place, name, made)
        pq.write_table(table, folder / "log.parquet")
        return folder / "log.parquet"

    return write


def column(kind: pa.DataType, value: Callable[[Row], Any]) -> Callable[[list[Row]], pa.Array]:
    return lambda found: pa.array([value(row) for row in found], kind)


def stream(folder: Path, found: list[Row]) -> Path:
    """Arrow's stream format in batches of 50, with a column of views."""
    table = pa.Table.from_pylist(found)
    table = table.set_column(0, "user", table.column("user").cast(pa.string_view()))
    with pa.OSFile(str(folder / "log.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return folder / "log.arrow"


def views(folder: Path, found: list[Row]) -> Path:
    """Views of lists, lists of views and of dictionaries, and runs, in an Arrow file."""
    table = pa.Table.from_pylist(found)
    inner: dict[str, Any] = {
        "a": pa.list_view(pa.int64()),
        "b": pa.list_(pa.string_view()),
        "c": pa.list_(pa.dictionary(pa.int32(), pa.string())),
    }
    for name, kind in inner.items():
        values = [None if i % 5 == 1 else [row["item"]] * (i % 3) for i, row in enumerate(found)]
        cells = values if name == "a" else [None if v is None else [f"t{x}" for x in v] for v in values]
        table = table.append_column(name, pa.array(cells, kind))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([50, ROWS], pa.int32()), pa.array(["x", "y"]))
    table = table.append_column("d", runs)
    with pa.OSFile(str(folder / "log.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return folder / "log.arrow"


def hive(folder: Path, found: list[Row]) -> Path:
    """Values of folders are encoded as in URLs, and may be missing."""
    for number, city in enumerate(("a%20b", "__HIVE_DEFAULT_PARTITION__", "c")):
        place = folder / "logs" / f"city={city}"
        place.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(found[number * 40 : number * 40 + 40]), place / "part.parquet")
    return folder / "logs"


def links(folder: Path, found: list[Row]) -> Path:
    """A link to the folder that has the files, and one in it that leads back."""
    (folder / "real").mkdir()
    (folder / "real" / "log.csv").write_text(text(found))
    (folder / "linked").mkdir()
    (folder / "linked" / "x").symlink_to(folder / "real")
    (folder / "real" / "loop").symlink_to(folder / "linked")
    return folder / "linked"


def link_to_the_latest(folder: Path, found: list[Row]) -> Path:
    """As rotating logs have it: its rows are there once."""
    (folder / "logs").mkdir()
    (folder / "logs" / "2026-11.csv").write_text(text(found))
    (folder / "logs" / "latest.csv").symlink_to("2026-11.csv")
    (folder / "logs" / "0.csv").symlink_to(folder / "logs" / "latest.csv")
    return folder / "logs"


def cut(folder: Path, found: list[Row]) -> Path:
    """One file cut into three, of which the first has the line of names."""
    (folder / "logs").mkdir()
    for number in range(3):
        lines = text(found[number * 40 : number * 40 + 40])
        (folder / "logs" / f"part-{number}.csv").write_text(lines if not number else lines.partition("\n")[2])
    return folder / "logs"


def odd_path(folder: Path, found: list[Row]) -> Path:
    place = folder / "my data #1 50% {x} 'q' $HOME"
    place.mkdir()
    return named("a b[1]*?.csv", text)(place, found)


def halves(content: bytes, squeeze: Callable[[bytes], bytes], between: bytes = b"") -> bytes:
    """Two members of a compressed file."""
    at = len(content) // 2
    return squeeze(content[:at]) + between + squeeze(content[at:])


SPECIAL = ["yes", "null", "1", "#x", "did it > 1?", "~", "a: b", "- c", 'it\'s "q"', "clicked"]


def special(found: list[Row]) -> str:
    changed = [
        dict(zip(SPECIAL, [r["user"], *(f"{n}{r['item'] % 3}" for n in range(8)), r["clicked"]], strict=True))
        for r in found
    ]
    return text(changed)


def asked(found: list[Row]) -> str:
    return text([{"user": r["user"], "item": r["item"], "y >= 1?": ["no", "yes"][r["clicked"]]} for r in found])


def rated(found: list[Row]) -> str:
    names = [*list(found[0])[:-1], "rating"]
    return text([{**row, "clicked": (i * 7 % 10 + 1) / 2} for i, row in enumerate(found)], names)


BASE = ["user", "item"]
FILES: dict[str, tuple[Writer, list[str]]] = {
    "every cell in quotes": (named("log.csv", lambda r: text(r, quoting=csv.QUOTE_ALL)), BASE),
    "names that YAML takes for something else": (named("log.csv", special), SPECIAL[:-1]),
    "a label that is a question": (named("log.csv", asked), BASE),
    "ratings in halves": (named("log.csv", rated), BASE),
    "ids beyond 63 bits in JSON": (
        named("log.jsonl", lambda r: "".join(json.dumps({**x, "user": 2**64 - 1 - x["item"]}) + "\n" for x in r)),
        BASE,
    ),
    "records within JSON, one of them called user": (
        named("log.jsonl", lambda r: "".join(json.dumps({**x, "user": {"id": x["user"]}}) + "\n" for x in r)),
        ["item"],
    ),
    "a stream of Arrow": (stream, BASE),
    "views and runs": (views, [*BASE, "a", "b", "c", "d"]),
    "UUIDs": (parquet(user=column(pa.uuid(), lambda r: uuid.uuid5(uuid.NAMESPACE_DNS, r["user"]).bytes)), BASE),
    "bytes": (parquet(user=column(pa.binary(), lambda r: r["user"].encode())), ["item"]),
    "moments of pandas": (parquet(when=column(pa.timestamp("ns"), lambda r: r["when"] * 10**9)), BASE),
    "a column without a name": (parquet(**{"": column(pa.int64(), lambda r: r["item"])}), BASE),
    "folders that are values": (hive, [*BASE, "city"]),
    "names in the first file only": (cut, BASE),
    "links": (links, BASE),
    "a link to the latest": (link_to_the_latest, BASE),
    "an odd path": (odd_path, BASE),
    "gzip by its content": (named("log.csv", lambda r: halves(text(r).encode(), gzip.compress)), BASE),
    "xz with padding": (named("log.csv.xz", lambda r: halves(text(r).encode(), lzma.compress, b"\0" * 8)), BASE),
    "two members of bzip2": (named("log.csv.bz2", lambda r: halves(text(r).encode(), bz2.compress)), BASE),
    "no line end at the end": (named("log.csv", lambda r: text(r).rstrip("\n")), BASE),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_is_trained_on_and_scored_alike(name: str, tmp_path: Path) -> None:
    """The suggested job trains on all rows as it is, and a scorer without Bagpipe sees the same numbers and codes."""
    write, sparse = FILES[name]
    path = write(tmp_path, rows())
    spec = parse_job(suggest_job(str(path)).text, "job.yaml").spec
    check_header(spec.data)
    assert spec.data.columns is not None
    assert [c.name for c in spec.data.columns.sparse] == sparse
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")
    examples = sum(batch.num_examples for batch in dataset.train_batches(64, epochs=1))
    assert (examples, dataset.num_test_examples) == (ROWS * 9 // 10, ROWS // 10)
    files, kept = find_files(spec.data.path), dataset.transform
    raw = open_raw(msgspec.structs.replace(spec.data, split_by="order"), "columns", files, 1, kept, labelled=False)
    blocks = [raw.parse(piece) for piece in raw.pieces(0)[1]]
    own = OwnColumns(json.loads(msgspec.json.encode(kept.info)), {})
    types = types_of(files_of(str(path))[0], own.header)
    tables = [(t, f.name) for f in files_of(str(path)) for t in tables_of(f, own.names, types, own.header)]
    alone = [own.block(table, where, 1) for table, where in tables]
    np.testing.assert_array_equal(
        np.concatenate([block.dense_BF for block in alone]), np.concatenate([block.dense_BF for block in blocks])
    )
    for place in range(len(sparse)):
        found = np.concatenate([block.values[place].codes_N for block in alone])
        np.testing.assert_array_equal(found, np.concatenate([_codes(block, place) for block in blocks]))


def _codes(block: Any, place: int) -> np.ndarray:
    """Of one feature, of all examples."""
    features = block.codes_N.size // len(block) if block.lengths_BT is None else block.lengths_BT.shape[1]
    lengths = np.ones((len(block), features), np.int64) if block.lengths_BT is None else block.lengths_BT
    which = np.repeat(np.tile(np.arange(features), len(block)), lengths.reshape(-1))
    return np.asarray(block.codes_N[which == place])


def pipe(folder: Path, found: list[Row]) -> Path:
    (folder / "logs").mkdir()
    (folder / "logs" / "log.csv").write_text(text(found))
    os.mkfifo(folder / "logs" / "pipe.csv")
    return folder / "logs"


def zipped(name: str) -> Callable[[list[Row]], bytes]:
    def content(found: list[Row]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(name, text(found))
        return out.getvalue()

    return content


def squeezed_parquet(found: list[Row]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(found), out)
    return gzip.compress(out.getvalue())


REFUSED: dict[str, tuple[Writer, str]] = {
    "Latin-1 in the header": (
        named("log.csv", lambda r: text(r, ["user", "cité", *list(r[0])[2:]]).encode("latin-1")),
        "log.csv: line 1: column cit\ufffd: byte 0xe9 is no UTF-8; convert the file",
    ),
    "UTF-16 without a mark": (
        named("log.csv", lambda r: text(r).encode("utf-16-le")),
        "log.csv: text in UTF-16; convert it",
    ),
    "a spreadsheet": (named("log.xlsx", zipped("xl/workbook.xml")), "log.xlsx: a spreadsheet (Excel, OpenDocument)"),
    "NumPy arrays": (named("log.npz", zipped("users.npy")), "log.npz: NumPy arrays (npz); write them to Parquet"),
    "an archive": (named("log.zip", zipped("log.csv")), "log.zip: a zip archive; unpack it"),
    "a compressed Parquet": (named("log.parquet.gz", squeezed_parquet), "compressed as a whole; unpack it"),
    "a pipe": (pipe, "pipe.csv: expected a file, found a pipe or a device; write its rows to a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """In one line, with what to do."""
    write, words = REFUSED[name]
    path = str(write(tmp_path, rows()))
    for look in (suggest_job, lambda path: types_of(files_of(path)[0])):
        with pytest.raises(BagpipeError) as caught:
            look(path)
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, when: "n/a" if i == 50 else when, "when: most values are times, but 'n/a' is none; "),
        (lambda i, when: "" if i == 50 else when, "when: times, of which some are missing"),
    ],
)
def test_times_with_gaps_are_told(change: Callable[[int, str], str], words: str, tmp_path: Path) -> None:
    """They do not split the data by themselves: what to write is said, and whose rows are left out then."""
    found = [
        {**row, "when": change(i, f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00")} for i, row in enumerate(rows())
    ]
    path = named("log.csv", text)(tmp_path, found)
    suggestion = suggest_job(str(path))
    (note,) = [note for note in suggestion.notes if note.startswith(words)]
    assert f'ignore:\n        # {note}\n        - "when"' in suggestion.text  # `clicked_at` is there if it was clicked
    assert note.endswith('; to split by them, write time: "when", splitBy: time and onBadLine: skip')


def test_values_of_folders_are_those_that_were_written() -> None:
    """Signs that a path cannot hold are encoded as in URLs; Hive's word for a missing value is one."""
    name = "/logs/city%3D=a%20b%2Fc/day=3/country=__HIVE_DEFAULT_PARTITION__/x=/part=1.parquet"
    assert hive_values(name) == {"city=": "a b/c", "day": "3", "country": None, "x": ""}
