"""When a checkpoint becomes one: rank 0 collects what everybody wrote and writes the manifest last.

The plan says after which step a checkpoint is taken; every trainer then writes its rows back, flagged,
and each embedding server snapshots exactly that step while training goes on. Rank 0 writes the dense
weights, asks the shards between steps whether they are done, and only then writes the manifest.
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from bagpipe.checkpoint.kept_files import link_kept
from bagpipe.checkpoint.manifest import Manifest, changed_field
from bagpipe.checkpoint.store import commit, describe_file, directory_of, open_checkpoint, prune
from bagpipe.errors import CheckpointError, PeerLost, StorageError
from bagpipe.net.messages import SnapshotFile
from bagpipe.plan import BatchPlan
from bagpipe.rows.record import record_width
from bagpipe.trainer.dense import load_dense, save_dense
from bagpipe.trainer.membership import Membership

log = logging.getLogger(__name__)

ASK_SECONDS = 0.1
"""Time between questions to the shards while they write."""
SNAPSHOT_SECONDS = 600.0
"""Longest wait for every shard's snapshot of one step."""


@dataclass(slots=True)
class _Draft:
    """A checkpoint whose manifest is not written yet."""

    plan: BatchPlan
    directory: Path
    dense: tuple[SnapshotFile, ...]
    data: tuple[SnapshotFile, ...]
    begun: float
    asked: float = 0.0


class Checkpointer:
    """One per trainer; only rank 0's writes anything.

    Args:
        model: the dense model itself, not its DDP wrapper; None: checkpoints hold rows only.
    """

    def __init__(self, members: Membership, model: nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        self.members, self.model, self.optimizer = members, model, optimizer
        self.root = Path(members.topology.checkpoint_dir)
        self._draft: _Draft | None = None
        self._lost: int | None = None
        """Step of the latest checkpoint, if a server was restarted while it wrote its part."""

    def restore(self) -> None:
        """Load the dense weights and optimizer of the checkpoint this attempt starts from, if any.

        Raises:
            CheckpointError: it is corrupt, or of another model.
        """
        source = self.members.topology.checkpoint
        if source is None:
            return
        checkpoint = open_checkpoint(Path(source))
        changed = changed_field(checkpoint.manifest.spec, self.members.topology.spec)
        # With no step left to train this is an evaluation, and other data is welcome.
        only_evaluates = self.members.topology.total_steps == checkpoint.manifest.step
        if changed is not None and not (only_evaluates and changed.startswith("spec.data.")):
            raise CheckpointError(f"{source}: {changed} is not what it was; resume with the settings of the checkpoint")
        for file in checkpoint.manifest.dense:
            checkpoint.read(file)
        if self.model is not None and self.optimizer is not None:
            load_dense(self.model, self.optimizer, checkpoint.directory)

    def begin(self, plan: BatchPlan) -> None:
        """After a checkpoint step: save what this trainer has to save."""
        if self.members.rank != 0:
            return
        self.finish()
        directory = directory_of(self.root, plan.step + 1)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            names = []
            if self.model is not None and self.optimizer is not None:
                names = save_dense(self.model, self.optimizer, directory)
            kept = link_kept(self.root, directory)
        except OSError as error:
            raise StorageError(f"{directory}: cannot write dense weights: {error.strerror}") from None
        self._lost = None
        dense = tuple(describe_file(directory, name) for name in names)
        data = tuple(describe_file(directory, name) for name in kept)
        self._draft = _Draft(plan, directory, dense, data, time.monotonic())

    def poll(self) -> None:
        """Between steps: complete the checkpoint if every shard is done. Never waits."""
        draft = self._draft
        if draft is None:
            return
        servers, step = self.members.servers, draft.plan.step
        if time.monotonic() - draft.asked > ASK_SECONDS:
            servers.ask_snapshots(step)
            draft.asked = time.monotonic()
        servers.poll()
        if servers.snapshot_lost(step):
            log.warning("no checkpoint of step %d: an embedding server was restarted while it wrote its part", step + 1)
            self._draft, self._lost = None, step
            return
        shards = servers.snapshots(step)
        if shards is not None:
            self._complete(draft, tuple(file for shard in shards for file in shard.files))
            self._draft = None

    def close(self) -> None:
        """After the last step: its checkpoint must be there.

        Raises:
            PeerLost: a shard could not finish its part; the run goes back to the checkpoint before.
        """
        self.finish()
        if self._lost is not None:
            raise PeerLost(
                f"trainer 0: an embedding server was restarted while it wrote the snapshot of step {self._lost}"
            )

    def finish(self) -> None:
        """Wait for the checkpoint under way.

        Raises:
            PeerLost: a shard did not finish its snapshot in time.
        """
        while self._draft is not None:
            self.poll()
            if self._draft is None:
                return
            if time.monotonic() - self._draft.begun > SNAPSHOT_SECONDS:
                raise PeerLost(
                    f"trainer 0: waited {SNAPSHOT_SECONDS:g} s for the snapshots of step {self._draft.plan.step}; "
                    "look at the embedding servers' logs"
                )
            self.members.servers.poll(ASK_SECONDS / 2)
            self.members.peers.look_after()

    def _complete(self, draft: _Draft, shards: tuple[SnapshotFile, ...]) -> None:
        topology = self.members.topology
        manifest = Manifest(
            job=self.members.job.metadata.name,
            step=draft.plan.step + 1,
            cursor=draft.plan.end,
            spec=topology.spec,
            tables=topology.layout.tables,
            record_widths=tuple(
                record_width(topology.spec.embedding.optimizer, g.embedding_dim) for g in topology.layout.groups
            ),
            num_servers=len(topology.servers),
            num_trainers=len(topology.trainers),
            shards=shards,
            dense=draft.dense,
            data=draft.data,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            commit(draft.directory, manifest)
        except OSError as error:
            raise StorageError(f"{draft.directory}: cannot write the manifest: {error.strerror}") from None
        log.info("checkpoint of step %d: %s", draft.plan.step + 1, draft.directory)
        prune(self.root, topology.spec.checkpoint.keep)
