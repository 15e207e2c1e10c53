"""What one trainer does next: events in, instructions out, in the order of `transitions.py`. Pure.

No socket, no clock, no tensor: a plan comes in as the few facts about it that decide anything. The machine also knows
which step each instruction is for:

- the *current* step: from its plan to the end of its backward pass;
- the *held* step: the last one that has ended, until what nobody waits for is sent (deferred values, rows that leave,
  the report);
- the steps whose *eager* and *deferred* values are still to be stored: slots were given out when they ended.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from bagpipe.errors import BagpipeError
from bagpipe.plan import BatchPlan, PeerLists
from bagpipe.trainer.transitions import TABLE, WAITS, Do, Event, Guard, Rule, State

RowsKind = Literal["gradients", "eager", "deferred"]


class StepFacts(NamedTuple):
    """What the order of a step depends on, out of its plan."""

    step: int
    training: bool
    flushes: bool
    """Whether everything that is newer here than on the servers is written back after it."""
    fetches: bool
    """Whether any row is fetched for it."""
    fetch_after: int
    """Last step whose write-backs the fetched rows depend on; -1: none."""
    gradients_from: tuple[int, ...]
    """Trainers that send gradients of rows owned here."""
    eager_from: tuple[int, ...]
    """Trainers that send values after this step for the next one."""
    deferred_from: tuple[int, ...]
    """Trainers that send values after this step for later ones."""

    def senders(self, kind: RowsKind) -> tuple[int, ...]:
        """Trainers that send rows of this kind in the step."""
        if kind == "eager":
            return self.eager_from
        return self.deferred_from if kind == "deferred" else self.gradients_from

    @classmethod
    def of(cls, plan: BatchPlan) -> "StepFacts":
        """The facts of a plan."""
        fetching = [part for part in plan.groups if part.fetch_keys.size]
        received = [part.receive for part in plan.groups]
        return cls(
            step=plan.step,
            training=plan.training,
            flushes=plan.checkpoint or plan.validates,
            fetches=bool(fetching),
            fetch_after=max((part.fetch_after for part in fetching), default=-1),
            gradients_from=_senders([part.grad_recv for part in plan.groups]),
            eager_from=_senders([lists for r in received for lists in (r.eager_values, r.eager_records)]),
            deferred_from=_senders([lists for r in received for lists in (r.deferred_values, r.deferred_records)]),
        )


def _senders(lists: Sequence[PeerLists]) -> tuple[int, ...]:
    """Ranks that have anything in any of these lists, ascending."""
    ranks: set[int] = set()
    for one in lists:
        offsets = one.offsets.tolist()
        if offsets[-1]:
            ranks.update(rank for rank in range(len(offsets) - 1) if offsets[rank + 1] > offsets[rank])
    return tuple(sorted(ranks))


class Instruction(NamedTuple):
    """What the driver does now, for which step."""

    do: Do
    step: int


class Missing(NamedTuple):
    """A message that is awaited from another trainer."""

    kind: RowsKind
    step: int
    peer: int


class StepMachine:
    """One trainer's step. The driver carries out every instruction, in order, before the next event.

    Args:
        num_groups: width groups; each makes its gradients by itself.
        first_step: of the attempt.
        depth: steps ahead for which rows are requested.
        table: the rules; tests leave some out.
    """

    def __init__(self, *, num_groups: int, first_step: int, depth: int, table: Sequence[Rule] = TABLE) -> None:
        self._num_groups, self._depth = num_groups, depth
        self.state = State.BETWEEN
        self.next_step = first_step
        """The first step that has not begun."""
        self.finished = first_step - 1
        """The last step that was reported."""
        self.stopped = False
        """The plans ended because the run was asked to stop."""
        self._plans: deque[StepFacts] = deque()
        self._ended = False
        self._current: StepFacts | None = None
        self._held: StepFacts | None = None
        self._eager: StepFacts | None = None
        self._deferred: deque[StepFacts] = deque()
        self._requested = first_step
        """The first step whose rows have not been requested."""
        self._rows_here = first_step - 1
        """The last step whose fetched rows are here."""
        self._made: set[int] = set()
        self._written = False
        self._here: set[Missing] = set()
        self._conditions = self._conditions_by_guard()
        self._steps = self._steps_by_instruction()
        self._rules: dict[State, dict[Event, list[Rule]]] = {}
        for state in State:
            own = [rule for rule in table if rule.state is state]
            rules = self._rules[state] = {}
            for rule in (*own, *(rule for rule in table if rule.state is None)):
                rules.setdefault(rule.event, []).append(rule)

    def __repr__(self) -> str:
        held = self._held.step if self._held is not None else None
        return f"StepMachine({self.state.value}, next_step={self.next_step}, {held=}, plans={len(self._plans)})"

    # ── events ────────────────────────────────────────────────────────────────────────────────────

    def plan_arrived(self, facts: StepFacts) -> list[Instruction]:
        """A plan; one that is here already, or that begins no step to come, changes nothing."""
        if facts.step == self.next_plan:
            self._plans.append(facts)
        return self._go_on([])

    def plans_ended(self, *, stopped: bool) -> list[Instruction]:
        """No plan follows those that are here."""
        self._ended, self.stopped = True, stopped
        return self._go_on([])

    def rows_arrived(self, step: int) -> list[Instruction]:
        """Every row that was requested for this step is here."""
        self._rows_here = step
        return self._go_on([])

    def peer_rows_arrived(self, kind: RowsKind, step: int, peer: int) -> list[Instruction]:
        """Gradients or values of another trainer are here."""
        self._here.add(Missing(kind, step, peer))
        return self._go_on([])

    def gradients_made(self, group: int) -> list[Instruction]:
        """Backward has made the gradients of one width group."""
        self._made.add(group)
        return self.happened(Event.GRADIENTS_MADE)

    def written_back(self) -> list[Instruction]:
        """Every server has acknowledged every write-back."""
        self._written = True
        return self._go_on([])

    def happened(self, event: Event) -> list[Instruction]:
        """Anything else.

        Raises:
            BagpipeError: the table has no rule for it in this state.
        """
        if event is Event.STEP_ENDED and self._current is not None:
            self._held = self._eager = self._current
            self._deferred.append(self._current)
        rule = self._rule(event)
        if rule is None:
            raise BagpipeError(f"the table of a step has no rule for {event.value!r} while {self.state.value!r}")
        return self._go_on(self._apply(rule))

    # ── what it knows ─────────────────────────────────────────────────────────────────────────────

    @property
    def next_plan(self) -> int:
        """The first step whose plan is not here."""
        return self.next_step + len(self._plans)

    @property
    def plans_ahead(self) -> int:
        """Steps not begun whose plans are here."""
        return len(self._plans)

    @property
    def waits_for(self) -> str | None:
        """The key of what is awaited now (`WAITS`), or None."""
        return WAITS.get(self.state)

    def missing(self) -> list[Missing]:
        """Messages of other trainers that are awaited now, in the order of ranks."""
        match self.waits_for:
            case "eager":
                return self._lacking("eager", self._eager)
            case "gradients":
                return self._lacking("gradients", self._current)
            case "deferred" if self.state is State.CHECKPOINT_EAGER:
                return self._lacking("eager", self._eager)
            case "deferred":
                return [one for facts in self._deferred_due() for one in self._lacking("deferred", facts)]
        return []

    def _lacking(self, kind: RowsKind, facts: StepFacts | None) -> list[Missing]:
        if facts is None:
            return []
        wanted = (Missing(kind, facts.step, peer) for peer in facts.senders(kind))
        return [one for one in wanted if one not in self._here]

    def _deferred_due(self) -> list[StepFacts]:
        """Steps whose deferred values are stored next: while a step runs, those before the last one."""
        if self.state is State.AWAITS_DEFERRED and self._current is not None:
            return [facts for facts in self._deferred if facts.step < self._current.step - 1]
        return list(self._deferred)

    # ── rules ─────────────────────────────────────────────────────────────────────────────────────

    def _rule(self, event: Event) -> Rule | None:
        for rule in self._rules[self.state].get(event, ()):
            if rule.guard is Guard.ALWAYS or self._conditions[rule.guard]():
                return rule
        return None

    def _go_on(self, instructions: list[Instruction]) -> list[Instruction]:
        """Apply rules as long as what is awaited is here."""
        while self.state in WAITS and (rule := self._rule(Event.HERE)) is not None:
            instructions += self._apply(rule)
        return instructions

    def _apply(self, rule: Rule) -> list[Instruction]:
        if rule.then is State.BEGUN:
            self._begin()
        instructions = []
        for do in rule.instructions:
            steps = self._steps.get(do)
            if steps is None:
                instructions.append(Instruction(do, self.next_step - 1))
            else:
                instructions += [Instruction(do, step) for step in steps()]
        if rule.then is not None:
            self.state = rule.then
        return instructions

    def _begin(self) -> None:
        self._current = self._plans.popleft()
        self.next_step, self._made = self._current.step + 1, set()
        # What no plan has asked for would stay for good: a peer that says too much must not fill the memory here.
        oldest = self._deferred[0].step if self._deferred else self._current.step - 1
        self._here = {one for one in self._here if one.step >= oldest}

    def _needs_write_back(self) -> bool:
        plan, held = self._plans[0] if self._plans else None, self._held
        return plan is not None and held is not None and plan.fetches and plan.fetch_after >= held.step

    def _conditions_by_guard(self) -> dict[Guard, Callable[[], bool]]:
        return {
            Guard.PLAN_HERE: lambda: bool(self._plans),
            Guard.PLAN_NEEDS_WRITE_BACK: self._needs_write_back,
            Guard.PLANS_OVER: lambda: self._ended and not self._plans,
            Guard.DEFERRED_HERE: lambda: not any(self._lacking("deferred", facts) for facts in self._deferred_due()),
            Guard.ROWS_HERE: self._rows_are_here,
            Guard.EAGER_HERE: lambda: not self._lacking("eager", self._eager),
            Guard.ALL_GRADIENTS_MADE: lambda: len(self._made) == self._num_groups,
            Guard.GRADIENTS_HERE: lambda: not self._lacking("gradients", self._current),
            Guard.FLUSHES: lambda: self._held is not None and self._held.flushes,
            Guard.NEXT_VALUES_HERE: lambda: not self._lacking("eager", self._eager),
            Guard.WRITTEN_BACK: lambda: self._written,
        }

    def _rows_are_here(self) -> bool:
        current = self._current
        return current is not None and (not current.fetches or self._rows_here >= current.step)

    # ── which steps an instruction is for ─────────────────────────────────────────────────────────

    def _steps_by_instruction(self) -> dict[Do, Callable[[], Sequence[int]]]:
        """Each notes that the instruction was given. Any other instruction is for the current step."""
        return {
            Do.SEND_DEFERRED: self._held_step,
            Do.WRITE_BACK: self._held_step,
            Do.COPY_STAYING: self._held_step,
            Do.REPORT: self._report,
            Do.REPORT_LOGITS: self._report_logits,
            Do.STORE_EAGER: self._store_eager,
            Do.STORE_DEFERRED: self._store_deferred,
            Do.ADD_GRADIENTS: self._add_gradients,
            Do.REQUEST_ROWS: lambda: self._request([self._current] if self._current is not None else []),
            Do.REQUEST_ROWS_AHEAD: lambda: self._request(self._plans),
            # The step before the current one still lacks deferred values.
            Do.CONFIRM: lambda: [self.next_step - 3],
        }

    def _held_step(self) -> list[int]:
        return [self._held.step] if self._held is not None else []

    def _report(self) -> list[int]:
        held, self._held = self._held, None
        if held is None:
            return []
        self.finished = held.step
        return [held.step]

    def _report_logits(self) -> list[int]:
        self.finished = self.next_step - 1
        return [self.finished]

    def _store_eager(self) -> list[int]:
        facts, self._eager = self._eager, None
        return self._taken(facts, "eager")

    def _store_deferred(self) -> list[int]:
        due = self._deferred_due()
        for _ in due:
            self._deferred.popleft()
        return [step for facts in due for step in self._taken(facts, "deferred")]

    def _add_gradients(self) -> list[int]:
        self._taken(self._current, "gradients")
        return [self.next_step - 1]

    def _taken(self, facts: StepFacts | None, kind: RowsKind) -> list[int]:
        """The step if anything of this kind comes in for it; what came is used now."""
        if facts is None or not facts.senders(kind):
            return []
        for peer in facts.senders(kind):
            self._here.discard(Missing(kind, facts.step, peer))
        return [facts.step]

    def _request(self, plans: Iterable[StepFacts]) -> list[int]:
        steps = []
        for facts in plans:
            if self._requested <= facts.step <= self.next_step + self._depth:
                self._requested = facts.step + 1
                if facts.fetches:
                    steps.append(facts.step)
        return steps
