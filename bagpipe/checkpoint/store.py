"""Checkpoints in a directory: lists, opens, verifies and deletes them.

`<directory>/step-00000100/` holds the files of one checkpoint; its `manifest.json` is written last, under another name,
and then renamed. A folder without a manifest is no checkpoint, so what a crash leaves behind is none.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.kept_files import FILES as KEPT_FILES
from bagpipe.checkpoint.kept_files import FOLDER as KEPT_FOLDER
from bagpipe.checkpoint.manifest import FILE_NAME, Manifest, decode_manifest, encode_manifest
from bagpipe.errors import CheckpointError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_read, drafts_of, raise_unless_file_at_fault, write_whole
from bagpipe.net.messages import SnapshotFile

SNAPSHOT_SECONDS = 600.0
"""Longest wait for the files of the last checkpoint, when training is over or has failed."""

ASIDE = "manifest.aside.json"
"""The name of a manifest that was set aside; renamed back, its checkpoint exists again."""

_NAME = re.compile(r"step-(\d{8,})")


def _ours(files: str) -> re.Pattern[str]:
    """Matches the names of these files, of their drafts, and what an NFS server shows of one that was deleted while
    another process had it open.
    """
    return re.compile(rf"{files}|{drafts_of(files).pattern}|\.nfs[0-9a-f]+")


_OUR_FILES = _ours(r"manifest(?:\.aside)?\.json(?:\.\d+)?|dense[a-z_]*\.(?:safetensors|json)|dense-weights\.txt")
"""Names of files in a checkpoint. Other programs name their folders `step-...` too, and theirs are never deleted."""
_OUR_FOLDERS = (
    (re.compile(r"shard-\d+-of-\d+"), _ours(r"group\d+-part\d+\.safetensors")),
    (re.compile(KEPT_FOLDER), _ours("|".join(map(re.escape, KEPT_FILES)))),
)
"""Names of folders in a checkpoint, and of the files in them."""


def step_of(directory: Path) -> int:
    """The number of steps after which the checkpoint in a directory of this name was taken."""
    return int(directory.name.removeprefix("step-"))


def directory_of(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return root / f"step-{step:08d}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its manifest has been read."""

    directory: Path
    manifest: Manifest

    def verify(self) -> None:
        """Compare every file with the manifest: present, of its length, of its checksum.

        Raises:
            CheckpointError: names the first file that is missing, truncated or changed.
        """
        for file in self.manifest.files:
            self.check(file)

    def read(self, file: SnapshotFile) -> bytes:
        """One file's verified content.

        Raises:
            CheckpointError: it is not what the manifest says.
            StorageError: this process may not read it, or not now.
        """
        self.check(file)
        try:
            return (self.directory / file.name).read_bytes()
        except OSError as error:  # The run may have deleted it since.
            raise self._unreadable(file, error) from None

    def rows(self, file: SnapshotFile) -> tuple[int, Keys, Floats]:
        """One shard file's (width group, keys, records), verified; the arrays are views of the file.

        Raises:
            CheckpointError: it is not what the manifest says.
            StorageError: this process may not read it, or not now.
        """
        self.check(file)
        path = self.directory / file.name
        try:
            content = np.memmap(path, np.uint8, "r")
            begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
            header = json.loads(content[8:begin].tobytes())
            group = int(header["__metadata__"]["group"])
            keys = _tensor(content, begin, header["keys"], np.int64)
            return group, keys, _tensor(content, begin, header["records"], np.float32)
        except OSError as error:
            raise self._unreadable(file, error) from None
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: not a shard file ({error})") from None

    def check(self, file: SnapshotFile) -> None:
        """Length and checksum of one file, reading block by block.

        Raises:
            CheckpointError: it is not what the manifest says.
            StorageError: this process may not read it, or not now.
        """
        path = self.directory / file.name
        try:
            num_bytes = path.stat().st_size
            with path.open("rb") as content:
                checksum = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise self._unreadable(file, error) from None
        if num_bytes != file.num_bytes:
            raise CheckpointError(
                f"{path}: expected {file.num_bytes} bytes, found {num_bytes}; the checkpoint is truncated, use another"
            )
        if checksum != file.sha256:
            raise CheckpointError(
                f"{path}: its checksum differs from the manifest's; the checkpoint is corrupt, use another"
            )

    def _unreadable(self, file: SnapshotFile, error: OSError) -> CheckpointError:
        """Why a file cannot be read.

        Raises:
            StorageError: this process may not read it, or not now.
        """
        path = self.directory / file.name
        raise_unless_file_at_fault(path, error)
        if not is_complete(self.directory):
            return CheckpointError(
                f"{self.directory}: deleted while it was read, by its run, which keeps newer ones; use one of "
                "those, or raise spec.checkpoint.keep"
            )
        return CheckpointError(f"{path}: {error.strerror}; the checkpoint is incomplete, use another")


