"""What was measured as one JSON, one Markdown page and one plot, beside the records."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.clicks import LOOKAHEAD
from peers.registry import CONTENDERS
from peers.summary import DISTURBED_CORES, summarize, within_rounds
from peers.targets import Key, Verdict, verdicts

Rows = Mapping[Key, Mapping[str, Any]]


def write(records_file: Path, notes: Sequence[str] | None = None) -> str:
    """Write `<records>.json`, `.md` and `.png`; returns the Markdown."""
    records = [json.loads(line) for line in records_file.read_text(encoding="utf-8").splitlines() if line]
    noted = [r for r in records if notes is None or r["note"] in notes]
    records = [r for r in noted if is_standard(r)]
    rows, real = summarize(records), summarize(r for r in noted if is_standard(r, real=True))
    found = verdicts(rows, within_rounds(records))
    page = markdown(rows, found, records, real)
    records_file.with_suffix(".md").write_text(page, encoding="utf-8")
    whole = {
        "machine": records[-1]["machine"] if records else {},
        "rows": _listed(rows),
        "real_examples": _listed(real),
        "targets": [asdict(verdict) for verdict in found],
    }
    records_file.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    plot(rows, records_file.with_suffix(".png"))
    return page


def _listed(rows: Rows) -> list[dict[str, Any]]:
    return [{"contender": n, "gbit": g, "trainers": t} | dict(row) for (n, g, t), row in sorted_rows(rows)]


def is_standard(record: Mapping[str, Any], *, real: bool = False) -> bool:
    """The comparison's own workload, not a sweep's; or the same on real examples."""
    setting = record["setting"]
    usual = {"batch": 2048, "dim": 48, "alpha": 1.05, "cache_rows": None, "servers": 2}
    usual["lookahead"] = LOOKAHEAD if real else 100
    return (setting.get("clicks") is not None) == real and all(setting[name] == value for name, value in usual.items())


def sorted_rows(rows: Rows) -> list[tuple[Key, Mapping[str, Any]]]:
    """By trainers, rate (unlimited first), then the contenders' own order."""
    order = list(CONTENDERS)
    return sorted(rows.items(), key=lambda item: (item[0][2], -(item[0][1] or 1e9), order.index(item[0][0])))


def markdown(
    rows: Rows, found: Sequence[Verdict], records: Sequence[Mapping[str, Any]], real: Rows | None = None
) -> str:
    """The page; `real`: what was measured on real examples."""
    lines = ["# Bagpipe and its peers on rate-limited links", "", *_introduction(records), ""]
    for trainers in sorted({key[2] for key in rows}):
        lines += [f"## {_trainers(trainers)}: ms a step", "", *_times(rows, trainers), ""]
    real = real or {}
    for trainers in sorted({key[2] for key in real}):
        title = f"## Real examples, {_trainers(trainers)}: ms a step"
        lines += [title, "", *_about_real(), "", *_times(real, trainers), ""]
    lines += ["## Within a round: times ours", "", *_about_ratios(), "", *_ratios(within_rounds(records).ratios), ""]
    lines += ["## Targets", "", *_targets(found), "", "## CPU and bytes of a step", "", *_costs(rows), ""]
    lines += ["## What ours waits for", "", *_waits(rows), ""]
    return "\n".join(lines)


