"""The planner's decisions after the update, compiled: gradients, write-backs, values to the next users, slots.

These are the decisions of `reference_planner.py`, made over the memory layout of `window_kernels.py`. Loops avoid
branches that data decides at random: a misprediction costs as much as ten lines of this code. A value that may or may
not belong to a list is always stored at the list's end, and the list's length grows only if it belongs there.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from bagpipe.batch import Keys
from bagpipe.lowlevel.intrinsics import load, prefetch, store
from bagpipe.oracle.plan.plan_kernels import choose, free_slot, put, take_slot
from bagpipe.oracle.plan.window_kernels import (
    AHEAD,
    ALLOCATING,
    COMPILED,
    FIRST,
    INLINED,
    NUM_USERS,
    OWNER,
    PART,
    Int32s,
    Int64s,
)

EAGER, DEFERRED = 0, 2
VALUE, RECORD = 0, 1
NUM_KINDS = 4
"""Kinds of values that move between trainers, numbered EAGER or DEFERRED + VALUE or RECORD."""


class Messages(NamedTuple):
    """Rows that travel between trainers, in the order of decisions."""

    rows: Int32s
    """Three numbers a row: its list, then local index or slot at the sender and at the receiver."""
    counts: Int64s
    """Rows of each list. List number = (kind * trainers + sender) * trainers + receiver."""


class AfterUpdate(NamedTuple):
    """What becomes of the step's rows; the first four are flat over trainers."""

    slots_K: Int32s
    evict_keys: Keys
    evict_slots: Int32s
    num_evicted: Int64s
    gradients: Messages
    values: Messages
    horizon: int
    kept_for: Int64s
    """Rows that trainer r keeps for the step d ahead, at `r * horizon + d`."""
    next_user: Int64s
    """Scratch, by trainer: where the next use list of the present row last named it."""


class Row(NamedTuple):
    """One row of the step."""

    key: int
    users: int
    """Position of its first user."""
    num_users: int
    owner_at: int
    """Position of its owner."""
    owner: int
    owner_slot: int
    next_list: int
    """Position of the use list of its next entry; -1: none in view."""
    distance: int
    """Steps until then."""
    is_kept: bool


@njit(**INLINED)
def add_message(messages, total, number, here, there, is_sent):
    """Put a row of list `number` at the end (`is_sent` 1), or where the next will be (0). Returns the new total."""
    store(messages.rows, 3 * total, number)
    store(messages.rows, 3 * total + 1, here)
    store(messages.rows, 3 * total + 2, there)
    store(messages.counts, number, load(messages.counts, number) + is_sent)
    return total + is_sent


@njit(**INLINED)
def count_one(counts, at):
    store(counts, at, load(counts, at) + 1)


@njit(**INLINED)
def read_row(i, step, rings, keep):
    """The step's i-th row. `keep[i]` is set if it is kept; where `keep` is empty, every row that is used again is."""
    entry = (step.first + i) & (rings.lists.shape[0] - 1)
    at = load(rings.lists, entry)
    owner_at = at + FIRST + 2 * load(rings.uses, at + OWNER)
    next_list = load(rings.links, 2 * entry)
    return Row(
        load(rings.keys, entry),
        at + FIRST,
        load(rings.uses, at + NUM_USERS),
        owner_at,
        load(rings.uses, owner_at),
        load(rings.uses, owner_at + 1),
        next_list,
        load(rings.links, 2 * entry + 1) - step.number,
        next_list >= 0 and (keep.shape[0] == 0 or keep[i] != 0),
    )


@njit(**INLINED)
def prefetch_next_use(i, step, rings):
    """Ask for the line of the next use of a row further on, or for where the row is remembered once it left."""
    entry = (step.first + min(i + AHEAD, step.count - 1)) & (rings.lists.shape[0] - 1)
    ahead = load(rings.links, 2 * entry)
    if ahead >= 0:
        prefetch(rings.uses, ahead)
    else:
        prefetch(rings.last_seen, load(rings.keys, entry))


