"""What an oracle's process keeps in the run directory for another one that takes its place in the same attempt.

    topology-<attempt>.msgpack   what every role was told, written before any of them is
    trained-<attempt>.json       the figures of training, once its last step is done
    validations-<attempt>.json   the figures of every evaluation of the validation part, up to the latest
    scores-<attempt>.msgpack     the logits of the evaluation that have come in, one record after the other
    leaving-<attempt>.json       the attempt's report, written before any trainer may go; and which of them have gone

A file of another attempt is never read, and none outlives its attempt (`forget`; for an oracle that was killed, the
supervisor's `RunDir`). A file that cannot be written is an error, and so is one that is there and cannot be read, or is
not as it was written (each begins with a checksum of the rest): a successor that took it for missing would tell the
roles something else than its predecessor. Scores are the exception, because they only save time: without them a restart
within the evaluation costs a new attempt.
"""

import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import numpy as np

from bagpipe.batch import Floats
from bagpipe.errors import StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_read, write_whole
from bagpipe.lowlevel.strict_json import encode, number
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import Topology
from bagpipe.oracle.service.kept_names import LEAVING, SCORES, TOPOLOGY, TRAINED, VALIDATIONS
from bagpipe.oracle.service.phases import Ending, Figures

log = logging.getLogger(__name__)

CHECKSUM_BYTES = 4
_GOES_BACK = "nobody can take that oracle's place, so the run goes back to its newest checkpoint"


class Kept:
    """The files of one attempt."""

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self.attempt = attempt
        self._topology, self._trained = run_dir / TOPOLOGY.format(attempt), run_dir / TRAINED.format(attempt)
        self.scores, self._leaving = run_dir / SCORES.format(attempt), run_dir / LEAVING.format(attempt)
        self._validations = run_dir / VALIDATIONS.format(attempt)

    def topology(self) -> Topology | None:
        """What an earlier process of this attempt has told every role; None: none has told them anything.

        A restarted oracle must not wait for everybody: of two trainers, one may have got a step's plan
        from its predecessor and wait inside that step for the other, which has not.

        Raises:
            StorageError: it cannot be read.
        """
        return _read(self._topology, lambda content: msgspec.msgpack.decode(content, type=Topology))

    def keep_topology(self, topology: Topology) -> None:
        """Write it down before anybody is told.

        Raises:
            StorageError: it cannot be written.
        """
        _keep(self._topology, msgspec.msgpack.encode(topology))

    def figures(self) -> Figures | None:
        """The figures of training, if an earlier process of this attempt saw its end.

        Raises:
            StorageError: they cannot be read.
        """
        found = _read(self._trained, json.loads)
        if found is None:
            return None
        return Figures(number(found, "loss"), number(found, "examplesPerSecond") or 0.0, found["waits"])

    def keep_figures(self, figures: Figures) -> None:
        """Training is over.

        Raises:
            StorageError: they cannot be written.
        """
        record = {"loss": figures.loss, "examplesPerSecond": figures.examples_per_second, "waits": dict(figures.waits)}
        _keep(self._trained, encode(record).encode())

    def validations(self) -> list[Validation] | None:
        """What an earlier process of this attempt has judged, and what was before it; None: it judged nothing.

        Raises:
            StorageError: it cannot be read.
        """
        return _read(self._validations, lambda content: msgspec.json.decode(content, type=list[Validation]))

    def keep_validations(self, history: Sequence[Validation]) -> None:
        """Another evaluation is judged; written before any trainer is told.

        Raises:
            StorageError: it cannot be written.
        """
        _keep(self._validations, msgspec.json.encode(history))

    def ending(self) -> tuple[Ending, frozenset[int]] | None:
        """What the attempt came to and which trainers have gone, if an earlier process of it saw its last step.

        Raises:
            StorageError: it cannot be read.
        """
        found = _read(self._leaving, json.loads)
        if found is None:
            return None
        return Ending(found["step"], found["stopped"], found["report"]), frozenset(found["left"])

    def keep_ending(self, ending: Ending, left: Collection[int]) -> None:
        """Every step is done, and these trainers have nothing left to do.

        Raises:
            StorageError: it cannot be written.
        """
        record = {"step": ending.step, "stopped": ending.stopped, "left": sorted(left), "report": ending.report}
        _keep(self._leaving, encode(record).encode())

    def forget(self) -> None:
        """The attempt is over, and nobody takes this process's place. `leaving`, which says so, is removed last."""
        for path in (self.scores, self._trained, self._validations, self._topology, self._leaving):
            crash_points.passed("removal of what was kept")
            with suppress(OSError):
                path.unlink()


