"""`bagpipe job ...`: submit, follow and change BagpipeJobs on a cluster without kubectl."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bagpipe.cli.options import Context, JobFile, Namespace, Overrides
from bagpipe.cli.values import local_path, number, whole
from bagpipe.local.user_modules import offer_beside

if TYPE_CHECKING:
    from bagpipe.client.jobs import BagpipeClient, JobView

app = typer.Typer(help="Submit and follow jobs on a Kubernetes cluster.", no_args_is_help=True)

Values = Annotated[
    Path | None,
    typer.Option(
        "--values",
        metavar="FILE",
        help="Values file of the operator's chart: the job is judged as that installation would.",
        show_default=False,
        parser=local_path,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.", show_default=False)]


def _client(namespace: str | None, context: str | None) -> "BagpipeClient":
    from bagpipe.client.jobs import BagpipeClient

    return BagpipeClient(namespace, context=context)


@app.command("submit")
def submit(
    job: JobFile,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Another name than the file's.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has ended, showing progress.")] = False,
    values: Values = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Create a job from a file, checked here first as `bagpipe job check` does."""
    from bagpipe.client.checked import check_pods, notes
    from bagpipe.client.installation import read_installation
    from bagpipe.config.load import read_job_file
    from bagpipe.local.beginning import check_document

    offer_beside(job)
    file = read_job_file(job, overrides or ())
    check_document(file.job.spec, elsewhere=True)  # Also where no cluster can be reached.
    installed = read_installation(values)
    check_pods(file, installed)
    for note in notes(file):
        print(f"note: {note}", file=sys.stderr)
    client = _client(namespace or file.job.metadata.namespace, context)
    made = client.create(file, name=name, installed=installed)
    print(made, flush=True)
    if wait:
        _finish(client.wait(made, on_change=progress_printer()))


@app.command("check")
def check(job: JobFile, overrides: Overrides = None, values: Values = None) -> None:
    """Check a job file as `submit` does, and send nothing: settings, model, schedules, pods, but not its data."""
    from bagpipe.cli.check import check_submission
    from bagpipe.config.load import read_job_file

    offer_beside(job)
    for line in check_submission(read_job_file(job, overrides or ()), values):
        print(line)


@app.command("list")
def list_jobs(namespace: Namespace = None, context: Context = None) -> None:
    """List the namespace's jobs."""
    rows = [("NAME", "PHASE", "STEP", "EXAMPLES/S", "RESTARTS", "CREATED")]
    for view in _client(namespace, context).list():
        step = str(view.progress.get("step", ""))
        speed = str(view.progress.get("examplesPerSecond", ""))
        rows.append((view.name, view.phase, step, speed, str(view.restarts), view.created))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("get")
def get(
    name: Name,
    output: Annotated[
        Literal["text", "json", "yaml"], typer.Option("--output", "-o", help="Form of the answer.")
    ] = "text",
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show one job."""
    from bagpipe.config import yaml_writer
    from bagpipe.lowlevel.strict_json import encode

    view = _client(namespace, context).get(name)
    if output == "json":
        print(encode(view.raw, indent=2))
    elif output == "yaml":
        print(yaml_writer.dump(view.raw), end="")
    else:
        print(_line(view))
        if view.message:
            print(f"  {view.reason}: {view.message}")
        for key, value in view.summary.items():
            print(f"  {key}: {value}")


@app.command("describe")
def describe(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Describe a job in one page: its phase, what happened to it, its pods, and how it ended."""
    print(_client(namespace, context).describe(name), end="")


@app.command("wait")
def wait(
    name: Name,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="Seconds; none: for ever.",
            show_default=False,
            parser=number("--timeout", 0, 315_360_000, "seconds"),
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Stay until a job has ended, showing progress; exit code 0 only if it is complete."""
    _finish(_client(namespace, context).wait(name, timeout_seconds=timeout, on_change=progress_printer()))


@app.command("logs")
def logs(
    name: Name,
    role: Annotated[Literal["oracle", "server", "trainer"], typer.Option("--role", help="Whose log.")] = "oracle",
    index: Annotated[
        int,
        typer.Option(
            "--index",
            "--rank",
            metavar="N",
            help="Rank of the trainer, shard of the server.",
            parser=whole("--index", 0, 10_000, "processes"),
        ),
    ] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for the pod, and go on when it is replaced.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            metavar="N",
            help="Only the last lines.",
            show_default=False,
            parser=whole("--tail", 0, 10**9, "lines"),
        ),
    ] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the process before the present one.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print the log of one process."""
    client = _client(namespace, context)
    for line in client.logs(name, role=role, index=index, follow=follow, tail=tail, previous=previous):
        print(line, flush=True)


@app.command("suspend")
def suspend(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Stop a job at a checkpoint and free its pods."""
    _client(namespace, context).suspend(name)


@app.command("resume")
def resume(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Let a suspended job go on from its checkpoint."""
    _client(namespace, context).resume(name)


@app.command("scale")
def scale(
    name: Name,
    trainers: Annotated[
        int,
        typer.Option(
            "--trainers",
            metavar="N",
            help="Number of trainers.",
            show_default=False,
            parser=whole("--trainers", 1, 10_000, "trainers"),
        ),
    ],
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Change the number of trainers: a restart from a checkpoint."""
    _client(namespace, context).scale(name, trainers)


@app.command("delete")
def delete(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Delete a job and all that belongs to it."""
    _client(namespace, context).delete(name)


def _line(view: "JobView") -> str:
    parts = [f"{view.name}  {view.phase}  attempt {view.attempt}"]
    progress = view.progress
    if "step" in progress:
        parts.append(f"step {progress['step']}" + (f"/{progress['totalSteps']}" if "totalSteps" in progress else ""))
    if "loss" in progress:
        parts.append(f"loss {progress['loss']:.4f}")
    if "examplesPerSecond" in progress:
        parts.append(f"{progress['examplesPerSecond']:,.0f} examples/s")
    if "etaSeconds" in progress and not view.finished:
        parts.append(f"{progress['etaSeconds']:.0f} s to go")
    return "  ".join(parts)


def progress_printer() -> Callable[["JobView"], None]:
    """A function that prints a line for the job's view if it differs from the last one."""
    last = ""

    def show(view: "JobView") -> None:
        nonlocal last
        line = _line(view) + (
            f"  ({view.reason}: {view.message})"
            if view.phase in ("Starting", "Restarting", "Queued") and view.message
            else ""
        )
        if line != last:
            print(line, flush=True)
        last = line

    return show


def _finish(view: "JobView") -> None:
    for key, value in view.summary.items():
        print(f"{key}: {value}")
