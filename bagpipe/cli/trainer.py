"""`bagpipe trainer`: train one rank."""

from typing import Annotated

import typer

from bagpipe.cli.options import ANY_LOCAL, Advertise, Attempt, Bind, OracleAddress, RoleJob, RoleRunDir
from bagpipe.cli.values import whole
from bagpipe.lowlevel import crash_points, stacks


def trainer(
    job: RoleJob,
    run_dir: RoleRunDir,
    oracle: OracleAddress,
    rank: Annotated[
        int,
        typer.Option(
            "--rank",
            metavar="N",
            help="Rank of this trainer, from 0.",
            show_default=False,
            parser=whole("--rank", 0, 9_999, "trainers"),
        ),
    ],
    attempt: Attempt = 0,
    bind: Bind = ANY_LOCAL,
    advertise: Advertise = None,
) -> None:
    """Train one rank of one attempt of a job."""
    from bagpipe.local.role_process import check_index, check_writable, load_role, log_to_stderr, stop_flag
    from bagpipe.lowlevel import torch_compiler
    from bagpipe.lowlevel.process_life import loading

    log_to_stderr(f"trainer {rank}")
    crash_points.arm(f"trainer {rank}")
    loaded = load_role(job, run_dir)
    check_index("rank", rank, loaded.spec.trainers.replicas)
    if rank == 0:  # It writes dense weights and the manifest.
        check_writable(loaded.spec.checkpoint.folder(run_dir))
    stacks.watch_start(loaded.spec.transport.startup_seconds)
    # torch takes seconds to load, so a wrong job file has been refused before.
    torch_compiler.defer()
    with loading():
        from bagpipe.trainer.loop import run_trainer

    with stop_flag() as stop:
        run_trainer(loaded, oracle=oracle, bind=bind, advertise=advertise, rank=rank, attempt=attempt, stop=stop)
