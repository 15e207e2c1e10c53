"""`bagpipe oracle`: read ahead, plan, stream plans."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from bagpipe.cli.options import ANY_LOCAL, Attempt, Bind, RoleJob, RoleRunDir
from bagpipe.cli.output import outlive_reader
from bagpipe.cli.values import local_path
from bagpipe.lowlevel import crash_points

log = logging.getLogger(__name__)


def oracle(
    job: RoleJob,
    run_dir: RoleRunDir,
    bind: Bind = ANY_LOCAL,
    attempt: Attempt = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="DIR|auto", help="Checkpoint to start from; auto: the newest sound one, if any."
        ),
    ] = None,
    echo_metrics: Annotated[
        bool, typer.Option("--echo-metrics", help="Print progress records on stdout as well.")
    ] = False,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            metavar="FILE",
            help="When the job is done, write what it came to here (JSON).",
            parser=local_path,
        ),
    ] = None,
) -> None:
    """Plan one attempt of a job and stream the plans to its trainers."""
    from bagpipe.checkpoint.start import starting_checkpoint
    from bagpipe.local.role_process import load_role, log_to_stderr, stop_flag, yield_to_trainers
    from bagpipe.oracle.service.main import run_oracle
    from bagpipe.oracle.service.summary import write_summary

    log_to_stderr("oracle")
    crash_points.arm("oracle")
    outlive_reader()
    yield_to_trainers()
    loaded = load_role(job, run_dir)
    checkpoints = loaded.spec.checkpoint.folder(run_dir)
    if checkpoint == "auto":
        start = starting_checkpoint(checkpoints, strict=loaded.spec.checkpoint.strict, note=log.warning)
    else:
        start = Path(checkpoint) if checkpoint else None
    with stop_flag() as stop:
        run_oracle(
            loaded,
            bind=bind,
            run_dir=run_dir,
            attempt=attempt,
            checkpoint=start,
            stop=stop,
            echo=sys.stdout if echo_metrics else None,
        )
    if summary is not None:
        write_summary(summary, loaded, run_dir, checkpoints)
