"""How the batches in view lie in memory, and the compiled loops that put them there and grow it.

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
row with one user never straddles two lines.
"""

import numpy as np
from numba import njit

from bagpipe.lowlevel.intrinsics import load, prefetch, store

# Places in a record.
HOLDER = 0
NUMBER = 1
FIRST = 2

AHEAD = 24  # lookups or rows between asking for a line and using it


@njit(cache=True, nogil=True, inline="always")
def record_length(number):
    """Places of a record of so many uses: a multiple of four."""
    return (FIRST + 2 * number + 3) & ~3


@njit(cache=True, nogil=True)
def number_rows(
    keys, bounds, num_rows, tail, first, mask,
    inverse, latest, previous, row_keys, first_local, more_rows, more_local, sizes,
):  # fmt: skip
    """Find the distinct rows of a batch and of each trainer's share of it, in order of appearance.

    `keys[bounds[r]:bounds[r+1]]` are rank r's lookups; the batch's i-th distinct row becomes entry
    `first + i`. Whether a row was seen in this batch is read off its entry number alone, so that a
    repeated lookup touches `tail` and one small array.

    Fills `inverse` (local index of each lookup); for each distinct row its key, `previous` tail and
    local index at its first user; for each further use, in rank order, its row and local index. Rows
    first used by rank r end before `sizes[0, r]`, its further uses before `sizes[1, r]`, and it has
    `sizes[2, r]` rows in all. Returns the number of lookups that were numbered: all, or those before the
    first one whose key is outside the tables, whose trainer's rows then end before `sizes[0, r]` too.

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
                sizes[0, rank] = count
                return i
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
    return n


@njit(cache=True, nogil=True)
def forget_rows(count, previous, row_keys, tail):
    """Undo what `number_rows` wrote into `tail`."""
    for row in range(count):
        tail[row_keys[row]] = previous[row]


@njit(cache=True, nogil=True)
def enter_rows(
    first, count, step, records, links, entry_keys, uses, locals_, position,
    previous, row_keys, first_local, more_rows, more_local, sizes, fill,
):  # fmt: skip
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


@njit(cache=True, nogil=True)
def resident_rows(first, end, records, entry_keys, uses, keys, slots, ranks):
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
def grow_entries(records, links, entry_keys, low, high, wide_records, wide_links, wide_keys, tail):
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
def move_uses(firsts, records, links, uses, locals_, wide, wide_locals):
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
