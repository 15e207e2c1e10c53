"""Bad input: one line that names file and line or field, and says what to do; never a traceback of ours."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from bagpipe.config.document import EmbeddingConfig
from bagpipe.data.encode import feature_positions
from bagpipe.errors import ConfigError, DataError, ExitCode
from bagpipe.tables import Table

AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def good(count: int) -> str:
    return ("\t".join(["1", *["3"] * 13, *["05db9164"] * 26]) + "\n") * count


def record(**changes: object) -> str:
    return json.dumps({"label": 0.0, "dense": [0.5], "sparse": [1, 2], **changes}) + "\n"


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


CASES = {
    "empty file": (b"", {}, r"data: empty file; expected at least one example"),
    "only blank lines": (b"\n\n", {}, r"data: empty file"),
    "binary file": (b"\x7fELF\x00\x01" * 20, {}, r"data: binary data \(a NUL byte at offset 4\); expected text"),
    "binary with a stated format": (
        b"\x01\x02\x03\x04" * 9,
        {"format": "criteo-tsv"},
        r"data: binary data; expected text",
    ),
    "unknown text": (b"hello world\n", {}, r"data:1: unknown format: expected 40 tab-separated fields.*'hello world'"),
    "too few fields": (
        (good(2) + "1\t2\n" + good(1)).encode(),
        {},
        r"data:3: expected 40 tab-separated fields, found 2; fix the line or set data.onBadLine: skip",
    ),
    "too many fields": (
        (good(1) + "1\t" + good(1)).encode(),
        {},
        r"data:2: expected 40 tab-separated fields, found 41",
    ),
    "test log without labels": (
        good(3)[2:].replace("\n1\t", "\n").encode(),
        {"format": "criteo-tsv"},
        r"data:1: expected 40 tab-separated fields, found 39",
    ),
    "text in an integer field": (
        good(1).replace("\t3\t", "\tx3\t", 1).encode(),
        {},
        r"data:1: expected an integer in field 2, found 'x3'",
    ),
    "missing label": (good(1)[1:].encode(), {}, r"data:1: expected an integer in field 1, found ''"),
    "NUL late in the file": (
        (good(900) + "1\t\0\n").encode(),
        {},
        r"data:901: field 2: expected text, found a NUL byte \(a crash .*\); fix the line or set data.onBadLine: skip",
    ),
    "gzip cut short": (
        truncated(gzip.compress(good(30000).encode())),
        {},
        r"data: damaged gzip data \(the file ends in the middle of it\); fetch the file again",
    ),
    "xz cut short": (
        truncated(lzma.compress(good(30000).encode())),
        {},
        r"data: damaged xz data \(the file ends in the middle of it\); fetch the file again",
    ),
    "xz cut in its header": (
        lzma.compress(good(1).encode())[:8],
        {},
        r"data: damaged xz data.*fetch the file again",
    ),
    "avazu without a header": (
        b"1,0,14102100,1005\n",
        {"format": "avazu-csv"},
        r"data:1: expected Avazu's header .*lacks id",
    ),
    "avazu with a column renamed": (
        AVAZU.replace("C14", "C99").encode() + b"\n",
        {},
        r"data:1: expected Avazu's header .*lacks C14",
    ),
    "avazu without clicks": (AVAZU.replace("click,", "").encode() + b"\n", {"format": "avazu-csv"}, r"lacks click"),
    "avazu with a bad hour": (
        f"{AVAZU}\n{','.join(['1', '0', '14992100', *['a'] * 21])}\n".encode(),
        {},
        r"data:2: expected an hour as YYMMDDHH",
    ),
    "broken JSON": (
        (record() + '{"label": 1\n').encode(),
        {},
        r"data:2: malformed record: .*fix the line or set data.onBadLine",
    ),
    "JSON of another shape": (
        (record() + record(sparse=[1])).encode(),
        {},
        r"data:2: .*expected 2 sparse features, found 1",
    ),
    "JSON of another kind": (
        b'{"a": 1}\n',
        {},
        r'data:1: expected \{"label": ..., "dense": ..., "sparse": ...\}|data:1: expected',
    ),
    "text as Parquet": (good(1).encode(), {"format": "parquet"}, r"data: not a Parquet file"),
    "Parquet that is damaged": (b"PAR1 and no more", {}, r"data: not a readable Parquet file"),
    "Parquet as text": (
        b"PAR1 and no more",
        {"format": "criteo-tsv"},
        r"a Parquet file, but data.format is criteo-tsv",
    ),
}


@pytest.mark.parametrize("readers", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused_in_one_line(name, readers, tmp_path, dataset):
    """Each case ends in a DataError (exit 65) that matches its message."""
    content, settings, message = CASES[name]
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(dataset(path, readers=readers, **settings).train_batches(1000, epochs=1))
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "work").glob("**/*"))


@pytest.mark.parametrize("readers", [0, 2])
def test_a_file_is_closed_when_its_data_is_refused(readers, tmp_path, dataset):
    """Not whenever the exception is collected, which a notebook keeps."""
    path = tmp_path / "data"
    path.write_bytes(AVAZU.encode() + b"\nno,such,line\n")
    with pytest.raises(DataError) as caught:
        list(dataset(path, format="avazu-csv", readers=readers).train_batches(1000, epochs=1))
    assert caught.value is not None
    opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert str(path) not in opened


@pytest.mark.parametrize("what", ["file", "folder", "glob", "url"])
def test_missing_paths_are_named(what, tmp_path, dataset):
    """A missing file, a folder or glob without files: each names the path."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "_SUCCESS").touch()
    path = {"file": "absent.txt", "folder": "none", "glob": "*.tsv", "url": "absent.txt"}[what]
    url = f"{'file://' if what == 'url' else ''}{tmp_path / path}"
    with pytest.raises(DataError, match=path.replace("*", r"\*")):
        dataset(url)


