"""`bagpipe data prepare|describe`: raw logs to Parquet, and what is in them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bagpipe.cli.options import JobFile, Overrides

app = typer.Typer(help="Prepare and describe training data.", no_args_is_help=True)


@app.command("prepare")
def prepare(
    job: JobFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write Parquet to.", show_default=False)],
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Turn the job's raw logs into Parquet with row numbers, bins and table sizes; memory stays small."""
    from bagpipe.configfile import load_job
    from bagpipe.data.prepare import prepare as write

    spec = load_job(job, overrides or ()).spec
    prepared = write(
        spec.data,
        out,
        tables=spec.embedding.tables,
        seed=spec.seed,
        overwrite=overwrite,
        progress=_progress if sys.stderr.isatty() else None,
    )
    typer.echo(f"{prepared.folder}: {prepared.examples:,} examples, {len(prepared.info.tables)} tables")
    if prepared.info.bad_lines:
        typer.echo(f"skipped {prepared.info.bad_lines:,} malformed lines; the first: {prepared.info.first_bad}")
    typer.echo(f"train on it with --set spec.data.path={prepared.folder} --set spec.data.format=parquet")


def _progress(stage: str, done: float) -> None:
    print(f"\r{stage}: {done:4.0%} ", end="", file=sys.stderr, flush=True)


@app.command("describe")
def describe(job: JobFile, overrides: Overrides = None) -> None:
    """Read the job's data once and print rows, tables, skew and malformed lines."""
    from bagpipe.configfile import load_job
    from bagpipe.data.describe import describe as read

    spec = load_job(job, overrides or ()).spec
    typer.echo(str(read(spec.data, seed=spec.seed)))
