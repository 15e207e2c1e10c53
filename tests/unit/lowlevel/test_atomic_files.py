"""A file that is replaced is the old one or the new one, and a failure leaves nothing behind."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from bagpipe.errors import ExitCode, StorageError
from bagpipe.lowlevel.atomic_files import cannot_read, cannot_write, make_folder, replacing_file, write_whole

LIMIT = 1 << 20


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond `LIMIT`: the system refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    """Written twice, the file has the second content and nothing lies beside it."""
    target = tmp_path / "summary.json"
    write_whole(target, b"old")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]


def test_a_refused_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, small_files: None) -> None:
    """One line names the file and the remedy; the old content stands; no draft is left to block the next try."""
    target = tmp_path / "summary.json"
    write_whole(target, b"old")
    told = (
        r"summary\.json: cannot be written: File too large; raise the limit of a file's size \(ulimit -f\), 1,024 KiB"
    )
    with pytest.raises(StorageError, match=told) as refused:
        write_whole(target, b"x" * (LIMIT + 1))
    assert refused.value.exit_code == ExitCode.BAD_CONFIG  # The next attempt would have the same limit.
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_disk_that_fails_at_any_byte_leaves_the_old_file(tmp_path: Path, small_files: None) -> None:
    """A file layer that takes n bytes and no more, for every n below the file's length, and for the length itself."""
    target, content = tmp_path / "manifest.json", bytes(range(200)) * 2
    write_whole(target, b"old")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for taken in range(len(content)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (taken, hard))
        with pytest.raises(StorageError, match=r"manifest\.json: cannot be written"):
            write_whole(target, content)
        assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target], taken
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content), hard))
    write_whole(target, content)
    assert target.read_bytes() == content and list(tmp_path.iterdir()) == [target]


def test_a_disk_that_holds_no_file_so_large_is_told_from_a_limit(tmp_path: Path) -> None:
    """Without a limit of this process it is the disk's own; quotas and descriptors have their remedies."""
    told = {
        errno.EFBIG: ("its disk holds no file of that size; choose a folder on another one", ExitCode.BAD_CONFIG),
        errno.EDQUOT: ("free some of the quota and try again", ExitCode.TRANSIENT),
        errno.EMFILE: ("raise the limit of open files (ulimit -n), ", ExitCode.BAD_CONFIG),
        errno.ENFILE: ("every program of this machine together has too many files open", ExitCode.TRANSIENT),
        errno.ENOMEM: ("use smaller tables or more embedding servers, or raise the limit", ExitCode.BAD_CONFIG),
    }
    for number, (remedy, code) in told.items():
        for tell, done in ((cannot_write, "written"), (cannot_read, "read")):
            refused = tell(tmp_path / "rows", OSError(number, os.strerror(number)))
            assert f"rows: cannot be {done}: {os.strerror(number)}; {remedy}" in str(refused), number
            assert refused.exit_code == code, number


def test_what_a_run_does_by_itself_is_said_only_where_it_helps() -> None:
    """After a limit nothing goes on: the next attempt has the same one."""
    limit = cannot_read("kept", OSError(errno.EMFILE, "many"), then="the run goes back")
    assert str(limit).endswith(" here") and "goes back" not in str(limit)
    for number, told in {
        errno.EIO: "kept: cannot be read: x; the run goes back",
        errno.ENFILE: "; the run goes back",
    }.items():
        passing = cannot_read("kept", OSError(number, "x"), then="the run goes back")
        assert str(passing).endswith(told) and passing.exit_code == ExitCode.TRANSIENT
    assert str(cannot_read("kept", OSError(errno.EIO, "x"))) == "kept: cannot be read: x; mend that and try again"


def test_an_error_of_the_body_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    """Only errors of the system become StorageError; the draft is gone either way."""

    def fail_halfway() -> None:
        with replacing_file(tmp_path / "x") as draft:
            draft.write(b"half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_the_draft(tmp_path: Path) -> None:
    """While the body writes, the name still stands for the old content."""
    target = tmp_path / "x"
    write_whole(target, b"old")
    with replacing_file(target) as draft:
        draft.write(b"new and longer")
        draft.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new and longer"


def test_two_that_write_one_file_at_once_do_not_mix(tmp_path: Path) -> None:
    """Each has a draft of its own, the file is whole at every moment, and nothing is left; the last to end stays."""
    target = tmp_path / "scores.parquet"
    with replacing_file(target) as first:
        first.write(b"a" * 100)
        with replacing_file(target) as second:
            second.write(b"b" * 10)
        assert target.read_bytes() == b"b" * 10
        first.write(b"a" * 100)
    assert target.read_bytes() == b"a" * 200 and list(tmp_path.iterdir()) == [target]


def test_no_device_is_replaced_and_a_link_stays_one(tmp_path: Path) -> None:
    """`--out /dev/null`, for whoever may write there, made a file of it; a link's target was left as it was."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to it").symlink_to("pipe")
    for name in ("pipe", "link to it"):
        with pytest.raises(StorageError, match=rf"^{tmp_path / 'pipe'}: a device or a pipe, which no .*; choose") as no:
            write_whole(tmp_path / name, b"new")
        assert no.value.exit_code == ExitCode.BAD_CONFIG
    assert (tmp_path / "pipe").is_fifo()
    reading, writing = os.pipe()
    (tmp_path / "like dev stdout").symlink_to(f"/proc/self/fd/{writing}")
    with pytest.raises(StorageError, match=r"like dev stdout: a device or a pipe, which no file ever replaces; choose"):
        write_whole(tmp_path / "like dev stdout", b"new")
    os.close(reading)
    os.close(writing)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for content in (b"made", b"replaced"):
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "folder" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink() and len(list((tmp_path / "folder").iterdir())) == 1


def test_the_draft_of_a_killed_process_is_used_again(tmp_path: Path) -> None:
    """It does not stay beside the file, however often a process is killed, and nothing of it is in the file."""
    (tmp_path / ".x.tmp").write_bytes(b"left by a process that was killed")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_content_and_name_are_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft is flushed before the rename, and the folder after it: a crash of the machine loses neither."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        seen.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_whole(tmp_path / "x", b"content")
    assert seen == ["file", "rename", "folder"]


def test_a_folder_in_the_place_of_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    """Neither is replaced by the other."""
    (tmp_path / "folder").mkdir()
    write_whole(tmp_path / "file", b"")
    with pytest.raises(StorageError, match="folder: cannot be written: Is a directory"):
        write_whole(tmp_path / "folder", b"")
    with pytest.raises(StorageError, match="Is a directory"), replacing_file(tmp_path / "folder"):
        pytest.fail("hours of work for a file that can never be there")
    with pytest.raises(StorageError, match="file: cannot be written: File exists"):
        make_folder(tmp_path / "file")
    with pytest.raises(StorageError, match=r"sub: cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "sub")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
