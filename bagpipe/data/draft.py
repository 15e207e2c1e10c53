"""What an interrupted `bagpipe data prepare` leaves, so that the next one goes on and writes the same bytes.

A draft is a folder beside the output, named after the data and the settings: whole parts, the transform in `learned/`,
and `state`, which is replaced when the transform is there and at the end of each part. What `state` does not speak of
was not finished and is written again. A draft has one owner; when the output is whole, it takes its name.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bagpipe.data.encoded import Counted
from bagpipe.data.prepared import PART_NAME
from bagpipe.data.transform import Transform, load_transform
from bagpipe.errors import CheckpointError
from bagpipe.lowlevel.atomic_files import write_whole

VERSION = 1
STATE_FILE = "state"
LEARNED_FOLDER = "learned"
PIECES_FILE = "pieces"
"""How many examples each piece of the data has, where several machines prepare it."""
WORK_FOLDER = "work"
"""Where they write what is no part yet."""


class Place(msgspec.Struct, frozen=True):
    """Where writing goes on."""

    examples: int = 0
    """Written, in whole parts."""
    source: int = 0
    """Number of the part of the data (training, validation, test) that is read there."""
    piece: int = 0
    """Of that source, from 0."""
    sizes: tuple[int, ...] = ()
    """Examples of each source before that piece."""
    bad_lines: int = 0
    """Before that piece; `first_bad` as well."""
    first_bad: str | None = None


class State(msgspec.Struct, frozen=True):
    """The content of `state`."""

    version: int
    counted: Counted | None
    times: tuple[float, float, float] | None
    """Of a split by time."""
    place: Place = Place()
    part_bytes: tuple[int, ...] = ()
    """Size of each whole part."""


@dataclass(slots=True)
class Draft:
    """A folder in which output is prepared; `folder` exists and is ours alone."""

    folder: Path
    kept: bool = True
    """Whether it outlives this process; if not, nothing is noted."""
    state: State | None = None
    """What was found, then what was noted last."""

    def found(self) -> Transform | None:
        """What an earlier process learned; None: begin at the beginning, in an empty folder.

        Raises:
            StorageError: this process may not read it, or not now.
        """
        if not self.kept:
            return None
        try:
            state = msgspec.msgpack.decode((self.folder / STATE_FILE).read_bytes(), type=State)
            sizes = [self._part(number).stat().st_size for number in range(len(state.part_bytes))]
            if state.version == VERSION and sizes == list(state.part_bytes):
                transform = load_transform(self.folder / LEARNED_FOLDER)
                self.state = state
                return transform
        except (OSError, ValueError, CheckpointError):
            pass
        self.clear()
        return None

    def note_learned(
        self, transform: Transform, counted: Counted | None, times: tuple[float, float, float] | None
    ) -> None:
        """Raises:
        StorageError, OSError: it cannot be written.
        """
        self.state = State(VERSION, counted, times)
        if self.kept:
            transform.save(self.folder / LEARNED_FOLDER)
            self._write()

    def note_part(self, place: Place) -> None:
        """One more part is whole, and `place` is where the next one begins.

        Raises:
            StorageError, OSError: it cannot be written.
        """
        if not self.kept:
            return
        assert self.state is not None
        part = self._part(len(self.state.part_bytes))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        sizes = (*self.state.part_bytes, part.stat().st_size)
        self.state = msgspec.structs.replace(self.state, place=place, part_bytes=sizes)
        self._write()

    def finish(self) -> None:
        """Leave the parts and nothing else."""
        for folder in (LEARNED_FOLDER, WORK_FOLDER):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        for file in (STATE_FILE, PIECES_FILE):
            (self.folder / file).unlink(missing_ok=True)

    def clear(self, spared: Sequence[str] = (".owner.json",)) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in spared:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / PART_NAME.format(number)

    def _write(self) -> None:
        write_whole(self.folder / STATE_FILE, msgspec.msgpack.encode(self.state))