Content = TypeVar("Content")


def _keep(path: Path, content: bytes) -> None:
    """Write a file whole, with its checksum in front."""
    write_whole(path, _checksum(content) + content)


def _read(path: Path, decode: Callable[[bytes], Content]) -> Content | None:
    """What `_keep` has written, decoded; None: there is no such file.

    Raises:
        StorageError: it cannot be read, or is not as it was written.
    """
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error, then=_GOES_BACK) from None
    content = found[CHECKSUM_BYTES:]
    if found[:CHECKSUM_BYTES] != _checksum(content):
        raise StorageError(f"{path}: damaged since an earlier oracle wrote it; check its disk; {_GOES_BACK}")
    return decode(content)


def _checksum(content: bytes) -> bytes:
    """Not 0 for no bytes: else zeroes, which a disk gives for a page that it has lost, would be a sound file."""
    return zlib.crc32(content, 1).to_bytes(CHECKSUM_BYTES, "little")


class _Score(msgspec.Struct, array_like=True):
    step: int
    rank: int
    logits: bytes


class ScoreFile:
    """Logits of the evaluation, appended as they come in; a file that cannot be written is only warned of.

    Args:
        known: by step and rank, what is known already. It replaces the file, whose last record a kill may have cut off:
            what is appended behind such a record could never be read.
    """

    def __init__(self, path: Path, known: Mapping[int, Mapping[int, Floats]]) -> None:
        self._path = path
        self._file: RawIOBase | None = None
        records = [_record(step, rank, logits) for step, parts in known.items() for rank, logits in parts.items()]
        try:
            write_whole(path, b"".join(records))
            self._file = path.open("ab", buffering=0)
        except (StorageError, OSError) as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, step: int, rank: int, logits: Floats) -> None:
        """One trainer's slice of one step; a record that was cut off by a kill is not read again."""
        if self._file is None:
            return
        record = _record(step, rank, logits)
        crash_points.passed("record of scores")
        try:
            if self._file.write(record) == len(record):
                return
            self._give_up("the disk is full")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, why: object) -> None:
        """Append no more: nothing behind a record that is not whole could be read."""
        log.warning("%s: scores are kept no longer (%s); a restart now costs a new attempt", self._path, why)
        if self._file is not None:
            self._file.close()
            self._file = None


def _record(step: int, rank: int, logits: Floats) -> bytes:
    record = msgspec.msgpack.encode(_Score(step, rank, np.ascontiguousarray(logits, np.float32).tobytes()))
    return len(record).to_bytes(4, "little") + _checksum(record) + record


def read_scores(path: Path) -> Iterator[tuple[int, int, Floats]]:
    """What an earlier process appended: step, rank and logits; ends at the first that is damaged or not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    at = 0
    while at + 4 + CHECKSUM_BYTES <= len(content):
        begin = at + 4 + CHECKSUM_BYTES
        end = begin + int.from_bytes(content[at : at + 4], "little")
        record = content[begin:end]
        if end > len(content) or content[at + 4 : begin] != _checksum(record):
            return
        score = msgspec.msgpack.decode(record, type=_Score)
        yield score.step, score.rank, np.frombuffer(score.logits, np.float32)
        at = end
