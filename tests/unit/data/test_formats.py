"""JSON lines, Avazu, and the tables that a job finds in its data or names itself."""

import json
import lzma
import random
from pathlib import Path

import numpy as np
import pytest

from bagpipe.config.document import EmbeddingConfig
from bagpipe.data.text_kernels import mix
from bagpipe.errors import DataError
from bagpipe.tables import Table


def test_json_lines_of_the_paper(tmp_path, dataset):
    """Ids are rows as they are, dense values are not transformed, tables are as large as the ids need."""
    rng = random.Random(0)
    records = [
        {
            "label": float(i % 2),
            "dense": [rng.random() for _ in range(13)],
            "sparse": [rng.randrange(5 + t) for t in range(26)],
        }
        for i in range(50)
    ]
    path = tmp_path / "kaggle_criteo_weekly.txt"
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    data = dataset(path)
    (batch,) = data.train_batches(100, epochs=1)
    sizes = [1 + max(r["sparse"][t] for r in records) for t in range(26)]
    assert [t.num_embeddings for t in data.layout.tables] == sizes
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    assert np.array_equal(batch.sparse[0].keys_N.reshape(50, 26), np.array([r["sparse"] for r in records]) + offsets)
    assert np.array_equal(batch.dense_BF, np.array([r["dense"] for r in records], np.float32))
    assert batch.sparse[0].lengths_BT is None


def test_ragged_json_with_label_lists_and_no_dense(tmp_path, dataset):
    """The sequence model's format: lists of ids, a list of labels, empty dense."""
    records = [
        {"label": [7, 8], "dense": [], "sparse": [[3], [1, 2, 2]]},
        {"label": [9, 1], "dense": [], "sparse": [[0], []]},
        {"label": [2, 2], "dense": [], "sparse": [4, [5]]},
    ]
    path = tmp_path / "parsed_caser.txt"
    path.write_text("\n".join(map(json.dumps, records)))
    data = dataset(path)
    (batch,) = data.train_batches(10, epochs=1)
    assert (data.num_dense, data.num_labels) == (0, 2)
    assert batch.dense_BF.shape == (3, 0)
    assert batch.labels_BL.tolist() == [[7, 8], [9, 1], [2, 2]]
    assert batch.sparse[0].lengths_BT.tolist() == [[1, 3], [1, 0], [1, 1]]
    assert batch.sparse[0].keys_N.tolist() == [3, 5 + 1, 5 + 2, 5 + 2, 0, 4, 5 + 5]


@pytest.mark.parametrize("ragged", [False, True])
def test_tables_of_the_job_share_reorder_and_split_features(ragged, tmp_path, dataset):
    """Two widths give two blocks; features may share a table, come in any order, or be left out."""
    values = [[1, 2, 3, 4], [5, 6, 7, 8]]
    path = tmp_path / "ids.json"
    lines = [{"label": 1, "dense": [], "sparse": [[v] for v in row] if ragged else row} for row in values]
    path.write_text("\n".join(map(json.dumps, lines)))
    tables = (Table("last", 100, 8, ("C4",)), Table("pair", 1000, 4, ("C3", "C1")), Table("also", 50, 8, ("C1",)))
    data = dataset(path, embedding=EmbeddingConfig(tables=tables))
    (batch,) = data.train_batches(10, epochs=1)
    wide, narrow = batch.sparse
    assert wide.keys_N.tolist() == [4, 101, 8, 105]
    assert narrow.keys_N.tolist() == [3, 1, 7, 5]
    assert (narrow.lengths_BT is not None) == ragged
    assert [g.embedding_dim for g in data.layout.groups] == [8, 4]


def test_avazu_drops_the_id_and_splits_the_hour(tmp_path, dataset):
    """click is the label, hour becomes hour of day and weekday, everything else is categorical."""
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
        "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
    )
    rows = [
        ["1", "0", "14102100", *"abcdefghijklmnopqrstu"],
        ["2", "1", "14102823", *"abcdefghijklmnopqrstv"],
        ["3", "1", "14102200", *"abcdefghijklmnopqrsst"],
    ]
    path = tmp_path / "train.csv"
    path.write_text("\r\n".join([header, *map(",".join, rows)]) + "\r\n")
    data = dataset(path, encoding="vocabulary")
    (batch,) = data.train_batches(10, epochs=1)
    names = [t.name for t in data.layout.tables]
    assert names[:4] == ["hour", "weekday", "C1", "banner_pos"]
    assert len(names) == 23
    assert batch.labels_BL[:, 0].tolist() == [0, 1, 1]
    assert batch.dense_BF.shape == (3, 0)
    keys = batch.sparse[0].keys_N.reshape(3, 23)
    hour, weekday, first, last = keys[:, 0], keys[:, 1], keys[:, 2], keys[:, 22]
    assert hour[0] == hour[2] != hour[1], "00, 23, 00"
    assert weekday[0] == weekday[1] != weekday[2], "Tuesday, Tuesday, Wednesday"
    assert len(set(first.tolist())) == 1
    assert len(set(last.tolist())) == 3


