"""`bagpipe predict`: raw rows in, scores out."""

from pathlib import Path
from typing import Annotated

import typer

from bagpipe.cli.checkpoint import Best, Where, newest
from bagpipe.cli.values import need_current_folder, new_file
from bagpipe.lowlevel.atomic_files import refuse_existing

OTHER_FORMS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".arrow", ".feather", ".gz", ".xz", ".zst")
"""Endings of names under which nobody would look for Parquet."""


def predict(
    where: Where,
    data: Annotated[str, typer.Option("--data", help="Raw rows: file, folder, glob or URL.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.", show_default=False, parser=new_file)],
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN", help="Write this column beside the scores; repeatable."),
    ] = None,
    file_format: Annotated[str, typer.Option("--format", help="As data.format, where it cannot be told.")] = "auto",
    best: Best = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Score raw rows by a checkpoint or an export, with the transform that it keeps: Parquet, one score a label."""
    need_current_folder()
    from bagpipe.config.paths import absolute
    from bagpipe.errors import ConfigError
    from bagpipe.export.predict import predict as write
    from bagpipe.export.write import is_export

    if best and is_export(where):
        raise ConfigError("--best: an export is one model; give a run directory")
    if str(out) == "-":
        raise ConfigError("--out -: scores are written as a Parquet file; name one, such as scores.parquet")
    refuse_existing(out, overwrite=overwrite)
    if out.suffix.lower() in OTHER_FORMS:
        raise ConfigError(f"{out}: scores are written as Parquet; name it {out.with_suffix('.parquet')}")
    kept = tuple(dict.fromkeys(keep or ()))
    done = write(
        where if is_export(where) else newest(where, best=best),
        absolute(data, "--data"),
        out,
        keep=kept,
        file_format=file_format,
    )
    skipped = f", {done.bad_lines:,} bad rows skipped" if done.bad_lines else ""
    typer.echo(f"{out}: {done.rows:,} rows, columns file, row, {', '.join([*kept, *done.columns])}{skipped}")
