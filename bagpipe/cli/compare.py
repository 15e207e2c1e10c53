"""`bagpipe compare`: runs side by side, what differs in their settings and what became of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bagpipe.cli.values import local_path

if TYPE_CHECKING:
    from bagpipe.local.comparison import Comparison

_TITLES = {
    "loss": "loss of the last step",
    "validation.best.step": "best validation at step",
    "trainExamples": "training examples",
    "testExamples": "test examples",
    "data": "digest of the data",
    "msPerStep": "ms per step",
    "lookahead": "lookahead used",
    "examplesPerSecond": "examples/s",
    "cacheHitRate": "cache hit rate",
    "seconds": "seconds, all in all",
    "modelDigest": "digest of the model",
    "skippedSteps": "steps passed over",
}
_DIGITS = {"loss": ".6f", "msPerStep": ".1f", "examplesPerSecond": ",.0f", "cacheHitRate": ".1%", "seconds": ".1f"}
_DIGESTS = ("data", "modelDigest")
DIGEST_LETTERS = 12
"""Of each digest so many are shown; `--json` has them whole."""

SECTION_LETTERS = 60
"""Of a section that only some of the runs have so many are shown; `--json` has it whole."""


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories, at least two.", show_default=False, parser=local_path),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print runs side by side: settings and versions that differ, figures, speed, and which models are the same."""
    from bagpipe.local import comparison
    from bagpipe.lowlevel.strict_json import encode

    found = comparison.compare(runs)
    if as_json:
        typer.echo(
            encode(
                {
                    "runs": [str(run) for run in runs],
                    "settings": found.settings,
                    "versions": found.versions,
                    "figures": found.figures,
                    "sameModels": found.same_models,
                }
            )
        )
        return
    for line in comparison_lines(found):
        typer.echo(line)


def comparison_lines(found: "Comparison") -> Iterator[str]:
    """The table, a column for each run, and below it what the table means."""
    rows: list[tuple[str, Sequence[str] | None]] = []
    rows.append(("settings that differ" if found.sections else "all settings are equal", None))
    rows += [(f"  {name}", [_section(v) for v in values]) for name, values in found.sections.items()]
    if found.versions:
        rows.append(("versions that differ", None))
        rows += [(f"  {name}", [_setting(v) for v in values]) for name, values in found.versions.items()]
    rows.append(("figures", None))
    rows += [(f"  {_title(name)}", [_figure(name, v) for v in values]) for name, values in found.figures.items()]
    yield from _table(("", found.names), rows)
    yield ""
    for group in found.same_models:
        yield f"the same model, to the bit: {', '.join(group)}"
    if not found.same_models and not found.unfinished:
        yield "the models differ"
        if found.versions:
            yield "versions differ, which alone can make models differ"
    for name in found.unfinished:
        yield f"{name}: no summary.json: this run goes on, failed, or was stopped while it started"
    if found.other_data:
        yield "data or test parts differ, so the figures may be of other examples"


def _table(head: tuple[str, Sequence[str]], rows: Sequence[tuple[str, Sequence[str] | None]]) -> Iterator[str]:
    all_rows = [head, *rows]
    first = max(len(title) for title, _ in all_rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in all_rows if cells), strict=True)]
    for title, cells in all_rows:
        shown = [f"{cell:{width}s}" for cell, width in zip(cells or (), widths, strict=False)]
        yield "  ".join([f"{title:{first}s}", *shown]).rstrip()


def _title(name: str) -> str:
    if name.startswith("evaluation."):
        return f"test {name.removeprefix('evaluation.')}"
    if name.startswith("validation.best.") and name not in _TITLES:
        return f"best validation {name.removeprefix('validation.best.')}"
    return _TITLES.get(name, name)


def _section(value: Any) -> str:
    """A setting, or a section in a few words: lists by how many they are, and so much as a column has room for."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return f"{len(value):,} given"
    if not isinstance(value, dict):
        return _setting(value)
    words = ", ".join(f"{name}: {_section(one)}" for name, one in value.items()) or "as by default"
    return words if len(words) <= SECTION_LETTERS else f"{words[: SECTION_LETTERS - 3]}..."


def _setting(value: Any) -> str:
    from bagpipe.lowlevel.strict_json import encode

    if value is None:
        return "none"
    return value if isinstance(value, str) else encode(value)


def _figure(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _DIGESTS:
        return str(value)[:DIGEST_LETTERS]
    if isinstance(value, str):
        return value
    return format(value, _DIGITS.get(name, ".6f" if isinstance(value, float) else ","))