def test_a_file_that_is_named_twice_is_refused(tmp_path, criteo_file, dataset):
    """By itself and by a folder, for instance: its rows would count twice, and be trained on and tested."""
    (link := tmp_path / "link").symlink_to(criteo_file)
    for path in [(str(criteo_file),) * 2, (str(criteo_file), str(criteo_file.parent)), (str(criteo_file), str(link))]:
        with pytest.raises(ConfigError, match=f"data.path: {criteo_file} is named twice"):
            dataset(path)


@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
@pytest.mark.parametrize("test_fraction", [0.0, 0.5])
def test_skipped_lines_are_counted_and_the_rest_is_read(encoding, test_fraction, tmp_path, dataset):
    """onBadLine: skip leaves the good lines, in order, and reports how many were bad and the first of them."""
    path = tmp_path / "log"
    path.write_text(good(3) + "oops\n" + good(2) + "1\t2\n" + good(3))
    data = dataset(path, on_bad_line="skip", encoding=encoding, test_fraction=test_fraction)
    batches = [*data.train_batches(3, epochs=1), *data.test_batches(3)]
    assert sum(b.num_examples for b in batches) == 8
    assert data.report.bad_lines == 2
    assert "log:4: expected 40 tab-separated fields, found 1" in str(data.report.first_bad)


def test_bad_json_lines_can_be_skipped(tmp_path, dataset):
    """The same policy holds for JSON lines."""
    path = tmp_path / "log.json"
    path.write_text(record() + "{\n" + record(dense=[]) + record())
    data = dataset(path, on_bad_line="skip")
    assert sum(b.num_examples for b in data.train_batches(10, epochs=1)) == 2
    assert data.report.bad_lines == 2


