"""The run directory: one run at a time uses it, and every file in it is written whole or not at all.

job.yaml        the job as it runs, every setting written out
metrics.jsonl   progress and events, one JSON object a line (written by the oracle)
report.json     the oracle's report at the end of its last attempt
summary.json    the report and the digest of the trained model
accepted-data.json  fingerprint of the data that the user accepted with `--resume --new-data`
module-folders.json  where a model of the user's own was found
attempt         number of the last attempt, so that no later attempt uses its servers' files
logs/ servers/ checkpoints/ data/
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from bagpipe.checkpoint.best import kept_best
from bagpipe.checkpoint.manifest import changed_field
from bagpipe.checkpoint.places import ACCEPTED_FILE, JOB_FILE, WARM_START_REPORT
from bagpipe.checkpoint.start import starting_checkpoint
from bagpipe.checkpoint.store import incomplete_checkpoints, newest_complete, open_checkpoint, prune
from bagpipe.config.document import CheckpointConfig, Job, JobSpec
from bagpipe.config.load import dump_job, load_job
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, StorageError
from bagpipe.local.lengths import check_length, with_settled
from bagpipe.local.process import TRACEBACK
from bagpipe.local.user_modules import NOTED, names_modules, note_folders
from bagpipe.lowlevel.atomic_files import NOT_ALLOWED, cannot_write, drafts_of, remove_drafts, write_whole
from bagpipe.lowlevel.json_lines import records_in
from bagpipe.lowlevel.lease import FILE_NAME, Lease, Owner
from bagpipe.lowlevel.strict_json import encode
from bagpipe.oracle.service.kept_names import KEPT_NAMES, LAST_LOSS

REPORT = "report.json"
SUMMARY = "summary.json"
LOGS = "logs"
ATTEMPT = "attempt"
_FILES = "|".join(
    (*map(re.escape, (JOB_FILE, REPORT, SUMMARY, ATTEMPT, NOTED, ACCEPTED_FILE, WARM_START_REPORT)), KEPT_NAMES)
)
"""Matches the names of the files that are written whole in a run directory."""
_DATA_DRAFT = re.compile(r"\.prepared-[0-9a-f-]+\.[0-9a-f]{8}")
"""Matches the names of folders of prepared data that have not become whole."""


def default_path(name: str, now: datetime) -> Path:
    """`runs/<name>-<time>`."""
    return Path("runs") / f"{name}-{now:%Y%m%d-%H%M%S}"


class RunDir:
    """An open run directory; held by at most one supervisor."""

    def __init__(self, path: Path, lease: Lease, *, made: bool) -> None:
        self.path, self._made = path, made
        self._leases = [lease]
        """Of this directory, and of a folder of checkpoints elsewhere."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lease in reversed(self._leases):
            lease.close()

    @property
    def lost(self) -> str:
        """Why this run may not go on: another run has taken its folders; empty: they are its own."""
        return next((lease.lost for lease in self._leases if lease.lost), "")

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A directory for a fresh run.

        Raises:
            ConfigError: there is something in it already.
        """
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--run-dir {path}: cannot be used: {error.strerror}; choose another") from None
        # Locked first: of two runs that begin at once, the second must not look before the first has written.
        lease = _owned(path, "", made=made)
        if holds_something(path):
            lease.close()
            raise ConfigError(
                f"--run-dir {path}: not empty; continue that run with --resume, or choose another directory"
            )
        return cls(path, lease, made=made)

    @classmethod
    def create_default(cls, name: str, now: datetime, here: Path = Path()) -> "RunDir":
        """A directory for a fresh run, named after its job and the time; another one of that second gets a number.

        Args:
            here: the folder in which `runs` lies; the current one.

        Raises:
            ConfigError: no directory can be made here.
        """
        path = base = here / default_path(name, now)
        for number in itertools.count(2):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                path = base.with_name(f"{base.name}-{number}")
            except OSError as error:
                raise ConfigError(f"{path}: cannot be made: {error.strerror}; choose a place with --run-dir") from None
            else:
                break
        return cls(path, _owned(path, name, made=True), made=True)

    @classmethod
    def reopen(cls, path: Path) -> "RunDir":
        """The directory of an interrupted run.

        Raises:
            ConfigError: no run was started there.
        """
        if not (path / JOB_FILE).is_file():
            raise ConfigError(
                f"--run-dir {path}: no {JOB_FILE} there, so nothing to resume; leave out --resume to start a run"
            )
        return cls(path, _owned(path, ""), made=False)

    @property
    def job_file(self) -> Path:
        return self.path / JOB_FILE

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def log(self, kind: str, index: int) -> Path:
        return self.path / LOGS / f"{kind}-{index}.log"

    def has_traceback(self) -> bool:
        """Whether a log has the traceback of an error, and so more than its one line."""
        return any(TRACEBACK in log.read_text(encoding="utf-8", errors="replace") for log in self._logs())

    def _logs(self) -> list[Path]:
        return sorted((self.path / LOGS).glob("*.log"))

    def checkpoints(self, job: Job) -> Path:
        """Where this job's checkpoints lie."""
        return job.spec.checkpoint.folder(self.path)

    def own_checkpoints(self, job: Job) -> None:
        """From here on no other run uses the folder of this job's checkpoints. Asking again does nothing.

        Also of the folder in the run directory: another run's `checkpoint.path` may name it.

        Raises:
            ConfigError: another run uses it now, which is named; or it may not be made or written.
            StorageError: it cannot be made or written now.
        """
        root = self.checkpoints(job)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in NOT_ALLOWED or isinstance(error, FileExistsError):
                raise ConfigError(
                    f"spec.checkpoint.path: {root}: cannot be used: {error.strerror}; choose another"
                ) from None
            raise cannot_write(root, error) from None
        if not any(lease.folder.samefile(root) for lease in self._leases):
            owner = Owner.here(f"run {job.metadata.name} in {self.path.absolute()}", datetime.now())
            self._leases.append(Lease.take(root, "spec.checkpoint.path", owner))

    def starting_checkpoint(self, job: Job, note: Callable[[str], None]) -> Path | None:
        """The checkpoint from which this run goes on, found by `bagpipe.checkpoint.start`; None: it has had none yet.

        Raises:
            StorageError: the folder has become read-only, in which no attempt could save anything.
            CheckpointError: as there; also if the run has had one and there is none any more, as on a disk that is not
                mounted. It would begin again and seem to have lost its steps.
        """
        root = self.checkpoints(job)
        if root.is_dir() and not os.access(root, os.W_OK):
            raise StorageError(
                f"{root}: can no longer be written; mount it writable again, then `bagpipe run --resume` goes on from "
                "the newest checkpoint in it"
            )
        found = starting_checkpoint(root, strict=job.spec.checkpoint.strict, note=note)
        if found is None and (step := self._step_saved()):
            raise CheckpointError(
                f"{root}: no checkpoint there, but this run has had one of step {step}; put the folder back (is its "
                "disk mounted?), or start a fresh run in another --run-dir"
            )
        return found

    def _step_saved(self) -> int:
        """The step of a checkpoint that this run is known to have had: of its end, or from which an attempt began."""
        summary = self.summary()
        if summary is not None and isinstance(summary.get("steps"), int):
            return int(summary["steps"])
        try:
            text = self.metrics.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        begun = [record.get("first_step") for record in records_in(text) if record.get("event") == "training"]
        return max((step for step in begun if isinstance(step, int)), default=0)

    def begin(self, job: Job) -> None:
        """Write the job down, and remove an earlier run's report and summary.

        Raises:
            ConfigError: a fresh run would mix its checkpoints with another's, or another run uses their folder now.
            StorageError: the disk is full.
        """
        root = self.checkpoints(job)
        self.own_checkpoints(job)
        if not self.job_file.exists() and (found := newest_complete(root)):
            raise ConfigError(
                f"spec.checkpoint.path: {root} holds checkpoints of another run (newest: {found.name}); choose another"
            )
        try:
            (self.path / LOGS).mkdir(exist_ok=True)
            for stale in (REPORT, SUMMARY):
                (self.path / stale).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(Path(error.filename), error) from None
        if names_modules(job.spec) and not (self.path / NOTED).exists():
            note_folders(self.path)
        self.write(JOB_FILE, dump_job(job))

    def check_same_job(self, job: Job) -> None:
        """Refuse to continue a run as another job.

        Raises:
            ConfigError: names the setting that changed.
        """
        before = load_job(self.job_file)
        trained = self._trained_spec(job)
        if trained is None:
            changed = changed_field(before.spec, job.spec)
        else:
            changed = changed_field(with_settled(before.spec, trained), with_settled(job.spec, trained))
        if before.metadata.name != job.metadata.name:
            changed = "metadata.name"
        if changed:
            raise ConfigError(
                f"{changed}: differs from the run in {self.path}, and a resumed run must end as if never interrupted; "
                "put it back, or start a fresh run in another --run-dir"
            )
        if trained is not None:
            check_length(before.spec, job.spec, trained)

    def _trained_spec(self, job: Job) -> JobSpec | None:
        """The job that the newest checkpoint keeps; None: there is none, or it is damaged, which is reported later."""
        newest = newest_complete(self.checkpoints(job))
        if newest is None:
            return None
        with suppress(CheckpointError):
            return open_checkpoint(newest).manifest.spec
        return None

    def next_attempt(self) -> int:
        """A number that no earlier attempt in this directory had."""
        path = self.path / ATTEMPT
        try:
            number = int(path.read_text()) + 1 if path.exists() else 0
            number.to_bytes(4)
        except (OSError, ValueError, OverflowError):
            raise ConfigError(
                f"{path}: expected the number of the last attempt; write one that is at least as large"
            ) from None
        self.write(ATTEMPT, f"{number}\n")
        return number

    @property
    def reported(self) -> bool:
        """Whether the oracle has written its report."""
        return (self.path / REPORT).exists()

    def sweep(self, job: Job) -> None:
        """Remove what killed roles left unfinished; called while no role of this run runs.

        That is what an oracle keeps for a successor, drafts of files and prepared data, checkpoints that will never be
        complete, and the one that the last attempt began from, if retention has kept newer ones. The folder of
        checkpoints may be shared with other programs, and the user may put files into both: only what has a name of
        ours is removed.
        """
        if not all(lease.still_ours() for lease in self._leases):
            return  # The files there belong to the run that has taken the folder.
        root = self.checkpoints(job)
        for path in self.path.iterdir():
            if re.fullmatch(KEPT_NAMES, path.name):
                with suppress(OSError):
                    path.unlink()
        remove_drafts(self.path, _FILES)
        remove_drafts(root, re.escape(LAST_LOSS))
        for path in (self.path / "data").glob(".*"):
            if _DATA_DRAFT.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError, CheckpointError):  # A disk that fails now costs no result that is there.
            for path in incomplete_checkpoints(root):
                shutil.rmtree(path, ignore_errors=True)
            best = kept_best(root, job.spec.checkpoint.best)
            prune(root, job.spec.checkpoint.keep, needed=[best] if best is not None else [])

    def report(self) -> dict[str, Any] | None:
        """What the oracle reported at its end."""
        return self._read(REPORT)

    def summary(self) -> dict[str, Any] | None:
        """The summary of an earlier `bagpipe run` here."""
        return self._read(SUMMARY)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self.write(SUMMARY, encode(summary, indent=2) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        write_whole(self.path / name, text.encode())

    def discard(self) -> None:
        """Remove the directory of a run that could not begin, if this run made it."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)


def holds_something(directory: Path) -> bool:
    """Whether there is more in it than `RunDir.begin` makes before it writes the job down.

    A run that was killed before that cannot be resumed, so another one may begin in its place.
    """
    for found in directory.iterdir():
        if found.is_dir():
            own = found in (directory / LOGS, CheckpointConfig().folder(directory))
            made = own and all(inside.name == FILE_NAME for inside in found.iterdir())
        else:
            made = (
                found.name in (FILE_NAME, NOTED) or drafts_of(f"{JOB_FILE}|{NOTED}").fullmatch(found.name) is not None
            )
        if not made:
            return True
    return False


def _owned(path: Path, name: str, *, made: bool = False) -> Lease:
    """The run directory, which from here on no other run may use; if it cannot be taken, one that was made goes."""
    owner = Owner.here(f"run {name or path.name} in {path.absolute()}", datetime.now())
    try:
        return Lease.take(path, "--run-dir", owner)
    except BagpipeError:
        if made:
            with suppress(OSError):  # of another run that has begun there meanwhile
                path.rmdir()
        raise
