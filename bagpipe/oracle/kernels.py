"""The planner's inner loops, compiled. They decide nothing that `planner.py` does not describe.

An *entry* is one distinct row in one batch of the window; a *use* is one trainer's share of an entry.
Both live in ring buffers whose sizes are powers of two, so that an entry number stays valid while its
batch is in the window. `tail[key]` is the only array as long as the tables, 4 bytes a row (contract X9):

    0        the row has never been seen
    e + 1    entry e is the row's latest one in the window
    -(s + 1) the row is not in the window; it was written back after step s

An entry has a key, a *link* to the same row's next entry, and a *record* in the ring `uses`:

    links[2e], links[2e + 1]       record of the next entry (-1: none in the window), and its step
    uses[p + HOLDER]               which of its users holds the current value before the step, or
                                   -2 - a: it must be fetched, once step a is written back (-1: at once)
    uses[p + NUMBER]               how many trainers use it
    uses[p + FIRST + 2k], [.. + 1] rank of the k-th, in rank order, and its slot (-1: none yet)
    locals_[p // 2 + k]            local index of the row at the k-th user

Everything that a step reads of its own rows is read in order; what it reads or writes of other steps'
rows misses the processor's cache almost always. The layout makes that one line a row, when a batch is
pushed (the former entry's link) and when it is planned (the next entry's record), and the loops ask
for these lines `AHEAD` rows before they need them. Records are multiples of 16 bytes, hence that of a
row with one user never straddles two lines. Loops avoid branches that data decides at random: a
misprediction costs as much as ten lines of this code.
"""

import numpy as np
from numba import njit

from bagpipe.oracle.memory import load, prefetch, store

# Places in a record.
HOLDER = 0
NUMBER = 1
FIRST = 2

AHEAD = 24  # lookups or rows between asking for a line and using it


@njit(cache=True, nogil=True)
def number_rows(  # type: ignore[no-untyped-def]
    keys, bounds, num_rows, tail, first, mask,
    inverse, latest, previous, row_keys, first_local, more_rows, more_local, sizes,
):
    """Find the distinct rows of a batch and of each trainer's share of it, in order of appearance.

    `keys[bounds[r]:bounds[r+1]]` are rank r's lookups; the batch's i-th distinct row becomes entry
    `first + i`. Whether a row was seen in this batch is read off its entry number alone, so that a
    repeated lookup touches `tail` and one small array.

    Fills `inverse` (local index of each lookup); for each distinct row its key, `previous` tail and
    local index at its first user; for each further use, in rank order, its row and local index. Rows
    first used by rank r end before `sizes[0, r]`, its further uses before `sizes[1, r]`, and it has
    `sizes[2, r]` rows in all. Returns the number of distinct rows, or -1 - i where lookup i has a key
    outside the tables.

    A repeated row is a further use or not at random, so the same stores are made either way: those
    that do not count are overwritten by the next that does. The last two arrays have one element more
    than there are lookups.
    """
    n = keys.shape[0]
    count = np.int64(0)
    more = np.int64(0)
    total = np.int64(0)
    for rank in range(bounds.shape[0] - 1):
        base = total
        for i in range(bounds[rank], bounds[rank + 1]):
            key = load(keys, i)
            if np.uint64(key) >= np.uint64(num_rows):
                return -1 - i
            prefetch(tail, load(keys, min(i + AHEAD, n - 1)))
            seen = load(tail, key)
            row = (seen - 1 - first) & mask
            if (seen <= 0) | (row >= count):
                store(tail, key, ((first + count) & mask) + 1)
                store(previous, count, seen)
                store(row_keys, count, key)
                store(latest, count, total)
                store(first_local, count, total - base)
                store(inverse, i, total - base)
                count += 1
                total += 1
            else:
                use = load(latest, row)
                fresh = np.int64(use < base)
                use ^= (use ^ total) & -fresh
                store(latest, row, use)
                store(inverse, i, use - base)
                store(more_rows, more, row)
                store(more_local, more, use - base)
                more += fresh
                total += fresh
        sizes[0, rank] = count
        sizes[1, rank] = more
        sizes[2, rank] = total - base
    return count


