"""The planner's decisions, compiled: what `planner.py` describes, row by row, over the layout that
`window_kernels.py` describes. Loops avoid branches that data decides at random: a misprediction costs
as much as ten lines of this code.
"""

import numpy as np
from numba import njit

from bagpipe.lowlevel.intrinsics import load, prefetch, store
from bagpipe.oracle.plan.window_kernels import AHEAD, FIRST, HOLDER, NUMBER


@njit(cache=True, nogil=True, inline="always")
def pick(key, number):
    """One of so many users, spread evenly over keys and reproducible: the top bits of a mixed key."""
    x = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return (np.int64(x >> np.uint64(33)) * number) >> 31


@njit(cache=True, nogil=True, inline="always")
def take_slot(rank, free, width, num_free, num_fresh):
    """The most recently released slot, else one never used: the touched part of a cache stays small."""
    left = load(num_free, rank) - 1
    if left >= 0:
        store(num_free, rank, left)
        return load(free, rank * width + left)
    slot = load(num_fresh, rank)
    store(num_fresh, rank, slot + 1)
    return slot


@njit(cache=True, nogil=True, inline="always")
def give_slot(rank, slot, free, width, num_free, really):
    """Release a slot (`really` 1) or change nothing that counts (0), without a branch."""
    left = load(num_free, rank)
    store(free, rank * width + left, slot)
    store(num_free, rank, left + really)


@njit(cache=True, nogil=True, inline="always")
def append(rows, counts, total, number, there, here, really):
    """Put a row of list `number` at the end (`really` 1), or where the next will be (0)."""
    store(rows, 3 * total, number)
    store(rows, 3 * total + 1, there)
    store(rows, 3 * total + 2, here)
    store(counts, number, load(counts, number) + really)


@njit(cache=True, nogil=True, inline="always")
def count_one(counts, at):
    store(counts, at, load(counts, at) + 1)


@njit(cache=True, nogil=True)
def fetch_rows(
    first, count, records, entry_keys, uses, free, width, num_free, num_fresh,
    offsets, record_keys, record_slots, num_records, value_keys, value_slots, num_values, after,
):  # fmt: skip
    """Give a slot to every row of the step that is in no cache, choose its owner, list what to fetch."""
    mask = records.shape[0] - 1
    for i in range(count):
        e = (first + i) & mask
        at = load(records, e)
        holder = load(uses, at + HOLDER)
        if holder < 0:
            key = load(entry_keys, e)
            number = load(uses, at + NUMBER)
            holder_at = pick(key, number)
            store(uses, at + HOLDER, holder_at)
            chosen = at + FIRST + 2 * holder_at
            for u in range(at + FIRST, at + FIRST + 2 * number, 2):
                rank = load(uses, u)
                slot = take_slot(rank, free, width, num_free, num_fresh)
                store(uses, u + 1, slot)
                if u == chosen:
                    to = load(offsets, rank) + load(num_records, rank)
                    store(record_keys, to, key)
                    store(record_slots, to, slot)
                    store(num_records, rank, load(num_records, rank) + 1)
                else:
                    to = load(offsets, rank) + load(num_values, rank)
                    store(value_keys, to, key)
                    store(value_slots, to, slot)
                    store(num_values, rank, load(num_values, rank) + 1)
                store(after, rank, max(load(after, rank), -2 - holder))


@njit(cache=True, nogil=True)
def count_next(first, count, step, links, uses, candidates):
    """`candidates[rank, d]`: rows that rank would hold from now until their next use, d steps ahead."""
    mask = (links.shape[0] >> 1) - 1
    for i in range(count):
        e = (first + i) & mask
        following = np.int64(links[2 * e])
        if following >= 0:
            distance = links[2 * e + 1] - step
            for u in range(following + FIRST, following + FIRST + 2 * uses[following + NUMBER], 2):
                candidates[uses[u], distance] += 1


@njit(cache=True, nogil=True)
def sort_by_distance(first, count, step, links, counts, out):
    """Counting sort of the batch's rows that have a next use by its step; `out` lists row numbers."""
    mask = (links.shape[0] >> 1) - 1
    for i in range(count):
        e = (first + i) & mask
        if links[2 * e] >= 0:
            counts[links[2 * e + 1] - step + 1] += 1
    for d in range(1, counts.shape[0]):
        counts[d] += counts[d - 1]
    for i in range(count):
        e = (first + i) & mask
        if links[2 * e] >= 0:
            d = links[2 * e + 1] - step
            out[counts[d]] = i
            counts[d] += 1


