"""Snapshots are written one after the other, few at a time, and the last of a run always is."""

from hypothesis import given
from hypothesis import strategies as st

from bagpipe.embedding.snapshot_queue import RESULTS_KEPT, Freeze, LetGo, SnapshotAction, SnapshotQueue, WriteFiles
from bagpipe.net.messages import SnapshotFiles


@given(events=st.lists(st.booleans(), max_size=40))
def test_any_order_of_due_and_finished(events: list[bool]) -> None:
    """Whenever snapshots become due and finish: at most two are frozen, one is written, each ends done or lost."""
    queue = SnapshotQueue()
    frozen: set[int] = set()
    writing: set[int] = set()
    done: list[int] = []
    steps = 0

    def carry_out(actions: list[SnapshotAction]) -> None:
        for action in actions:
            match action:
                case Freeze(step):
                    frozen.add(step)
                case WriteFiles(step):
                    assert step in frozen and not writing
                    writing.add(step)
                case LetGo(step):
                    frozen.remove(step)
        assert len(frozen) <= 2 and writing <= frozen

    def finish() -> None:
        done.append(writing.pop())
        carry_out(queue.finished(SnapshotFiles(step=done[-1], done=True)))

    for due in events:
        if due:
            carry_out(queue.due(steps))
            steps += 1
        elif writing:
            finish()
    while writing:
        finish()
    assert done == sorted(done) and not frozen
    assert not steps or done[-1] == steps - 1
    for step in range(max(0, steps - RESULTS_KEPT), steps):
        status = queue.status(step, passed=True)
        assert status.done == (step in done) and status.lost == (step not in done)
        assert status.done or "disk" in status.why_lost


def test_what_a_trainer_is_told() -> None:
    """How much is written, which earlier snapshot is waited for, or that the moment is gone."""
    queue = SnapshotQueue()
    queue.due(3)
    queue.due(6)
    assert queue.status(3, passed=True, written_bytes=5, total_bytes=9) == SnapshotFiles(
        step=3, done=False, written_bytes=5, total_bytes=9
    )
    assert queue.status(6, passed=True).waits_for == 3
    assert queue.status(9, passed=False) == SnapshotFiles(step=9, done=False)
    assert queue.status(0, passed=True).lost and "restarted" in queue.status(0, passed=True).why_lost
