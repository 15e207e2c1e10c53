"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (kind BagpipeJob, YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a setting, e.g. --set spec.batchSize=1024; repeatable."),
]
RoleJob = Annotated[Path, typer.Option("--job", help="Job file.", show_default=False)]
RoleRunDir = Annotated[Path, typer.Option("--run-dir", help="Run directory.", show_default=False)]
OracleAddress = Annotated[
    str, typer.Option("--oracle", help="Where the oracle listens: tcp://host:port.", show_default=False)
]
Attempt = Annotated[
    int, typer.Option("--attempt", min=0, help="Number of this attempt; peers of another one are refused.")
]
Bind = Annotated[str, typer.Option("--bind", help="Address to listen on: tcp://host:port, port 0 for any free one.")]
Advertise = Annotated[
    str | None,
    typer.Option("--advertise", help="Address under which others reach this role; none: where it listens."),
]
ANY_LOCAL = "tcp://127.0.0.1:0"
