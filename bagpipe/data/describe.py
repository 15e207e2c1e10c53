"""What is in this data? Rows, tables, skew, missing values, bad lines; for people, before they train.

One streaming pass. Memory holds the distinct values (16 bytes each), not the examples. Malformed lines
never end a description: they are counted, and the first is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from bagpipe.batch import SparseBlock
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.enclosed import prepared_transform
from bagpipe.data.encode import select
from bagpipe.data.encoded import raw_blocks
from bagpipe.data.files import InputFile, find_files
from bagpipe.data.formats import format_of, open_raw, prepared_tables
from bagpipe.data.found_tables import layout_of
from bagpipe.data.parquet_files import has_checksums
from bagpipe.data.prepared import PreparedSource, read_info, with_report
from bagpipe.data.raw import Codes, Kind, RawSource, value_text
from bagpipe.data.vocabulary import ValueCounter


@dataclass(frozen=True, slots=True)
class FeatureDescription:
    """One sparse feature."""

    name: str
    lookups: int
    distinct: int
    """Distinct values; a missing value is one."""
    once: int
    """Values seen once."""
    missing: int
    top_share: float
    """Share of the lookups that the most frequent 1 % of the values take (at least one value)."""
    most_frequent: str


@dataclass(frozen=True, slots=True)
class Description:
    """A data set at a glance; `str()` of it is the table to print."""

    format: str
    files: int
    bytes: int
    examples: int
    bad_lines: int
    first_bad: str | None
    num_dense: int
    num_labels: int
    jagged: bool
    mean_label: float
    features: tuple[FeatureDescription, ...]
    checked: str | None = None
    """Of prepared data: which of its pages were compared with their checksums."""

    def __str__(self) -> str:
        size = f", {self.files} files, {self.bytes / 1e6:.1f} MB" if self.files else ""
        lines = [
            f"format      {self.format}{size}",
            f"examples    {self.examples:,}   bad lines {self.bad_lines:,}",
            f"dense       {self.num_dense}   labels {self.num_labels} (mean {self.mean_label:.4f})",
            f"sparse      {len(self.features)}{', multi-valued' if self.jagged else ''}",
        ]
        if self.checked:
            lines.append(f"checksums   {self.checked}")
        if self.first_bad:
            lines.append(f"first bad   {self.first_bad}")
        titles = f"{'feature':16s} {'lookups':>12s} {'distinct':>11s} {'once':>10s} {'missing':>8s} {'top 1%':>7s}"
        lines.append(f"{titles}  most frequent")
        lines += [_feature_line(f) for f in self.features]
        return "\n".join(lines)


def describe(data: DataConfig, *, seed: int = 0) -> Description:
    """Read all of `data` once and describe it. Prepared data is compared with its checksums.

    Raises:
        ConfigError, DataError: as `open_dataset`, except that malformed lines are counted; also where a page of
            prepared data is not as it was written.
        CheckpointError: the vocabulary that prepared data encloses is damaged.
    """
    data = msgspec.structs.replace(data, on_bad_line="skip", numeric_bins="none")
    files = () if data.format == "synthetic" else find_files(data.path)
    found = format_of(data, files)
    if found == "parquet":
        return _describe_prepared(files, data.readers)
    return _describe_raw(open_raw(data, found, files, seed), found, files, data.readers)


def _describe_raw(raw: RawSource, found: str, files: Sequence[InputFile], readers: int) -> Description:
    names, kinds = ([f.name for f in raw.schema.features], [f.kind for f in raw.schema.features])
    counters, examples, bad, labels = [ValueCounter() for _ in names], 0, 0, 0.0
    first: str | None = None
    for block in raw_blocks(raw, readers):
        for place, counter in enumerate(counters):
            counter.add(select(block, len(names), np.array([place], np.int64))[0])
        examples, bad, first = (examples + len(block), bad + block.bad_lines, first or block.first_bad)
        labels += float(block.labels_BL.sum(dtype=np.float64)) / raw.schema.num_labels
    return Description(
        found, len(files), sum(f.size for f in files), examples, bad, first,
        len(raw.schema.dense_names), raw.schema.num_labels, raw.schema.jagged, labels / max(examples, 1),
        tuple(_feature(n, k, c) for n, k, c in zip(names, kinds, counters, strict=True)),
    )  # fmt: skip


def _describe_prepared(files: Sequence[InputFile], readers: int) -> Description:
    files = [file for file in files if file.size]
    info = with_report(read_info(files[0]), files)
    prepared_transform(info, files[0])  # compares the vocabulary with its digest
    layout = layout_of(prepared_tables(info), EmbeddingConfig(dim=1))
    group, source = layout.groups[0], PreparedSource(files, info, layout, readers, check_pages=True)
    counters, labels = [ValueCounter() for _ in group.feature_names], 0.0
    offsets = [o for t, o in zip(group.tables, group.offsets, strict=True) for _ in t.feature_names]
    for examples in source.read(0, None):
        labels += float(examples.labels_BL.sum(dtype=np.float64)) / info.num_labels
        for counter, codes in zip(counters, _codes(examples.sparse[0], offsets), strict=True):
            counter.add(codes)
    return Description(
        "parquet", len(files), sum(f.size for f in files), source.num_examples, info.bad_lines, info.first_bad,
        len(info.dense), info.num_labels, info.jagged, labels / max(source.num_examples, 1),
        tuple(_feature(n, "int", c) for n, c in zip(group.feature_names, counters, strict=True)), _checked(files),
    )  # fmt: skip


def _checked(files: Sequence[InputFile]) -> str:
    """What can be said of prepared files once all of their pages were read and compared."""
    without = [file.name for file in files if not has_checksums(file)]
    if not without:
        return "every page is as it was written"
    others = f" and {len(without) - 1} more" if len(without) > 1 else ""
    return f"none in {without[0]}{others}; prepare the data again to have damage noticed"


def _codes(block: SparseBlock, offsets: Sequence[int]) -> Iterator[Codes]:
    """Each feature's rows as codes of kind int."""
    if block.lengths_BT is None:
        for place, offset in enumerate(offsets):
            yield (block.keys_N.reshape(-1, len(offsets))[:, place] - offset + 1).view(np.uint64)
        return
    which = np.repeat(np.tile(np.arange(len(offsets)), len(block.lengths_BT)), block.lengths_BT.reshape(-1))
    for place, offset in enumerate(offsets):
        yield (block.keys_N[which == place] - offset + 1).view(np.uint64)


def _feature(name: str, kind: Kind, counter: ValueCounter) -> FeatureDescription:
    codes, counts = counter.result()
    lookups, top = int(counts.sum()), max(1, len(counts) // 100)
    return FeatureDescription(
        name,
        lookups,
        len(counts),
        int(np.count_nonzero(counts == 1)),
        int(counts[codes == 0].sum()),
        float(counts[:top].sum()) / lookups if lookups else 0.0,
        value_text(int(codes[0]), kind) if len(codes) else "",
    )


def _feature_line(f: FeatureDescription) -> str:
    missing = f.missing / f.lookups if f.lookups else 0.0
    numbers = f"{f.lookups:12,} {f.distinct:11,} {f.once:10,} {missing:8.1%} {f.top_share:7.1%}"
    return f"{f.name:16s} {numbers}  {f.most_frequent}"