@njit(**COMPILED)
def finish_rows(step, rings, slots, keep, out, row_by_row):
    """Decide for each row what follows its update: gradients, write-backs, values to its next users, slots.

    `row_by_row` says that no cache overflows if each row takes its new slots at once. Otherwise all rows give their
    slots back before the first takes a new one. Returns the number of gradients and of values that are sent.
    """
    num_gradients = np.int64(0)
    num_values = np.int64(0)
    if row_by_row:
        for i in range(step.count):
            prefetch_next_use(i, step, rings)
            row = read_row(i, step, rings, keep)
            if row.is_kept and (row.num_users | load(rings.uses, row.next_list + NUM_USERS)) == 1:
                num_values = hand_on(row, num_values, step, rings, slots, out)
            else:
                num_gradients = release(row, num_gradients, step, rings, slots, out)
                if row.is_kept:
                    num_values = send_values(row, num_values, rings, slots, out)
    else:
        for i in range(step.count):
            prefetch_next_use(i, step, rings)
            num_gradients = release(read_row(i, step, rings, keep), num_gradients, step, rings, slots, out)
        for i in range(step.count):
            prefetch_next_use(i, step, rings)
            row = read_row(i, step, rings, keep)
            if row.is_kept:
                num_values = send_values(row, num_values, rings, slots, out)
    return num_gradients, num_values


@njit(**PART)
def hand_on(row, num_values, step, rings, slots, out):
    """A row with one user now and one next: by far the most frequent case of a kept row."""
    next_at = row.next_list + FIRST
    next_user = load(rings.uses, next_at)
    list_slot(row.users, row.owner, row.owner_slot, step, rings, out)
    count_one(out.kept_for, next_user * horizon_of(out) + row.distance)
    store(rings.uses, row.next_list + OWNER, 0)
    if next_user == row.owner:
        store(rings.uses, next_at + 1, row.owner_slot)
        return num_values
    free_slot(row.owner, row.owner_slot, 1, slots)
    slot = take_slot(next_user, slots)
    store(rings.uses, next_at + 1, slot)
    return send_value(row, when_needed(row) + RECORD, next_user, slot, 1, num_values, out)


@njit(**PART)
def release(row, num_gradients, step, rings, slots, out):
    """List the row's slots and gradients, free the slots that no next use needs, evict the row if it is not kept."""
    if row.num_users == 1:
        list_slot(row.users, row.owner, row.owner_slot, step, rings, out)
    else:
        num_gradients = send_gradients(row, num_gradients, step, rings, out)
    if row.is_kept:
        free_unused_slots(row, rings, slots, out)
    else:
        evict(row, step, rings, slots, out)
    return num_gradients


@njit(**INLINED)
def list_slot(at, rank, slot, step, rings, out):
    store(out.slots_K, load(step.starts, rank) + load(rings.local_indices, (at - FIRST) >> 1), slot)


@njit(**PART)
def send_gradients(row, num_gradients, step, rings, out):
    """Every other user sends its gradient to the owner."""
    world = out.num_evicted.shape[0]
    at_owner = load(rings.local_indices, (row.owner_at - FIRST) >> 1)
    for u in range(row.users, row.users + 2 * row.num_users, 2):
        rank = load(rings.uses, u)
        local_index = load(rings.local_indices, (u - FIRST) >> 1)
        store(out.slots_K, load(step.starts, rank) + local_index, load(rings.uses, u + 1))
        num_gradients = add_message(
            out.gradients, num_gradients, rank * world + row.owner, local_index, at_owner, np.int64(u != row.owner_at)
        )
    return num_gradients


@njit(**PART)
def evict(row, step, rings, slots, out):
    """The owner writes the row back; the trainer that fetches it next waits for this step's write-backs."""
    put(out.evict_keys, out.evict_slots, out.num_evicted, step.starts, row.owner, row.key, row.owner_slot)
    if row.next_list >= 0:
        store(rings.uses, row.next_list + OWNER, -2 - step.number)
    else:
        store(rings.last_seen, row.key, -1 - step.number)
    for u in range(row.users, row.users + 2 * row.num_users, 2):
        free_slot(load(rings.uses, u), load(rings.uses, u + 1), 1, slots)