@pytest.mark.parametrize("shape", ["plain", "ragged"])
@pytest.mark.parametrize("prepared", [False, True], ids=["text", "parquet"])
def test_an_id_out_of_range_names_line_table_value_and_size(shape, prepared, tmp_path, dataset):
    """Ids are checked against the job's own tables, from text and from prepared Parquet alike."""
    from bagpipe.config.document import DataConfig
    from bagpipe.data.prepare import prepare

    values = [[1, 2], [9, 2]] if shape == "plain" else [[[1, 1, 1], []], [[0, 9], [2]]]
    path = tmp_path / "ids.json"
    path.write_text("".join(record(sparse=v) for v in values))
    if prepared:
        path = prepare(DataConfig(path=str(path)), tmp_path / "out").folder
    tables = (Table("users", 9, 4, ("C1",)), Table("items", 3, 8, ("C2",)))
    with pytest.raises(DataError, match=r"(ids.json:2|row 2): id 9 of (sparse_)?C1 .*|id 9 of feature C1") as caught:
        list(dataset(path, embedding=EmbeddingConfig(tables=tables)).train_batches(10, epochs=1))
    assert "table users (9 rows)" in str(caught.value)


def test_a_negative_id_is_out_of_range(tmp_path, dataset):
    """-1 never wraps around to another table's row."""
    path = tmp_path / "ids.json"
    path.write_text(record() + record(sparse=[3, -1]))
    with pytest.raises(DataError, match=r"ids.json:2: id -1 of feature C2 is out of range"):
        list(dataset(path).train_batches(10, epochs=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoding": "ids"}, "encoding: ids needs data whose values are row numbers"),
        ({"numeric_bins": "log-squared"}, "numericBins: log-squared needs format criteo-tsv and encoding vocabulary"),
    ],
)
def test_settings_that_contradict_the_data_are_config_errors(settings, message, criteo_file, dataset):
    """They end in exit 78, and say which setting to change."""
    with pytest.raises(ConfigError, match=message):
        dataset(criteo_file, **settings)


def test_a_table_of_an_unknown_feature_names_the_nearest(criteo_file, dataset):
    """A misspelt feature of embedding.tables is found before anything is read."""
    tables = (Table("t", 10, 4, ("c12",)),)
    with pytest.raises(
        ConfigError, match=r"table t uses feature 'c12', which the data does not have; did you mean 'C12'"
    ):
        dataset(criteo_file, embedding=EmbeddingConfig(tables=tables))


@pytest.mark.parametrize(
    ("names", "told"), [(("a", "b"), "the data has a, b"), ((), "the data has no features")], ids=["two", "none"]
)
def test_the_features_that_there_are_are_told(names, told):
    """All of them where they are few, without dots that stand for nothing."""
    with pytest.raises(ConfigError, match=f"{told}$"):
        feature_positions(names, ["country"], "t")


def test_no_path_is_a_config_error(dataset):
    with pytest.raises(ConfigError, match=r"data.path is empty"):
        dataset([])


def test_parquet_of_someone_else_is_refused(tmp_path, dataset):
    """Only what `bagpipe data prepare` wrote says what its columns mean."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"label": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="Parquet without bagpipe's table list; make it with `bagpipe data prepare`"):
        dataset(tmp_path / "x.parquet")


def test_a_damaged_prepared_part_is_named(tmp_path, dataset, criteo_file):
    """A part whose pages were overwritten ends in a DataError, not in wrong ids."""
    from bagpipe.config.document import DataConfig
    from bagpipe.data.prepare import prepare

    folder = prepare(DataConfig(path=str(criteo_file)), tmp_path / "out").folder
    part = folder / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[4:400] = b"\xff" * 396
    part.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000.parquet: row group 0 is damaged"):
        list(dataset(folder).train_batches(10, epochs=1))


def test_no_half_written_cache_after_a_failure(tmp_path, dataset):
    """A vocabulary that could not be finished leaves nothing that a next run would take for complete."""
    path = tmp_path / "log"
    path.write_text(good(3) + "oops\n")
    with pytest.raises(DataError):
        dataset(path, encoding="vocabulary")
    assert [p for p in Path(tmp_path / "work").glob("**/*") if p.is_file()] == []
