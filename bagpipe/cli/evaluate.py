"""`bagpipe evaluate`: score a checkpoint on held-out data, through the same cache, read-only."""

from typing import Annotated

import typer

from bagpipe.cli.checkpoint import Best, Where, newest
from bagpipe.cli.options import Overrides
from bagpipe.cli.values import need_current_folder


def evaluate(
    where: Where,
    overrides: Overrides = None,
    best: Best = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print AUC, log loss and calibration of a checkpoint on its test part, or all of other data (--set data.path)."""
    need_current_folder()
    from bagpipe.local.evaluate import evaluate_checkpoint
    from bagpipe.lowlevel.strict_json import encode

    figures = evaluate_checkpoint(
        newest(where, best=best), overrides or (), warn=lambda line: typer.echo(line, err=True)
    )
    if as_json:
        typer.echo(encode(figures))
        return
    from bagpipe.metrics.figures import UNDEFINED
    from bagpipe.metrics.tasks import by_task

    typer.echo(f"{'examples':12s} {figures['examples']}")
    for task, found in by_task(figures).items():
        why = found.get(UNDEFINED, {})
        for name, value in found.items():
            if name == UNDEFINED:
                continue
            shown = f"{value:.6f}" if isinstance(value, float) else f"undefined: {why.get(name, 'not known')}"
            typer.echo(f"{f'{task} ' if task else ''}{name:12s} {shown}")
