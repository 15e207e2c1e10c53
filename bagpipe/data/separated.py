"""Click logs as separated text: Criteo's TSV and Avazu's CSV, both read by one compiled parser.

Criteo: label, 13 integers, 26 categorical values, no header, missing is empty. Dense values are
`log(1 + max(x, 0))`, missing 0; with `log-squared` bins each integer is a categorical feature too.
Avazu: a header names the columns; `id` is dropped, `hour` (YYMMDDHH) becomes hour of day and `weekday`,
everything else is categorical; there are no dense features.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.data import text_kernels as kernels
from bagpipe.data.files import InputFile, TextBlock, read_head, text_blocks
from bagpipe.data.holes import FOUND
from bagpipe.data.presets import AVAZU_COLUMNS, CRITEO_DENSE, CRITEO_SPARSE
from bagpipe.data.raw import BIN_OFFSET, Codes, RawBlock, RawFeature, RawSchema
from bagpipe.errors import DataError

_SMALL = np.log1p(np.arange(4096, dtype=np.float64)).astype(np.float32)
REMEDY = "fix the line or set data.onBadLine: skip"


@dataclass(frozen=True, slots=True)
class CriteoText:
    """Criteo TSV files as a `RawSource`."""

    files: tuple[InputFile, ...]
    skip_bad: bool = False
    bins: bool = False

    @property
    def schema(self) -> RawSchema:
        bins = tuple(RawFeature(name, "bin") for name in CRITEO_DENSE) if self.bins else ()
        return RawSchema(bins + tuple(RawFeature(name, "token") for name in CRITEO_SPARSE), CRITEO_DENSE)

    @property
    def num_examples(self) -> int | None:
        return None

    def pieces(self, start: int) -> tuple[int, Iterator[TextBlock]]:
        return 0, text_blocks(self.files)

    def parse(self, piece: TextBlock) -> RawBlock:
        parsed = _parse(piece, "\t", [kernels.LABEL] + [kernels.INTEGER] * 13 + [kernels.TOKEN] * 26, self.skip_bad)
        dense_BF = np.empty(parsed.integers.shape, np.float32)
        kernels.log_dense(parsed.integers, _SMALL, dense_BF)
        codes = parsed.codes
        if self.bins:
            codes = np.empty((len(dense_BF), 39), np.uint64)
            kernels.log_squared_bins(parsed.integers, BIN_OFFSET, codes)
            codes[:, 13:] = parsed.codes
        return parsed.block(piece, dense_BF, codes)


@dataclass(frozen=True, slots=True)
class AvazuText:
    """Avazu CSV files as a `RawSource`; the first file's header holds for files without one."""

    files: tuple[InputFile, ...]
    columns: tuple[str, ...]
    skip_bad: bool = False

    @classmethod
    def open(cls, files: Sequence[InputFile], *, skip_bad: bool = False) -> "AvazuText":
        """Raises:
        DataError: the first line is not Avazu's header.
        """
        first = next((f for f in files if f.size), files[0])
        columns = tuple(read_head(first).split(b"\n", 1)[0].decode("utf-8", "replace").strip().split(","))
        wrong = [f"lacks {c}" for c in AVAZU_COLUMNS if c not in columns]
        wrong += [f"has an unknown column {c[:40]!r}" for c in columns if c not in AVAZU_COLUMNS]
        if wrong or len(set(columns)) != len(columns):
            raise DataError(
                f"{first.name}:1: expected Avazu's header ({','.join(AVAZU_COLUMNS[:3])},...), found one that "
                f"{wrong[0] if wrong else 'names a column twice'}; restore the header or set data.format"
            )
        return cls(tuple(files), columns, skip_bad)

    @property
    def schema(self) -> RawSchema:
        names = [
            n for c in self.columns for n in (("hour", "weekday") if c == "hour" else (c,)) if n not in ("id", "click")
        ]
        return RawSchema(tuple(RawFeature(name, "token") for name in names), ())

    @property
    def num_examples(self) -> int | None:
        return None

    def pieces(self, start: int) -> tuple[int, Iterator[TextBlock]]:
        return 0, (self._without_header(block) for block in text_blocks(self.files))

    def _without_header(self, piece: TextBlock) -> TextBlock:
        line, _, rest = piece.text.partition(b"\n")
        if piece.first_line != 1 or line.strip() != ",".join(self.columns).encode():
            return piece
        return TextBlock(piece.file, 2, rest)

    def parse(self, piece: TextBlock) -> RawBlock:
        holds = {"id": kernels.SKIP, "click": kernels.LABEL}
        parsed = _parse(piece, ",", [holds.get(c, kernels.TOKEN) for c in self.columns], self.skip_bad)
        at = [c for c in self.columns if c not in holds].index("hour")
        hour, weekday = _hour_and_weekday(parsed.codes[:, at], piece.file, parsed.lines)
        codes = np.insert(parsed.codes, at + 1, weekday, axis=1)
        codes[:, at] = hour
        return parsed.block(piece, np.zeros((len(codes), 0), np.float32), codes)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The columns of one block by kind; `lines` are line numbers in the file."""

    labels: npt.NDArray[np.float32]
    integers: npt.NDArray[np.int64]
    codes: Codes
    lines: npt.NDArray[np.int64]
    bad_lines: int
    first_bad: str | None

    def block(self, piece: TextBlock, dense_BF: npt.NDArray[np.float32], codes: Codes) -> RawBlock:
        flat = np.ascontiguousarray(codes).reshape(-1)
        return RawBlock(self.labels, dense_BF, flat, None, piece.file, self.lines, self.bad_lines, self.first_bad)


def _parse(piece: TextBlock, separator: str, columns: list[int], skip_bad: bool) -> _Parsed:
    data = np.frombuffer(piece.text, np.uint8)
    ends = np.flatnonzero(data == kernels.NEWLINE)
    if not len(ends) or ends[-1] + 1 < len(data):
        ends = np.append(ends, len(data))
    most = len(ends)
    labels = np.empty((most, 1), np.float32)
    integers = np.empty((most, columns.count(kernels.INTEGER)), np.int64)
    codes = np.empty((most, columns.count(kernels.TOKEN)), np.uint64)
    lines = np.empty(most, np.int64)
    found, bad, line, reason, detail = kernels.parse_lines(
        data, ends, ord(separator), np.array(columns, np.uint8), labels, integers, codes, lines
    )
    first_bad = _complaint(piece, separator, len(columns), line, reason, detail) if bad else None
    if first_bad and not skip_bad:
        raise DataError(f"{first_bad}; {REMEDY}")
    lines += piece.first_line
    return _Parsed(labels[:found], integers[:found], codes[:found], lines[:found], bad, first_bad)


def _complaint(piece: TextBlock, separator: str, num_columns: int, line: int, reason: int, detail: int) -> str:
    where = f"{piece.file}:{piece.first_line + line}"
    if reason == kernels.FIELDS:
        name = "tab" if separator == "\t" else "comma"
        return f"{where}: expected {num_columns} {name}-separated fields, found {detail}"
    if reason == kernels.BINARY:
        return f"{where}: field {detail}: {FOUND}"
    field = piece.text.split(b"\n")[line].split(separator.encode())[detail - 1]
    return f"{where}: expected an integer in field {detail}, found {field[:40].decode('utf-8', 'replace')!r}"


def _hour_and_weekday(codes: Codes, file: str, lines: npt.NDArray[np.int64]) -> tuple[Codes, Codes]:
    """Packed `YYMMDDHH` to the packed `HH` and the packed digit of the weekday (Monday is 0)."""
    hour = (codes & np.uint64(0xFFFF)) << np.uint64(48)
    days, which = np.unique(codes >> np.uint64(16), return_inverse=True)
    weekdays = np.zeros(len(days), np.uint64)
    for i, day in enumerate(days.tolist()):
        try:
            date = dt.datetime.strptime(int(day).to_bytes(6, "big").decode("ascii"), "%y%m%d")
        except (ValueError, OverflowError) as error:
            line = int(lines[np.flatnonzero(which == i)[0]])
            raise DataError(
                f"{file}:{line}: expected an hour as YYMMDDHH, found another value; fix the line"
            ) from error
        weekdays[i] = (ord("0") + date.weekday()) << 56
    return hour, weekdays[which]