@njit(cache=True, nogil=True)
def enter_rows(  # type: ignore[no-untyped-def]
    first, count, step, records, links, entry_keys, uses, locals_, position,
    previous, row_keys, first_local, more_rows, more_local, sizes, fill,
):
    """Make the batch's entries and their records, link each row's former entry to its new one.

    A record never wraps around the ring's end, because it is walked by position. Returns the number
    of places taken in the ring of uses.
    """
    mask = records.shape[0] - 1
    umask = uses.shape[0] - 1
    begin = position
    world = sizes.shape[1]
    fill[:count] = 1
    for u in range(sizes[1, world - 1]):
        row = load(more_rows, u)
        store(fill, row, load(fill, row) + 1)
    row_begin = np.int64(0)
    for rank in range(world):
        for row in range(row_begin, sizes[0, rank]):
            ahead = load(previous, min(row + AHEAD, count - 1))
            prefetch(links, 2 * max(ahead - 1, 0))
            number = load(fill, row)
            length = record_length(number)
            if (position & umask) + length > umask + 1:
                position = (position | umask) + 1
            at = position & umask
            position += length
            seen = load(previous, row)
            if seen > 0:
                store(links, 2 * (seen - 1), at)
                store(links, 2 * (seen - 1) + 1, step)
            e = (first + row) & mask
            store(records, e, at)
            store(links, 2 * e, -1)
            store(entry_keys, e, load(row_keys, row))
            store(uses, at + HOLDER, -1 if seen > 0 else seen - 1)
            store(uses, at + NUMBER, number)
            store(uses, at + FIRST, rank)
            store(uses, at + FIRST + 1, -1)
            store(locals_, at >> 1, load(first_local, row))
            store(fill, row, at)
        row_begin = sizes[0, rank]
    u = np.int64(0)
    for rank in range(world):
        while u < sizes[1, rank]:
            # The record's cursor counts uses in steps of two places, as the record itself does.
            row = load(more_rows, u)
            at = load(fill, row) + 2
            store(fill, row, at)
            store(uses, at + FIRST, rank)
            store(uses, at + FIRST + 1, -1)
            store(locals_, at >> 1, load(more_local, u))
            u += 1
    return position - begin


@njit(cache=True, nogil=True, inline="always")
def record_length(number):  # type: ignore[no-untyped-def]
    """Places of a record of so many uses: a multiple of four."""
    return (FIRST + 2 * number + 3) & ~3


@njit(cache=True, nogil=True, inline="always")
def pick(key, number):  # type: ignore[no-untyped-def]
    """One of so many users, spread evenly over keys and reproducible: the top bits of a mixed key."""
    x = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return (np.int64(x >> np.uint64(33)) * number) >> 31


@njit(cache=True, nogil=True, inline="always")
def take_slot(rank, free, width, num_free, num_fresh):  # type: ignore[no-untyped-def]
    """The most recently released slot, else one never used: the touched part of a cache stays small."""
    left = load(num_free, rank) - 1
    if left >= 0:
        store(num_free, rank, left)
        return load(free, rank * width + left)
    slot = load(num_fresh, rank)
    store(num_fresh, rank, slot + 1)
    return slot


@njit(cache=True, nogil=True, inline="always")
def give_slot(rank, slot, free, width, num_free, really):  # type: ignore[no-untyped-def]
    """Release a slot (`really` 1) or change nothing that counts (0), without a branch."""
    left = load(num_free, rank)
    store(free, rank * width + left, slot)
    store(num_free, rank, left + really)


@njit(cache=True, nogil=True, inline="always")
def append(rows, counts, total, number, there, here, really):  # type: ignore[no-untyped-def]
    """Put a row of list `number` at the end (`really` 1), or where the next will be (0)."""
    store(rows, 3 * total, number)
    store(rows, 3 * total + 1, there)
    store(rows, 3 * total + 2, here)
    store(counts, number, load(counts, number) + really)


