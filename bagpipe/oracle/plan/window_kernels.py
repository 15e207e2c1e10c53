"""How do the batches in view lie in memory? The layout, and the compiled loops that fill it and enlarge it.

An *entry* is one distinct row in one batch of the window. Its *use list* names the trainers that use the row there.
Entries and use lists lie in ring buffers whose sizes are powers of two, so that an entry's number stays valid while its
batch is in the window. `last_seen[key]` is the only array that is as long as the tables, 4 bytes a row (contract X9):

    0        no batch has named the row yet
    e + 1    entry e is the row's latest one in the window
    -(s + 1) the row is not in the window; it was written back after step s

For entry e the rings hold

    keys[e]                        its row
    lists[e]                       p, the position of its use list in `uses`
    links[2e], links[2e + 1]       position of the use list of the row's next entry (-1: none in view), and its step

and the use list at position p is

    uses[p + OWNER]                which user has the row's newest value when the step begins (k, as below), or
                                   -2 - a: no cache holds the row; fetch it once step a is written back (-1: at once)
    uses[p + NUM_USERS]            how many trainers use the row in this step
    uses[p + FIRST + 2k], [.. + 1] rank of the k-th of them, in rank order, and the row's slot there (-1: none yet)
    local_indices[p // 2 + k]      local index of the row at the k-th of them

Everything that a step reads of its own rows is read in order. What it reads or writes of other steps' rows is almost
always missing from the processor's cache. The layout makes that one cache line a row, both when a batch is pushed (the
former entry's link) and when it is planned (the next entry's use list), and the loops ask for these lines `AHEAD` rows
before they need them. Use lists are multiples of 16 bytes long, hence that of a row with one user never straddles two
lines.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Keys
from bagpipe.lowlevel.intrinsics import load, prefetch, store

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

# Places in a use list.
OWNER = 0
NUM_USERS = 1
FIRST = 2

ALLOCATING: dict[str, Any] = {"cache": True, "nogil": True}
COMPILED: dict[str, Any] = {**ALLOCATING, "_nrt": False}
"""How most kernels are compiled. They allocate nothing, and without numba's counting of references (`_nrt`) it costs
nothing to hand them their arrays in named tuples; with it, several counts would change at every row."""
INLINED: dict[str, Any] = {**COMPILED, "inline": "always"}
"""Small parts of kernels, copied into them before types are known."""
PART: dict[str, Any] = {"nogil": True, "_nrt": False, "forceinline": True}
"""Larger parts of kernels, compiled once and copied as machine code, which takes less time to compile."""

AHEAD = 24  # lookups or rows between asking for a line and using it


class Rings(NamedTuple):
    """The window in memory, as the docstring of this file describes it."""

    last_seen: Int32s
    keys: Keys
    lists: Int32s
    links: Int32s
    uses: Int32s
    local_indices: Int32s


class Distinct(NamedTuple):
    """The distinct rows of one batch, in order of appearance. The last three arrays are by rank."""

    keys: Keys
    seen_before: Int32s
    """What `last_seen` said of the row before this batch."""
    local_index: Int32s
    """At the row's first user."""
    more_rows: Int32s
    """Further uses, in rank order: each one's row, as its place in this batch, ..."""
    more_local_index: Int32s
    """... and its local index at that user."""
    scratch: Int32s
    rows_end: Int64s
    """Rows that trainer r is the first to use end before `rows_end[r]`."""
    more_end: Int64s
    """Further uses by trainer r end before `more_end[r]`."""
    rows_of_rank: Int64s
    """How many distinct rows each trainer uses."""


@njit(**INLINED)
def use_list_length(num_users):
    """Places of a use list: a multiple of four."""
    return (FIRST + 2 * num_users + 3) & ~3


@njit(**COMPILED)
def number_rows(keys, bounds, first, rings, distinct, inverse):
    """Find the distinct rows of a batch and of each trainer's share of it, in order of appearance.

    `keys[bounds[r]:bounds[r+1]]` are trainer r's lookups; the batch's i-th distinct row becomes entry `first + i`.
    Fills `distinct`, and `inverse` with the local index of each lookup. Returns the number of lookups that were
    numbered: all, or those before the first one whose key is outside the tables.

    Whether this batch has named a row before is read off its entry number alone, so that a repeated lookup touches
    `last_seen` and one small array. A repeated row is a further use or not at random, so the same stores are made
    either way: those that do not count are overwritten by the next that does. The arrays of further uses have one
    element more than there are lookups.
    """
    last_seen, row_keys, seen_before = rings.last_seen, distinct.keys, distinct.seen_before
    more_rows, more_local_index, latest_use = distinct.more_rows, distinct.more_local_index, distinct.scratch
    mask = rings.lists.shape[0] - 1
    n, num_rows = keys.shape[0], np.uint64(last_seen.shape[0])
    count = more = total = np.int64(0)
    for rank in range(bounds.shape[0] - 1):
        base = total
        for i in range(bounds[rank], bounds[rank + 1]):
            key = load(keys, i)
            if np.uint64(key) >= num_rows:
                distinct.rows_end[rank] = count
                return i
            prefetch(last_seen, load(keys, min(i + AHEAD, n - 1)))
            seen = load(last_seen, key)
            row = (seen - 1 - first) & mask
            if (seen <= 0) | (row >= count):
                store(last_seen, key, ((first + count) & mask) + 1)
                store(seen_before, count, seen)
                store(row_keys, count, key)
                store(latest_use, count, total)
                store(distinct.local_index, count, total - base)
                store(inverse, i, total - base)
                count += 1
                total += 1
            else:
                use = load(latest_use, row)
                is_further = np.int64(use < base)
                use ^= (use ^ total) & -is_further
                store(latest_use, row, use)
                store(inverse, i, use - base)
                store(more_rows, more, row)
                store(more_local_index, more, use - base)
                more += is_further
                total += is_further
        distinct.rows_end[rank] = count
        distinct.more_end[rank] = more
        distinct.rows_of_rank[rank] = total - base
    return n


