"""MovieLens ratings to the sequences that Caser trains on.

A line is `user <tab> item <tab> rating <tab> unix time`, ids from 0, in any order. Every rating counts as
"has seen". A window slides over each user's items by time: `sequence` items, then `targets` items to predict,
and `negatives` items that the user never rates, drawn uniformly. Drawing is a pure function of the seed and
the user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.data.files import InputFile, text_blocks
from bagpipe.errors import DataError

Ints = npt.NDArray[np.int64]
FIELDS = 4


@dataclass(frozen=True, slots=True)
class Ratings:
    """Who rated what, by user and then by time."""

    users: Ints
    items: Ints

    @property
    def num_users(self) -> int:
        return int(self.users.max()) + 1

    @property
    def num_items(self) -> int:
        return int(self.items.max()) + 1


@dataclass(frozen=True, slots=True)
class Window:
    """One example."""

    user: int
    sequence: Ints
    targets: Ints
    negatives: Ints


def read_ratings(files: Sequence[InputFile]) -> Ratings:
    """Read all ratings.

    Raises:
        DataError: a line is not four integers, or there is none.
    """
    blocks = [_parse(block.file, block.first_line, block.text) for block in text_blocks(files)]
    table = np.concatenate([np.zeros((0, FIELDS), np.int64), *blocks])
    if not len(table):
        raise DataError(f"{files[0].name}: no rating in it; expected lines of user, item, rating, time")
    # Stable: ratings of the same second keep the order of the file.
    order = np.lexsort((table[:, 3], table[:, 0]))
    return Ratings(table[order, 0], table[order, 1])


def _parse(file: str, first_line: int, text: bytes) -> Ints:
    rows = [line.split(b"\t") for line in text.splitlines()]
    for number, row in enumerate(rows, first_line):
        if len(row) != FIELDS or not all(field.strip().isdigit() for field in row):
            found = b"\t".join(row)[:40].decode("utf-8", "replace")
            raise DataError(
                f"{file}:{number}: expected user, item, rating and time as tab-separated integers, found {found!r}; "
                "fix the line"
            )
    return np.array(rows, np.int64).reshape(-1, FIELDS)


def windows(ratings: Ratings, *, sequence: int, targets: int, negatives: int, seed: int) -> Iterator[Window]:
    """Every window of every user with enough ratings, user by user.

    Raises:
        DataError: a user has rated so much that no negatives are left.
    """
    bounds = np.flatnonzero(np.diff(ratings.users, prepend=-1, append=-1))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        user, items = int(ratings.users[begin]), ratings.items[begin:end]
        count = len(items) - sequence - targets + 1
        if count < 1:
            continue
        unseen = np.setdiff1d(np.arange(ratings.num_items), items)
        if len(unseen) < negatives:
            raise DataError(f"user {user} has rated all but {len(unseen)} items; ask for fewer negatives")
        draw = np.random.Philox(key=[seed, user]).random_raw(count * negatives)
        drawn = unseen[(np.asarray(draw, np.uint64) % np.uint64(len(unseen))).astype(np.int64)].reshape(count, -1)
        for at in range(count):
            middle = at + sequence
            yield Window(user, items[at:middle], items[middle : middle + targets], drawn[at])
