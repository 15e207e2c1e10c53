"""The manifest of an export: size and SHA-256 of every file, which the export's own `score.py` compares."""

import hashlib
from pathlib import Path

import msgspec

from bagpipe.errors import CheckpointError
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.lowlevel.lease import FILE_NAME
from bagpipe.standalone import score


def write_manifest(folder: Path) -> None:
    """Write the manifest of what an export's folder holds, without what Python caches there and may write anew.

    Raises:
        StorageError: the disk is full or refuses.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.name not in (score.MANIFEST, FILE_NAME) and "__pycache__" not in name.parts:
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            files[name.as_posix()] = (path.stat().st_size, digest)
    listed = msgspec.json.encode({"files": files, "checksum": score.checksum_of(files)})
    write_whole(folder / score.MANIFEST, msgspec.json.format(listed, indent=1) + b"\n")


def check_export(folder: Path, name: str) -> None:
    """Compare one file of an export with its manifest. Exports that were written before they had one pass.

    Raises:
        CheckpointError: it is damaged, or not there.
    """
    if (folder / score.MANIFEST).exists():
        try:
            score.check_files(folder, name)
        except score.Damaged as error:
            raise CheckpointError(str(error)) from None
