"""A run goes on from the newest sound checkpoint, or from the one that somebody chose, and says what it passed over."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from saved import FILE, save

from bagpipe.checkpoint.start import chosen_checkpoint, starting_checkpoint
from bagpipe.checkpoint.store import ASIDE, list_checkpoints, prune
from bagpipe.errors import CheckpointError, ExitCode, StorageError


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    return [save(tmp_path, step) for step in (8, 16, 24)]


def change_a_byte(directory: Path) -> None:
    content = bytearray((directory / FILE).read_bytes())
    content[50] ^= 1
    (directory / FILE).write_bytes(content)


def half_a_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])


def lose_a_file(directory: Path) -> None:
    (directory / FILE).unlink()


@pytest.mark.parametrize("spoil", [change_a_byte, half_a_manifest, lose_a_file])
def test_a_damaged_newest_one_is_passed_over_by_name(
    tmp_path: Path, saved: list[Path], spoil: Callable[[Path], None]
) -> None:
    """The newest sound one is taken, the damaged one is named and set aside, and nothing of it is deleted."""
    spoil(saved[2])
    told: list[str] = []
    assert starting_checkpoint(tmp_path, strict=False, note=told.append) == saved[1]
    assert len(told) == 1 and str(saved[2]) in told[0] and str(saved[1]) in told[0]
    assert list_checkpoints(tmp_path) == saved[:2] and (saved[2] / ASIDE).exists()


@pytest.mark.parametrize("name", ["manifest.json", FILE])
def test_a_file_that_is_torn_anywhere_is_passed_over_by_name(tmp_path: Path, saved: list[Path], name: str) -> None:
    """Cut off after any number of bytes, or with any byte that is none of a text: never a traceback, never taken."""
    path = saved[2] / name
    whole = path.read_bytes()
    torn = [whole[:size] for size in range(0, len(whole), 7)]
    torn += [whole[:at] + b"\xff" + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for content in torn:
        path.write_bytes(content)
        told: list[str] = []
        assert starting_checkpoint(tmp_path, strict=False, note=told.append) == saved[1], content
        assert len(told) == 1 and str(path) in told[0]
        (saved[2] / ASIDE).rename(saved[2] / "manifest.json")


@pytest.mark.parametrize(
    ("as_written", "damaged"), [(b'"position": 24', b'"position": 25'), (b'"position"', b'"pozition"')]
)
def test_a_manifest_that_says_something_else_is_passed_over(
    tmp_path: Path, saved: list[Path], as_written: bytes, damaged: bytes
) -> None:
    """A changed digit or key in it is JSON still, and would begin the run at another place in the data."""
    path = saved[2] / "manifest.json"
    assert path.read_bytes().count(as_written) == 1
    path.write_bytes(path.read_bytes().replace(as_written, damaged))
    told: list[str] = []
    assert starting_checkpoint(tmp_path, strict=False, note=told.append) == saved[1]
    assert f"{path}: not a manifest (its own checksum differs)" in told[0]


def test_a_manifest_from_before_it_had_a_checksum_is_taken(tmp_path: Path, saved: list[Path]) -> None:
    """Runs of earlier builds go on: what has no checksum of its own is read as before, files by theirs."""
    path = saved[2] / "manifest.json"
    found = json.loads(path.read_text())
    assert found.pop("checksum")
    path.write_text(json.dumps(found, indent=2))
    told: list[str] = []
    assert starting_checkpoint(tmp_path, strict=True, note=told.append) == saved[2] and not told
    change_a_byte(saved[2])
    assert starting_checkpoint(tmp_path, strict=False, note=told.append) == saved[1]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("name", ["manifest.json", FILE])
def test_a_process_that_cannot_read_passes_over_no_sound_one(
    tmp_path: Path, saved: list[Path], monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """Too few descriptors or rights, or a server that is away, say nothing of the checkpoint: it stays the newest."""
    opened = Path.open

    def refusing(path: Path, *how: str, **more: str) -> IO[bytes]:
        if path == saved[2] / name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *how, **more)  # type: ignore[call-overload, no-any-return]

    remedy = r"raise the limit of open files \(ulimit -n\), " if number == errno.EMFILE else "mend that and try again"
    with monkeypatch.context() as within:
        within.setattr(Path, "open", refusing)
        with pytest.raises(StorageError, match=rf"{name}: cannot be read: .*; {remedy}") as told:
            starting_checkpoint(tmp_path, strict=False, note=lambda _: None)
    assert told.value.exit_code == (ExitCode.TRANSIENT if number == errno.ESTALE else ExitCode.BAD_CONFIG)
    assert list_checkpoints(tmp_path) == saved


def test_retention_keeps_the_sound_one(tmp_path: Path, saved: list[Path]) -> None:
    """A damaged checkpoint does not count among those that are kept, so it never displaces a sound one."""
    change_a_byte(saved[2])
    starting_checkpoint(tmp_path, strict=False, note=lambda _: None)
    prune(tmp_path, 1)
    assert list_checkpoints(tmp_path) == [saved[1]]


def test_strict_refuses_and_changes_nothing(tmp_path: Path, saved: list[Path]) -> None:
    """With spec.checkpoint.strict a damaged newest checkpoint is an error that names file and setting."""
    change_a_byte(saved[2])
    with pytest.raises(CheckpointError, match=r"dense\.safetensors.*checksum.*spec\.checkpoint\.strict"):
        starting_checkpoint(tmp_path, strict=True, note=lambda _: None)
    assert list_checkpoints(tmp_path) == saved


def test_where_none_is_sound_nothing_is_set_aside(tmp_path: Path, saved: list[Path]) -> None:
    """The run neither begins again in silence nor loses a manifest: the newest one's damage is told."""
    for directory in saved:
        change_a_byte(directory)
    with pytest.raises(CheckpointError, match=r"none of its 3 checkpoints is sound.*step-00000024"):
        starting_checkpoint(tmp_path, strict=False, note=lambda _: None)
    assert list_checkpoints(tmp_path) == saved


