"""Finds out if evaluated rows were trained on: `bagpipe evaluate` then warns that the figures flatter the model."""

from fractions import Fraction
from pathlib import Path

from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config.document import DataConfig
from bagpipe.config.parts import EXACT_ZERO, Shares, paths_in, shares_of
from bagpipe.data.files import find_files
from bagpipe.data.fingerprint import in_common, take_fingerprint


def rows_trained_on(checkpoint: Path, asked: DataConfig) -> str | None:
    """One line about rows of the evaluated part that the checkpoint was trained on; None: it is not known of any.

    Raises:
        CheckpointError, DataError, StorageError: the checkpoint or the data cannot be read.
    """
    found = open_checkpoint(checkpoint)
    trained = found.manifest.spec.data
    path = paths_in(asked.test)
    if not path:
        return _of_the_same_data(trained, asked) if asked.path == trained.path else None
    kept = load_kept(found)
    if kept is None:
        return None
    files = find_files(path)
    known = in_common(kept.fingerprint, take_fingerprint(files))
    if not known:
        return None
    which = f"{known[0]} was" if len(files) == 1 else f"{len(known)} of {len(files)} files, the first {known[0]}, were"
    part = "" if shares_of(trained).whole else " in part"
    return f"{which} trained on{part}: these figures flatter the model; evaluate rows that it has not seen"


def _of_the_same_data(trained: DataConfig, asked: DataConfig) -> str | None:
    before, now = shares_of(trained), shares_of(asked)
    if before.test == now.test and trained.split_by == asked.split_by:
        return None
    left = EXACT_ZERO if trained.split_by != asked.split_by else 1 - _trained(before)
    if now.test <= left:
        return None
    return (
        "a part of these rows was trained on, because the run was split otherwise: these figures flatter the model; "
        f"evaluate at most its own share of {float(left):g}, or other data (--set data.path=...)"
    )


def _trained(shares: Shares) -> Fraction:
    return 1 - shares.validation - shares.test if shares.train is None else shares.train
