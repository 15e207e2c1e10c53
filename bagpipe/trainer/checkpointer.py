"""Completes checkpoints: rank 0 collects what every role has written, and writes the manifest last.

The plan says after which step a checkpoint is taken; every trainer then writes its rows back, flagged,
and each embedding server snapshots exactly that step while training goes on. Rank 0 writes the dense
weights, asks the shards between steps whether they are done, and only then writes the manifest. A slow disk
delays the checkpoint and nothing else: training goes on, and the next one begins at its step.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from bagpipe.batch import Cursor
from bagpipe.checkpoint.best import best_checkpoint
from bagpipe.checkpoint.kept_files import link_kept
from bagpipe.checkpoint.manifest import Manifest, changed_field
from bagpipe.checkpoint.store import (
    SNAPSHOT_SECONDS,
    Checkpoint,
    commit,
    describe_file,
    directory_of,
    open_checkpoint,
    prune,
)
from bagpipe.errors import CheckpointError, PeerLost, StorageError
from bagpipe.lowlevel import crash_points
from bagpipe.lowlevel.atomic_files import cannot_write, write_whole
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import Saved, SnapshotFile
from bagpipe.plan import BatchPlan
from bagpipe.rows.record import record_widths
from bagpipe.trainer.dense import check_savable, load_dense, save_dense, take_dense
from bagpipe.trainer.dense_average import DenseAverage
from bagpipe.trainer.membership import Membership
from bagpipe.trainer.unsaved_state import UnsavedState

log = logging.getLogger(__name__)

DENSE_REPORT = "dense-weights.txt"
"""Beside the first values of a warm start: which dense weights were taken."""
ASK_SECONDS = 0.1
"""Time between questions to the shards while they write."""
SLOW_SECONDS = 10.0
"""A checkpoint that takes longer is named in the log: once then, and each time that it has taken twice as long."""


@dataclass(slots=True)
class _Draft:
    """A checkpoint whose manifest is not written yet."""

    plan: BatchPlan
    step: int
    cursor: Cursor
    directory: Path
    dense: tuple[SnapshotFile, ...]
    data: tuple[SnapshotFile, ...]
    begun: float
    asked: float = 0.0
    named_at: float = SLOW_SECONDS
    """Seconds after which the log says that the checkpoint takes long."""


class Checkpointer:
    """Takes one trainer's part in checkpoints; only rank 0 writes anything.

    Args:
        model: the dense model itself, not its DDP wrapper; None: checkpoints hold rows only.
        optimizer: None where there is nothing to train.
        average: None where none is kept.

    Raises:
        ConfigError: the model has something that cannot be saved.
    """

    def __init__(
        self,
        members: Membership,
        model: nn.Module | None,
        optimizer: torch.optim.Optimizer | None,
        average: DenseAverage | None = None,
    ) -> None:
        self.members, self.model, self.optimizer, self.average = members, model, optimizer, average
        if model is not None:
            check_savable(model)
        self.unsaved: UnsavedState | None = None
        """What checkpoints do not hold of the model, once that is what training begins with."""
        self.root = Path(members.topology.checkpoint_dir)
        self._drafts: dict[int, _Draft] = {}
        """Checkpoints under way by step: on a slow disk the next one begins before the last one is whole."""
        self.trained_to: tuple[int, Cursor] | None = None
        """Number of steps trained and their end in the data, where later steps pass by without training."""
        self.validations: list[Validation] = []
        """Every evaluation of the validation part so far, those before this attempt included."""
        self.begun = 0
        """Steps of the newest checkpoint that this attempt has begun, on any trainer."""
        self._latest = -1
        self._trusted = False
        self._lost = ""
        """Why the latest checkpoint will never be complete; empty: it is, or may become so."""
        self._left: Mapping[Path, OSError] = {}
        """What retention could not delete after the latest checkpoint that is complete."""
        self._named: set[Path] = set()
        """What the log has said of that."""

    def restore(self) -> None:
        """Load the dense weights and optimizer of the checkpoint this attempt starts from, if any.

        Raises:
            CheckpointError: it is corrupt, or of another model.
        """
        source = self.members.topology.checkpoint
        if source is not None:
            self._restore(source)
        if self.model is not None:
            self.unsaved = UnsavedState(self.model)

    def _restore(self, source: str) -> None:
        checkpoint = open_checkpoint(Path(source))
        if checkpoint.manifest.first_values:
            self._take_dense(checkpoint)
            return
        changed = changed_field(checkpoint.manifest.spec, self.members.topology.spec)
        # With no step left to train this is an evaluation, which may be of other data.
        only_evaluates = self.members.topology.total_steps == checkpoint.manifest.step
        if changed is not None and not (only_evaluates and changed.startswith("spec.data.")):
            why = " (left out, it follows from the job's length)" if changed.endswith(".decaySteps") else ""
            raise CheckpointError(
                f"{source}: {changed} is not what it was{why}; resume with the settings of the checkpoint"
            )
        self.validations = list(checkpoint.manifest.validations)
        for file in checkpoint.manifest.dense:
            checkpoint.read(file)
        if self.model is not None:
            load_dense(self.model, self.optimizer, checkpoint.directory)
        if self.average is not None:
            self.average.load(checkpoint.directory)

    def _take_dense(self, checkpoint: Checkpoint) -> None:
        """Take those of another run's dense weights that fit; rank 0 lists them in the log and beside them."""
        if self.model is None or not checkpoint.manifest.dense:
            return
        (file,) = checkpoint.manifest.dense
        checkpoint.check(file)
        lines = take_dense(self.model, checkpoint.directory / file.name)
        if self.members.rank == 0:
            log.info("dense weights of another run:\n%s", lines)
            write_whole(checkpoint.directory / DENSE_REPORT, lines.encode())

    def begin(self, plan: BatchPlan) -> None:
        """After a checkpoint step: save what this trainer has to save.

        Raises:
            UserCodeError: the model has changed a buffer that no checkpoint holds.
            StorageError: the disk is full or refuses.
        """
        if self.unsaved is not None:
            self.unsaved.check(plan.step + 1)
        self.begun = plan.step + 1
        if self.members.rank != 0:
            return
        directory = directory_of(self.root, plan.step + 1)
        crash_points.passed("folder of a checkpoint")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            names = []
            if self.model is not None:
                names = save_dense(self.model, self.optimizer, directory)
            if self.average is not None:
                names += self.average.save(directory)
            kept = link_kept(self.root, directory)
        except OSError as error:
            raise cannot_write(directory, error) from None
        self._lost = ""
        dense = tuple(describe_file(directory, name) for name in names)
        data = tuple(describe_file(directory, name) for name in kept)
        self._latest = plan.step
        step, cursor = self.trained_to or (plan.step + 1, plan.end)
        self._drafts[plan.step] = _Draft(plan, step, cursor, directory, dense, data, time.monotonic())

    def validated(self, validation: Validation) -> None:
        """The validation part was evaluated: a checkpoint of that step may become whole."""
        self.validations.append(validation)

    def poll_but_latest(self) -> None:
        """In any wait of a step: complete all but the latest, whose rows the next step's loss shows to be finite."""
        self.poll(but=-1 if self._trusted else self._latest)

    def trust_latest(self) -> None:
        """The latest checkpoint's rows are finite, and nothing is trained after it: it may be completed in any wait."""
        self._trusted = True

    def rescue(self, look_around: Callable[[], None], *, latest: bool) -> None:
        """Before the run ends by an error: complete the checkpoints under way, the latest one only if told so."""
        if not latest:
            self._drafts.pop(self._latest, None)
        self.settle(SNAPSHOT_SECONDS, look_around)

    def poll(self, *, but: int = -1) -> None:
        """Between steps: complete the checkpoints whose shards are all written, except that of step `but`. Never waits.

        They are completed in the order of their steps, whichever answer comes first: a new checkpoint's retention
        clears away every older folder without a manifest, also one that is still being written.
        """
        if not self._drafts:
            return
        servers, now = self.members.servers, time.monotonic()
        for step, draft in self._drafts.items():
            if now - draft.asked > ASK_SECONDS:
                servers.ask_snapshots(step)
                draft.asked = now
        servers.poll()
        for step, draft in [
            (step, draft) for step, draft in self._drafts.items() if step != but and self._ready(draft)
        ]:
            if why := servers.snapshot_lost(step):
                log.warning("no checkpoint of step %d: %s", step + 1, why)
                del self._drafts[step]
                self._lost = why if step == self._latest else self._lost
            elif (shards := servers.snapshots(step)) is not None:
                self._complete(draft, tuple(file for shard in shards for file in shard.files))
                crash_points.passed("word of a checkpoint")
                self.members.oracle.send(Saved(rank=0, step=step + 1))
                del self._drafts[step]
            else:
                self._say_slow(draft, now)
                break

    def _say_slow(self, draft: _Draft, now: float) -> None:
        """Warn of a checkpoint that takes long, and say what it waits for."""
        if now - draft.begun > draft.named_at:
            draft.named_at *= 2
            progress = self.members.servers.snapshot_progress(draft.plan.step)
            log.warning(
                "the checkpoint of step %d waits after %.0f s: %s", draft.plan.step + 1, now - draft.begun, progress
            )

    def _ready(self, draft: _Draft) -> bool:
        """Whether the figures of the checkpoint's own step are known: a resumed run does not evaluate it again."""
        return not draft.plan.validates or any(one.step == draft.plan.step + 1 for one in self.validations)

    def settle(self, seconds: float, look_around: Callable[[], None]) -> None:
        """Wait at most `seconds` for the checkpoints under way, before something that may fail."""
        deadline = time.monotonic() + seconds
        self.poll()
        while self._drafts and time.monotonic() < deadline:
            self.members.servers.poll(ASK_SECONDS / 2)
            self.members.peers.look_after()
            look_around()
            self.poll()

    def close(self, look_around: Callable[[], None] = lambda: None) -> None:
        """After the last step: wait until its checkpoint is complete.

        Args:
            look_around: called now and then; raises if the oracle has ended the attempt.

        Raises:
            StorageError: the shards' disks were too slow.
            PeerLost: a shard could not finish its part; the run goes back to the checkpoint before.
        """
        self.settle(SNAPSHOT_SECONDS, look_around)
        if self._drafts:
            raise StorageError(
                f"trainer 0: waited {SNAPSHOT_SECONDS:g} s for the checkpoint of step {min(self._drafts) + 1}: "
                f"{self.members.servers.snapshot_progress(min(self._drafts))}; look at the disk of spec.checkpoint.path"
            )
        if self._lost:
            raise PeerLost(f"trainer 0: no checkpoint of the last step: {self._lost}")

    def _complete(self, draft: _Draft, shards: tuple[SnapshotFile, ...]) -> None:
        topology = self.members.topology
        manifest = Manifest(
            job=self.members.job.metadata.name,
            step=draft.step,
            cursor=draft.cursor,
            spec=topology.spec,
            tables=topology.layout.tables,
            record_widths=record_widths(topology.spec.embedding, topology.layout),
            num_servers=len(topology.servers),
            num_trainers=len(topology.trainers),
            shards=shards,
            dense=draft.dense,
            data=draft.data,
            validations=tuple(one for one in self.validations if one.step <= draft.step),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        commit(draft.directory, manifest)
        log.info("checkpoint of step %d: %s", draft.plan.step + 1, draft.directory)
        self._clear_away()

    def _clear_away(self) -> None:
        """Retention, after a checkpoint has become whole.

        The run does not depend on it: what cannot be deleted is named in the log once, and tried again by the next.
        """
        topology = self.members.topology
        kept = topology.spec.checkpoint
        try:
            best = None if kept.best is None else best_checkpoint(self.root, self.validations, kept.best)
            # A restarted oracle reads the checkpoint that the attempt began from once more.
            began_from = Path(topology.checkpoint) if topology.checkpoint is not None else None
            needed = [path for path in (best, began_from) if path is not None]
            refused = self._left = prune(self.root, kept.keep, needed=needed, left=self._left)
        except OSError as error:  # The folder cannot be listed; what was left before is still there.
            refused = {self.root: error}
        for path, why in refused.items():
            if path not in self._named:
                log.warning(
                    "%s: an old checkpoint cannot be deleted: %s; the run goes on, and tries it again after each "
                    "checkpoint",
                    path,
                    why.strerror or why,
                )
                self._named.add(path)
