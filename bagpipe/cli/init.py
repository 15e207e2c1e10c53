"""`bagpipe init`: look at data and write a job for it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bagpipe.cli.values import new_file
from bagpipe.lowlevel.atomic_files import refuse_existing


def init(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="File, folder, glob or URL of the data.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the job is written.", parser=new_file)] = Path("job.yaml"),
    label: Annotated[
        str | None, typer.Option("--label", help="The column to predict, if the guess is wrong.", show_default=False)
    ] = None,
    preset: Annotated[
        Literal["criteo-tsv", "avazu-csv"] | None,
        typer.Option("--preset", help="Spell out the columns of this built-in format.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at a file or folder and write a commented job for it, which runs as it is."""
    from bagpipe.errors import ConfigError

    refuse_existing(out, overwrite=overwrite, option="--out")
    if preset is not None and label is not None:
        raise ConfigError(f"--label: {preset} has a label of its own; leave one of the two options out")
    from bagpipe.config.load import parse_job  # heavy to import, as what follows
    from bagpipe.config.paths import absolute, typed
    from bagpipe.data.suggest import preset_job, suggest_job
    from bagpipe.lowlevel.atomic_files import write_whole

    if out.absolute().parent != Path.cwd():  # The job will be run from there, and a relative path begins where it runs.
        path = absolute(path, "PATH")
    found = suggest_job(path, label=label) if preset is None else preset_job(path, preset)
    parse_job(found.text, str(out))
    write_whole(out, found.text.encode())
    for note in found.notes:
        typer.echo(note)
    typer.echo(f"wrote {out}; look at it, then: bagpipe run {typed(out)}")
