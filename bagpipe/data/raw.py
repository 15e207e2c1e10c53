"""What every reader of raw data produces: labels, dense values, and categorical values as 64-bit codes.

A *code* stands for one categorical value. How it is made depends on the feature's kind:

    token   text of up to 8 ASCII bytes, packed left-justified (so codes sort as the text does);
            longer or other text: a 64-bit hash with the top bit set. Missing is 0
    int     the integer plus 1, of 64 bits with or without a sign; in the built-in formats none is missing
    integer of one's own columns: the 64 bits of the integer, xor INTEGER_KEY, plus 1. Missing is 0
    interval  number of the interval between boundaries, plus 1. Missing is 0
    bin     a bin of a numeric feature, see `bin_text`. Missing is 0

What becomes of a code (a row of a table) is decided by `bagpipe.data.encode`.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats, Int64s, Lengths
from bagpipe.errors import StorageError

Codes = npt.NDArray[np.uint64]
Kind = Literal["token", "int", "bin", "integer", "interval"]
INTEGER_KEY = np.uint64(0x5851F42D4C957F2D)
"""Moves the one integer that shares its code with a missing value from -1 to where nobody uses it."""
BIN_OFFSET = 1 << 40
"""Bins may be negative; this makes their codes positive and keeps their order."""
PARSE_DEADLINE_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RawFeature:
    """One sparse feature as the data has it. `num_ids` is known where values are row numbers of a known table."""

    name: str
    kind: Kind
    num_ids: int | None = None
    weighted: bool = False
    """Its values have weights."""


@dataclass(frozen=True, slots=True)
class RawSchema:
    """The shape of every example of a source."""

    features: tuple[RawFeature, ...]
    dense_names: tuple[str, ...]
    num_labels: int = 1
    jagged: bool = False
    weighted: bool = False
    """Examples have weights."""
    grouped: bool = False
    """It is told whom examples belong to."""

    @property
    def has_ids(self) -> bool:
        """Values are row numbers already."""
        return all(f.kind == "int" for f in self.features)


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Consecutive examples of one file; `codes_N` is example-major like `SparseBlock.keys_N`."""

    labels_BL: Floats
    dense_BF: Floats
    codes_N: Codes
    lengths_BT: Lengths | None
    file: str
    lines_B: npt.NDArray[np.int64]
    """Line (or row) number of each example in its file, from 1."""
    bad_lines: int = 0
    first_bad: str | None = None
    """What was wrong with the first malformed line, as an error would say it."""
    weights_B: Floats | None = None
    """Weight of each example; None: all weigh the same."""
    groups_B: Int64s | None = None
    """The code of each example's group; None: not told."""
    weights_N: Floats | None = None
    """Weight of each value; None: all are 1. Where there are weights, there are lengths."""

    def __len__(self) -> int:
        return int(self.labels_BL.shape[0])


class RawSource(Protocol):
    """Raw examples in file order, cut into pieces that can be parsed independently."""

    @property
    def schema(self) -> RawSchema: ...

    @property
    def num_examples(self) -> int | None:
        """Known without reading, or None."""
        ...

    def pieces(self, start: int) -> tuple[int, Iterator[Any]]:
        """Pieces from the one that may hold example `start` on, and the number of examples before them."""
        ...

    def parse(self, piece: Any) -> RawBlock:
        """Pure; called from several threads at once."""
        ...


def ordered_map(function: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Iterator[Result]:
    """`map` by a few threads, results in the order of the items, at most `2 * threads` ahead.

    Threads, not processes: the parsers are compiled and release the interpreter's lock, so arrays
    need not be copied (or pickled) between processes. After an error the items are closed: they may hold a file open.
    """
    try:
        yield from map(function, items) if threads == 0 else _ahead(function, items, threads)
    finally:
        if isinstance(items, Generator):
            items.close()


def _ahead(function: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Iterator[Result]:
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        ahead: list[Future[Result]] = []
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) >= 2 * threads:
                    yield _finished(ahead.pop(0))
            while ahead:
                yield _finished(ahead.pop(0))
        finally:
            for future in ahead:
                future.cancel()


def _finished(future: Future[Result]) -> Result:
    try:
        return future.result(PARSE_DEADLINE_SECONDS)
    except TimeoutError as error:
        raise StorageError(
            f"data: expected a reader thread to finish a block within {PARSE_DEADLINE_SECONDS:.0f} s, it did not; "
            "check the storage that data.path is on"
        ) from error


def value_text(code: int, kind: Kind) -> str:
    """The value that a code stands for, for people."""
    if kind == "int":
        value = (code - 1) % 2**64
        return str(value - 2**64 if value >= 2**63 else value)
    if code == 0:
        return "(missing)"
    if kind == "integer":
        value = (code - 1) ^ int(INTEGER_KEY)
        return str(value - 2**64 if value >= 2**63 else value)
    if kind == "interval":
        return str(code - 1)
    if code == 1 << 63:
        return "(empty)"
    if kind == "bin":
        return bin_text(code - BIN_OFFSET)
    if code >> 63:
        return f"(hash {code:016x})"
    return code.to_bytes(8, "big").rstrip(b"\0").decode("ascii")


def bin_text(value: int) -> str:
    """A numeric value up to 2 is its own bin; above, bin `3 + k` holds the x with floor(ln(x)^2) = k."""
    return str(value) if value <= 2 else f"ln2:{value - 3}"
