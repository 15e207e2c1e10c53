"""`bagpipe export`: a trained model as a folder that scores raw rows without Bagpipe, or one table's vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bagpipe.cli.checkpoint import Best, Where, newest
from bagpipe.cli.predict import OTHER_FORMS
from bagpipe.cli.values import local_path, need_current_folder, new_file
from bagpipe.lowlevel.atomic_files import refuse_existing

if TYPE_CHECKING:
    from bagpipe.export.graph import GraphFormat
    from bagpipe.export.tables import Dtype

DTYPES = ("fp32", "fp16", "int8")
FORMATS = ("score", "torch-export", "onnx")


def export(
    where: Where,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUT]",
            help="Folder to write to; it must be empty or new.",
            show_default=False,
            parser=local_path,
        ),
    ] = None,
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="score: score.py alone; torch-export, onnx: lookup and dense part as one graph beside it.",
        ),
    ] = "score",
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="[TABLE=]TYPE",
            help="How rows are stored: fp32 (default), fp16 or int8; of one table, or of all. Repeatable.",
        ),
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Store rows that training never touched too, as whole tables.")
    ] = False,
    best: Best = False,
    table: Annotated[
        str | None,
        typer.Option("--table", metavar="TABLE", help="Write this table's values, rows and vectors instead."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="With --table: Parquet file to write.", parser=new_file),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --table: replace the file if it exists.")
    ] = False,
) -> None:
    """Write a model as a folder whose score.py turns raw rows into scores with torch, numpy and pyarrow alone."""
    need_current_folder()
    from bagpipe.errors import ConfigError

    if (table is None) != (to is None):
        raise ConfigError("--table and --to go together: --table item --to items.parquet")
    if table is not None and to is not None:
        if out is not None or dtype or all_rows or file_format != "score":
            raise ConfigError("--table writes one Parquet file: leave out OUT, --format, --dtype and --all-rows")
        if to.suffix.lower() in OTHER_FORMS:
            raise ConfigError(f"{to}: rows are written as Parquet; name it {to.with_suffix('.parquet')}")
        refuse_existing(to, overwrite=overwrite)
        _vectors(newest(where, best=best), table, to)
        return
    if overwrite:
        raise ConfigError("--overwrite: is for --table; a model is exported to a folder that is empty or new")
    if out is None:
        raise ConfigError("expected a folder to export to: bagpipe export RUN OUT")
    if file_format not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, found {file_format!r}")
    _folder(newest(where, best=best), out, file_format, _dtypes(dtype or []), all_rows=all_rows)


def _vectors(checkpoint: Path, table: str, to: Path) -> None:
    from bagpipe.export.vectors import export_vectors

    rows = export_vectors(checkpoint, table, to)
    typer.echo(f"{to}: {rows:,} rows of {table}, columns value, row, vector")


def _folder(checkpoint: Path, out: Path, file_format: str, dtypes: "dict[str, Dtype]", *, all_rows: bool) -> None:
    from bagpipe.config.paths import typed
    from bagpipe.errors import ConfigError
    from bagpipe.export.loss_in_auc import loss_in_auc
    from bagpipe.export.write import export_model

    graph = None if file_format == "score" else cast("GraphFormat", file_format)
    rounded = bool(set(dtypes.values()) - {"fp32"})
    if graph is not None and rounded:
        raise ConfigError(f"--format {graph}: tables in a graph are float32; leave --dtype out")
    done = export_model(checkpoint, out, dtypes=dtypes, all_rows=all_rows, graph=graph)
    typer.echo(f"{out}: {', '.join(done.files)}")
    typer.echo(f"to score with it: python {typed(out / 'score.py')} new.csv scores.parquet")
    if done.requires:
        typer.echo(f"the model's code imports {', '.join(done.requires)}; install them where it scores")
    if rounded:
        typer.echo(loss_in_auc(checkpoint, dtypes))


def _dtypes(asked: list[str]) -> "dict[str, Dtype]":
    from bagpipe.errors import ConfigError

    found: dict[str, Dtype] = {}
    for one in asked:
        table, _, dtype = one.rpartition("=")
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype: expected [TABLE=]TYPE with one of {', '.join(DTYPES)}, found {one!r}")
        found[table or "*"] = cast("Dtype", dtype)
    return found
