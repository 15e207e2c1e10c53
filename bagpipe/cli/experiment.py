"""`bagpipe experiment ...`: the paper's six models one after another, and one table of them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bagpipe.cli.options import Context, Namespace, Overrides
from bagpipe.cli.output import outlive_reader
from bagpipe.cli.values import local_path, number, whole

if TYPE_CHECKING:
    from bagpipe.experiment.session import Runner
    from bagpipe.experiment.suite import Case
    from bagpipe.experiment.table import Row

app = typer.Typer(help="Several jobs one after another, and one table of them.", no_args_is_help=True)
INTERRUPTED = 130
WARM_UP_STEPS = 5
SEQUENCES, SMALL_SEQUENCES = "caser.jsonl", 20_000

# One alias for each option, in the order in which `--help` tells them.
Here = Annotated[bool, typer.Option("--local", help="Run here, as processes, instead of on a cluster.")]
Models = Annotated[
    str | None,
    typer.Option("--models", help="Some of dlrm,wdl,dcn,deepfm,fgcnn,caser; none: all.", show_default=False),
]
Variants = Annotated[str, typer.Option("--variants", help="With the cache, without it (lookahead 0), or both.")]
Scale = Annotated[
    Literal["paper", "small"] | None,
    typer.Option(
        "--scale",
        help="The paper's sizes on its data sets, or small ones on generated data; none: small with --local.",
        show_default=False,
    ),
]
JobFiles = Annotated[
    Path | None,
    typer.Option(
        "--jobs",
        metavar="DIR",
        help="Folder of job files to run instead: MODEL.yaml each.",
        show_default=False,
        parser=local_path,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where logs and tables go; default: runs/six-models-<time>.", parser=local_path
    ),
]
Skip = Annotated[
    int,
    typer.Option(
        "--skip",
        metavar="N",
        help="Steps at the start of each run that do not count.",
        parser=whole("--skip", 0, 10**12, "steps"),
    ),
]
Warm = Annotated[
    bool, typer.Option("--warm/--no-warm", help="First a short run on each data set, which reads all of it.")
]
TorchRecLog = Annotated[
    Path | None,
    typer.Option(
        "--torchrec-log",
        metavar="FILE",
        help="Log of the TorchRec baseline, for its row.",
        show_default=False,
        parser=local_path,
    ),
]
Conditions = Annotated[
    list[str] | None, typer.Option("--condition", help="A line above the table, e.g. the links' speed; repeatable.")
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave jobs on the cluster, checkpoints on the disk.")]
JobTimeout = Annotated[
    float,
    typer.Option(
        "--job-timeout",
        metavar="SECONDS",
        help="On a cluster: longest time for one job, in seconds.",
        parser=number("--job-timeout", 1, 315_360_000, "seconds"),
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="First part of the jobs' names; default: six-<time>.")]
WriteJobs = Annotated[
    Path | None,
    typer.Option(
        "--write-jobs",
        metavar="DIR",
        help="Only write the job files to this folder.",
        show_default=False,
        parser=local_path,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="With --write-jobs: replace job files that exist.")]


@app.command("six-models")
def six_models(
    local: Here = False,
    models: Models = None,
    variants: Variants = "cached,uncached",
    scale: Scale = None,
    jobs: JobFiles = None,
    overrides: Overrides = None,
    out: Out = None,
    skip: Skip = 10,
    warm: Warm = True,
    torchrec_log: TorchRecLog = None,
    condition: Conditions = None,
    keep: Keep = False,
    job_timeout: JobTimeout = 7200,
    experiment: Name = None,
    write_jobs: WriteJobs = None,
    overwrite: Overwrite = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Train the paper's six models, each with the cache and without, and write one table and one picture."""
    from bagpipe.errors import ConfigError
    from bagpipe.experiment import suite
    from bagpipe.experiment.local import check_here
    from bagpipe.experiment.session import Interrupted, run_experiment

    chosen = tuple(models.split(",")) if models else suite.MODELS
    size = scale or ("small" if local else "paper")
    if jobs is None:
        documents = {model: suite.job_document(model, size) for model in chosen}
    else:
        documents = {model: suite.read_document(jobs / f"{model}.yaml") for model in chosen}
    if write_jobs is not None:
        _write(documents, write_jobs, overwrite=overwrite)
        return
    if overwrite:
        raise ConfigError("--overwrite: is for --write-jobs; an experiment's folder must be empty or new")
    outlive_reader()
    now = datetime.now()
    name = experiment or f"six-{now:%m%d-%H%M%S}"
    directory = out or Path("runs") / f"six-models-{now:%Y%m%d-%H%M%S}"
    generated = {}
    if local and jobs is None and size == "small" and "caser" in documents:
        generated = {SEQUENCES: suite.small_sequences(SMALL_SEQUENCES)}
        documents["caser"]["spec"]["data"]["path"] = str(directory / SEQUENCES)
    planned = suite.cases(documents, variants.split(","), overrides or (), name)
    if local:
        check_here(planned, {str(directory / name) for name in generated})
    measured = [_torchrec(torchrec_log, planned)] if torchrec_log else []
    runner = _runner(name, local=local, keep=keep, timeout=job_timeout, namespace=namespace, context=context)
    try:
        rows = run_experiment(
            planned,
            suite.warm_ups(planned, WARM_UP_STEPS) if warm else (),
            runner,
            directory,
            _note,
            skip=skip,
            conditions=condition or (),
            measured=measured,
            generated=generated,
        )
    except Interrupted as stopped:
        typer.echo(f"{stopped}; the table of what was measured is in {directory}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo((directory / "table.md").read_text(encoding="utf-8"), nl=False)
    typer.echo(f"tables and logs are in {directory}")
    if any(row.problem for row in rows):
        raise typer.Exit(70)


def _runner(
    name: str, *, local: bool, keep: bool, timeout: float, namespace: str | None, context: str | None
) -> "Runner":
    if local:
        from rich.console import Console

        from bagpipe.experiment.local import LocalRunner
        from bagpipe.local.progress import view_for

        return LocalRunner(view_for(Console()), keep=keep)
    from bagpipe.cli.job import progress_printer
    from bagpipe.client.jobs import BagpipeClient
    from bagpipe.experiment.remote import ClusterRunner

    client = BagpipeClient(namespace, context=context)
    return ClusterRunner(client, name, _note, keep=keep, timeout_seconds=timeout, on_change=progress_printer())


def _torchrec(log: Path, planned: "tuple[Case, ...]") -> "Row":
    from bagpipe.errors import ConfigError
    from bagpipe.experiment.measure import torchrec_timing
    from bagpipe.experiment.table import Row

    if not log.is_file():
        raise ConfigError(f"--torchrec-log {log}: no such file; artifact/torchrec_baseline makes it")
    spec = next((c.job.spec for c in planned if c.model == "dlrm"), None)
    if spec is None:
        raise ConfigError("--torchrec-log: the baseline trains DLRM; have dlrm among --models")
    timing = torchrec_timing(log.read_text(encoding="utf-8", errors="replace"))
    return Row("dlrm", "torchrec", spec.batch_size, spec.trainers.replicas, timing)


def _write(documents: "dict[str, dict[str, object]]", folder: Path, *, overwrite: bool) -> None:
    from bagpipe.config import yaml_writer
    from bagpipe.lowlevel.atomic_files import make_folder, refuse_existing, write_whole

    files = {folder / f"{model}.yaml": document for model, document in documents.items()}
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    make_folder(folder)
    for file, document in files.items():
        write_whole(file, yaml_writer.dump(document).encode())


def _note(message: str) -> None:
    typer.echo(message)
