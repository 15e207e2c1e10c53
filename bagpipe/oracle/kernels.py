"""The planner's inner loops, compiled. They decide nothing that `planner.py` does not describe.

An *entry* is one distinct row in one batch of the window; a *use* is one trainer's share of an entry.
Entries and uses live in two ring buffers, so that an entry number stays valid while its batch is in
the window. `tail[key]` is the only array as long as the tables, 4 bytes a row (contract X9):

    0        the row has never been seen
    e + 1    entry e is the row's latest one in the window
    -(s + 1) the row is not in the window; it was written back after step s

Looking a key up misses the processor's cache almost always, so the loops ask for the lines they will
need a few lookups ahead (`prefetch`): that halves the time of a batch.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Columns of the entry ring [capacity, 8] (32 bytes: half a cache line, one miss).
NEXT = 0  # the same row's next entry, or -1
FIRST_USE = 1  # position of its first use in the use ring; uses are in rank order
NUM_USES = 2
OWNER = 3  # rank that holds the current value before this entry's step, or -1: must be fetched
AFTER = 4  # where it must be fetched: the step after which it was written back, or -1
STEP = 5
KEPT = 6  # the row stays in the caches until NEXT

# Columns of the use ring [capacity, 4].
RANK = 0
LOCAL = 1
SLOT = 2

AHEAD = 24  # lookups between asking for a line and using it


@intrinsic
def prefetch_row(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line that holds `array[index]` (first axis), without waiting for it."""
    signature = types.void(array, index)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0])
        stride = builder.extract_value(view.strides, 0)
        offset = builder.mul(builder.sext(args[1], stride.type) if args[1].type.width < 64 else args[1], stride)
        base = builder.ptrtoint(view.data, ir.IntType(64))
        pointer = builder.inttoptr(builder.add(base, offset), ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32]),
            "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, int32(1), int32(3), int32(1)])
        return context.get_dummy_value()

    return signature, codegen


@njit(cache=True, nogil=True)
def number_rows(keys, bounds, num_rows, tail, first, mask, inverse, latest, previous, row_keys, use_row, rows_of_rank):  # type: ignore[no-untyped-def]
    """Find the distinct rows of a batch and of each trainer's share of it, in order of appearance.

    `keys[bounds[r]:bounds[r+1]]` are rank r's lookups; the batch's i-th distinct row becomes entry
    `first + i`. Whether a row was seen in this batch is read off its entry number alone, so that a
    repeated lookup touches `tail` and one small array. Fills `inverse` (local index of each lookup),
    `row_keys` and `previous` (key and former tail of each distinct row), `use_row` (distinct row of
    each use, by rank, then local index) and `rows_of_rank`. Returns the number of distinct rows, or
    -1 - i where lookup i has a key outside the tables.
    """
    n = keys.shape[0]
    count = 0
    uses = 0
    for rank in range(bounds.shape[0] - 1):
        base = uses
        for i in range(bounds[rank], bounds[rank + 1]):
            key = keys[i]
            if key < 0 or key >= num_rows:
                return -1 - i
            if i + AHEAD < n:
                prefetch_row(tail, keys[i + AHEAD])
            seen = np.int64(tail[key])
            row = (seen - 1 - first) & mask
            if seen <= 0 or row >= count:
                row = count
                count += 1
                previous[row] = seen
                row_keys[row] = key
                latest[row] = -1
                tail[key] = ((first + row) & mask) + 1
            use = latest[row]
            if use < base:
                use = uses
                use_row[use] = row
                latest[row] = use
                uses += 1
            inverse[i] = use - base
        rows_of_rank[rank] = uses - base
    return count


@njit(cache=True, nogil=True)
def enter_rows(  # type: ignore[no-untyped-def]
    first, count, step, entries, entry_keys, uses, use_position, previous, row_keys, use_row, rows_of_rank, fill,
):
    """Make the batch's entries, link each row's former entry to its new one, lay out the uses.

    An entry's uses lie side by side in rank order and never wrap around the ring's end, because they
    are walked by position. Returns the number of places taken in the use ring.
    """
    mask = entries.shape[0] - 1
    umask = uses.shape[0] - 1
    total = 0
    for rank in range(rows_of_rank.shape[0]):
        total += rows_of_rank[rank]
    for row in range(count):
        fill[row] = 0
    for u in range(total):
        fill[use_row[u]] += 1
    position = use_position
    for row in range(count):
        if row + AHEAD < count and previous[row + AHEAD] > 0:
            prefetch_row(entries, np.int64(previous[row + AHEAD] - 1))
        e = (first + row) & mask
        number = fill[row]
        if (position & umask) + number > umask + 1:
            position = (position | umask) + 1
        seen = previous[row]
        if seen > 0:
            entries[seen - 1, NEXT] = e
        entry_keys[e] = row_keys[row]
        entries[e, NEXT] = -1
        entries[e, FIRST_USE] = position & umask
        entries[e, NUM_USES] = number
        entries[e, OWNER] = -1
        entries[e, AFTER] = -1 if seen > 0 else -seen - 1
        entries[e, STEP] = step
        fill[row] = position & umask
        position += number
    u = 0
    for rank in range(rows_of_rank.shape[0]):
        for local in range(rows_of_rank[rank]):
            row = use_row[u]
            p = fill[row]
            fill[row] = p + 1
            uses[p, RANK] = rank
            uses[p, LOCAL] = local
            uses[p, SLOT] = -1
            u += 1
    return position - use_position


