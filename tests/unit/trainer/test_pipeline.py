"""When rows are awaited and when their gradients leave: inside the model's own forward and backward pass."""

import dataclasses
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from bagpipe.cache.cache import HostCache, Reduction
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import RowOptimizer
from bagpipe.models.dlrm import DLRM
from bagpipe.net.messages import Hello, Message, StepDone
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Transfer
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.coherence import Coherence
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.pipeline import StepPipeline
from bagpipe.trainer.step import Step

LAYOUT = TableLayout.of([Table("a", 10, 4, ("a",)), Table("b", 10, 4, ("b",))])
NOBODY = PeerLists.of([[], []])


@dataclass
class Diary:
    """Stands for the network, and notes what happened in which order."""

    events: list[str] = field(default_factory=list)
    here: bool = False
    """Whether the other trainer's values have come."""

    @property
    def oracle(self) -> "Oracle":
        return Oracle(self.events)

    def arrived(self, peer: int, step: int, kind: str) -> bool:
        return self.here

    def send(self, peer: int, step: int, kind: str, arrays: Any) -> None:
        self.events.append(f"{kind} to {peer}")

    def receive(self, peer: int, step: int, kind: str) -> list[Any]:
        self.events.append(f"{kind} awaited")
        return [np.ones((1, 4), np.float32), np.zeros((0, 4), np.float32)]

    def done(self, through: int) -> None:
        pass

    def look_after(self) -> None:
        pass

    def collect(self, step: int, group: int) -> tuple[Any, Any]:
        self.events.append("rows awaited")
        return np.ones((4, 4), np.float32), np.zeros((0, 4), np.float32)

    def write_back(self, step: int, groups: Any, *, checkpoint: bool) -> None:
        self.events.append(f"step {step} written back")


@dataclass
class Oracle:
    """Notes the reports that it gets."""

    events: list[str]

    def send(self, message: Message, arrays: Any = ()) -> None:
        if isinstance(message, StepDone):
            self.events.append("reported")


@pytest.fixture
def step() -> tuple[Step, Diary, StepPipeline]:
    """Rank 0's step 0 of two trainers: four rows fetched, gradients of two owed to rank 1, new values of two others
    sent, of one received.
    """
    part = GroupPlan(
        slots_K=np.arange(4, dtype=np.int32),
        inverse_N=np.array([0, 1, 2, 3], np.uint16),
        lengths_BT=None,
        fetch_keys=np.array([0, 10, 1, 11]),
        fetch_slots=np.arange(4, dtype=np.int32),
        num_fetch_records=4,
        fetch_after=-1,
        grad_send=PeerLists.of([[], [1, 2]]),
        grad_recv=NOBODY,
        send=Transfer(PeerLists.of([[], [0]]), NOBODY, PeerLists.of([[], [3]]), NOBODY),
        receive=Transfer(PeerLists.of([[], [2]]), NOBODY, NOBODY, NOBODY),
        evict_keys=np.zeros(0, np.int64),
        evict_slots=np.zeros(0, np.int32),
        flush_keys=np.zeros(0, np.int64),
        flush_slots=np.zeros(0, np.int32),
        keys_K=np.zeros(0, np.int64),
    )
    plan = BatchPlan(0, 0, 4, 0, None, True, False, np.ones((2, 3), np.float32), np.ones((2, 1), np.float32), (part,))  # type: ignore[arg-type]  # no cursor is read
    diary = Diary()
    caches = (HostCache(4, 4, RowOptimizer(name="sgd")),)
    pipeline = StepPipeline(
        rank=0,
        world_size=2,
        hello=Hello(job="job", attempt=0, role="trainer", index=0),
        oracle=diary.oracle,  # type: ignore[arg-type]
        servers=diary,  # type: ignore[arg-type]
        caches=caches,
        coherence=Coherence(diary, caches, rank=0, world_size=2),  # type: ignore[arg-type]
        first_step=0,
        depth=0,
        reduction=Reduction(2, mean=True),
        packing=Packing("never", 0),
        deadline_seconds=1.0,
    )
    return Step(plan, 0.0, {}, pipeline._bring_rows), diary, pipeline


