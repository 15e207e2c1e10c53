"""When rows are awaited and when their gradients leave: inside the model's own forward and backward pass."""

import dataclasses
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from bagpipe.batch import Cursor
from bagpipe.cache.cache import HostCache, Reduction
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.errors import PeerLost
from bagpipe.models.dlrm import DLRM
from bagpipe.net.array_forms import difference
from bagpipe.net.messages import Hello, Message, NeedPlans, StepDone
from bagpipe.net.plan_codec import pack_plan
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Transfer
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.coherence import Coherence
from bagpipe.trainer.delivery import Label
from bagpipe.trainer.machine import StepFacts
from bagpipe.trainer.packing import Packing
from bagpipe.trainer.pipeline import StepPipeline
from bagpipe.trainer.row_kinds import RowKinds
from bagpipe.trainer.step import Step

LAYOUT = TableLayout.of([Table("a", 10, 4, ("a",)), Table("b", 10, 4, ("b",))])
NOBODY = PeerLists.of([[], []])
KINDS = RowKinds(EmbeddingConfig(optimizer=RowOptimizer(name="sgd")), LAYOUT.groups[0])


@dataclass
class Diary:
    """Stands for the network, and notes what happened in which order."""

    events: list[str] = field(default_factory=list)
    here: bool = False
    """Whether the other trainer's values have come."""

    told: bool = False

    @property
    def oracle(self) -> "Oracle":
        return Oracle(self.events)

    def news(self) -> list[Label]:
        if not self.here or self.told:
            return []
        self.told = True
        return [Label(0, "eager", 1)]

    def wait_for(self, peer: int, step: int, kind: str) -> None:
        self.events.append(f"{kind} awaited")
        self.here = True

    def send(self, peer: int, step: int, kind: str, arrays: Any) -> None:
        self.events.append(f"{kind} to {peer}")

    def receive(self, peer: int, step: int, kind: str, expected: Any) -> list[Any]:
        arrays = [np.ones((1, 4), np.float32), np.zeros((0, 4), np.float32)]
        assert not difference(arrays, expected)
        return arrays

    def while_waiting(self, look_around: Any) -> None:
        pass

    def done(self, through: int) -> None:
        pass

    def look_after(self) -> None:
        pass

    def fetch(self, step: int, group: int, keys: Any, *, num_records: int, after: int) -> None:
        self.events.append(f"rows of step {step} requested")

    def await_rows(self, step: int) -> None:
        self.events.append("rows awaited")

    def collect(self, step: int, group: int) -> tuple[Any, Any]:
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

    def reconnected(self) -> bool:
        return False

    def try_receive(self) -> None:
        return None

    lost = False

    def poll(self, timeout_seconds: float) -> None:
        pass


def begun(pipeline: StepPipeline, plan: BatchPlan) -> Step:
    """The step of a plan that has come."""
    pipeline.hands.plans[plan.step] = plan
    pipeline._carry_out(pipeline.machine.plan_arrived(StepFacts.of(plan)))
    step = pipeline.next()
    assert step is not None
    return step


def read(pipeline: StepPipeline, step: Step) -> tuple[torch.Tensor, ...]:
    """As the loop does where the model first reads a row."""
    rows = pipeline.rows(step)
    pipeline.rows_handed_out()
    return rows


def opened(diary: Diary, **seconds: float) -> StepPipeline:
    """Rank 0's pipeline, of two trainers, with a cache of four rows."""
    caches = (HostCache(4, 4, 4, KINDS.kinds),)
    return StepPipeline(
        rank=0,
        world_size=2,
        hello=Hello(job="job", attempt=0, role="trainer", index=0),
        oracle=diary.oracle,  # type: ignore[arg-type]
        servers=diary,  # type: ignore[arg-type]
        caches=caches,
        slots=(4,),
        kinds=[KINDS],
        coherence=Coherence(diary, caches, rank=0, world_size=2),  # type: ignore[arg-type]
        first_step=0,
        depth=0,
        reduction=Reduction(2, mean=True),
        packing=Packing("never", 0),
        **{"deadline_seconds": 1.0, **seconds},
    )


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
    pipeline = opened(diary)
    step = begun(pipeline, plan)
    diary.events.clear()
    return step, diary, pipeline


def trained(step: Step, diary: Diary, pipeline: StepPipeline) -> None:
    """Forward and backward of a DLRM."""
    torch.manual_seed(0)  # With weights that happen to silence every unit no row would change.
    model = DLRM(LAYOUT, num_dense=3, bottom_mlp=(5,), over_mlp=(5,))
    assert model.dense_arch is not None
    model.dense_arch.register_forward_hook(lambda *_: diary.events.append("dense forward"))
    first = next(model.dense_arch.parameters())
    first.register_post_accumulate_grad_hook(lambda _: diary.events.append("dense backward done"))
    sparse = SparseEmbeddings.later(LAYOUT, lambda: read(pipeline, step), step.plan.groups, 2)
    model(torch.from_numpy(step.plan.dense_BF), sparse).sum().backward()


