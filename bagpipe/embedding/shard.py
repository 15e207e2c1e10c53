"""One shard of the tables: its rows by width group, and everything of them that must outlive the process.

Opened on the files of a killed process it goes on where that was: `RowStore.recover` removes unfinished rows, marks and
rows are checked, and the result is logged. Files that contradict themselves are given up, so that the next process
registers without rows, and the run goes back to its checkpoint.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from bagpipe.checkpoint.manifest import check_same_job
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.embedding.requests import WriteBackRequest
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.shard_files import (
    Header,
    claim_directory,
    confirm_directory,
    give_up_directory,
    layout_digest,
    watermark_array,
)
from bagpipe.embedding.snapshots import Snapshots
from bagpipe.embedding.watermark import Watermarks
from bagpipe.errors import StorageError
from bagpipe.net.messages import Topology
from bagpipe.rows.initial import InitialRows
from bagpipe.rows.record import record_widths

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shard:
    """The rows of one shard, how far each trainer has written, and its snapshots."""

    number: int
    num_shards: int
    stores: list[RowStore]
    marks: Watermarks
    snapshots: Snapshots

    @classmethod
    def open(
        cls, topology: Topology, *, job: str, attempt: int, number: int, directory: Path | None, checkpoint_dir: Path
    ) -> "Shard":
        """This attempt's rows as a killed process left them, or those of the checkpoint it starts from.

        Args:
            directory: where rows outlive the process; None: they are in memory.

        Raises:
            CheckpointError: the checkpoint cannot be loaded.
            StorageError: the disk is full, or the files of the killed process contradict themselves.
        """
        header = _header(topology, job=job, attempt=attempt, number=number)
        reused = directory is not None and claim_directory(directory, header)
        embedding, seed = topology.spec.embedding, topology.spec.seed
        stores = [
            RowStore(
                group,
                InitialRows(group, embedding, seed),
                shard=number,
                num_shards=header.num_shards,
                directory=directory,
            )
            for group in topology.layout.groups
        ]
        marks = Watermarks(watermark_array(directory, header.num_trainers))
        prefix = f"shard-{number:05d}-of-{header.num_shards:05d}"
        shard = cls(number, header.num_shards, stores, marks, Snapshots(stores, checkpoint_dir, prefix))
        if reused and directory is not None:
            shard.recover(topology.first_step, directory)
        else:
            marks.reset(topology.first_step)
            if topology.checkpoint is not None:
                shard.load(Path(topology.checkpoint), topology)
            if directory is not None:
                confirm_directory(directory, header)
        log.info("shard %d of %d: %s%s", number, header.num_shards, stores, " (reopened)" if reused else "")
        return shard

    def recover(self, first_step: int, directory: Path) -> None:
        """Remove unfinished rows that a killed process left in its files, and check the rest.

        Raises:
            StorageError: they contradict themselves; they will not be used again.
        """
        try:
            found = [store.recover() for store in self.stores]
            self.marks.check(first_step)
        except StorageError as error:
            give_up_directory(directory)
            raise StorageError(f"{directory}: {error}; its rows are given up for those of a checkpoint") from None
        log.info(
            "shard %d: the files of an earlier process are sound: %d rows, %r; %d rows of an unfinished write-back "
            "were taken back",
            self.number,
            sum(f.rows for f in found),
            self.marks,
            sum(f.reclaimed for f in found),
        )

    def load(self, directory: Path, topology: Topology) -> None:
        """Take this shard's rows out of a checkpoint written by any number of shards."""
        checkpoint = open_checkpoint(directory)
        check_same_job(checkpoint.manifest, topology.layout, _record_widths(topology), str(directory))
        for file in checkpoint.manifest.shards:
            group, keys, records = checkpoint.rows(file)
            ours = keys % self.num_shards == self.number
            self.stores[group].write(keys[ours], records[ours])

    def store_rows(self, request: WriteBackRequest) -> None:
        """Put a write-back's records into the tables.

        Raises:
            StorageError: the disk is full.
        """
        for rows, records in request.groups:
            if rows.keys.size:
                store = self.stores[rows.group]
                positions = rows.positions_in(store)
                self.snapshots.before_write(rows.group, positions)
                store.write(rows.keys, records, positions)


def _header(topology: Topology, *, job: str, attempt: int, number: int) -> Header:
    return Header(
        job=job,
        attempt=attempt,
        start=topology.start,
        shard=number,
        num_shards=len(topology.servers),
        num_trainers=len(topology.trainers),
        record_widths=_record_widths(topology),
        layout_digest=layout_digest(topology.layout),
    )


def _record_widths(topology: Topology) -> tuple[int, ...]:
    return record_widths(topology.spec.embedding, topology.layout)