@njit(cache=True, nogil=True)
def mix(key):  # type: ignore[no-untyped-def]
    """A well-mixed non-negative number from a key: spreads ownership evenly and reproducibly."""
    x = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return np.int64(x >> np.uint64(33))


@njit(cache=True, nogil=True)
def take_slot(rank, free, num_free, num_fresh):  # type: ignore[no-untyped-def]
    """The most recently released slot, else one never used: the touched part of a cache stays small."""
    if num_free[rank] > 0:
        num_free[rank] -= 1
        return free[rank, num_free[rank]]
    slot = num_fresh[rank]
    num_fresh[rank] += 1
    return slot


@njit(cache=True, nogil=True)
def fetch_rows(  # type: ignore[no-untyped-def]
    first, count, entries, entry_keys, uses, free, num_free, num_fresh,
    offsets, slots, record_keys, record_slots, num_records, value_keys, value_slots, num_values, after,
):
    """Give a slot to every row of the step that is in no cache, choose its owner, list what to fetch."""
    mask = entries.shape[0] - 1
    for i in range(count):
        e = (first + i) & mask
        start = entries[e, FIRST_USE]
        number = entries[e, NUM_USES]
        if entries[e, OWNER] < 0:
            key = entry_keys[e]
            chosen = start + mix(key) % number
            entries[e, OWNER] = uses[chosen, RANK]
            for u in range(start, start + number):
                rank = uses[u, RANK]
                slot = take_slot(rank, free, num_free, num_fresh)
                uses[u, SLOT] = slot
                at = offsets[rank]
                if u == chosen:
                    at += num_records[rank]
                    record_keys[at] = key
                    record_slots[at] = slot
                    num_records[rank] += 1
                else:
                    at += num_values[rank]
                    value_keys[at] = key
                    value_slots[at] = slot
                    num_values[rank] += 1
                if entries[e, AFTER] > after[rank]:
                    after[rank] = entries[e, AFTER]
        for u in range(start, start + number):
            slots[offsets[uses[u, RANK]] + uses[u, LOCAL]] = uses[u, SLOT]


@njit(cache=True, nogil=True)
def count_next(first, count, step, entries, uses, candidates):  # type: ignore[no-untyped-def]
    """`candidates[rank, d]`: rows that rank would hold from now until their next use, d steps ahead."""
    mask = entries.shape[0] - 1
    for i in range(count):
        e = (first + i) & mask
        following = entries[e, NEXT]
        if following >= 0:
            start = entries[following, FIRST_USE]
            distance = entries[following, STEP] - step
            for u in range(start, start + entries[following, NUM_USES]):
                candidates[uses[u, RANK], distance] += 1


@njit(cache=True, nogil=True)
def keep_all(first, count, entries):  # type: ignore[no-untyped-def]
    """Every row that is used again within the window stays."""
    mask = entries.shape[0] - 1
    for i in range(count):
        e = (first + i) & mask
        entries[e, KEPT] = np.int32(1) if entries[e, NEXT] >= 0 else np.int32(0)


@njit(cache=True, nogil=True)
def keep_nearest(first, count, step, entries, uses, room, by_distance):  # type: ignore[no-untyped-def]
    """Keep the rows whose next use is nearest, as long as every future step still fits (Belady).

    `room[rank, d]` is what the step d ahead leaves free of the rank's slots. `by_distance` lists the
    batch's entries in order of their next use. A row kept until distance n takes one slot of every
    step in between, at each of its next users; one row more is admitted where
    min(room[x] + rows kept until x or sooner) exceeds the number kept so far. Returns the number of
    rows refused and the nearest distance at which one was.
    """
    mask = entries.shape[0] - 1
    world = room.shape[0]
    kept = np.zeros(world, np.int64)
    least = np.full(world, np.int64(1) << 60, np.int64)
    at = np.int64(1)
    refused = np.int64(0)
    nearest = np.int64(0)
    for j in range(by_distance.shape[0]):
        e = by_distance[j]
        following = entries[e, NEXT]
        distance = np.int64(entries[following, STEP] - step)
        while at < distance:
            for rank in range(world):
                least[rank] = min(least[rank], room[rank, at] + kept[rank])
            at += 1
        start = entries[following, FIRST_USE]
        end = start + entries[following, NUM_USES]
        fits = True
        for u in range(start, end):
            rank = uses[u, RANK]
            if least[rank] - kept[rank] < 1:
                fits = False
        entries[e, KEPT] = np.int32(1) if fits else np.int32(0)
        if fits:
            for u in range(start, end):
                kept[uses[u, RANK]] += 1
        else:
            if refused == 0:
                nearest = distance
            refused += 1
    return refused, nearest