@njit(**COMPILED)
def forget_rows(count, distinct, rings):
    """Undo what `number_rows` wrote into `last_seen`."""
    for row in range(count):
        rings.last_seen[distinct.keys[row]] = distinct.seen_before[row]


@njit(**COMPILED)
def enter_rows(first, count, step, position, rings, distinct):
    """Make the batch's entries and their use lists; link each row's former entry to its new one.

    A use list never wraps around the ring's end, because it is walked by position. Returns the position after the last.
    """
    num_users = distinct.scratch
    world = distinct.rows_end.shape[0]
    for row in range(count):
        num_users[row] = 1
    for u in range(distinct.more_end[world - 1]):
        row = load(distinct.more_rows, u)
        store(num_users, row, load(num_users, row) + 1)
    row_begin = np.int64(0)
    for rank in range(world):
        for row in range(row_begin, distinct.rows_end[rank]):
            prefetch_link(row, count, rings, distinct)
            length = use_list_length(load(num_users, row))
            mask = rings.uses.shape[0] - 1
            if (position & mask) + length > mask + 1:
                position = (position | mask) + 1
            enter_row(row, rank, first, step, position & mask, rings, distinct)
            position += length
        row_begin = distinct.rows_end[rank]
    add_further_users(rings, distinct)
    return position


@njit(**INLINED)
def prefetch_link(row, count, rings, distinct):
    ahead = load(distinct.seen_before, min(row + AHEAD, count - 1))
    prefetch(rings.links, 2 * max(ahead - 1, 0))


@njit(**INLINED)
def enter_row(row, rank, first, step, at, rings, distinct):
    """Make one entry whose use list, at `at`, names its first user. `scratch` then says where the list is."""
    entry = (first + row) & (rings.lists.shape[0] - 1)
    seen = load(distinct.seen_before, row)
    if seen > 0:
        store(rings.links, 2 * (seen - 1), at)
        store(rings.links, 2 * (seen - 1) + 1, step)
    store(rings.lists, entry, at)
    store(rings.links, 2 * entry, -1)
    store(rings.keys, entry, load(distinct.keys, row))
    store(rings.uses, at + OWNER, -1 if seen > 0 else seen - 1)
    store(rings.uses, at + NUM_USERS, load(distinct.scratch, row))
    store(rings.uses, at + FIRST, rank)
    store(rings.uses, at + FIRST + 1, -1)
    store(rings.local_indices, at >> 1, load(distinct.local_index, row))
    store(distinct.scratch, row, at)


@njit(**COMPILED)
def add_further_users(rings, distinct):
    """Complete the use lists that `enter_row` made; `scratch` holds a cursor into each."""
    u = np.int64(0)
    for rank in range(distinct.more_end.shape[0]):
        while u < distinct.more_end[rank]:
            # The cursor counts users in steps of two places, as the use list itself does.
            row = load(distinct.more_rows, u)
            at = load(distinct.scratch, row) + 2
            store(distinct.scratch, row, at)
            store(rings.uses, at + FIRST, rank)
            store(rings.uses, at + FIRST + 1, -1)
            store(rings.local_indices, at >> 1, load(distinct.more_local_index, u))
            u += 1


@njit(**COMPILED)
def resident_rows(first, end, rings, keys, slots, ranks):
    """Every row now held by a cache, with its owner and slot: what a checkpoint must also save."""
    mask = rings.lists.shape[0] - 1
    found = 0
    for number in range(first, end):
        entry = number & mask
        at = np.int64(rings.lists[entry])
        owner = rings.uses[at + OWNER]
        if owner >= 0:
            u = at + FIRST + 2 * owner
            keys[found] = rings.keys[entry]
            slots[found] = rings.uses[u + 1]
            ranks[found] = rings.uses[u]
            found += 1
    return found


@njit(**COMPILED)
def enlarge_entries(old, new, low, high):
    """Copy entries `low` to `high` into larger rings and renumber what points to them."""
    mask = old.lists.shape[0] - 1
    new_mask = new.lists.shape[0] - 1
    for number in range(low, high):
        e = number & mask
        n = number & new_mask
        new.lists[n] = old.lists[e]
        new.links[2 * n] = old.links[2 * e]
        new.links[2 * n + 1] = old.links[2 * e + 1]
        new.keys[n] = old.keys[e]
        if old.links[2 * e] < 0:
            new.last_seen[old.keys[e]] = n + 1


@njit(**COMPILED)
def enlarge_uses(old, new, firsts, bounds):
    """Copy the use lists of the batches that begin at entries `firsts` (and the end) into larger rings.

    The new position of a use list is left in the old one's place OWNER for the link that leads to it. Fills `bounds`
    with the position before each batch, and after the last.
    """
    mask = old.lists.shape[0] - 1
    position = np.int64(0)
    bounds[0] = position
    for b in range(firsts.shape[0] - 1):
        for number in range(firsts[b], firsts[b + 1]):
            at = np.int64(old.lists[number & mask])
            length = use_list_length(np.int64(old.uses[at + NUM_USERS]))
            for i in range(length):
                new.uses[position + i] = old.uses[at + i]
                new.local_indices[(position + i) >> 1] = old.local_indices[(at + i) >> 1]
            old.uses[at + OWNER] = position
            new.lists[number & mask] = position
            position += length
        bounds[b + 1] = position
    for number in range(firsts[0], firsts[-1]):
        link = 2 * (number & mask)
        if old.links[link] >= 0:
            new.links[link] = old.uses[old.links[link] + OWNER]
