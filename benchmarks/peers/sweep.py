"""One setting varied, all else as in the comparison: ours, a parameter server and the bound over it, as two plots.

The lookahead's and the cache's sweep change only ours; the others are measured once, as lines to compare with. One of
them is ours as it chooses both itself.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers.registry import CONTENDERS
from peers.rounds import measure_rounds
from peers.setting import Setting
from peers.summary import is_disturbed

CONTENDING = ("bound", "ours", "rpc-unique")
SWEEPS: Mapping[str, tuple[str, Sequence[Any]]] = {
    "lookahead": ("lookahead", (5, 10, 25, 50, 100, 200)),
    "cache": ("cache_rows", (20_000, 40_000, 80_000, 160_000)),
    "batch": ("batch", (512, 1024, 2048, 4096)),
    "dim": ("dim", (16, 48, 128)),
    "skew": ("alpha", (0.7, 0.9, 1.05, 1.2)),
    "trainers": ("trainers", (1, 2, 4)),
    "bandwidth": ("gbit", (0.25, 0.5, 1.0, 2.0, 4.0)),
}
"""What is varied, and its values."""
UNITS = {
    "lookahead": "lookahead, steps",
    "cache_rows": "cache, rows a trainer",
    "batch": "batch, examples a trainer",
    "dim": "embedding dim, floats",
    "alpha": "skew, Zipf exponent",
    "trainers": "trainers",
    "gbit": "link, Gbit/s in each direction",
}
"""An axis's label."""
OURS_ALONE = ("lookahead", "cache")
LONGEST = 200
"""Lookahead up to which `auto` may choose."""


def run_sweep(asked: argparse.Namespace, cache: Path) -> int:
    """Measure the sweep, then draw all of its records."""
    code = measure_rounds(settings_of(asked.name, asked.gbit, asked.steps), asked, cache)
    if code == 0:
        draw(asked.name, asked.records)
    return code


def settings_of(name: str, gbit: float | None, steps: int) -> list[Setting]:
    """Every point of every line."""
    field, values = SWEEPS[name]
    base = Setting("bound", gbit, steps=steps)
    points = []
    for number, value in enumerate(values):
        for contender in CONTENDING:
            if contender == "ours" or name not in OURS_ALONE or number == 0:
                varied = {field: value} if contender == "ours" or name not in OURS_ALONE else {}
                points.append(replace(base, contender=contender, **varied))
    if name in OURS_ALONE:
        points.append(replace(base, contender="ours-auto", lookahead=LONGEST))
    return points


def step_ms(record: Mapping[str, Any]) -> float:
    """Of one measurement."""
    return float(record["ms"])


def busier_mb(record: Mapping[str, Any]) -> float:
    """MB a step in the busier direction of a trainer's link, headers included; the trainers' mean."""
    trainers = range(record["setting"]["trainers"])
    return statistics.fmean(max(record["bytes"][f"trainer {rank}"].values()) for rank in trainers) / 1e6


def lines_of(
    name: str, records: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float] = step_ms
) -> dict[str, list[tuple[float, float]]]:
    """Median figure over the varied value, by contender; disturbed records only where there are no others."""
    field, values = SWEEPS[name]
    found: dict[str, list[tuple[float, float]]] = {}
    for contender in (*CONTENDING, "ours-auto"):
        constant = contender != "ours" and name in OURS_ALONE
        for value in values:
            same = [r for r in records if "ms" in r and r["setting"]["contender"] == contender]
            same = same if constant else [r for r in same if r["setting"][field] == value]
            calm = [figure(r) for r in same if not is_disturbed(r)] or [figure(r) for r in same]
            if calm:
                found.setdefault(contender, []).append((value, statistics.median(calm)))
    return found


def draw(name: str, records_file: Path) -> None:
    """The plots beside the records: time and bytes of a step."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    records = [json.loads(line) for line in records_file.read_text(encoding="utf-8").splitlines() if line]
    field, values = SWEEPS[name]
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.5))
    for panel, value, label in (
        (panels[0], step_ms, "ms a step"),
        (panels[1], busier_mb, "MB a step on a trainer's link"),
    ):
        for contender, points in lines_of(name, records, value).items():
            style = "--" if contender in ("bound", "ours-auto") else "-"
            panel.plot(*zip(*points, strict=True), style, marker="o", label=CONTENDERS[contender].label)
        panel.set(xscale=_scale(values), xlabel=UNITS[field], ylabel=label, ylim=(0, None))
        panel.set_xticks(values, [f"{v:g}" for v in values])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(records_file.with_suffix(".png"), dpi=80, metadata={"Software": None})
    plt.close(figure)


def _scale(values: Sequence[float]) -> str:
    """Values that double lie evenly."""
    return "log" if max(values) >= 4 * min(values) else "linear"