def test_no_checkpoint_is_the_beginning(tmp_path: Path) -> None:
    """Without any, and without a folder, there is none to go on from."""
    assert starting_checkpoint(tmp_path / "none", strict=True, note=lambda _: None) is None


def test_a_chosen_one_leaves_the_newer_ones(tmp_path: Path, saved: list[Path]) -> None:
    """Newer checkpoints are of another course of the run: they are named and set aside, older ones stay."""
    told: list[str] = []
    assert chosen_checkpoint(saved[0], tmp_path, note=told.append) == saved[0]
    assert list_checkpoints(tmp_path) == saved[:1] and len(told) == 2


def test_a_chosen_one_must_be_sound(tmp_path: Path, saved: list[Path]) -> None:
    """A damaged choice is refused, and nothing is set aside for it."""
    change_a_byte(saved[0])
    with pytest.raises(CheckpointError, match="checksum"):
        chosen_checkpoint(saved[0], tmp_path, note=lambda _: None)
    assert list_checkpoints(tmp_path) == saved


def test_a_chosen_one_by_another_path_is_itself(tmp_path: Path, saved: list[Path]) -> None:
    """The chosen checkpoint is never newer than itself, however its path is written."""
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    chosen_checkpoint(link / saved[1].name, tmp_path, note=lambda _: None)
    assert list_checkpoints(tmp_path) == saved[:2]


def test_a_damaged_newer_one_is_no_hindrance(tmp_path: Path, saved: list[Path]) -> None:
    """An older checkpoint is chosen because the newest is damaged: that one is set aside unread."""
    half_a_manifest(saved[2])
    chosen_checkpoint(saved[0], tmp_path, note=lambda _: None)
    assert list_checkpoints(tmp_path) == saved[:1]


def test_no_manifest_that_was_set_aside_is_overwritten(tmp_path: Path, saved: list[Path]) -> None:
    """A checkpoint of a step that was set aside before gets a name of its own when it is set aside, too."""
    aside = saved[2] / ASIDE
    aside.write_bytes(b"older")
    told: list[str] = []
    chosen_checkpoint(saved[1], tmp_path, note=told.append)
    assert aside.read_bytes() == b"older" and (saved[2] / f"{ASIDE}.2").exists() and f"{ASIDE}.2" in told[0]