def test_avazu_parts_may_repeat_or_lack_the_header(tmp_path, dataset, same):
    """Files cut from one log: the first has the header, the others may."""
    path = Path(__file__).parents[4] / "shared" / "data" / "avazu-10k.csv.xz"
    if not path.exists():
        pytest.skip("real data is not here (avazu-10k.csv.xz)")
    lines = lzma.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    for i, part in enumerate((lines[:4000], lines[4000:7000], [lines[0], *lines[7000:]])):
        (tmp_path / f"part_{i}.csv").write_text("".join(part))
    whole, parts = dataset(path), dataset(f"{tmp_path}/part_*.csv")
    batches = list(whole.train_batches(1000, epochs=1))
    assert sum(b.num_examples for b in batches) == 9999
    assert all(same(a, b) for a, b in zip(batches, parts.train_batches(1000, epochs=1), strict=True))


def test_no_torch_is_imported_by_the_readers():
    """The oracle's process reads data without torch."""
    import subprocess
    import sys

    script = (
        "import sys, bagpipe.data.dataset, bagpipe.data.describe, bagpipe.metrics.clicks; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


IDS = [0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 2, -5]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
def test_every_integer_of_64_bits_is_an_id(encoding, ragged, tmp_path, dataset):
    """Signed or not, the smallest and the largest: each is known by its 64 bits, so -2^63 and 2^63 are one."""
    path = tmp_path / "ids.json"
    lines = [{"label": 1, "sparse": [[v] if ragged else v]} for v in IDS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"hash_size": 10**6} if encoding == "hash" else {}
    (batch,) = dataset(path, encoding=encoding, **settings).train_batches(50, epochs=1)
    codes = [(v + 1) % 2**64 for v in IDS]
    if encoding == "hash":
        expected = [1 + int(mix(np.uint64(code))) % (10**6 - 1) if code else 0 for code in codes]
    else:
        ordered = sorted(set(codes), key=lambda code: (-codes.count(code), code))
        expected = [1 + ordered.index(code) for code in codes]
    assert batch.sparse[0].keys_N.tolist() == expected


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**40])
def test_an_id_of_more_than_64_bits_is_refused_by_line(value, tmp_path, dataset):
    """Or skipped and counted, as any malformed line."""
    path = tmp_path / "ids.json"
    path.write_text("".join(json.dumps({"label": 1, "sparse": [v]}) + "\n" for v in (3, value, 2**64 - 1)))
    with pytest.raises(DataError, match=rf"ids.json:2: .*expected ids of 64 bits, found {value}"):
        list(dataset(path, encoding="hash").train_batches(9, epochs=1))
    data = dataset(path, encoding="hash", on_bad_line="skip")
    assert sum(b.num_examples for b in data.train_batches(9, epochs=1)) == 2
    assert data.report.bad_lines == 1


@pytest.mark.parametrize("field", [{"dense": [1e39]}, {"label": 1e300}, {"label": [-1e39]}])
def test_a_number_beyond_32_bits_is_refused_by_line(field, tmp_path, dataset):
    """It would be infinite in a batch."""
    path = tmp_path / "log.json"
    good = {"label": 1, "dense": [0.5], "sparse": [1]}
    path.write_text("".join(json.dumps(r) + "\n" for r in (good, good | field)))
    with pytest.raises(DataError, match=r"log.json:2: .*expected labels and dense values of 32 bits"):
        list(dataset(path).train_batches(9, epochs=1))


def test_ids_that_are_no_row_numbers_ask_for_another_encoding(tmp_path, dataset):
    """A table as large as a hash is refused before anything is allocated."""
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"label": 1, "sparse": [2**40, 1]}) + "\n")
    with pytest.raises(
        DataError, match=r"feature C1 has the id 1099511627776; .*set data.encoding to hash or vocabulary"
    ):
        dataset(path)
