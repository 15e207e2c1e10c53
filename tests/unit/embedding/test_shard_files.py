"""Whose rows lie in a shard's directory, and whether anything is lost with a process that was killed."""

import errno
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bagpipe.embedding.server import _nothing_lost
from bagpipe.embedding.shard_files import (
    Header,
    claim_directory,
    confirm_directory,
    give_up_directory,
    watermark_array,
)
from bagpipe.embedding.storage import Storage
from bagpipe.errors import StorageError


@dataclass
class Shard:
    """One shard's directory, by what its processes do with it."""

    directory: Path
    start: str = "a"

    def header(self, attempt: int) -> Header:
        return Header(
            job="j",
            attempt=attempt,
            start=self.start,
            shard=0,
            num_shards=1,
            num_trainers=1,
            record_widths=(4,),
            layout_digest="d",
        )

    def begins(self, attempt: int = 0) -> bool:
        """A process begins; whether it may take the place of an earlier one."""
        return _nothing_lost(self.directory, "j", attempt)

    def opens(self, attempt: int = 0) -> bool:
        reused = claim_directory(self.directory, self.header(attempt))
        (self.directory / "dim4.records").touch()
        return reused

    def serves(self, attempt: int = 0) -> None:
        confirm_directory(self.directory, self.header(attempt))


def test_a_process_that_never_served_has_lost_nothing(tmp_path: Path) -> None:
    """Killed before it registered, or while it loaded its rows: the next one is as good."""
    shard = Shard(tmp_path / "0")
    assert not shard.begins()
    assert shard.begins()
    assert not shard.opens()
    assert shard.begins() and not shard.opens()
    shard.serves()
    assert shard.begins() and shard.opens()
    assert sorted(path.name for path in shard.directory.iterdir()) == ["dim4.records", "header.json"]


def test_rows_that_were_served_and_are_gone_are_lost(tmp_path: Path) -> None:
    """On another node's empty disk, with files that were given up, or in another attempt, a process is new."""
    shard = Shard(tmp_path / "0")
    shard.begins()
    shard.opens()
    shard.serves()
    assert not Shard(tmp_path / "elsewhere").begins()
    assert not shard.begins(attempt=1)
    other = Shard(tmp_path / "1")
    other.begins()
    other.opens()
    other.serves()
    give_up_directory(other.directory)
    assert not other.begins()


def test_rows_of_another_start_are_not_reused(tmp_path: Path) -> None:
    """Roles that are started by hand have the same attempt's number each time: rows that a killed program's server kept
    are not those of the checkpoint that the next start begins from.
    """
    shard = Shard(tmp_path / "0")
    shard.begins()
    shard.opens()
    shard.serves()
    again = Shard(shard.directory, start="b")
    assert again.begins(), "nothing of the new start is lost"
    assert not again.opens()
    again.serves()
    assert again.opens() and not shard.opens()


def refuse(number: int) -> object:
    def refused(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EACCES])
def test_rows_that_cannot_be_read_now_are_not_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that fails for a moment, or too many open files: the server ends, and the next process finds its rows."""
    shard = Shard(tmp_path / "0")
    shard.begins()
    shard.opens()
    shard.serves()
    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_bytes", refuse(number))
        for does in (shard.begins, shard.opens):
            with pytest.raises(StorageError, match=rf"header\.json: cannot be read: {os.strerror(number)}; ") as told:
                does()
            limit = number == errno.EMFILE
            assert ("raise the limit of open files (ulimit -n), " in str(told.value)) == limit
            assert told.value.exit_code == (78 if limit else 75)
    assert shard.begins() and shard.opens()
    assert sorted(path.name for path in shard.directory.iterdir()) == ["dim4.records", "header.json"]


def test_a_disk_too_full_for_the_marks_is_told_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped page without room ends a process with SIGBUS, so also the smallest files are reserved."""
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"watermarks: no room for 1 KiB .*No space left on device, .* free\)"):
        watermark_array(tmp_path, 2)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["ftruncate", "posix_fallocate", "pwrite"])
def test_a_disk_that_fails_under_the_rows_is_told_by_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Whatever the call: the file and the words of the disk, for an exit with 75, of a limit with 78."""
    monkeypatch.setattr(os, call, refuse(number))
    with pytest.raises(StorageError, match=rf"dim4\.records: .*{os.strerror(number)}") as told:  # noqa: PT012
        storage = Storage(tmp_path / "dim4.records", 100)
        storage.reserve(0, 100)
        storage.write(0, np.zeros(10, np.float32))
    assert told.value.exit_code == (78 if number == errno.EFBIG else 75)


@pytest.mark.parametrize("name", ["dim4.records", None], ids=["a file", "memory"])
def test_memory_that_cannot_be_mapped_is_told_with_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """It is no fault of the folder, and no further attempt finds more: 78, as for memory that runs out otherwise."""
    monkeypatch.setattr(mmap, "mmap", refuse(errno.ENOMEM))
    with pytest.raises(StorageError) as told:
        Storage(tmp_path / name if name else None, 1 << 20)
    what = f"{tmp_path / name}: 1,024 KiB cannot be mapped into memory" if name else "1,024 KiB of rows cannot be held"
    assert str(told.value).startswith(what)
    assert "; use smaller tables or more embedding servers, or raise the limit (" in str(told.value)
    assert told.value.exit_code == 78
    opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert str(tmp_path / str(name)) not in opened


def test_a_kernel_without_large_pages_holds_rows_in_memory_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an advice: a server that keeps its rows in memory ended with "a bug in Bagpipe" where it is refused."""

    class Map(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(mmap, "mmap", Map)
    rows = Storage(None, 100).array(np.float32, (25,))
    rows[:] = 3
    assert rows.sum() == 75


def test_marks_take_no_descriptor(tmp_path: Path) -> None:
    """The mapping is enough: what is stored in it is in the file."""
    marks = watermark_array(tmp_path, 2)
    opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert opened.count(str(tmp_path / "watermarks")) == 1, "a mapping has a descriptor of its own"
    marks[:] = (5, 6, 7)
    assert watermark_array(tmp_path, 2).tolist() == [5, 6, 7]
