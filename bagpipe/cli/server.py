"""`bagpipe server`: hold one shard of the embedding tables."""

from typing import Annotated

import typer

from bagpipe.cli.options import ANY_LOCAL, Advertise, Attempt, Bind, OracleAddress, RoleJob, RoleRunDir
from bagpipe.cli.values import whole
from bagpipe.lowlevel import crash_points


def server(
    job: RoleJob,
    run_dir: RoleRunDir,
    oracle: OracleAddress,
    shard: Annotated[
        int,
        typer.Option(
            "--shard",
            metavar="N",
            help="Number of this shard, from 0.",
            show_default=False,
            parser=whole("--shard", 0, 999, "shards"),
        ),
    ],
    attempt: Attempt = 0,
    bind: Bind = ANY_LOCAL,
    advertise: Advertise = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="When the job is done, wait for SIGTERM: a StatefulSet would start it again.")
    ] = False,
) -> None:
    """Serve one shard of the embedding tables for one attempt of a job."""
    from bagpipe.embedding.server import run_server
    from bagpipe.local.role_process import (
        check_index,
        check_writable,
        load_role,
        log_to_stderr,
        stop_flag,
        yield_to_trainers,
    )

    log_to_stderr(f"server {shard}")
    crash_points.arm(f"server {shard}")
    yield_to_trainers()
    loaded = load_role(job, run_dir)
    spec = loaded.spec
    check_index("shard", shard, spec.servers.replicas)
    check_writable(spec.checkpoint.folder(run_dir))
    with stop_flag() as stop:
        run_server(
            oracle=oracle,
            bind=bind,
            advertise=advertise,
            shard=shard,
            job=loaded.metadata.name,
            attempt=attempt,
            data_dir=run_dir / "servers" / str(shard),
            storage=spec.servers.storage,
            checkpoint_dir=loaded.spec.checkpoint.folder(run_dir),
            transport=spec.transport,
            stop=stop,
        )
        if stay:
            stop.wait()
