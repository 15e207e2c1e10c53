"""`data.oov`: how many rows of each table are for values without a row of their own."""

from collections.abc import Iterator, Mapping, Sequence

from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.config.given import Finding, given
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.wording import no_table

OTHERS = "*"
"""In `data.oov` by table: all tables that it does not name."""


def oov_rows(data: DataConfig, tables: Sequence[str]) -> dict[str, int]:
    """Rows for values without one of their own, by table.

    Raises:
        ConfigError: a table is named that is not there.
    """
    stated = data.oov
    if not isinstance(stated, Mapping):
        return dict.fromkeys(tables, 1 if stated == "shared" else stated)
    for name in stated:
        if name not in (*tables, OTHERS):
            raise ConfigError(f"data.oov: {no_table(name, tables)}")
    return {name: stated.get(name, stated.get(OTHERS, 1)) for name in tables}


def oov_findings(data: DataConfig, embedding: EmbeddingConfig) -> Iterator[Finding]:
    """What is wrong with `data.oov`, as far as the job names its tables."""
    if not list(given(data, ["oov"])):
        return
    sizes = {table.name: table.num_embeddings for table in embedding.tables}
    names = list(sizes) or [c.table or c.name for c in (data.columns.sparse if data.columns else ())]
    if not names:  # They are found in the data.
        return
    try:
        rows = oov_rows(data, names)
    except ConfigError as error:
        yield "spec.data.oov", str(error).removeprefix("data.oov: ")
        return
    for name, size in sizes.items():
        if rows[name] >= size:
            yield "spec.data.oov", f"{rows[name]} of {size} rows of table {name}; leave rows for values of their own"