@njit(cache=True, nogil=True)
def keep_nearest(first, step, links, uses, room, by_distance, keep):
    """Keep the rows whose next use is nearest, as long as every future step still fits (Belady).

    `room[rank, d]` is what the step d ahead leaves free of the rank's slots. `by_distance` lists the
    batch's rows in order of their next use. A row kept until distance n takes one slot of every
    step in between, at each of its next users; one row more is admitted where
    min(room[x] + rows kept until x or sooner) exceeds the number kept so far. Sets `keep[row]` and
    returns the number of rows refused and the nearest distance at which one was.
    """
    mask = (links.shape[0] >> 1) - 1
    world = room.shape[0]
    kept = np.zeros(world, np.int64)
    least = np.full(world, np.int64(1) << 60, np.int64)
    at = np.int64(1)
    refused = np.int64(0)
    nearest = np.int64(0)
    for j in range(by_distance.shape[0]):
        row = by_distance[j]
        e = (first + row) & mask
        following = np.int64(links[2 * e])
        distance = np.int64(links[2 * e + 1] - step)
        while at < distance:
            for rank in range(world):
                least[rank] = min(least[rank], room[rank, at] + kept[rank])
            at += 1
        begin = following + FIRST
        end = begin + 2 * uses[following + NUMBER]
        fits = True
        for u in range(begin, end, 2):
            rank = uses[u]
            if least[rank] - kept[rank] < 1:
                fits = False
        if fits:
            keep[row] = 1
            for u in range(begin, end, 2):
                kept[uses[u]] += 1
        else:
            if refused == 0:
                nearest = distance
            refused += 1
    return refused, nearest


