"""Which data is this? Sizes of all files, in order, and a digest of the first and last rows of each.

Cheap enough for every start of a job, whatever the size of the data, and sharp enough to tell that a file was
shortened, extended, replaced or put in another place of the order. Names are kept for messages and do not count:
data may be moved.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bagpipe.data.files import InputFile

END_BYTES = 1 << 16
READ_FILES = 1000
"""Files whose rows are looked at; of more files the first and last 500 are read, of the others the size counts."""


class FilePrint(msgspec.Struct, frozen=True):
    """One file; `rows` is the SHA-256 of its first and last 64 KiB as they are stored, None: not looked at."""

    name: str
    size: int
    rows: str | None

    @property
    def content(self) -> tuple[int, str | None]:
        return (self.size, self.rows)


class Fingerprint(msgspec.Struct, frozen=True):
    """All files of a job's training data in reading order; none of generated data."""

    files: tuple[FilePrint, ...] = ()


def take_fingerprint(files: Sequence[InputFile]) -> Fingerprint:
    """Look at the files now.

    Raises:
        DataError, StorageError: one cannot be read.
    """
    half = READ_FILES // 2
    looked_at = range(len(files)) if len(files) <= READ_FILES else {*range(half), *range(len(files) - half, len(files))}
    return Fingerprint(
        tuple(FilePrint(f.name, f.size, _rows(f) if i in looked_at else None) for i, f in enumerate(files))
    )


def _rows(file: InputFile) -> str:
    hashed = hashlib.sha256()
    with file.open() as content:
        hashed.update(content.read(END_BYTES))
        content.seek(max(0, file.size - END_BYTES))
        hashed.update(content.read(END_BYTES))
    return hashed.hexdigest()


def difference(before: Fingerprint, now: Fingerprint) -> str | None:
    """What is other about the data `now`, naming the first file that differs; None: nothing."""
    for a, b in zip(before.files, now.files, strict=False):
        if a.size != b.size:
            how = "shorter" if b.size < a.size else "longer"
            if Path(a.name).name != Path(b.name).name:
                than = f"{a.name}, on which the model was trained: {b.size:,} bytes, and {a.size:,} there"
                return f"{b.name} is {how} than {than}"
            return f"{b.name} is {how} than it was: {b.size:,} bytes, and {a.size:,} when the model was trained"
        if a.content != b.content:
            return f"{b.name} holds other rows than {a.name} did when the model was trained"
    if len(before.files) > len(now.files):
        return f"{before.files[len(now.files)].name} is missing: {len(now.files)} files, there were {len(before.files)}"
    if len(before.files) < len(now.files):
        return f"{now.files[len(before.files)].name} is new: {len(now.files)} files, there were {len(before.files)}"
    return None


def in_common(before: Fingerprint, now: Fingerprint) -> tuple[str, ...]:
    """Names of the files of `now` that are in `before` too, byte for byte as far as was looked."""
    known = {f.content for f in before.files if f.rows is not None}
    return tuple(f.name for f in now.files if f.content in known)