def trained(step: Step, diary: Diary) -> None:
    """Forward and backward of a DLRM."""
    model = DLRM(LAYOUT, num_dense=3, bottom_mlp=(5,), over_mlp=(5,))
    assert model.dense_arch is not None
    model.dense_arch.register_forward_hook(lambda *_: diary.events.append("dense forward"))
    first = next(model.dense_arch.parameters())
    first.register_post_accumulate_grad_hook(lambda _: diary.events.append("dense backward done"))
    sparse = SparseEmbeddings.later(LAYOUT, lambda: step.rows, step.plan.groups, 2)
    model(torch.from_numpy(step.plan.dense_BF), sparse).sum().backward()


def test_rows_travel_under_the_dense_part(step: tuple[Step, Diary, StepPipeline]) -> None:
    """DLRM: dense forward, then rows; row gradients are on their way before the dense part's backward is done, and the
    rows are updated before backward returns: under DDP it waits for the dense all-reduce there.
    """
    current, diary, pipeline = step
    trained(current, diary)
    made = ["dense forward", "rows awaited", "gradients to 1", "dense backward done"]
    assert diary.events == [*made, "eager to 1"]
    assert {"fetch", "eager", "deferred", "gradients"} <= current.waits.keys()
    assert pipeline.caches[0].take_values(np.array([0], np.int32)).tolist() != [[1.0] * 4]


def test_the_next_steps_values_go_out_behind_the_dense_gradients(step: tuple[Step, Diary, StepPipeline]) -> None:
    """On one connection what is sent first arrives first: the dense gradients, needed first, are on their way."""
    current, diary, _ = step
    trained(current, diary)
    assert diary.events.index("dense backward done") < diary.events.index("eager to 1")


def test_what_nobody_waits_for_goes_out_after_the_next_steps_rows_have_come(
    step: tuple[Step, Diary, StepPipeline],
) -> None:
    """Deferred values, rows that leave and the report: held back by `finish`, sent once and in this order."""
    current, diary, pipeline = step
    trained(current, diary)
    diary.events.clear()
    pipeline.finish(current, 0.5)
    assert diary.events == []
    following = Step(dataclasses.replace(current.plan, step=1), 0.0, {}, pipeline._bring_rows)
    assert following.rows[0].shape == (4, 4)
    assert diary.events == ["rows awaited", "eager awaited", "deferred to 1", "step 0 written back", "reported"]
    pipeline.send_rest()
    assert len(diary.events) == 5


def test_with_the_next_values_at_hand_the_rest_goes_out_at_once(step: tuple[Step, Diary, StepPipeline]) -> None:
    """While the optimizer and the next dense forward run, the link would else be idle."""
    current, diary, pipeline = step
    trained(current, diary)
    diary.events.clear()
    diary.here = True
    pipeline.finish(current, 0.5)
    assert diary.events == ["deferred to 1", "step 0 written back", "reported"]


def test_a_finished_step_lets_its_rows_go(step: tuple[Step, Diary, StepPipeline]) -> None:
    """At once, not when Python next looks for cycles: thousands of steps pass before it does."""
    current, diary, pipeline = step
    gc.disable()
    try:
        trained(current, diary)
        rows = weakref.ref(current.rows[0])
        pipeline.finish(current, 0.5)
        assert rows() is None
    finally:
        gc.enable()


def test_rows_the_loss_does_not_reach_are_still_sent_once(step: tuple[Step, Diary, StepPipeline]) -> None:
    """Without a backward pass over the rows, nothing left early; `finish` finds it unsent."""
    current, diary, pipeline = step
    assert current.rows[0].shape == (4, 4)
    assert diary.events == ["rows awaited"] and not current.gradients_sent
    pipeline.finish(current, None)
    assert diary.events == ["rows awaited", "gradients to 1", "eager to 1"]
