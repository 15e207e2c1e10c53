"""An evaluation between two steps whose model fails leaves no rows behind that it has asked for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.errors import UserCodeError
from bagpipe.metrics.validations import Validation as Figures
from bagpipe.net.messages import ValidationBatch, ValidationDone, ValidationOutputs
from bagpipe.net.plan_codec import pack_plan
from bagpipe.oracle.plan.reading import reading_plans
from bagpipe.plan import BatchPlan
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.validation import Validation

LAYOUT = TableLayout.of([Table("a", 9, 4, ("a",)), Table("c", 50, 8, ("c",))])
STEP, BATCHES = 3, 4


class Servers:
    """The embedding servers: what was asked of them and not taken, by number and width group."""

    def __init__(self) -> None:
        self.asked: set[tuple[int, int]] = set()
        self.most = 0

    def fetch(self, number: int, group: int, keys: Any, **_: Any) -> None:
        self.asked.add((number, group))
        self.most = max(self.most, len(self.asked))

    def collect(self, number: int, group: int) -> tuple[None, Any]:
        self.asked.remove((number, group))
        return None, np.zeros((3, LAYOUT.groups[group].embedding_dim), np.float32)

    def forget(self, number: int, group: int) -> None:
        self.asked.discard((number, group))


def batch(number: int) -> ValidationBatch | tuple[Any, ...]:
    blocks = tuple(SparseBlock(np.arange(3), None) for _ in LAYOUT.groups)
    examples = Batch(Cursor(), Cursor(), np.zeros((3, 1), np.float32), np.zeros((3, 1), np.float32), blocks)
    (plan,) = reading_plans(LAYOUT, examples, number, world_size=1, after=STEP)
    header, arrays = pack_plan(plan)
    return ValidationBatch(after=STEP, plan=header), arrays


def test_a_failed_evaluation_leaves_no_rows() -> None:
    """Batches are asked for ahead of the one at which the model fails; many evaluations took all memory."""
    servers, said, pipeline = Servers(), [], SimpleNamespace()
    members = SimpleNamespace(
        rank=0, world_size=1, servers=servers, process_group=None, oracle=SimpleNamespace(lost=False)
    )
    members.topology = SimpleNamespace(
        validation_batches=BATCHES,
        slots=(2, 8),
        spec=SimpleNamespace(prefetch_depth=2, transport=SimpleNamespace(step_seconds=9.0)),
    )
    members.oracle.send = lambda message, arrays=(): said.append(message)

    def answer(_: float) -> None:
        """Of the oracle: the batches that were asked for; once the outputs have come, the figures."""
        if isinstance(said[-1], ValidationOutputs):
            done = ValidationDone(step=STEP, validation=Figures(step=STEP + 1, figures={}))
            pipeline.hear_validation(done, [])
            return
        for number in range(said[-1].next, min(said[-1].until, BATCHES)):
            pipeline.hear_validation(*batch(number))

    def fails(plan: BatchPlan, rows: Any) -> Any:
        if plan.step == 1:
            raise UserCodeError("the model does not like this batch")
        return np.concatenate([part.numpy().sum(1) for part in rows()])

    members.oracle.poll, pipeline.look_around = answer, lambda: None
    device = torch.device("cpu")
    Validation(members, pipeline, fails, device, lambda: None).after(STEP, nn.Linear(1, 1))  # type: ignore[arg-type]
    assert said[-1].failed == "the model does not like this batch"
    assert servers.most > 2 and not servers.asked