@njit(**PART)
def free_unused_slots(row, rings, slots, out):
    """A trainer that also uses the row next keeps its slot; every other user's slot is free."""
    begin = row.next_list + FIRST
    end = begin + 2 * load(rings.uses, row.next_list + NUM_USERS)
    for w in range(begin, end, 2):
        store(out.next_user, load(rings.uses, w), w)
    for u in range(row.users, row.users + 2 * row.num_users, 2):
        rank = load(rings.uses, u)
        slot = load(rings.uses, u + 1)
        w = load(out.next_user, rank)
        stays = (w >= begin) & (w < end)
        # Where the trainer is not among the next users, its own place is written again.
        store(rings.uses, (w if stays else u) + 1, slot)
        free_slot(rank, slot, 1 - np.int64(stays), slots)


@njit(**PART)
def send_values(row, num_values, rings, slots, out):
    """The owner sends a kept row's new value to all others that use it next, with its state to the new owner."""
    num_users = load(rings.uses, row.next_list + NUM_USERS)
    begin = row.next_list + FIRST
    end = begin + 2 * num_users
    new_owner_at = begin + 2 * choose(row.key, num_users)
    for w in range(begin, end, 2):
        new_owner_at = w if load(rings.uses, w) == row.owner else new_owner_at
    store(rings.uses, row.next_list + OWNER, (new_owner_at - begin) >> 1)
    for w in range(begin, end, 2):
        rank = load(rings.uses, w)
        count_one(out.kept_for, rank * horizon_of(out) + row.distance)
        slot = load(rings.uses, w + 1)
        if slot < 0:
            slot = take_slot(rank, slots)
            store(rings.uses, w + 1, slot)
        kind = when_needed(row) + np.int64(w == new_owner_at)
        num_values = send_value(row, kind, rank, slot, np.int64(rank != row.owner), num_values, out)
    return num_values


@njit(**INLINED)
def send_value(row, kind, rank, slot, is_sent, num_values, out):
    world = out.num_evicted.shape[0]
    return add_message(out.values, num_values, (kind * world + row.owner) * world + rank, row.owner_slot, slot, is_sent)


@njit(**INLINED)
def when_needed(row):
    return DEFERRED * np.int64(row.distance != 1)


@njit(**INLINED)
def horizon_of(out):
    return out.horizon


@njit(**ALLOCATING)
def sort_messages(messages, count, sent, sent_offsets, received, received_offsets, starts):
    """Stable counting sort of `count` rows into lists for both ends.

    `sent` lists what leaves, ordered by (sender, kind, receiver); `received` what arrives, by (receiver, kind, sender).
    Each trainer's share is one contiguous piece, from `starts[end, trainer * kinds + kind]` on, and
    `*_offsets[trainer * kinds + kind]` are the bounds of its lists from there.
    """
    world = sent_offsets.shape[1] - 1
    kinds = sent_offsets.shape[0] // world
    into_sent = np.empty(messages.counts.shape[0], np.int64)
    into_received = np.empty(messages.counts.shape[0], np.int64)
    at = np.int64(0)
    back = np.int64(0)
    for a in range(world):
        for kind in range(kinds):
            piece = a * kinds + kind
            starts[0, piece] = at
            starts[1, piece] = back
            for b in range(world):
                leaving = (kind * world + a) * world + b
                arriving = (kind * world + b) * world + a
                sent_offsets[piece, b] = at - starts[0, piece]
                received_offsets[piece, b] = back - starts[1, piece]
                into_sent[leaving] = at
                into_received[arriving] = back
                at += messages.counts[leaving]
                back += messages.counts[arriving]
            sent_offsets[piece, world] = at - starts[0, piece]
            received_offsets[piece, world] = back - starts[1, piece]
    starts[0, world * kinds] = at
    starts[1, world * kinds] = back
    deal(messages.rows, count, into_sent, into_received, sent, received)


@njit(**ALLOCATING)
def deal(rows, count, into_sent, into_received, sent, received):
    """Put each row at the next place of its list, at both ends."""
    for i in range(count):
        number = load(rows, 3 * i)
        to = load(into_sent, number)
        store(sent, to, load(rows, 3 * i + 1))
        store(into_sent, number, to + 1)
        to = load(into_received, number)
        store(received, to, load(rows, 3 * i + 2))
        store(into_received, number, to + 1)