def _tensor(
    content: npt.NDArray[np.uint8], begin: int, entry: dict[str, Any], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """A tensor of a safetensors file as a view of its bytes."""
    first, last = entry["data_offsets"]
    return content[begin + first : begin + last].view(dtype).reshape(entry["shape"])


def open_checkpoint(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`.

    Raises:
        CheckpointError: there is none, or its manifest cannot be read.
        StorageError: this process may not read it, or not now.
    """
    path = directory / FILE_NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):  # The latter: `directory` is a file, such as a job's.
        raise CheckpointError(
            f"{directory}: no {FILE_NAME}, so it is no complete checkpoint; give a run directory, or one that "
            "`bagpipe checkpoint ls RUN` lists"
        ) from None
    except OSError as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: {error.strerror}") from None
    return Checkpoint(directory, decode_manifest(content, str(path)))


def is_complete(directory: Path) -> bool:
    """Whether there is a checkpoint there: its manifest is."""
    return (directory / FILE_NAME).is_file()


def list_checkpoints(root: Path) -> list[Path]:
    """Directories of complete checkpoints, oldest first."""
    if not root.is_dir():
        return []
    found = [(int(m[1]), p) for p in root.iterdir() if (m := _NAME.fullmatch(p.name)) and (p / FILE_NAME).is_file()]
    return [path for _, path in sorted(found)]


def incomplete_checkpoints(root: Path) -> list[Path]:
    """Directories of checkpoints that were begun and never completed; those that were set aside are not among them."""
    if not root.is_dir():
        return []
    remains = [path for path in root.iterdir() if _NAME.fullmatch(path.name) and _is_remains(path)]
    return [path for path in remains if not (path / ASIDE).exists()]


def _is_remains(directory: Path) -> bool:
    """Whether there are files in it, all with names that a checkpoint of ours has, and no manifest among them.

    A folder that cannot be looked into is not: nobody knows what it holds.
    """
    try:
        found = list(directory.iterdir())
        return bool(found) and not is_complete(directory) and all(map(_is_ours, found))
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether a checkpoint of ours has an entry of this name, and of these names in it where it is a folder.

    Raises:
        OSError: it cannot be looked into.
    """
    if path.is_symlink() or not path.is_dir():
        return _OUR_FILES.fullmatch(path.name) is not None
    inside = next((names for folder, names in _OUR_FOLDERS if folder.fullmatch(path.name)), None)
    return inside is not None and all(
        inside.fullmatch(one.name) and (one.is_symlink() or not one.is_dir()) for one in path.iterdir()
    )


def _is_empty(directory: Path) -> bool:
    try:
        return not any(directory.iterdir())
    except OSError:
        return False


def newest_complete(root: Path) -> Path | None:
    """The directory of the newest complete checkpoint."""
    found = list_checkpoints(root)
    return found[-1] if found else None


def commit(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the checkpoint exist."""
    write_whole(directory / FILE_NAME, encode_manifest(manifest))


def describe_file(directory: Path, name: str) -> SnapshotFile:
    """Name, length and checksum of a file of a checkpoint, for its manifest.

    Raises:
        StorageError: the file, which has just been written, cannot be read.
    """
    path = directory / name
    try:
        with path.open("rb") as content:
            checksum = hashlib.file_digest(content, "sha256").hexdigest()
            return SnapshotFile(name=name, num_bytes=path.stat().st_size, sha256=checksum)
    except OSError as error:
        raise cannot_read(path, error) from None


def expired(complete: Sequence[Path], keep: int) -> Sequence[Path]:
    """The complete checkpoints that retention deletes: all but the newest `keep`, and never the newest."""
    return complete[: -max(1, keep)]


def prune(
    root: Path, keep: int, *, needed: Collection[Path] = (), left: Collection[Path] = ()
) -> Mapping[Path, OSError]:
    """Delete checkpoints beyond the newest `keep`, and remains of interrupted ones older than the newest.

    A checkpoint stops being one before its files go: the manifest is deleted first. What cannot be deleted now, such as
    a folder on NFS in which another process has a file open, is left for the next time.

    Args:
        needed: checkpoints that stay whatever their age.
        left: what an earlier call has left; such a folder is deleted also if it has become empty meanwhile.

    Returns:
        What was left by this call, and why.

    Raises:
        OSError: `root` cannot be listed.
    """
    complete = list_checkpoints(root)
    if not complete:
        return {}
    spared = {path.absolute() for path in needed}
    ours, refused = set(left), dict[Path, OSError]()
    for path in expired(complete, keep):
        if path.absolute() not in spared:
            crash_points.passed("removal of a manifest")
            try:
                (path / FILE_NAME).unlink(missing_ok=True)
                ours.add(path)
            except OSError as error:
                refused[path] = error
    newest = step_of(complete[-1])
    for path in list(root.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) < newest and (_is_remains(path) or (path in ours and _is_empty(path))):
            crash_points.passed("removal of a checkpoint")
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                pass  # Somebody else deletes it too.
            except OSError as error:
                refused[path] = error
    return refused
