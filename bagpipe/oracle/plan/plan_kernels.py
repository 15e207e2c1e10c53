"""The planner's decisions until the forward pass, compiled: which rows are fetched, and which are kept afterwards.

These are the decisions of `reference_planner.py`, made over the memory layout of `window_kernels.py`.
`finish_kernels.py` has the rest of the step.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from bagpipe.batch import Keys
from bagpipe.lowlevel.intrinsics import load, store
from bagpipe.oracle.plan.window_kernels import COMPILED, FIRST, INLINED, NUM_USERS, OWNER, Int32s, Int64s


class Step(NamedTuple):
    """The step that is planned."""

    number: int
    first: int
    """Its first entry."""
    count: int
    """Of its entries, one for each distinct row."""
    starts: Int64s
    """Where each trainer's part begins in arrays that are flat over trainers, one place a row; and the end."""


class CacheSlots(NamedTuple):
    """Every trainer's slots."""

    free: Int32s
    """Slots used before and free now: trainer r's begin at `r * width`, the one that was freed last comes last."""
    width: int
    num_free: Int64s
    num_used: Int64s
    """How many slots each trainer ever used, free now or not."""


class Fetched(NamedTuple):
    """What each trainer fetches, with optimizer state and without it; flat over trainers."""

    record_keys: Keys
    record_slots: Int32s
    num_records: Int64s
    value_keys: Keys
    value_slots: Int32s
    num_values: Int64s
    after: Int64s
    """The latest write-back that each trainer's fetch depends on."""


@njit(**INLINED)
def choose(key, number):
    """One of so many users, spread evenly over keys and reproducible: the top bits of a multiplied key."""
    x = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return (np.int64(x >> np.uint64(33)) * number) >> 31


@njit(**INLINED)
def take_slot(rank, slots):
    """The slot that was freed last, else one never used: the touched part of a cache stays small."""
    left = load(slots.num_free, rank) - 1
    if left >= 0:
        store(slots.num_free, rank, left)
        return load(slots.free, rank * slots.width + left)
    slot = load(slots.num_used, rank)
    store(slots.num_used, rank, slot + 1)
    return slot


@njit(**INLINED)
def free_slot(rank, slot, is_freed, slots):
    """Free a slot (`is_freed` 1), or only write past the end of the list of free slots (0), which frees nothing."""
    left = load(slots.num_free, rank)
    store(slots.free, rank * slots.width + left, slot)
    store(slots.num_free, rank, left + is_freed)


@njit(**INLINED)
def put(keys, slots, counts, starts, rank, key, slot):
    """Put a row at the end of a trainer's list."""
    count = load(counts, rank)
    store(keys, load(starts, rank) + count, key)
    store(slots, load(starts, rank) + count, slot)
    store(counts, rank, count + 1)


@njit(**COMPILED)
def fetch_rows(step, rings, slots, fetched):
    """Give a slot to every row of the step that is in no cache, choose its owner, list what to fetch."""
    mask = rings.lists.shape[0] - 1
    for i in range(step.count):
        entry = (step.first + i) & mask
        at = load(rings.lists, entry)
        owner = load(rings.uses, at + OWNER)
        if owner < 0:
            fetch_row(at, load(rings.keys, entry), -2 - owner, step, rings, slots, fetched)


@njit(**INLINED)
def fetch_row(at, key, after, step, rings, slots, fetched):
    num_users = load(rings.uses, at + NUM_USERS)
    chosen = choose(key, num_users)
    store(rings.uses, at + OWNER, chosen)
    owner_at = at + FIRST + 2 * chosen
    for u in range(at + FIRST, at + FIRST + 2 * num_users, 2):
        rank = load(rings.uses, u)
        slot = take_slot(rank, slots)
        store(rings.uses, u + 1, slot)
        if u == owner_at:
            put(fetched.record_keys, fetched.record_slots, fetched.num_records, step.starts, rank, key, slot)
        else:
            put(fetched.value_keys, fetched.value_slots, fetched.num_values, step.starts, rank, key, slot)
        store(fetched.after, rank, max(load(fetched.after, rank), after))


@njit(**COMPILED)
def count_next(step, rings, candidates):
    """`candidates[rank, d]`: rows that rank would hold from now until their next use, d steps ahead."""
    mask = rings.lists.shape[0] - 1
    for i in range(step.count):
        link = 2 * ((step.first + i) & mask)
        at = np.int64(rings.links[link])
        if at >= 0:
            distance = rings.links[link + 1] - step.number
            for u in range(at + FIRST, at + FIRST + 2 * rings.uses[at + NUM_USERS], 2):
                candidates[rings.uses[u], distance] += 1


@njit(**COMPILED)
def sort_by_distance(step, rings, counts, out):
    """Counting sort of the step's rows that have a next use by its distance; `out` lists row numbers."""
    mask = rings.lists.shape[0] - 1
    for i in range(step.count):
        link = 2 * ((step.first + i) & mask)
        if rings.links[link] >= 0:
            counts[rings.links[link + 1] - step.number + 1] += 1
    for d in range(1, counts.shape[0]):
        counts[d] += counts[d - 1]
    for i in range(step.count):
        link = 2 * ((step.first + i) & mask)
        if rings.links[link] >= 0:
            d = rings.links[link + 1] - step.number
            out[counts[d]] = i
            counts[d] += 1


@njit(**COMPILED)
def keep_nearest(step, rings, room, by_distance, keep, kept, least):
    """Keep the rows whose next use is nearest, as long as every step in between has room (Belady).

    `room[rank, d]` is what the step d ahead leaves free of the trainer's slots. `by_distance` lists the step's rows in
    order of their next use. A row kept until distance n takes one slot of every step in between, at each of its next
    users. One row more has room where min(room[x] + rows kept until x or sooner) exceeds the number kept so far.
    Sets `keep[row]`. Returns the number of rows refused and the nearest distance at which one was. By trainer: `kept`
    counts from 0, and `least`, that minimum, begins above any number of slots.
    """
    mask = rings.lists.shape[0] - 1
    world = room.shape[0]
    at = np.int64(1)
    refused = np.int64(0)
    nearest = np.int64(0)
    for row in by_distance:
        link = 2 * ((step.first + row) & mask)
        distance = np.int64(rings.links[link + 1] - step.number)
        while at < distance:
            for rank in range(world):
                least[rank] = min(least[rank], room[rank, at] + kept[rank])
            at += 1
        begin = np.int64(rings.links[link]) + FIRST
        users = rings.uses[begin : begin + 2 * rings.uses[begin - FIRST + NUM_USERS] : 2]
        has_room = True
        for rank in users:
            has_room &= least[rank] > kept[rank]
        if has_room:
            keep[row] = 1
            for rank in users:
                kept[rank] += 1
        else:
            nearest = nearest if refused else distance
            refused += 1
    return refused, nearest
