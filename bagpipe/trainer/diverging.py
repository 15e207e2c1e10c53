"""Completes checkpoints before a trainer ends because the training has diverged."""

import time
from contextlib import suppress

from bagpipe.checkpoint.store import SNAPSHOT_SECONDS
from bagpipe.errors import BagpipeError, Diverged
from bagpipe.net.messages import Refused
from bagpipe.trainer.checkpointer import Checkpointer
from bagpipe.trainer.membership import Membership
from bagpipe.trainer.pipeline import LOOK_SECONDS, StepPipeline


def save_what_is_good(error: Diverged, members: Membership, checkpointer: Checkpointer, pipeline: StepPipeline) -> None:
    """Have the checkpoints that are under way completed before this trainer, and the others with it, end.

    Trainer 0 completes them. Any other one asks the oracle to wait for that, and ends when the oracle does.

    Args:
        error: with `weights_are` the weights themselves are not finite, so the latest checkpoint is not completed.
    """
    if members.rank == 0:
        with suppress(BagpipeError):
            checkpointer.rescue(pipeline.look_around, latest=not error.weights_are)
        return
    saved_first = 0 if error.weights_are else checkpointer.begun
    members.oracle.send(Refused(reason=str(error), exit_code=error.exit_code, saved_first=saved_first))
    limit = time.monotonic() + SNAPSHOT_SECONDS
    while not members.oracle.lost and time.monotonic() < limit:
        members.oracle.poll(LOOK_SECONDS)
        members.peers.look_after()
        while (received := members.oracle.try_receive()) is not None:
            if isinstance(received[0], Refused):
                return
