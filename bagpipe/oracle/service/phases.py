"""The phases of an attempt as values: each holds what the one before it found out, so nothing is ever missing.

Start ── open the data ──> OpenedData ── every role is there ──> Assembled ── plans ──> Trained
── plans of the test part ──> Ending ── trainers, then servers leave ──> report.json
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagpipe.batch import Batch, Cursor
from bagpipe.data.dataset import Dataset
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import Topology
from bagpipe.oracle.plan.planner import PlannerStats
from bagpipe.oracle.sizing.auto import LookaheadChoice, ResolvedSettings


@dataclass(frozen=True, slots=True)
class Start:
    """Where an attempt begins: at step 0, or where its checkpoint was taken."""

    step: int
    cursor: Cursor
    loss: float | None
    """Of the last step before `step`, if the checkpoint's folder remembers it."""
    validations: tuple[Validation, ...] = ()
    """Evaluations of the validation part up to there."""


@dataclass(frozen=True, slots=True)
class OpenedData:
    """The data, ready to be read from the start on."""

    dataset: Dataset
    cursor: Cursor
    """Where the first batch begins: at the start's cursor, or, in data that is new to the run, at a new epoch."""
    batches: Iterator[Batch]
    """Training batches from the start on; they can be read once."""
    first_values: Path | None
    """First values of rows for a warm start, written like a checkpoint; None: there is none, or the attempt starts
    from a checkpoint."""
    auto_lookahead: LookaheadChoice | None
    """What `lookahead: auto` becomes; None where it is given, or was chosen by a predecessor of this process."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """Every role is there and knows the topology."""

    topology: Topology
    settings: ResolvedSettings
    restarted: bool
    """An earlier process of this attempt has already sent plans."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of training when its last step has ended."""

    loss: float | None
    """Mean over the last step's global batch; None: not told."""
    examples_per_second: float
    waits: Mapping[str, float]
    """Seconds, by what was waited for; mean over the trainers, summed over the steps."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Every training step is done."""

    step: int
    """Number of steps trained since step 0."""
    stopped: bool
    """It ended early, at a checkpoint, because the run was asked to stop."""
    figures: Figures
    planner_stats: tuple[PlannerStats, ...]
    """Of each width group."""

    @property
    def hit_rate(self) -> float:
        """Share of the steps' distinct rows that needed no fetch."""
        return hit_rate(self.planner_stats)


@dataclass(frozen=True, slots=True)
class Ending:
    """Every step is done: what is left is to let the roles go, and to report."""

    step: int
    """Number of steps trained since step 0."""
    stopped: bool
    """It ended early because the run was asked to stop."""
    report: str
    """What `report.json` will hold: its text."""


Evaluation = dict[str, Any] | None
"""The figures of the test part, as they stand in `report.json`; None: not evaluated."""


def hit_rate(stats: tuple[PlannerStats, ...]) -> float:
    """Share of distinct rows that needed no fetch, over all width groups."""
    distinct = sum(s.distinct_rows for s in stats)
    return 1.0 - sum(s.fetched_rows for s in stats) / distinct if distinct else 0.0
