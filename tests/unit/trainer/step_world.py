"""Trainers with their step machines and deliveries, a server and the oracle's plans, one instruction at a time."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bagpipe.plan import BatchPlan, GroupPlan
from bagpipe.testing.plan_model import Row, Stream, Trainer, Uncached, lists_of, make_stream
from bagpipe.trainer.delivery import CONFIRM_STEPS, Delivery, Label
from bagpipe.trainer.machine import Instruction, StepFacts, StepMachine
from bagpipe.trainer.transitions import TABLE, Event, Rule, State

NOTHING = np.zeros((0, 0), np.float32)


def facts_of(step: int, plan: GroupPlan, *, checkpoint: bool) -> StepFacts:
    return StepFacts.of(BatchPlan(step, 0, 0, 0, None, True, checkpoint, NOTHING, NOTHING, (plan,)))  # type: ignore[arg-type]


@dataclass
class Party:
    """One trainer: its machine, what the loop does next, and what is under way around it."""

    rank: int
    machine: StepMachine
    delivery: Delivery
    trainer: Trainer
    to_do: deque[Instruction] = field(default_factory=deque)
    coming: deque[int] = field(default_factory=deque)
    """Plans on their way from the oracle."""
    planned: int = 0
    """First step whose plan was not sent here."""
    done: int = -1
    """Last step that was reported."""
    oracle_remade: bool = False
    replies: dict[int, list[Row]] = field(default_factory=dict)
    leaving: list[Row] | None = None
    deferred: dict[int, list[list[Row]]] = field(default_factory=dict)
    write_backs: deque[tuple[int, list[Row], bool]] = field(default_factory=deque)
    received: dict[int, list[int]] = field(default_factory=dict)
    leaves: bool = False
    """Was told to see that the others miss nothing."""

    @property
    def gone(self) -> bool:
        over = self.machine.state is State.OVER and not self.to_do
        return over and not (self.leaves and self.delivery.unconfirmed())


class World:
    """All of them, and one random source that picks what happens next."""

    def __init__(
        self,
        stream: Stream,
        seed: int,
        *,
        depth: int,
        checkpoints: frozenset[int],
        table: Sequence[Rule],
        often: float,
        resets: int,
        notices: float,
        ends: int | None,
    ) -> None:
        self.often, self.notices = often, notices
        self.random, self.stream, self.depth, self.checkpoints = random.Random(seed), stream, depth, checkpoints
        self.plans = list(stream.plans(stream.planner(), checkpoints))[:ends]
        reference = Uncached.born(stream.num_rows)
        self.tables = dict(reference.tables)
        self.before = []
        for number, shares in enumerate(stream.steps):
            self.before.append(dict(reference.tables))
            reference.step(number, shares)
        self.before.append(reference.tables)
        self.ranks = range(stream.world_size)
        self.parties = [
            Party(
                rank,
                StepMachine(num_groups=1, first_step=0, depth=depth, table=table),
                Delivery([p for p in self.ranks if p != rank]),
                Trainer(rank),
            )
            for rank in self.ranks
        ]
        self.wires: dict[tuple[int, int], deque] = {(a, b): deque() for a in self.ranks for b in self.ranks if a != b}
        self.remade: set[tuple[int, int]] = set()
        self.resets = resets
        self.said: list[tuple[tuple[int, int], tuple]] = []
        self.fetches: list[tuple[int, int]] = []
        self.watermarks = [-1 for _ in self.ranks]
        self.snapshot_due: int | None = None
        self.snapshots = 0
        self.most_kept = 0
        for party in self.parties:
            party.to_do.extend(party.machine.happened(Event.JOINED))

    def run(self) -> "World":
        """Raises AssertionError on a stale read, a lost row, too much kept, or where nothing can go on."""
        while not all(party.machine.state is State.OVER and not party.to_do for party in self.parties):
            actions = self.possible()
            stuck = [(p.rank, p.machine, p.to_do) for p in self.parties]
            assert actions, f"stuck: {stuck}, fetches {self.fetches}, watermarks {self.watermarks}"
            self.random.choice(actions)()
        assert self.watermarks == [len(self.plans) - 1 for _ in self.parties], "a step was not written back"
        assert self.tables == self.before[-1] or len(self.plans) < len(self.stream.steps), "a row was lost"
        assert self.snapshots == len([step for step in self.checkpoints if step < len(self.plans)])
        assert self.most_kept <= CONFIRM_STEPS + 4, "too much is kept"
        return self

    def possible(self) -> list[Callable[[], None]]:
        actions: list[Callable[[], None]] = []
        for party in self.parties:
            if party.gone:
                continue
            machine = party.machine
            if party.to_do:
                actions.append(partial(self.carry_out, party))
            elif machine.waits_for is None and machine.state is not State.OVER:
                actions.append(partial(self.go_on, party))
            elif machine.state is State.AWAITS_ROWS and machine.next_step - 1 in party.replies:
                actions.append(partial(self.tell, party, lambda m: m.rows_arrived(m.next_step - 1)))
            elif machine.state is State.LAST_WRITE_BACKS and not party.write_backs:
                actions.append(partial(self.tell, party, StepMachine.written_back))
            if party.coming and not party.to_do:
                actions.append(partial(self.plan, party))
            if party.oracle_remade and not party.to_do and machine.state is not State.OVER:
                actions.append(partial(self.oracle_is_back, party))
            if party.planned < len(self.plans) + 1 and party.planned <= party.done + self.depth + 1:
                actions.append(partial(self.send_plan, party))
        for party in self.parties:
            due = self.snapshot_due
            if party.write_backs and (due is None or party.write_backs[0][0] <= due):
                actions.append(partial(self.write, party))
        actions += [partial(self.deliver, link) for link, wire in self.wires.items() if wire]
        actions += [partial(self.answer, f) for f in self.fetches if self.may_answer(*f)]
        if not actions or self.random.random() < self.notices:
            actions += [partial(self.send_again, link) for link in self.remade if not self.parties[link[0]].gone]
        if self.resets and actions and self.random.random() < self.often:
            actions.append(self.reset)
        return actions

    def tell(self, party: Party, event: Callable[[StepMachine], list[Instruction]]) -> None:
        party.to_do.extend(event(party.machine))

    # ── the loop of a trainer ─────────────────────────────────────────────────────────────────────

    def go_on(self, party: Party) -> None:
        """What the loop, the model and autograd do next."""
        state = party.machine.state
        if state is State.COMPUTING and self.random.random() < 0.8:  # else the loss does not reach the rows
            self.tell(party, lambda m: m.gradients_made(0))
            return
        following = {
            State.BETWEEN: Event.NEXT_ASKED,
            State.BEGUN: Event.ROWS_ASKED,
            State.HOLDS_ROWS: Event.ROWS_HANDED_OUT,
            State.COMPUTING: Event.BACKWARD_ENDED,
            State.GRADIENTS_SENT: Event.BACKWARD_ENDED,
            State.UPDATED: Event.STEP_ENDED,
        }
        self.tell(party, lambda m: m.happened(following[state]))

    # ── oracle, server, wires ─────────────────────────────────────────────────────────────────────

    def send_plan(self, party: Party) -> None:
        party.coming.append(party.planned)
        party.planned += 1

    def plan(self, party: Party) -> None:
        step = party.coming.popleft()
        if step == len(self.plans):
            if party.machine.next_plan == step:
                self.tell(party, lambda m: m.plans_ended(stopped=False))
            return
        facts = facts_of(step, self.plans[step][party.rank], checkpoint=step in self.checkpoints)
        self.tell(party, lambda m: m.plan_arrived(facts))

    def oracle_is_back(self, party: Party) -> None:
        party.oracle_remade = False
        self.tell(party, lambda m: m.happened(Event.ORACLE_RECONNECTED))

    def may_answer(self, rank: int, step: int) -> bool:
        return min(self.watermarks) >= self.plans[step][rank].fetch_after

    def answer(self, fetch: tuple[int, int]) -> None:
        self.fetches.remove(fetch)
        rank, step = fetch
        plan, rows = self.plans[step][rank], []
        for at, key in enumerate(plan.fetch_keys.tolist()):
            value, state = self.tables[key]
            rows.append(Row(key, value, state if at < plan.num_fetch_records else None))
        self.parties[rank].replies[step] = rows

    def write(self, party: Party) -> None:
        step, rows, checkpoint = party.write_backs.popleft()
        assert step == self.watermarks[party.rank] + 1, "a step was not written back"
        if checkpoint:
            self.snapshot_due = step
        for row in rows:
            assert row.state is not None
            self.tables[row.key] = (row.value, row.state)
        self.watermarks[party.rank] = step
        if self.snapshot_due is not None and min(self.watermarks) >= self.snapshot_due:
            assert self.tables == self.before[self.snapshot_due + 1], f"the checkpoint of {step} is not whole"
            self.snapshot_due, self.snapshots = None, self.snapshots + 1

    def send(self, party: Party, peer: int, label: Label, contents: object) -> None:
        message = (label, party.delivery.through, contents)
        self.wires[party.rank, peer].append(message)
        party.delivery.sent(peer, label.step, message)
        self.most_kept = max(self.most_kept, len({m[0].step for m in party.delivery.kept(peer)}))

    def deliver(self, link: tuple[int, int]) -> None:
        message = self.wires[link].popleft()
        self.arrive(link, message)
        if self.resets and self.random.random() < 0.2:
            # A link may say once more what it has said before, however long ago: the receiver has it, or has used it.
            self.said.append((link, message))
            self.arrive(*self.random.choice(self.said))

    def arrive(self, link: tuple[int, int], message: tuple) -> None:
        label, through, contents = message
        party = self.parties[link[1]]
        party.delivery.confirmed(link[0], through)
        if label is not None and party.delivery.arrived(label, contents):
            self.tell(party, lambda m: m.peer_rows_arrived(label.kind, label.step, label.source))

    def reset(self) -> None:
        """Of what is under way on one connection, everything from some place on is lost."""
        self.resets -= 1
        party = self.random.choice(self.parties)
        if not self.wires or self.random.random() < 0.3:
            for _ in range(self.random.randint(0, len(party.coming))):
                party.coming.pop()
            party.oracle_remade = True
            return
        link, wire = self.random.choice(list(self.wires.items()))
        for _ in range(self.random.randint(0, len(wire))):
            wire.pop()
        self.remade.add(link)

    def send_again(self, link: tuple[int, int]) -> None:
        self.remade.discard(link)
        delivery = self.parties[link[0]].delivery
        self.wires[link].extend([*delivery.kept(link[1]), (None, delivery.through, None)])

    # ── instructions ──────────────────────────────────────────────────────────────────────────────

    def carry_out(self, party: Party) -> None:
        do, step = party.to_do.popleft()
        plan = self.plans[step][party.rank] if 0 <= step < len(self.plans) else None
        getattr(self, f"do_{do.name.lower()}", self.do_nothing)(party, step, plan)

    def do_nothing(self, party, step, plan):
        """SAY_HELLO and the like."""

    def do_ask_for_plans(self, party, step, plan):
        party.planned, party.done = party.machine.next_plan, party.machine.finished

    def do_request_rows(self, party, step, plan):
        self.fetches.append((party.rank, step))

    do_request_rows_ahead = do_request_rows

    def do_load_rows(self, party, step, plan):
        party.trainer.load(plan, party.replies.pop(step, []) or [Row(k, -1, -1) for k in plan.fetch_keys.tolist()])

    def do_gather_rows(self, party, step, plan):
        party.trainer.compute(step, plan, self.stream.steps[step][party.rank], self.before[step])

    def do_send_gradients(self, party, step, plan):
        for owner in self.ranks:
            if plan.grad_send[owner].size:
                label = Label(step, "gradients", party.rank)
                self.send(party, owner, label, party.trainer.gradients_for(plan, owner))

    def do_add_gradients(self, party, step, plan):
        labels = [Label(step, "gradients", q) for q in self.ranks if plan.grad_recv[q].size]
        party.received = {x.source: party.delivery.take(x) for x in labels if party.delivery.has(x)}

    def do_update_rows(self, party, step, plan):
        party.trainer.update(plan, party.received)

    def do_send_eager(self, party, step, plan):
        self.send_values(party, step, "eager", self.copies(party, plan, "eager"))

    def do_copy_deferred(self, party, step, plan):
        party.deferred[step] = self.copies(party, plan, "deferred")

    def do_send_deferred(self, party, step, plan):
        self.send_values(
            party, step, "deferred", party.deferred.pop(step, None) or self.copies(party, plan, "deferred")
        )

    def do_copy_leaving(self, party, step, plan):
        party.leaving = party.trainer.copies(plan.evict_keys.tolist(), plan.evict_slots.tolist())

    def do_copy_staying(self, party, step, plan):
        party.leaving = (party.leaving or []) + party.trainer.copies(
            plan.flush_keys.tolist(), plan.flush_slots.tolist()
        )

    def do_write_back(self, party, step, plan):
        if party.leaving is None:
            self.do_copy_leaving(party, step, plan)
        party.write_backs.append((step, party.leaving, step in self.checkpoints))
        party.leaving = None

    def do_report(self, party, step, plan):
        party.done = step

    def do_store_eager(self, party, step, plan):
        self.store(party, step, plan, "eager")

    def do_store_deferred(self, party, step, plan):
        self.store(party, step, plan, "deferred")

    def do_confirm(self, party, step, plan):
        party.delivery.done(step)
        self.tell_peers(party, party.delivery.due())

    def do_leave_peers(self, party, step, plan):
        party.leaves = True
        party.delivery.done(step)
        self.tell_peers(party, party.delivery.due(every=1))

    def tell_peers(self, party, peers):
        for peer in peers:
            self.wires[party.rank, peer].append((None, party.delivery.through, None))
            party.delivery.told(peer)

    def copies(self, party, plan, kind):
        """For each rank, values and records."""
        return [
            [
                party.trainer.copies(None, lists_of(plan, "send", f"{kind}_{k}")[q].tolist())
                for k in ("values", "records")
            ]
            for q in self.ranks
        ]

    def send_values(self, party, step, kind, copies):
        for peer, parts in enumerate(copies):
            if any(parts):
                self.send(party, peer, Label(step, kind, party.rank), parts)

    def store(self, party, step, plan, kind):
        for source in self.ranks:
            label = Label(step, kind, source)
            if party.delivery.has(label):
                for what, rows in zip(("values", "records"), party.delivery.take(label), strict=True):
                    name = f"{kind}_{what}"
                    party.trainer.receive(name, lists_of(plan, "receive", name)[source].tolist(), rows)


def world(seed: int, *, table: Sequence[Rule] = TABLE, **more) -> World:
    """Plans end before step `ends`, for whatever reason; a connection is reset `often`, at most `resets` times, and
    its sender notices it in some turn.
    """
    of_world = {"depth": 2, "checkpoints": frozenset({3}), "often": 0.03, "resets": 10, "notices": 0.5, "ends": None}
    of_world = {name: more.pop(name, value) for name, value in of_world.items()}
    usual = {"world_size": 3, "lookahead": 2, "num_steps": 8, "num_rows": 12, "share": 3, "spare": None, "skew": 0.0}
    return World(make_stream(seed, **usual | more), seed, table=table, **of_world)