@njit(cache=True, nogil=True)
def settle_rows(
    release, move, keep, first, count, step, records, links, entry_keys, uses, locals_, tail,
    free, width, num_free, num_fresh, offsets, slots, evict_keys, evict_slots, num_evict,
    gradients, gradient_counts, transfers, transfer_counts, held,
):  # fmt: skip
    """What becomes of each row after its update: gradients, write-backs, transfers, slots.

    With `release`: list every trainer's slots, the gradients that go to owners and the rows to write
    back; pass a slot on where the row stays and its trainer is among the next users, else free it.
    With `move`: give slots to new users and list whom the owner sends the new value. The owner stays
    where it is while it uses the row, else ownership (and optimizer state) moves to one of the next
    users. Both at once is one pass, and takes slots before all are freed; where slots are scarce, call
    it twice. `keep[row]` is set for rows that stay; where it is empty, all that are used again do.

    Rows of `gradients`: (list, local index there, local index here), list = source * world + owner.
    Rows of `transfers`: (list, slot there, slot here), list = (kind * world + source) * world +
    destination; kind is 0 eager value, 1 eager record, 2 deferred value, 3 deferred record. `*_counts`
    count each list; `held` counts, for each rank and distance, rows held until their next use.
    Returns (number of gradients, number of transfers).
    """
    mask = records.shape[0] - 1
    world = num_free.shape[0]
    horizon = held.shape[0] // world
    all_kept = keep.shape[0] == 0
    both = release and move
    place = np.full(world, -1, np.int64)
    exchanged = np.int64(0)
    moved = np.int64(0)
    for i in range(count):
        e = (first + min(i + AHEAD, count - 1)) & mask
        ahead = load(links, 2 * e)
        if ahead >= 0:
            prefetch(uses, ahead)
        else:
            prefetch(tail, load(entry_keys, e))
        e = (first + i) & mask
        at = load(records, e)
        number = load(uses, at + NUMBER)
        begin = at + FIRST
        end = begin + 2 * number
        home = begin + 2 * load(uses, at + HOLDER)
        owner = load(uses, home)
        slot = load(uses, home + 1)
        following = load(links, 2 * e)
        kept = following >= 0 and (all_kept or keep[i] != 0)
        local = load(locals_, (home - FIRST) >> 1)
        if release:
            base = load(offsets, owner)
            if number == 1:
                store(slots, base + local, slot)
            if not kept:
                to = base + load(num_evict, owner)
                store(evict_keys, to, load(entry_keys, e))
                store(evict_slots, to, slot)
                store(num_evict, owner, load(num_evict, owner) + 1)
                if following >= 0:
                    store(uses, following + HOLDER, -2 - step)
                else:
                    store(tail, load(entry_keys, e), -(step + 1))
        v = np.int64(0)
        v_end = np.int64(0)
        heir = np.int64(0)
        distance = np.int64(0)
        if kept:
            users = load(uses, following + NUMBER)
            v = following + FIRST
            v_end = v + 2 * users
            distance = load(links, 2 * e + 1) - step
            if both and (number | users) == 1:
                store(uses, following + HOLDER, 0)
                rank = load(uses, v)
                count_one(held, rank * horizon + distance)
                if rank == owner:
                    store(uses, v + 1, slot)
                else:
                    give_slot(owner, slot, free, width, num_free, 1)
                    target = take_slot(rank, free, width, num_free, num_fresh)
                    store(uses, v + 1, target)
                    chosen = ((1 + 2 * np.int64(distance != 1)) * world + owner) * world + rank
                    append(transfers, transfer_counts, moved, chosen, slot, target, 1)
                    moved += 1
                continue
            heir = v + 2 * pick(load(entry_keys, e), users)
            for w in range(v, v_end, 2):
                rank = load(uses, w)
                store(place, rank, w)
                heir = w if rank == owner else heir
        if release:
            for u in range(begin, end, 2):
                rank = load(uses, u)
                here = load(uses, u + 1)
                if number > 1:
                    there = load(locals_, (u - FIRST) >> 1)
                    store(slots, load(offsets, rank) + there, here)
                    other = np.int64(u != home)
                    append(gradients, gradient_counts, exchanged, rank * world + owner, there, local, other)
                    exchanged += other
                # Where the trainer is not among the next users, its own place is written again.
                w = load(place, rank)
                stays = (w >= v) & (w < v_end)
                store(uses, (w if stays else u) + 1, here)
                give_slot(rank, here, free, width, num_free, 1 - np.int64(stays))
        if move and kept:
            store(uses, following + HOLDER, (heir - v) >> 1)
            kind = 2 * np.int64(distance != 1)
            for w in range(v, v_end, 2):
                rank = load(uses, w)
                count_one(held, rank * horizon + distance)
                target = load(uses, w + 1)
                if target < 0:
                    target = take_slot(rank, free, width, num_free, num_fresh)
                    store(uses, w + 1, target)
                chosen = ((kind + np.int64(w == heir)) * world + owner) * world + rank
                other = np.int64(rank != owner)
                append(transfers, transfer_counts, moved, chosen, slot, target, other)
                moved += other
    return exchanged, moved


@njit(cache=True, nogil=True)
def group_lists(rows, count, counts, kinds, world, sent, sent_offsets, received, received_offsets, starts):
    """Stable counting sort of `count` rows (list, value there, value here) into lists for both ends.

    List number = (kind * world + source) * world + destination. `sent` lists what leaves, ordered by
    (source, kind, destination); `received` what arrives, by (destination, kind, source): each
    trainer's share is one contiguous piece, from `starts[end, trainer * kinds + kind]` on, and
    `*_offsets[trainer * kinds + kind]` are the bounds of its lists from there.
    """
    lists = kinds * world * world
    into_sent = np.empty(lists, np.int64)
    into_received = np.empty(lists, np.int64)
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
                at += counts[leaving]
                back += counts[arriving]
            sent_offsets[piece, world] = at - starts[0, piece]
            received_offsets[piece, world] = back - starts[1, piece]
    starts[0, world * kinds] = at
    starts[1, world * kinds] = back
    for i in range(count):
        number = load(rows, 3 * i)
        to = load(into_sent, number)
        store(sent, to, load(rows, 3 * i + 1))
        store(into_sent, number, to + 1)
        to = load(into_received, number)
        store(received, to, load(rows, 3 * i + 2))
        store(into_received, number, to + 1)
