"""Which reader a job's data needs: the format by name and first line, the encoding, the tables.

A binary file, an empty one, or a first line that fits no format is refused here, by name.
"""

from collections.abc import Sequence
from typing import Literal, cast

from bagpipe.config.document import DataConfig
from bagpipe.data.caserlines import CaserLines
from bagpipe.data.columns import ColumnSource, open_columns
from bagpipe.data.compressed import what_else
from bagpipe.data.files import InputFile, read_head
from bagpipe.data.found_tables import FoundTable, column_tables
from bagpipe.data.jsonlines import JsonLines
from bagpipe.data.prepared import PreparedInfo, read_info
from bagpipe.data.raw import RawSchema, RawSource
from bagpipe.data.separated import AvazuText, CriteoText
from bagpipe.data.synthetic import SyntheticLogs
from bagpipe.data.transform import Transform
from bagpipe.errors import ConfigError, DataError
from bagpipe.tables import Table

Format = Literal["criteo-tsv", "criteo-json", "caser-json", "avazu-csv", "parquet", "synthetic", "columns"]
BINARY_BYTES = 4096
"""A NUL byte among so many first ones makes a file binary."""
TABLE_FORMATS = ("csv", "tsv", "jsonl", "arrow")
Encoding = Literal["hash", "vocabulary", "ids"]
PARQUET_MAGIC = b"PAR1"
_EXPECTED = "expected text, or Parquet made by `bagpipe data prepare`"


def format_of(data: DataConfig, files: Sequence[InputFile]) -> Format:
    """What a job's data is; `parquet` is data that was prepared.

    Raises:
        ConfigError: the data has columns of its own, and nobody says what they are.
        DataError: empty, binary, or not a format we know.
    """
    if data.format == "synthetic":
        return "synthetic"
    if data.columns is not None:
        first = next((f for f in files if f.size), files[0])
        return "parquet" if is_prepared(first) else "columns"
    if data.format in TABLE_FORMATS:
        raise ConfigError(f"data.format: {data.format} needs data.columns; `bagpipe init PATH` writes them")
    return detect_format(files, data.format)


def is_prepared(file: InputFile) -> bool:
    """Whether this is Parquet that `bagpipe data prepare` wrote."""
    if not file.size or not read_head(file, 4).startswith(PARQUET_MAGIC):
        return False
    try:
        read_info(file)
    except DataError:
        return False
    return True


def settings_for_raw(data: DataConfig) -> list[str]:
    """The settings that a job has for the reading of raw data, as `--set spec.data.` takes each of them back."""
    found = {
        "columns=null": data.columns is not None,
        "encoding=auto": data.encoding not in ("auto", "ids"),
        "numericBins=none": data.numeric_bins != "none",
    }
    return [setting for setting, there in found.items() if there]


def check_prepared(data: DataConfig) -> None:
    """Refuse settings for the reading of raw data in a job over prepared data.

    Raises:
        ConfigError: names those that the job has, and what takes them back.
    """
    given = settings_for_raw(data)
    if given:
        names = " and ".join(f"data.{setting.partition('=')[0]}" for setting in given)
        back = " ".join(f"--set spec.data.{setting}" for setting in given)
        raise ConfigError(
            f"{names}: for raw data, and this is prepared Parquet, which has them in it; set them when preparing, and "
            f"take them out of this job, or train with {back}"
        )


def detect_format(files: Sequence[InputFile], stated: str) -> Format:
    """The format of the files; `stated` is `data.format`.

    Raises:
        DataError: empty, binary, or not a format we know.
    """
    file = next((f for f in files if f.size), None)
    if file is None:
        raise DataError(f"{files[0].name}: empty file; expected at least one example")
    head = read_head(file)
    if head.startswith(PARQUET_MAGIC):
        if stated not in ("auto", "parquet"):
            raise DataError(f"{file.name}: a Parquet file, but data.format is {stated}; set data.format: parquet")
        return "parquet"
    if what := what_else(head):
        raise DataError(f"{file.name}: {what}")
    if stated == "parquet":
        raise DataError(
            f"{file.name}: not a Parquet file; set data.format to the format of the text, or prepare it first"
        )
    line = _first_line(file, head)
    if stated != "auto":
        return cast("Format", stated)
    if line.startswith(b"{"):
        return "criteo-json"
    if line.startswith(b"id,click,") or b",click," in line:
        return "avazu-csv"
    if line.count(b"\t") == 39:
        return "criteo-tsv"
    raise DataError(
        f"{file.name}:1: unknown format: expected 40 tab-separated fields, a JSON record or Avazu's header, found "
        f"{line[:40].decode('utf-8', 'replace')!r}; set data.format, or describe your columns (`bagpipe init`)"
    )


