"""Compressed input is read to its true end, or refused."""

import bz2
import gzip
import io
import lzma

import pyarrow as pa
import pytest

from bagpipe.data.compressed import decompressed
from bagpipe.data.files import InputFile, find_files, text_blocks
from bagpipe.errors import DataError

PACK = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
TEXT = b"".join(b"line %d\n" % i for i in range(50_000))


def read(data: bytes, size: int = 4096) -> bytes:
    with decompressed("log", io.BytesIO(data)) as stream:
        parts = []
        while part := stream.read(size):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize("kind", PACK)
def test_every_member_is_read(kind):
    """One member, three members, an empty one between, in pieces of any size: all the text."""
    pack = PACK[kind]
    for data in (pack(TEXT), pack(TEXT[:100]) + pack(b"") + pack(TEXT[100:])):
        assert read(data) == read(data, 7919) == TEXT


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("members", [1, 2])
def test_a_file_that_is_cut_anywhere_is_refused(kind, members):
    """Whether the cut lies in the first member or in the second, in its head or in its last byte."""
    whole = PACK[kind](TEXT)
    for cut in (7, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DataError, match=f"log: damaged {kind} data .*fetch the file again"):
            read(whole * (members - 1) + whole[:cut])


@pytest.mark.parametrize("kind", PACK)
def test_what_follows_the_last_member_is_never_passed_over(kind):
    """Text, or a second member whose head is damaged: refused, not taken for the end."""
    whole = PACK[kind](TEXT)
    for tail in (b"and some more text\n", b"x", bytes([whole[0] ^ 1]) + whole[1:]):
        with pytest.raises(DataError, match=f"log: damaged {kind} data"):
            read(whole + tail)


def test_padding_between_streams_is_passed_over():
    """xz allows zeros in fours between streams and after the last; gzip any number."""
    first, second = TEXT[:100], TEXT[100:]
    for count in (4, 8, 1 << 17):
        packed = lzma.compress(first) + bytes(count) + lzma.compress(second) + bytes(count)
        assert read(packed) == TEXT
    with pytest.raises(DataError, match="3 bytes of padding"):
        read(lzma.compress(first) + bytes(3) + lzma.compress(second))
    assert read(gzip.compress(first) + bytes(511) + gzip.compress(second) + bytes(5)) == TEXT


def test_a_damaged_byte_is_found():
    """Checksums are compared, in the first member as in the last."""
    for kind in ("gzip", "bzip2", "xz"):
        whole = bytearray(PACK[kind](TEXT) * 2)
        whole[len(whole) * 3 // 4] ^= 1
        with pytest.raises(DataError, match=f"damaged {kind} data"):
            read(bytes(whole))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"PK\x03\x04", "a zip archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"x" * 257 + b"ustar\x00", "a tar archive; unpack it into a folder"),
        (b"\x04\x22\x4d\x18abc", "LZ4 data; compress the file with gzip, xz or zstd"),
        (b"\x5d\x00\x00\x80\x00", "LZMA data of the old format"),
        (b"ORC", "an ORC file; convert it to Parquet"),
        (b"Obj\x01", "an Avro file"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
    ],
)
def test_other_files_are_named_as_what_they_are(head, words, tmp_path, dataset):
    """What cannot be read says what it is and what to do."""
    path = tmp_path / "log.txt"
    path.write_bytes(head + b"and so on" * 9)
    with pytest.raises(DataError, match=f"log.txt: {words}"):
        dataset(path)


@pytest.mark.parametrize("kind", PACK)
def test_logs_of_every_kind_read_as_the_plain_one(kind, criteo_file, dataset, same, tmp_path):
    """The suffix does not matter; two members make one log."""
    lines = criteo_file.read_bytes()
    packed = tmp_path / "packed"
    packed.write_bytes(PACK[kind](lines[:5000]) + PACK[kind](lines[5000:]))
    pairs = zip(
        dataset(criteo_file).train_batches(64, epochs=1), dataset(packed).train_batches(64, epochs=1), strict=True
    )
    assert all(same(a, b) for a, b in pairs)


def test_line_numbers_hold_across_blocks_and_members(tmp_path):
    """The first line of every block is counted from the beginning of the file."""
    path = tmp_path / "log"
    path.write_bytes(PACK["xz"](TEXT[:1000]) + PACK["xz"](TEXT[1000:]))
    blocks = list(text_blocks([InputFile(str(path), path.stat().st_size, "")], 10_000))
    assert b"".join(b.text for b in blocks) == TEXT
    assert all(b.text.startswith(b"line %d\n" % (b.first_line - 1)) for b in blocks)


def test_what_lies_in_a_folder_beside_the_data_is_no_data(tmp_path):
    """Descriptions, checksums, marks and hidden files are passed over; folders below are read, in order."""
    names = ["part_2.txt", "part_10.txt", "day=2/part_1.txt", "day=10/part_1.txt"]
    beside = [
        *("README", "README.md", "readme.txt", "LICENSE", "SHA256SUMS", "md5sums.txt", "part_2.txt.md5", "_SUCCESS"),
        *(".part_2.txt.crc", "_metadata", "tables.json", "emb_table_info.txt", "job.yaml", "_temporary/0/part_3.txt"),
    ]
    for name in [*names, *beside]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    expected = [str(tmp_path / n) for n in ["day=2/part_1.txt", "day=10/part_1.txt", "part_2.txt", "part_10.txt"]]
    assert [f.name for f in find_files(str(tmp_path))] == expected
    assert [f.name for f in find_files(f"file://{tmp_path}")] == [f"file://{n}" for n in expected]
    assert [f.name for f in find_files(f"{tmp_path}/*")] == expected[2:]
    assert [f.name for f in find_files(f"{tmp_path}/README")] == [f"{tmp_path}/README"], "named itself, it is read"
