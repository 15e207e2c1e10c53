"""Options that several commands share, so that they are named and explained alike."""

from pathlib import Path
from typing import Annotated

import typer

from bagpipe.cli.values import endpoint, job_path, local_path, whole
from bagpipe.local.ports import loopback

JobFile = Annotated[
    Path,
    typer.Argument(
        metavar="JOB", help="Job file (kind BagpipeJob, YAML); -: standard input.", show_default=False, parser=job_path
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a setting, e.g. --set spec.batchSize=1024; repeatable."),
]
RoleJob = Annotated[
    Path, typer.Option("--job", metavar="FILE", help="Job file.", show_default=False, parser=local_path)
]
RoleRunDir = Annotated[
    Path, typer.Option("--run-dir", metavar="DIR", help="Run directory.", show_default=False, parser=local_path)
]
OracleAddress = Annotated[
    str,
    typer.Option(
        "--oracle",
        metavar="ENDPOINT",
        help="Where the oracle listens: tcp://host:port.",
        show_default=False,
        parser=endpoint("--oracle", listening=False),
    ),
]
Attempt = Annotated[
    int,
    typer.Option(
        "--attempt",
        metavar="N",
        help="Number of this attempt; peers of another one are refused.",
        parser=whole("--attempt", 0, 2**31 - 1, "attempts"),
    ),
]
Bind = Annotated[
    str,
    typer.Option(
        "--bind",
        metavar="ENDPOINT",
        help="Address to listen on: tcp://host:port, port 0 for any free one.",
        parser=endpoint("--bind", listening=True),
    ),
]
Advertise = Annotated[
    str | None,
    typer.Option(
        "--advertise",
        metavar="ENDPOINT",
        help="Address under which others reach this role; none: where it listens.",
        parser=endpoint("--advertise", listening=False),
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; none: the current context's.", show_default=False)
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.", show_default=False)]
ANY_LOCAL = f"tcp://{loopback()}:0"
