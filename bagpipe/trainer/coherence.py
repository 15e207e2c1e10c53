"""Sends and receives rows between trainers, by the lists that the oracle compiled into each step's plan.

A row's gradients go to its owner. Its new value goes to its next users: eager for the very next step, deferred
for later ones. Nothing here decides who that is, or when to send: the lists are the plan's, the order is that of
`transitions.py`.
"""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import numpy as np

from bagpipe.batch import Floats
from bagpipe.cache.cache import EmbeddingCache
from bagpipe.cache.optimizers import gather
from bagpipe.net.array_forms import Form, floats
from bagpipe.plan import BatchPlan, Indices, PeerLists, Transfer
from bagpipe.trainer.delivery import Kind
from bagpipe.trainer.exchange import PeerExchange
from bagpipe.trainer.machine import Missing, RowsKind
from bagpipe.trainer.sums import Contribution, add_in_rank_order

Parcel = tuple[int, list[Floats]]
"""A trainer and the rows that go to it."""


class Coherence:
    """One trainer's side of the exchange of rows. Used by one thread.

    Args:
        caches: one for each width group.
    """

    def __init__(self, peers: PeerExchange, caches: Sequence[EmbeddingCache], *, rank: int, world_size: int) -> None:
        self._peers, self._caches, self._rank = peers, tuple(caches), rank
        self._others = [peer for peer in range(world_size) if peer != rank]

    def __repr__(self) -> str:
        return f"Coherence(rank={self._rank}, {self._peers!r})"

    # ── gradients ─────────────────────────────────────────────────────────────────────────────────

    def send_gradients(self, plan: BatchPlan, gradients: Sequence[Floats]) -> None:
        """Send gradients to their rows' owners; `gradients[g]` is `[K, D]`, one for each distinct row of group g."""
        for peer in self._others:
            lists = [part.grad_send[peer] for part in plan.groups]
            if any(index.size for index in lists):
                rows = [_picked(g, index) for g, index in zip(gradients, lists, strict=True)]
                self._peers.send(peer, plan.step, "gradients", rows)

    def add_gradients(self, plan: BatchPlan, gradients: Sequence[Floats]) -> None:
        """Add the others' gradients of rows owned here to this trainer's own, in place."""
        received = {
            source: self._peers.receive(source, plan.step, "gradients", _forms(plan, gradients, source))
            for source in self._others
            if any(part.grad_recv[source].size for part in plan.groups)
        }
        for number, (part, own) in enumerate(zip(plan.groups, gradients, strict=True)):
            others = [Contribution(source, part.grad_recv[source], rows[number]) for source, rows in received.items()]
            add_in_rank_order(own, self._rank, others)

    # ── new values ────────────────────────────────────────────────────────────────────────────────

    def take(self, plan: BatchPlan, kind: Kind) -> list[Parcel]:
        """Copies of the updated rows that go to each other trainer."""
        parcels = []
        for peer in self._others:
            lists = [_lists(part.send, kind) for part in plan.groups]
            if _any_rows(lists, peer):
                arrays: list[Floats] = []
                for cache, (values, records) in zip(self._caches, lists, strict=True):
                    arrays += [cache.take_values(values[peer]), cache.take_records(records[peer])]
                parcels.append((peer, arrays))
        return parcels

    def send(self, step: int, kind: Kind, parcels: Sequence[Parcel]) -> None:
        """Send what `take` returned after this step."""
        for peer, arrays in parcels:
            self._peers.send(peer, step, kind, arrays)

    # ── what comes in ─────────────────────────────────────────────────────────────────────────────

    def arrivals(self) -> list[Missing]:
        """Gradients and values that have arrived since the last call."""
        return [Missing(label.kind, label.step, label.source) for label in self._peers.news() if _is_rows(label.kind)]

    def await_one(self, missing: Missing) -> None:
        """Wait until this has come.

        Raises:
            PeerLost: it did not come within the deadline, or its sender is gone.
        """
        self._peers.wait_for(missing.peer, missing.step, missing.kind)

    def store(self, plan: BatchPlan, kind: Kind) -> None:
        """Store values of other trainers, which have arrived, in the slots that the plan of their step gives them."""
        for peer in self._others:
            lists = [_lists(part.receive, kind) for part in plan.groups]
            if _any_rows(lists, peer):
                expected = [
                    floats(rows[peer].size, width)
                    for cache, pair in zip(self._caches, lists, strict=True)
                    for rows, width in zip(pair, (cache.embedding_dim, cache.record_width), strict=True)
                ]
                arrays = iter(self._peers.receive(peer, plan.step, kind, expected))
                for cache, (values, records) in zip(self._caches, lists, strict=True):
                    cache.store_values(values[peer], next(arrays))
                    cache.store_records(records[peer], next(arrays))

    # ── the connections ───────────────────────────────────────────────────────────────────────────

    def done(self, through: int) -> None:
        """Everything of steps up to `through` is here."""
        self._peers.done(through)
        self._peers.look_after()

    def look_after(self) -> None:
        """Send again what a reset may have lost; called in every wait."""
        self._peers.look_after()

    def while_waiting(self, look_around: Callable[[], None]) -> None:
        """Call this now and then in every wait for another trainer."""
        self._peers.while_waiting(look_around)

    def leave(self, last_step: int) -> None:
        """After the last step: stay until the others have what this trainer sent (`PeerExchange.leave`)."""
        self._peers.leave(last_step)


def _is_rows(kind: Kind) -> TypeGuard[RowsKind]:
    return kind in ("gradients", "eager", "deferred")


def _forms(plan: BatchPlan, gradients: Sequence[Floats], source: int) -> list[Form]:
    """Another trainer's gradients of a step: of each width group, one for every row of this trainer's that it uses."""
    return [floats(part.grad_recv[source].size, own.shape[1]) for part, own in zip(plan.groups, gradients, strict=True)]


def _picked(rows_KD: Floats, index: Indices) -> Floats:
    """`rows_KD[index]`, twice as fast."""
    out = np.empty((index.size, rows_KD.shape[1]), np.float32)
    gather(rows_KD, index, rows_KD.shape[1], out)
    return out


def _lists(transfer: Transfer, kind: Kind) -> tuple[PeerLists, PeerLists]:
    """(values, records) that are eager or deferred."""
    if kind == "eager":
        return transfer.eager_values, transfer.eager_records
    return transfer.deferred_values, transfer.deferred_records


def _any_rows(lists: Sequence[tuple[PeerLists, PeerLists]], peer: int) -> bool:
    """Whether any width group's (values, records) have rows for, or from, this trainer."""
    return any(values[peer].size or records[peer].size for values, records in lists)
