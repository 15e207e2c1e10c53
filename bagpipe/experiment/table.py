"""The table of an experiment: rows of plain values, and the three ways to write them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bagpipe.experiment.measure import Timing
from bagpipe.experiment.suite import MODELS, TITLES
from bagpipe.lowlevel.strict_json import encode

SYSTEMS = {"cached": "Bagpipe", "uncached": "no cache", "torchrec": "TorchRec"}


@dataclass(frozen=True, slots=True)
class Row:
    """One system on one model."""

    model: str
    system: str
    """cached, uncached or torchrec."""
    batch_size: int
    trainers: int
    timing: Timing | None
    problem: str | None = None
    """Why there is no timing."""


def speedups(rows: Sequence[Row]) -> Mapping[tuple[str, str], float]:
    """How many times faster the cache is than each other system, by model and system."""
    cached = {r.model: r.timing.mean_ms for r in rows if r.system == "cached" and r.timing}
    return {
        (r.model, r.system): r.timing.mean_ms / cached[r.model]
        for r in rows
        if r.system != "cached" and r.timing and r.model in cached
    }


def ordered(rows: Sequence[Row]) -> list[Row]:
    """By model in the paper's order, then by system."""
    models = [*MODELS, *sorted({r.model for r in rows} - set(MODELS))]
    return sorted(rows, key=lambda r: (models.index(r.model), list(SYSTEMS).index(r.system)))


def to_markdown(rows: Sequence[Row], conditions: Sequence[str]) -> str:
    """The table for people; `conditions` are lines that say where and how it was measured."""
    ratios = speedups(rows)
    lines = [
        "| model | system | ms per iteration | standard deviation | times Bagpipe's | hit rate | loss | iterations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ordered(rows):
        name = f"| {TITLES.get(row.model, row.model)} | {SYSTEMS[row.system]} |"
        if row.timing is None:
            lines.append(f"{name} {row.problem or 'not run'} | | | | | |")
            continue
        t = row.timing
        ratio = ratios.get((row.model, row.system))
        cells = (
            f"{t.mean_ms:.1f}",
            _or_empty(t.deviation_ms, "{:.1f}"),
            _or_empty(ratio, "{:.2f}"),
            _or_empty(t.hit_rate, "{:.1%}") if row.system == "cached" else "",
            _or_empty(t.loss, "{:.6f}"),
            f"{t.steps} (after {t.skipped})",
        )
        lines.append(f"{name} {' | '.join(cells)} |")
    return "\n".join([*conditions, "", *lines]).lstrip() + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    fields = ("mean_ms", "deviation_ms", "median_ms", "steps", "skipped", "hit_rate", "loss")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "system", "batch_size", "trainers", *fields, "problem"))
    for row in ordered(rows):
        values = asdict(row.timing) if row.timing else {}
        writer.writerow(
            (row.model, row.system, row.batch_size, row.trainers, *(values.get(f) for f in fields), row.problem)
        )
    return out.getvalue()


def to_json(rows: Sequence[Row], conditions: Sequence[str]) -> str:
    ratios = speedups(rows)
    body = [{**asdict(row), "times_bagpipe": ratios.get((row.model, row.system))} for row in ordered(rows)]
    return encode({"conditions": list(conditions), "rows": body}, indent=2) + "\n"


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