def test_rows_travel_under_the_dense_part(step: tuple[Step, Diary, StepPipeline]) -> None:
    """DLRM: dense forward, then rows; row gradients are on their way before the dense part's backward is done, and the
    rows are updated before backward returns: under DDP it waits for the dense all-reduce there.
    """
    current, diary, pipeline = step
    trained(current, diary, pipeline)
    made = ["dense forward", "rows awaited", "gradients to 1", "dense backward done"]
    assert diary.events == [*made, "eager to 1"]
    assert {"plan", "fetch", "gradients"} <= current.watch.waits.keys()
    assert pipeline.hands.caches[0].take_values(np.array([0], np.int32)).tolist() != [[1.0] * 4]


def test_the_next_steps_values_go_out_behind_the_dense_gradients(step: tuple[Step, Diary, StepPipeline]) -> None:
    """On one connection what is sent first arrives first: the dense gradients, needed first, are on their way."""
    current, diary, pipeline = step
    trained(current, diary, pipeline)
    assert diary.events.index("dense backward done") < diary.events.index("eager to 1")


def test_what_nobody_waits_for_goes_out_after_the_next_steps_rows_have_come(
    step: tuple[Step, Diary, StepPipeline],
) -> None:
    """Deferred values, rows that leave and the report: held back by `finish`, sent once and in this order."""
    current, diary, pipeline = step
    trained(current, diary, pipeline)
    diary.events.clear()
    pipeline.finish(current, 0.5)
    assert diary.events == []
    following = begun(pipeline, dataclasses.replace(current.plan, step=1))
    assert pipeline.rows(following)[0].shape == (4, 4)
    awaited = ["rows of step 1 requested", "rows awaited", "eager awaited"]
    assert diary.events == awaited, "reading rows waits, and sends nothing of the step before"
    pipeline.rows_handed_out()
    assert diary.events == [*awaited, "deferred to 1", "step 0 written back", "reported"]
    read(pipeline, following)
    assert len(diary.events) == 6


def test_with_the_next_values_at_hand_the_rest_goes_out_at_once(step: tuple[Step, Diary, StepPipeline]) -> None:
    """While the optimizer and the next dense forward run, the link would else be idle."""
    current, diary, pipeline = step
    trained(current, diary, pipeline)
    diary.events.clear()
    diary.here = True
    pipeline.finish(current, 0.5)
    assert diary.events == ["deferred to 1", "step 0 written back", "reported"]


def test_a_finished_step_lets_its_rows_go(step: tuple[Step, Diary, StepPipeline]) -> None:
    """At once, not when Python next looks for cycles: thousands of steps pass before it does."""
    current, diary, pipeline = step
    gc.disable()
    try:
        trained(current, diary, pipeline)
        rows = weakref.ref(pipeline.rows(current)[0])
        pipeline.finish(current, 0.5)
        assert rows() is None
    finally:
        gc.enable()


def test_a_plan_that_is_missing_is_asked_for_once(step: tuple[Step, Diary, StepPipeline]) -> None:
    """Plans that come before their turn show that one was lost on the way, or is late."""
    _, _, pipeline = step
    header, arrays = pack_plan(dataclasses.replace(pipeline.hands.plans[0], step=3, end=Cursor()))
    asked: list[Message] = []
    pipeline.oracle.send = lambda message, arrays=(): asked.append(message)  # type: ignore[method-assign]
    for _ in range(3):
        pipeline._hear_oracle(header, arrays)
    assert [(type(message), getattr(message, "step", None)) for message in asked] == [(NeedPlans, 1)]


def test_rows_the_loss_does_not_reach_are_still_sent_once(step: tuple[Step, Diary, StepPipeline]) -> None:
    """Without a backward pass over the rows, nothing left early; `finish` finds it unsent."""
    current, diary, pipeline = step
    assert read(pipeline, current)[0].shape == (4, 4)
    assert diary.events == ["rows awaited"]
    pipeline.finish(current, None)
    assert diary.events == ["rows awaited", "gradients to 1", "eager to 1"]


def test_the_first_plan_may_take_as_long_as_start_up(step: tuple[Step, Diary, StepPipeline]) -> None:
    """Before the first plan the oracle may compile its kernels; later ones have the deadline of a step."""
    with pytest.raises(PeerLost, match=r"plan of step 0 from the oracle; nothing came for 0\.2 s"):
        opened(Diary(), deadline_seconds=0.1, startup_seconds=0.2).next()
    current, diary, pipeline = step
    trained(current, diary, pipeline)
    pipeline.finish(current, 0.0)
    pipeline.deadline_seconds, pipeline.startup_seconds = 0.1, 0.2
    with pytest.raises(PeerLost, match=r"plan of step 1 from the oracle; nothing came for 0\.1 s"):
        pipeline.next()


@pytest.mark.parametrize("gone", [True, False])
def test_a_trainer_with_nothing_left_to_do_leaves_an_oracle_that_is_gone(gone: bool) -> None:
    """Its last word was lost just as it ended: that is no failure. One that is there and silent is, and is named."""
    pipeline = opened(Diary(), deadline_seconds=0.2, startup_seconds=0.2)
    pipeline.oracle.lost = gone
    if gone:
        pipeline.leave_finished()
    else:
        with pytest.raises(PeerLost, match="waited for the word to leave from the oracle; nothing came"):
            pipeline.leave_finished()