@njit(cache=True, nogil=True)
def sort_by_distance(first, count, step, entries, counts, out):  # type: ignore[no-untyped-def]
    """Counting sort of the batch's entries by the step of their next use; the others are marked gone."""
    mask = entries.shape[0] - 1
    for i in range(count):
        e = (first + i) & mask
        following = entries[e, NEXT]
        if following >= 0:
            counts[entries[following, STEP] - step + 1] += 1
        else:
            entries[e, KEPT] = 0
    for d in range(1, counts.shape[0]):
        counts[d] += counts[d - 1]
    for i in range(count):
        e = (first + i) & mask
        following = entries[e, NEXT]
        if following >= 0:
            d = entries[following, STEP] - step
            out[counts[d]] = e
            counts[d] += 1


@njit(cache=True, nogil=True)
def settle_rows(  # type: ignore[no-untyped-def]
    release, move, first, count, step, entries, entry_keys, uses, tail, free, num_free, num_fresh,
    offsets, update, num_update, evict_keys, evict_slots, num_evict,
    gradients, gradient_counts, transfers, transfer_counts, held,
):
    """What becomes of each row after its update: gradients, write-backs, transfers, slots.

    With `release`: list the gradients that go to owners and the rows to write back; pass a slot on
    where the row stays and its trainer is among the next users, else free it. With `move`: give slots
    to new users and list whom the owner sends the new value. The owner stays where it is while it uses
    the row, else ownership (and optimizer state) moves to one of the next users. Both at once is one
    pass, and takes slots before all are freed; where slots are scarce, call it twice.

    Rows of `gradients`: (list, local index there, local index here), list = source * world + owner.
    Rows of `transfers`: (list, slot there, slot here), list = (kind * world + source) * world +
    destination; kind is 0 eager value, 1 eager record, 2 deferred value, 3 deferred record. `*_counts`
    count each list; `held[rank, d]` counts rows held until their next use d steps ahead.
    Returns (number of gradients, number of transfers, bound on the transfers of a later `move`).
    """
    mask = entries.shape[0] - 1
    world = num_free.shape[0]
    exchanged = 0
    moved = 0
    bound = 0
    for i in range(count):
        if i + AHEAD < count:
            ahead = entries[(first + i + AHEAD) & mask, NEXT]
            if ahead >= 0:
                prefetch_row(entries, np.int64(ahead))
        if i + AHEAD // 2 < count:
            ahead = entries[(first + i + AHEAD // 2) & mask, NEXT]
            if ahead >= 0:
                prefetch_row(uses, np.int64(entries[ahead, FIRST_USE]))
        e = (first + i) & mask
        start = entries[e, FIRST_USE]
        end = start + entries[e, NUM_USES]
        owner = entries[e, OWNER]
        home = start
        while uses[home, RANK] != owner:
            home += 1
        slot = uses[home, SLOT]
        following = entries[e, NEXT]
        kept = entries[e, KEPT] != 0
        if release:
            local = uses[home, LOCAL]
            update[offsets[owner] + num_update[owner]] = local
            num_update[owner] += 1
            for u in range(start, end):
                if u != home:
                    pair = uses[u, RANK] * world + owner
                    gradients[exchanged, 0] = pair
                    gradients[exchanged, 1] = uses[u, LOCAL]
                    gradients[exchanged, 2] = local
                    gradient_counts[pair] += 1
                    exchanged += 1
            if not kept:
                at = offsets[owner] + num_evict[owner]
                evict_keys[at] = entry_keys[e]
                evict_slots[at] = slot
                num_evict[owner] += 1
                if following >= 0:
                    entries[following, OWNER] = -1
                    entries[following, AFTER] = step
                else:
                    tail[entry_keys[e]] = -(step + 1)
        if not kept:
            if release:
                for u in range(start, end):
                    rank = uses[u, RANK]
                    free[rank, num_free[rank]] = uses[u, SLOT]
                    num_free[rank] += 1
            continue
        v = entries[following, FIRST_USE]
        number = entries[following, NUM_USES]
        v_end = v + number
        if release:
            bound += number
            w = v
            for u in range(start, end):
                rank = uses[u, RANK]
                while w < v_end and uses[w, RANK] < rank:
                    w += 1
                if w < v_end and uses[w, RANK] == rank:
                    uses[w, SLOT] = uses[u, SLOT]
                else:
                    free[rank, num_free[rank]] = uses[u, SLOT]
                    num_free[rank] += 1
        if move:
            distance = entries[following, STEP] - step
            heir = np.int32(-1)
            for w in range(v, v_end):
                if uses[w, RANK] == owner:
                    heir = owner
            if heir < 0:
                heir = uses[v + mix(entry_keys[e]) % number, RANK]
            entries[following, OWNER] = heir
            for w in range(v, v_end):
                rank = uses[w, RANK]
                held[rank, distance] += 1
                if uses[w, SLOT] < 0:
                    uses[w, SLOT] = take_slot(rank, free, num_free, num_fresh)
                if rank != owner:
                    kind = (0 if distance == 1 else 2) + (1 if rank == heir else 0)
                    chosen = (kind * world + owner) * world + rank
                    transfers[moved, 0] = chosen
                    transfers[moved, 1] = slot
                    transfers[moved, 2] = uses[w, SLOT]
                    transfer_counts[chosen] += 1
                    moved += 1
    return exchanged, moved, bound


@njit(cache=True, nogil=True)
def group_lists(rows, count, counts, kinds, world, sent, sent_offsets, received, received_offsets):  # type: ignore[no-untyped-def]
    """Stable counting sort of `rows[:count]` (list, value there, value here) into lists for both ends.

    List number = (kind * world + source) * world + destination. `sent` lists what leaves, ordered by
    (source, kind, destination); `received` what arrives, by (destination, kind, source): each
    trainer's share is one contiguous piece. Offsets have kinds * world * world + 1 elements.
    """
    lists = kinds * world * world
    into_sent = np.empty(lists, np.int64)
    into_received = np.empty(lists, np.int64)
    at = np.int64(0)
    back = np.int64(0)
    position = 0
    for a in range(world):
        for kind in range(kinds):
            for b in range(world):
                leaving = (kind * world + a) * world + b
                arriving = (kind * world + b) * world + a
                sent_offsets[position] = at
                received_offsets[position] = back
                into_sent[leaving] = at
                into_received[arriving] = back
                at += counts[leaving]
                back += counts[arriving]
                position += 1
    sent_offsets[position] = at
    received_offsets[position] = back
    for i in range(count):
        number = rows[i, 0]
        sent[into_sent[number]] = rows[i, 1]
        into_sent[number] += 1
        received[into_received[number]] = rows[i, 2]
        into_received[number] += 1


@njit(cache=True, nogil=True)
def resident_rows(first, end, entries, entry_keys, uses, keys, slots, ranks):  # type: ignore[no-untyped-def]
    """Every row now held by a cache, with its owner and slot: what a checkpoint must also save."""
    mask = entries.shape[0] - 1
    found = 0
    for number in range(first, end):
        e = number & mask
        owner = entries[e, OWNER]
        if owner >= 0:
            u = entries[e, FIRST_USE]
            while uses[u, RANK] != owner:
                u += 1
            keys[found] = entry_keys[e]
            slots[found] = uses[u, SLOT]
            ranks[found] = owner
            found += 1
    return found


@njit(cache=True, nogil=True)
def grow_entries(entries, entry_keys, lo, hi, wide, wide_keys, tail):  # type: ignore[no-untyped-def]
    """Copy the living entries into a wider ring and renumber what points to them."""
    mask = entries.shape[0] - 1
    wide_mask = wide.shape[0] - 1
    for number in range(lo, hi):
        e = number & mask
        w = number & wide_mask
        for c in range(entries.shape[1]):
            wide[w, c] = entries[e, c]
        wide_keys[w] = entry_keys[e]
        following = entries[e, NEXT]
        if following >= 0:
            wide[w, NEXT] = (lo + ((following - lo) & mask)) & wide_mask
        else:
            tail[entry_keys[e]] = w + 1


@njit(cache=True, nogil=True)
def move_uses(first, count, entries, uses, wide, position):  # type: ignore[no-untyped-def]
    """Copy the uses of one batch's entries into a wider ring; returns the position after the last."""
    mask = entries.shape[0] - 1
    wide_mask = wide.shape[0] - 1
    for number in range(first, first + count):
        e = number & mask
        length = entries[e, NUM_USES]
        if (position & wide_mask) + length > wide_mask + 1:
            position = (position | wide_mask) + 1
        start = entries[e, FIRST_USE]
        for k in range(length):
            for c in range(uses.shape[1]):
                wide[(position & wide_mask) + k, c] = uses[start + k, c]
        entries[e, FIRST_USE] = position & wide_mask
        position += length
    return position
