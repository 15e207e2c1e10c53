"""Criteo text becomes what a slow reader of one line at a time says it is."""

import gzip
import lzma
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

MASK = 2**64 - 1


def token_code(text: str) -> int:
    return int.from_bytes(text.encode().ljust(8, b"\0"), "big")


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def read_all(dataset, batch_size=64):
    return list(dataset.train_batches(batch_size, epochs=1))


def keys(batches, width=26):
    return np.concatenate([b.sparse[0].keys_N.reshape(-1, width) for b in batches])


def test_dense_labels_and_hashed_keys_equal_a_line_by_line_reading(criteo_file, dataset):
    """Dense values are log(1 + max(x, 0)), missing 0; row 0 is missing, other values hash into the rest."""
    batches = read_all(dataset(criteo_file, hash_size=1000))
    rows = [line.split("\t") for line in criteo_file.read_text().splitlines()]
    dense = [[math.log1p(max(int(x), 0)) if x else 0.0 for x in row[1:14]] for row in rows]
    hashed = [[1000 * t + (1 + mixed(token_code(v)) % 999 if v else 0) for t, v in enumerate(row[14:])] for row in rows]
    assert np.array_equal(np.concatenate([b.dense_BF for b in batches]), np.array(dense, np.float32))
    assert np.concatenate([b.labels_BL for b in batches])[:, 0].tolist() == [float(row[0]) for row in rows]
    assert keys(batches).tolist() == hashed
    assert batches[0].sparse[0].keys_N.dtype == np.int64
    assert batches[0].sparse[0].keys_N.flags.c_contiguous


def test_vocabulary_orders_by_count_then_value_and_counts_the_training_part_only(criteo_file, dataset):
    """Rows 1.. go to frequent values of the training part; rare and unseen values share row 0; missing is a value."""
    data = dataset(criteo_file, encoding="vocabulary", min_count=3, test_fraction=0.25)
    rows = [line.split("\t")[14:] for line in criteo_file.read_text().splitlines()]
    assert (data.num_train_examples, data.num_test_examples) == (150, 50)
    expected, offset = [], 0
    for t in range(26):
        counts = Counter(row[t] for row in rows[:150])
        kept = sorted((v for v in counts if counts[v] >= 3), key=lambda v: (-counts[v], v))
        number = {v: i for i, v in enumerate(kept, 1)}
        assert data.layout.tables[t].num_embeddings == len(kept) + 1
        expected.append([offset + number.get(row[t], 0) for row in rows])
        offset += len(kept) + 1
    found = keys([*data.train_batches(64, epochs=1), *data.test_batches(64)])
    assert found.T.tolist() == expected


def test_log_squared_bins_are_tables_beside_the_values(criteo_file, dataset):
    """I1..I13 are looked up too: x itself up to 2, floor(ln(x)^2) above, missing its own value."""
    data = dataset(criteo_file, encoding="vocabulary", numeric_bins="log-squared")
    assert [t.name for t in data.layout.tables] == [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
    found = keys(read_all(data), 39)[:, :13]
    rows = [line.split("\t")[1:14] for line in criteo_file.read_text().splitlines()]

    def bin_of(x: str) -> tuple[str, int]:
        if not x:
            return "missing", 0
        return ("value", int(x)) if int(x) <= 2 else ("bin", math.floor(math.log(int(x)) ** 2))

    for f in range(13):
        pairs = {(bin_of(row[f]), key) for row, key in zip(rows, found[:, f].tolist(), strict=True)}
        assert len({b for b, _ in pairs}) == len({k for _, k in pairs}) == len(pairs)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_compressed_text_reads_the_same(criteo_file, dataset, same, pack, tmp_path):
    """Compression is recognised by content, whatever the name."""
    packed = tmp_path / "data.bin"
    packed.write_bytes(pack(criteo_file.read_bytes()))
    pairs = zip(read_all(dataset(criteo_file)), read_all(dataset(packed)), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_part_files_read_in_natural_order(criteo_lines, criteo_file, dataset, same, tmp_path):
    """part_2 comes before part_10, for a folder, a glob and a list alike; a missing last newline is fine."""
    lines, folder = criteo_lines(200), tmp_path / "parts"
    folder.mkdir()
    for i in range(20):
        (folder / f"part_{i}.txt").write_text("\n".join(lines[10 * i : 10 * i + 10]))
    whole = read_all(dataset(criteo_file))
    for path in (folder, f"{folder}/part_*.txt", [folder / f"part_{i}.txt" for i in range(20)], f"file://{folder}"):
        assert all(same(a, b) for a, b in zip(whole, read_all(dataset(path)), strict=True))


def test_a_url_is_read_through_fsspec(criteo_file, dataset, same):
    """Any store that fsspec knows works as a path."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is an optional dependency")
    memory = fsspec.filesystem("memory")
    memory.pipe("/logs/train.txt", criteo_file.read_bytes())
    pairs = zip(read_all(dataset(criteo_file)), read_all(dataset("memory://logs/train.txt")), strict=True)
    assert all(same(a, b) for a, b in pairs)
    memory.rm("/logs", recursive=True)


def test_lines_across_blocks_are_whole(criteo_file, dataset, same, monkeypatch):
    """Where the reader cuts the text into blocks leaves no trace in the batches or line numbers."""
    from bagpipe.data import files

    whole = read_all(dataset(criteo_file))
    found = list(files.text_blocks(files.find_files(str(criteo_file)), block_bytes=777))
    assert len(found) > 20
    assert b"".join(b.text for b in found) == criteo_file.read_bytes()
    assert [b.first_line for b in found] == [1 + sum(x.text.count(b"\n") for x in found[:i]) for i in range(len(found))]
    monkeypatch.setattr(files.text_blocks, "__defaults__", (777,))
    assert all(same(a, b) for a, b in zip(whole, read_all(dataset(criteo_file, readers=3)), strict=True))


def test_values_longer_than_eight_bytes_are_told_apart(criteo_lines, dataset, tmp_path):
    """A vocabulary keeps long and non-ASCII values apart; equal ones stay equal."""
    fields = criteo_lines(1)[0].split("\t")
    values = ["abcdefgh", "abcdefghi", "abcdefghj", "é", "abcdefghi", ""]
    path = tmp_path / "long.txt"
    path.write_text("".join("\t".join([*fields[:14], v, *fields[15:]]) + "\n" for v in values))
    first = keys(read_all(dataset(path, encoding="vocabulary")))[:, 0].tolist()
    assert len(set(first)) == 5
    assert first[1] == first[4] == 1


@pytest.mark.parametrize("name", ["criteo-kaggle-head10k.tsv.xz"])
def test_real_criteo_file(name, dataset):
    """The real log splits where the contract says and has the click rate it is known for."""
    path = Path(__file__).parents[4] / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"real data is not here ({name})")
    data = dataset(path, test_fraction=0.1)
    assert (data.num_train_examples, data.num_test_examples) == (9000, 1000)
    labels = np.concatenate([b.labels_BL for b in data.train_batches(512, epochs=1)])
    text = lzma.decompress(path.read_bytes()).decode().splitlines()
    assert labels.sum() == sum(line.startswith("1\t") for line in text[:9000])
