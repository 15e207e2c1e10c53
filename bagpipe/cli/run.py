"""`bagpipe run`: a whole job here, one process per role."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bagpipe.cli.options import Overrides
from bagpipe.cli.output import outlive_reader
from bagpipe.cli.values import job_path, local_path
from bagpipe.local.user_modules import offer_beside


def run(
    job: Annotated[
        Path | None,
        typer.Argument(
            metavar="JOB", help="Job file; with --resume it may be left out.", show_default=False, parser=job_path
        ),
    ] = None,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir",
            metavar="DIR",
            help="Where the run keeps everything; default: runs/<name>-<time>.",
            parser=local_path,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --run-dir from its newest checkpoint.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="With --resume: go on from this checkpoint instead of the newest sound one; newer ones are set aside.",
            parser=local_path,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check everything, start nothing, print what would run.")
    ] = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="With --check: look at the job alone, not at its data.")
    ] = False,
    new_data: Annotated[
        bool,
        typer.Option("--new-data", help="With --resume: the data has changed and is meant; a new epoch begins."),
    ] = False,
) -> None:
    """Train a job on this machine: one oracle, its embedding servers and its trainers, as processes."""
    from rich.console import Console

    from bagpipe.checkpoint.places import JOB_FILE
    from bagpipe.config.paths import as_text
    from bagpipe.errors import ConfigError, ExitCode
    from bagpipe.local.progress import view_for
    from bagpipe.local.run import resume_run, start_run

    if job is None and not resume:
        raise ConfigError("which job? give a job file: bagpipe run examples/demo.yaml")
    if new_data and not resume:
        raise ConfigError("--new-data: only a run that is resumed had other data before; add --resume or leave it out")
    if no_data and not check:
        raise ConfigError("--no-data: only a check can do without the data; add --check or leave it out")
    if checkpoint is not None and not resume:
        raise ConfigError("--checkpoint: only a run that is resumed goes on from one; add --resume or leave it out")
    if run_dir is not None:
        as_text(run_dir.absolute(), "--run-dir")
    if (known := job or (run_dir / JOB_FILE if run_dir is not None else None)) is not None:
        offer_beside(known)
    if check:
        _check(job, overrides or (), run_dir, resume=resume, with_data=not no_data)
        return
    outlive_reader()
    view = view_for(Console())
    try:
        if resume:
            result = resume_run(job, overrides or (), run_dir, view, new_data=new_data, chosen=checkpoint)
        else:
            assert job is not None
            result = start_run(job, overrides or (), run_dir, view)
    finally:
        view.close()
    if result.summary is not None:
        for line in closing_lines(result.summary, result.run_dir, program()):
            typer.echo(line)
    elif result.outcome.code == ExitCode.STOPPED:
        from bagpipe.config.paths import typed

        again = f"{program()} run --resume --run-dir {typed(result.run_dir)}"
        typer.echo(f"stopped before the first step; {again} begins again")
    if result.outcome.error:
        typer.echo(f"error: {result.outcome.error}", err=True)
    raise typer.Exit(result.outcome.code)


def _check(job: Path | None, overrides: Sequence[str], run_dir: Path | None, *, resume: bool, with_data: bool) -> None:
    from bagpipe.cli.check import check_run
    from bagpipe.errors import ConfigError

    if resume or job is None:
        raise ConfigError("--check: has no effect on a run that is resumed; leave out --resume and give the job file")
    for line in check_run(job, overrides, run_dir, with_data=with_data):
        typer.echo(line)


def program() -> str:
    """How this command was called, for the commands that it proposes: `bagpipe` may not be on the PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "bagpipe" and shutil.which("bagpipe") is None else "bagpipe"


def closing_lines(summary: dict[str, Any], run_dir: Path, bagpipe: str = "bagpipe") -> list[str]:
    """Lines that tell how a run ended, and what to do next."""
    from bagpipe.config.paths import shown, typed
    from bagpipe.lowlevel.strict_json import number

    last = number(summary, "loss")
    loss = f"loss {last:.4f}, " if last is not None else ""
    early = (summary.get("validation") or {}).get("stoppedEarly", False)
    ended = "stopped at" if summary.get("stopped") else "stopped early at" if early else "trained"
    speed = f"{summary['examplesPerSecond']:,.0f} examples/s, cache hit rate {summary['cacheHitRate']:.1%}"
    lines = [f"{ended} step {summary['steps']} in {summary['seconds']:.1f} s: {loss}{speed}"]
    if not summary["examplesPerSecond"] and not summary.get("stopped"):
        lines = [f"nothing was left to train: {ended} step {summary['steps']} by an earlier call"]
    if summary.get("attempts") == 0:
        lines = [f"trained to step {summary['steps']} by an earlier call, whose figures summary.json keeps"]
    if skipped := summary.get("skippedSteps"):
        lines.append(f"{skipped:,} of these steps were passed over (notFinite: skip); metrics.jsonl has their reasons")
    test = summary.get("evaluation")
    lines += evaluation_lines(test, f" ({test.get('examples', 0):,} examples)") if test else []
    lines += best_lines(summary)
    lines += [f"model digest {summary['modelDigest']}", f"run directory {shown(run_dir)}", "next:"]
    run, bagpipe = typed(run_dir), typed(bagpipe)
    if summary.get("stopped"):
        return [*lines, f"  {bagpipe} run --resume --run-dir {run}"]
    lines.append(f"  {bagpipe} evaluate {run}                 # again, or on other data: --set spec.data.path=...")
    lines.append(f"  {bagpipe} checkpoint show {run}          # what was saved")
    lines.append(f"  {bagpipe} predict {run} --data new.csv --out scores.parquet  # a score for each new row")
    lines.append(f"  {bagpipe} export {run} {typed(run_dir / 'export')}  # raw rows to scores without Bagpipe")
    return lines


def best_lines(summary: Mapping[str, Any]) -> list[str]:
    """Which evaluation of the validation part was the best, where it was not the last: test figures are of the last."""
    best = (summary.get("validation") or {}).get("best")
    if best is None or best["step"] == summary["steps"]:
        return []
    found = f"the best {best['metric']} was {best['value']:.4f} at step {best['step']}"
    return [f"validation: {found}; --best takes that checkpoint, where it was kept"]


def evaluation_lines(evaluation: Mapping[str, Any], end: str = "") -> list[str]:
    """The figures of each task on a line, with the reason where one is not defined."""
    from bagpipe.metrics.tasks import by_task

    if (why := evaluation.get("failed")) is not None:
        return [
            f"evaluation failed: {why}",
            "the model is trained and saved; once that is mended, evaluate it as below",
        ]
    lines = []
    for task, figures in by_task(evaluation).items():
        why = figures.get("undefined", {})
        shown = [f"{_TITLES.get(n, n)} {_figure(v, why.get(n))}" for n, v in figures.items() if n != "undefined"]
        lines.append(f"test {f'{task}: ' if task else ''}{', '.join(shown)}{end}")
    return lines


_TITLES = {"auc": "AUC", "logLoss": "log loss", "rmse": "RMSE", "mae": "MAE"}


def _figure(value: float | None, why: str | None) -> str:
    """None where a figure has no meaning: labels of one class only, or a model that diverged."""
    if value is not None:
        return f"{value:.4f}"
    return f"undefined ({why})" if why else "undefined"