@njit(cache=True, nogil=True, inline="always")
def count_one(counts, at):  # type: ignore[no-untyped-def]
    store(counts, at, load(counts, at) + 1)


@njit(cache=True, nogil=True)
def fetch_rows(  # type: ignore[no-untyped-def]
    first, count, records, entry_keys, uses, free, width, num_free, num_fresh,
    offsets, record_keys, record_slots, num_records, value_keys, value_slots, num_values, after,
):
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
def count_next(first, count, step, links, uses, candidates):  # type: ignore[no-untyped-def]
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
def sort_by_distance(first, count, step, links, counts, out):  # type: ignore[no-untyped-def]
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
def keep_nearest(first, step, links, uses, room, by_distance, keep):  # type: ignore[no-untyped-def]
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
def settle_rows(  # type: ignore[no-untyped-def]
    release, move, keep, first, count, step, records, links, entry_keys, uses, locals_, tail,
    free, width, num_free, num_fresh, offsets, slots, update, num_update, evict_keys, evict_slots, num_evict,
    gradients, gradient_counts, transfers, transfer_counts, held,
):
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
            updated = load(num_update, owner)
            store(update, base + updated, local)
            store(num_update, owner, updated + 1)
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
def group_lists(rows, count, counts, kinds, world, sent, sent_offsets, received, received_offsets, starts):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True)
def resident_rows(first, end, records, entry_keys, uses, keys, slots, ranks):  # type: ignore[no-untyped-def]
    """Every row now held by a cache, with its owner and slot: what a checkpoint must also save."""
    mask = records.shape[0] - 1
    found = 0
    for number in range(first, end):
        e = number & mask
        at = np.int64(records[e])
        holder = uses[at + HOLDER]
        if holder >= 0:
            u = at + FIRST + 2 * holder
            keys[found] = entry_keys[e]
            slots[found] = uses[u + 1]
            ranks[found] = uses[u]
            found += 1
    return found


@njit(cache=True, nogil=True)
def grow_entries(records, links, entry_keys, low, high, wide_records, wide_links, wide_keys, tail):  # type: ignore[no-untyped-def]
    """Copy the living entries into wider rings and renumber what points to them."""
    mask = records.shape[0] - 1
    wide_mask = wide_records.shape[0] - 1
    for number in range(low, high):
        e = number & mask
        w = number & wide_mask
        wide_records[w] = records[e]
        wide_links[2 * w] = links[2 * e]
        wide_links[2 * w + 1] = links[2 * e + 1]
        wide_keys[w] = entry_keys[e]
        if links[2 * e] < 0:
            tail[entry_keys[e]] = w + 1


@njit(cache=True, nogil=True)
def move_uses(firsts, records, links, uses, locals_, wide, wide_locals):  # type: ignore[no-untyped-def]
    """Copy the records of the batches that begin at entries `firsts` (and the end) into a wider ring.

    The new position of a record is left in the old one's HOLDER for the link that leads to it.
    Returns the position before each batch, and after the last.
    """
    mask = records.shape[0] - 1
    bounds = np.zeros(firsts.shape[0], np.int64)
    position = np.int64(0)
    for b in range(firsts.shape[0] - 1):
        for number in range(firsts[b], firsts[b + 1]):
            e = number & mask
            at = np.int64(records[e])
            length = record_length(np.int64(uses[at + NUMBER]))
            wide[position : position + length] = uses[at : at + length]
            wide_locals[position >> 1 : (position + length) >> 1] = locals_[at >> 1 : (at + length) >> 1]
            uses[at + HOLDER] = position
            records[e] = position
            position += length
        bounds[b + 1] = position
    for number in range(firsts[0], firsts[-1]):
        e = number & mask
        if links[2 * e] >= 0:
            links[2 * e] = uses[links[2 * e] + HOLDER]
    return bounds
