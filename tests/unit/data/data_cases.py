"""What several tests of data share: rows of stated types as Parquet, and a preparation that is interrupted."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_rows(path: Path, rows: list[dict[str, Any]], types: Mapping[str, Any], *, labels: bool = True) -> str:
    """Parquet with row groups of 5; labels `y` are 0 and 1 in turn."""
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})
    if labels:
        table = table.append_column("y", pa.array([i % 2 for i in range(len(rows))]))
    pq.write_table(table, path, row_group_size=5)
    return str(path)


def ends_in(stage: str, times: int, error: type[BaseException]) -> Callable[[str, float], None]:
    """A listener to the progress of a preparation that raises `error` when it has heard of `stage` so many times."""
    told: list[str] = []

    def tell(heard: str, share: float) -> None:
        told.append(heard)
        if told.count(stage) == times:
            raise error

    return tell