def _first_line(file: InputFile, head: bytes) -> bytes:
    at = head[:BINARY_BYTES].find(b"\0")  # Later ones are holes in text, and lines like others that are malformed.
    if at >= 0:
        raise DataError(f"{file.name}: binary data (a NUL byte at offset {at}); {_EXPECTED}")
    text = head.lstrip(b"\r\n")
    if not text:
        raise DataError(f"{file.name}: empty file; expected at least one example")
    line = text.split(b"\n", 1)[0]
    odd = sum(byte < 32 and byte not in (9, 13) for byte in line)
    if odd > len(line) // 10:
        raise DataError(f"{file.name}: binary data; {_EXPECTED}")
    return line


def open_raw(
    data: DataConfig,
    found: Format,
    files: tuple[InputFile, ...],
    seed: int,
    kept: Transform | None = None,
    *,
    labelled: bool = True,
) -> RawSource:
    """The reader of a raw format.

    Args:
        kept: the transform of a model; what the columns of its data were holds for these as well.
        labelled: labels are there and wanted; else they are 0.

    Raises:
        ConfigError: `numericBins` asked of data without raw integers.
        DataError: the first line is not of this format.
    """
    skip = data.on_bad_line == "skip"
    if found == "columns":
        return _open_columns(data, files, kept, skip_bad=skip, labelled=labelled)
    if data.numeric_bins != "none" and (found != "criteo-tsv" or data.encoding != "vocabulary"):
        raise ConfigError(
            f"data.numericBins: {data.numeric_bins} needs format criteo-tsv and encoding vocabulary, found {found} and "
            f"{data.encoding}; set data.encoding: vocabulary or numericBins: none"
        )
    if found == "criteo-tsv":
        return CriteoText(files, skip, data.numeric_bins != "none")
    if found == "avazu-csv":
        return AvazuText.open(files, skip_bad=skip)
    if found == "criteo-json":
        return JsonLines.open(files, skip_bad=skip)
    if found == "caser-json":
        return CaserLines.open(files, skip_bad=skip)
    return SyntheticLogs(data.synthetic, seed)


def _open_columns(
    data: DataConfig, files: Sequence[InputFile], kept: Transform | None, *, skip_bad: bool, labelled: bool
) -> ColumnSource:
    columns = kept.info.columns if kept is not None and kept.info.columns is not None else data.columns
    assert columns is not None
    source = open_columns(
        files,
        columns,
        stated=data.format,
        ids=data.encoding == "ids",
        skip_bad=skip_bad,
        labelled=labelled,
        kept=kept.info if kept is not None else None,
    )
    return source if kept is None else learned_by(source, kept)


def learned_by(source: ColumnSource, transform: Transform) -> ColumnSource:
    """The same source, whose dense values are as the transform has learned to make them."""
    source = source.with_statistics(transform.info.statistics)
    return source if transform.counts is None else source.with_counts(transform.counts)


def choose_encoding(data: DataConfig, schema: RawSchema) -> Encoding:
    """`auto` is ids where the format has them, else hash."""
    if data.encoding == "auto":
        return "vocabulary" if data.columns is not None else "ids" if schema.has_ids else "hash"
    if data.encoding == "ids" and not schema.has_ids:
        raise ConfigError(
            "data.encoding: ids needs data whose values are row numbers; use hash or vocabulary for this format"
        )
    return data.encoding


def found_tables(
    data: DataConfig, schema: RawSchema, encoding: Encoding, named: Sequence[Table]
) -> tuple[FoundTable, ...]:
    """The job's tables: those it names, else one for each sparse feature."""
    if named:
        return tuple(FoundTable(t.name, t.num_embeddings, t.feature_names) for t in named)
    if data.columns is not None:
        return column_tables(data.columns, data.hash_size if encoding == "hash" else None)
    if encoding == "hash":
        return tuple(FoundTable(f.name, data.hash_size, (f.name,)) for f in schema.features)
    ids = encoding == "ids"
    return tuple(FoundTable(f.name, f.num_ids if ids else None, (f.name,)) for f in schema.features)


def prepared_tables(info: PreparedInfo) -> tuple[FoundTable, ...]:
    """The tables that prepared data was made for."""
    return tuple(FoundTable(t.name, t.num_embeddings, t.feature_names) for t in info.tables)