def _introduction(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not records:
        yield "Nothing was measured."
        return
    m = records[-1]["machine"]
    yield (
        f"{m['cores']} cores of {m['cpu']}, {m['memory_gib']:g} GiB, Linux {m['kernel']}, Python {m['python']}, "
        f"torch {m['torch']}, torchrec {m['torchrec']}. Made by `make bench-peers`."
    )
    yield ""
    yield "26 tables, 3.9 M rows of 48 floats, batch 2,048 a trainer, a Zipf 1.05 stream, one torch thread a trainer;"
    yield "every role behind a full-duplex link of its own, checked with both directions flowing at once."
    yield f"Medians of interleaved rounds (least to most). Rounds in which others used over {DISTURBED_CORES} cores are"
    yield "left out; `~` marks a cell that has only such rounds: its least disturbed one is shown, and proves little."


def _trainers(count: int) -> str:
    return "1 trainer" if count == 1 else f"{count} trainers"


def _about_real() -> Iterator[str]:
    yield f"A Criteo file (`--clicks FILE`) instead of the stream, hashed into the same tables, lookahead {LOOKAHEAD}:"
    yield "it comes back after a few dozen steps, and no lookahead sees it twice."


def _times(rows: Rows, trainers: int) -> Iterator[str]:
    rates = sorted({key[1] for key in rows if key[2] == trainers}, key=lambda g: -(g or 1e9))
    yield "| contender | " + " | ".join(_link(g) for g in rates) + " |"
    yield "|---|" + "---|" * len(rates)
    for name, contender in CONTENDERS.items():
        if any((name, g, trainers) in rows for g in rates):
            yield f"| {contender.label} | " + " | ".join(_cell(rows.get((name, g, trainers))) for g in rates) + " |"


def _about_ratios() -> Iterator[str]:
    yield "A machine whose speed changes from one half hour to the next moves the medians above, but hardly the ratio"
    yield "of two neighbours: the median over rounds (least to most) of each step time over ours in the same round."


def _ratios(found: Mapping[Key, Sequence[float]]) -> Iterator[str]:
    columns = sorted({key[1:] for key in found}, key=lambda c: (c[1], -(c[0] or 1e9)))
    yield "| contender | " + " | ".join(f"{_trainers(t)}, {_link(g)}" for g, t in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for name, contender in CONTENDERS.items():
        cells = [_ratio(found.get((name, *column), ())) for column in columns]
        if any(cells):
            yield f"| {contender.label} | " + " | ".join(cells) + " |"


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    spread = f" ({row['least_ms']:.0f}-{row['most_ms']:.0f})" if row["rounds"] > 1 else ""
    return f"{'~' if row['disturbed'] else ''}{row['ms']:.0f}{spread}"


def _link(gbit: float | None) -> str:
    return "unlimited" if gbit is None else f"{gbit:g} Gbit/s"


def _targets(found: Sequence[Verdict]) -> Iterator[str]:
    yield "Hit: by the medians and, where they are compared so, within rounds too. Not all contenders were measured"
    yield "equally often, so the medians alone compare different hours."
    yield ""
    yield "| measure | target | by medians | within a round | |"
    yield "|---|---|---|---|---|"
    for v in found:
        word = "hit" if v.hit else "**missed**"
        if v.hit is None:
            word = "undecided: disturbed" if v.disturbed else "not measured"
        shown = "" if v.found is None else f"{'~' if v.disturbed else ''}{v.found:.2f}"
        within = "" if v.within is None else f"{v.within:.2f}"
        yield f"| {v.measure} | {v.target} | {shown} | {within} | {word} |"


def _costs(rows: Rows) -> Iterator[str]:
    yield "| contender | trainers | link | CPU ms, all roles, a trainer | MB sent a trainer | MB received |"
    yield "|---|---|---|---|---|---|"
    for (name, gbit, trainers), row in sorted_rows(rows):
        sent, received = row["sent"] / 1e6, row["received"] / 1e6
        label = CONTENDERS[name].label
        yield f"| {label} | {trainers} | {_link(gbit)} | {row['cpu']:.0f} | {sent:.2f} | {received:.2f} |"


def _waits(rows: Rows) -> Iterator[str]:
    """Milliseconds in a step, as the run itself reports them."""
    told = [(key, row) for key, row in sorted_rows(rows) if "waits_ms" in row]
    names = sorted({name for _, row in told for name in row["waits_ms"]})
    yield "| contender | trainers | link | " + " | ".join(names) + " |"
    yield "|---|---|---|" + "---|" * len(names)
    for (name, gbit, trainers), row in told:
        waits = " | ".join(f"{row['waits_ms'].get(n, 0.0):.1f}" for n in names)
        yield f"| {CONTENDERS[name].label} | {trainers} | {_link(gbit)} | {waits} |"


def plot(rows: Rows, target: Path) -> None:
    """Step time over the links' rate, one line a contender, one panel for each number of trainers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = sorted({key[2] for key in rows}) or [2]
    figure, panels = plt.subplots(1, len(counts), figsize=(7 * len(counts), 5), squeeze=False)
    for panel, trainers in zip(panels[0], counts, strict=True):
        for name, contender in CONTENDERS.items():
            points = sorted((g, row["ms"]) for (n, g, t), row in rows.items() if (n, t) == (name, trainers) and g)
            if points:
                own = name in ("ours", "bound")
                style = {"linewidth": 3 if name == "ours" else 1.3, "linestyle": "--" if name == "bound" else "-"}
                panel.plot(
                    *zip(*points, strict=True), marker="o", label=contender.label, zorder=3 if own else 2, **style
                )
        panel.set(xscale="log", yscale="log", xlabel="link, Gbit/s in each direction", ylabel="ms a step")
        panel.set_title(_trainers(trainers))
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=90, metadata={"Software": None})
    plt.close(figure)
