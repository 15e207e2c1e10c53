"""The manifest, which makes a checkpoint exist: the job, the step, and every file with its size and checksum."""

from typing import Any

import msgspec

from bagpipe.batch import Cursor
from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.config.parts import shares_of
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.lowlevel.checksummed import with_checksum, without_checksum
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import SnapshotFile
from bagpipe.tables import Table, TableLayout

VERSION = 1
FILE_NAME = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One complete checkpoint: the state after `step` steps, and where the data goes on."""

    version: int = VERSION
    job: str
    step: int
    """Steps trained: the next one to run."""
    cursor: Cursor
    """Where the batch of that next step begins."""
    spec: JobSpec
    """The job as it ran."""
    tables: tuple[Table, ...]
    record_widths: tuple[int, ...]
    """Floats of a record, by width group."""
    num_servers: int
    num_trainers: int
    shards: tuple[SnapshotFile, ...]
    dense: tuple[SnapshotFile, ...]
    data: tuple[SnapshotFile, ...] = ()
    """The transform and the fingerprint of the data; none: written before they were kept."""
    first_values: bool = False
    """Made of another run's weights, or of files, before the first step: the first values of a warm start, not a
    checkpoint to resume. Dense weights are taken as far as they fit."""
    validations: tuple[Validation, ...] = ()
    """The figures of the validation part up to this step, by which training stops early and the best is chosen."""
    created: str
    """UTC, ISO 8601."""

    @property
    def layout(self) -> TableLayout:
        return TableLayout.of(self.tables)

    @property
    def files(self) -> tuple[SnapshotFile, ...]:
        return self.shards + self.dense + self.data


RESULT_FIELDS = ("model", "data", "embedding", "optimizer", "batch_size", "micro_batches", "seed")
"""Sections that a resumed run must share with the interrupted one to end identically. All others say how long to train
or with how many processes, or cannot change a result (contracts X1, X2)."""
FREE_FIELDS = {"data": ("path", "test", "readers", "on_bad_line")}
"""Settings within those that only say where and how the same data is read."""
TRANSFORM_FIELDS = ("encoding", "hash_size", "min_count", "numeric_bins", "oov", "columns")
"""Settings of `data` that say how raw rows are encoded. They stay as the model was trained with."""


def changed_field(before: JobSpec, now: JobSpec) -> str | None:
    """Dotted name of the first setting that makes `now` another job than `before`, or None."""
    for name in RESULT_FIELDS:
        changed = _changed(
            getattr(before, name), getattr(now, name), _yaml_name(before, name), FREE_FIELDS.get(name, ())
        )
        if changed is not None:
            return f"spec.{changed}"
    if shares_of(before.data) != shares_of(now.data):
        return "spec.data.test"
    return None


def changed_transform(before: DataConfig, now: DataConfig) -> str | None:
    """Dotted name of the first setting of `now` that says how raw rows are encoded and differs from `before`, or None.

    Prepared data says nothing of it, and may be followed or preceded by raw rows.
    """
    if any(data.columns is None and data.encoding == "auto" for data in (before, now)):
        return None
    free = tuple(f.name for f in msgspec.structs.fields(before) if f.name not in TRANSFORM_FIELDS)
    changed = _changed(before, now, "data", free)
    return None if changed is None else f"spec.{changed}"


def check_transform(before: DataConfig, now: DataConfig) -> None:
    """Refuse settings for which a kept transform would have to be made again.

    Raises:
        ConfigError: names the first of them.
    """
    if (changed := changed_transform(before, now)) is not None:
        raise ConfigError(
            f"{changed}: differs from the job that was trained, whose encoding of raw rows the model keeps; leave it "
            "as it was, or train a fresh run"
        )


def _changed(before: Any, now: Any, path: str, free: tuple[str, ...] = ()) -> str | None:
    """The first setting below `path` in which two sections differ."""
    if before == now:
        return None
    if not isinstance(before, msgspec.Struct) or type(before) is not type(now):
        return path
    for field in msgspec.structs.fields(before):
        if field.name in free:
            continue
        a, b = getattr(before, field.name), getattr(now, field.name)
        if (changed := _changed(a, b, f"{path}.{field.encode_name}")) is not None:
            return changed
    return None


def _yaml_name(section: msgspec.Struct, name: str) -> str:
    return next(f.encode_name for f in msgspec.structs.fields(section) if f.name == name)


def decode_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in `content`.

    Raises:
        CheckpointError: it is not one, or of a version this code does not read.
    """
    try:
        manifest = msgspec.convert(without_checksum(content), type=Manifest, str_keys=True)
    except ValueError as error:
        raise CheckpointError(f"{where}: not a manifest ({error}); the checkpoint is corrupt, use another") from None
    if manifest.version != VERSION:
        raise CheckpointError(f"{where}: version {manifest.version}, this bagpipe reads version {VERSION}")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON, with a checksum of its own: a damaged byte in a number would not be seen otherwise."""
    found = msgspec.json.decode(msgspec.json.encode(manifest))
    return msgspec.json.format(msgspec.json.encode(with_checksum(found)), indent=2)


def check_same_job(manifest: Manifest, layout: TableLayout, record_widths: tuple[int, ...], where: str) -> None:
    """Refuse a checkpoint of other tables or another row optimizer, by name of what differs.

    Raises:
        CheckpointError: this checkpoint cannot be loaded into this job.
    """
    ours = {t.name: t for t in layout.tables}
    theirs = {t.name: t for t in manifest.tables}
    for name in [*theirs, *ours]:
        if name not in ours or name not in theirs:
            raise CheckpointError(f"{where}: table {name} is only in {'the job' if name in ours else 'the checkpoint'}")
        if (a := theirs[name]) != (b := ours[name]):
            raise CheckpointError(
                f"{where}: table {name} has {a.num_embeddings} rows of width {a.embedding_dim}, "
                f"the job's has {b.num_embeddings} of width {b.embedding_dim}"
            )
    if manifest.record_widths != record_widths:
        raise CheckpointError(
            f"{where}: records are {list(manifest.record_widths)} floats wide, this job's row optimizer needs "
            f"{list(record_widths)}; resume with the optimizer of the checkpoint"
        )
