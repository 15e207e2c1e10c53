"""From records to medians: one row for each contender, rate and number of trainers."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from peers.targets import Key, WithinRounds

DISTURBED_CORES = 0.25
"""A measurement during which others used more of the machine is repeated, and left out of tables."""

ROUND_SECONDS = 600
"""What lies further apart was not measured in the same round of one rate."""


def is_disturbed(record: Mapping[str, Any]) -> bool:
    """Whether somebody else used the machine meanwhile."""
    return bool(record.get("others_cores", 0.0) > DISTURBED_CORES)


def summarize(records: Iterable[Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Medians over the rounds, with their spread.

    Times come from undisturbed rounds. Where there is none, the least disturbed one stands in and is marked.
    So does CPU: others take the caches away. Bytes do not depend on them and are medians over all rounds.
    """
    groups: dict[Key, list[Mapping[str, Any]]] = {}
    for record in records:
        if "ms" in record:
            setting = record["setting"]
            groups.setdefault((setting["contender"], setting["gbit"], setting["trainers"]), []).append(record)
    return {key: _row(key, found) for key, found in groups.items()}


def within_rounds(records: Iterable[Mapping[str, Any]]) -> WithinRounds:
    """What each undisturbed measurement was beside ours in the same round: the nearest in time on the same links.

    A machine that grows slower for half an hour moves medians over rounds, but hardly these.
    """
    calm = [r for r in records if "ms" in r and not is_disturbed(r)]
    ours = [r for r in calm if r["setting"]["contender"] == "ours"]
    ratios: dict[Key, list[float]] = {}
    cpu_beyond: dict[Key, list[float]] = {}
    for record in calm:
        setting = record["setting"]
        same_links = [r for r in ours if all(r["setting"][what] == setting[what] for what in ("gbit", "trainers"))]
        beside = min(same_links, key=lambda r: abs(r["time"] - record["time"]), default=None)
        if beside is None or beside is record or abs(beside["time"] - record["time"]) > ROUND_SECONDS:
            continue
        key = setting["contender"], setting["gbit"], setting["trainers"]
        ratios.setdefault(key, []).append(record["ms"] / beside["ms"])
        cpu_beyond.setdefault(key, []).append(_cpu_ms(beside) - _cpu_ms(record))
    return WithinRounds(ratios, cpu_beyond)


def _cpu_ms(record: Mapping[str, Any]) -> float:
    """Of all roles, a trainer's share of it."""
    return float(sum(record["cpu_ms"].values()) / record["setting"]["trainers"])


def _row(key: Key, found: list[Mapping[str, Any]]) -> dict[str, Any]:
    calm = [r for r in found if not is_disturbed(r)]
    timed = calm or [min(found, key=lambda r: r["others_cores"])]
    times = [r["ms"] for r in timed]
    trainers = [f"trainer {rank}" for rank in range(key[2])]
    row: dict[str, Any] = {
        "ms": round(statistics.median(times), 1),
        "least_ms": min(times),
        "most_ms": max(times),
        "rounds": len(timed),
        "left_out": len(found) - len(timed),
        "disturbed": not calm,
        "others_cores": round(statistics.median(r["others_cores"] for r in timed), 2),
        "cpu": round(statistics.median(map(_cpu_ms, timed)), 1),
        "cpu_by_role": {k: round(statistics.median(r["cpu_ms"][k] for r in timed), 1) for k in timed[0]["cpu_ms"]},
    }
    for way in ("sent", "received"):
        row[way] = round(statistics.median(statistics.fmean(r["bytes"][t][way] for t in trainers) for r in found))
        planned = [r["planned"][way] for r in found if "planned" in r]
        if planned:
            row[f"planned_{way}"] = planned[0]
    waits = [r["waits_ms"] for r in timed if "waits_ms" in r]
    if waits:
        row["waits_ms"] = {k: round(statistics.median(w.get(k, 0.0) for w in waits), 1) for k in waits[0]}
    return row
