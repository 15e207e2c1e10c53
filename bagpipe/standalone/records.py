"""Records of the paper's JSON lines to values: `{"dense": [...], "sparse": [...]}`, and Caser's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bagpipe.errors import DataError
from bagpipe.standalone.block import Block, Values

LARGEST = float(np.finfo(np.float32).max)


class PlainRecords:
    """Numbers and ids by position; a feature of several values is a list. Values are whole numbers of 64 bits."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._dense, self._features = len(info["dense"]), len(info["features"])
        self._jagged: bool = info["jagged"]

    def block(self, records: Sequence[Mapping[str, Any]], where: str, first_row: int) -> Block:
        """Raises:
        DataError: a record is of another shape; names its row.
        """
        for number, record in enumerate(records):
            found = (len(record.get("dense", ())), len(record.get("sparse", ())))
            if found != (self._dense, self._features):
                raise DataError(
                    f"{where}: row {first_row + number}: expected {self._dense} dense values and {self._features} "
                    f"sparse features, found {found[0]} and {found[1]}"
                )
            if not all(abs(value) <= LARGEST for value in record.get("dense", ())):
                raise DataError(f"{where}: row {first_row + number}: expected dense values of 32 bits")
        dense = np.array([r.get("dense", ()) for r in records], np.float64).reshape(len(records), self._dense)
        columns = [[_listed(r["sparse"][t]) for r in records] for t in range(self._features)]
        values = tuple(_values(column, where, first_row, jagged=self._jagged) for column in columns)
        return Block(dense.astype(np.float32), values)


class CaserRecords:
    """`{"sparse": [[user], [items]], "label": [items], "dense": [items]}`: a score for each of the last two's items."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._candidates: int = info["numLabels"]

    def block(self, records: Sequence[Mapping[str, Any]], where: str, first_row: int) -> Block:
        """Raises:
        DataError: a record is of another shape; names its row.
        """
        for number, record in enumerate(records):
            count = len(record.get("label", ())) + len(record.get("dense", ()))
            if count != self._candidates or [len(x) > 0 for x in record.get("sparse", ())][:1] != [True]:
                raise DataError(
                    f"{where}: row {first_row + number}: expected a user, a history and {self._candidates} items to "
                    f"score, found {count} items"
                )
        users = [r["sparse"][0] for r in records]
        histories = [r["sparse"][1] for r in records]
        candidates = [[*r.get("label", ()), *r.get("dense", ())] for r in records]
        columns = (users, histories, candidates)
        values = tuple(_values(column, where, first_row, jagged=True) for column in columns)
        return Block(np.zeros((len(records), 0), np.float32), values)


def parsed(lines: Sequence[bytes], where: str, first_row: int) -> list[Mapping[str, Any]]:
    """JSON records, one a line.

    Raises:
        DataError: a line is none; names its row.
    """
    found: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line.decode("utf-8-sig"))  # json may take bytes for UTF-16
        except (ValueError, RecursionError) as error:  # the latter of lists within each other, some hundreds deep
            raise DataError(f"{where}: row {first_row + number}: expected a JSON record ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: row {first_row + number}: expected a JSON record, found {line[:40]!r}")
        found.append(record)
    return found


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _values(column: Sequence[Sequence[Any]], where: str, first_row: int, *, jagged: bool) -> Values:
    """The codes of whole numbers: the number plus 1, in 64 bits."""
    ids = []
    for number, cell in enumerate(column):
        for value in cell:
            if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**64:
                raise DataError(f"{where}: row {first_row + number}: expected ids of 64 bits, found {value!r}")
            ids.append((value + 1) & 0xFFFF_FFFF_FFFF_FFFF)
        if not jagged and len(cell) != 1:
            raise DataError(f"{where}: row {first_row + number}: expected one value a feature, found {len(cell)}")
    lengths = np.array([len(cell) for cell in column], np.int64) if jagged else None
    return Values(np.array(ids, np.uint64), lengths)
