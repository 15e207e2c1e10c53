"""Interleaved rounds: in each, every contender runs once on every kind of link, one after the other.

A machine that is busy for a minute then harms one round of everybody, not every round of one. Each record is
appended as soon as it is there, so that rounds can be added later and nothing is lost by a crash.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from bagpipe.errors import BagpipeError
from peers.clicks import LOOKAHEAD, prepare
from peers.links import Links, LinksError, missing_capability
from peers.measure import MeasurementError, measure
from peers.registry import COMPARED, CONTENDERS
from peers.setting import Setting
from peers.summary import is_disturbed
from peers.workload import TABLE_ROWS

PEER_WARMUP = 6
SETTLED = 104
"""Steps after a full lookahead until a cache is in its usual state, and sending floats packed has been tried."""
CHECKS = 3


def run(asked: argparse.Namespace, cache: Path) -> int:
    """Measure everything asked for; the exit code is 1 if something could not be measured."""
    unknown = set(asked.contenders or ()) - set(CONTENDERS)
    if unknown:
        print(f"error: no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}", file=sys.stderr)
        return 1
    try:
        real = {"clicks": prepare(asked.clicks, TABLE_ROWS), "lookahead": LOOKAHEAD} if asked.clicks else {}
    except BagpipeError as error:
        print(f"error: --clicks: {error}", file=sys.stderr)
        return 1
    settings = [
        Setting(name, gbit, trainers, steps=asked.steps, **real)
        for trainers in asked.trainers
        for gbit in asked.rates
        for name in asked.contenders or COMPARED
    ]
    return measure_rounds(settings, asked, cache)


def measure_rounds(settings: Sequence[Setting], asked: argparse.Namespace, cache: Path) -> int:
    """Measure every setting once a round; settings that share links stand together."""
    reason = missing_capability()
    if reason is not None:
        print(f"error: no links can be made here: {reason}", file=sys.stderr)
        return 1
    asked.records.parent.mkdir(parents=True, exist_ok=True)
    failures, about = 0, {"note": asked.note, "machine": machine()}
    with asked.records.open("a", encoding="utf-8") as records:
        for number in range(asked.rounds):
            for record in _round(settings, asked.retries, cache):
                failures += "error" in record
                record |= {"round": number, "time": round(time.time())} | about
                records.write(json.dumps(record) + "\n")
                records.flush()
                _show(record)
    return 1 if failures else 0


def _round(settings: Sequence[Setting], retries: int, cache: Path) -> Iterator[dict[str, Any]]:
    for (gbit, trainers, servers), same in groupby(settings, lambda s: (s.gbit, s.trainers, s.servers)):
        roles = ["oracle", *(f"server {i}" for i in range(servers)), *(f"trainer {i}" for i in range(trainers))]
        with Links(roles, gbit) as links:
            group = list(same)
            try:
                checked = _checked(links)
            except LinksError as error:
                # This machine may be too slow for one rate; the others are measured all the same.
                yield {"setting": group[0].to_json(), "error": str(error)}
                continue
            for setting in group:
                for _ in range(retries + 1):
                    record = _measured(warmed(setting), links, cache) | {"links": checked}
                    yield record
                    if not is_disturbed(record):
                        break


def _measured(setting: Setting, links: Links, cache: Path) -> dict[str, Any]:
    try:
        return measure(CONTENDERS[setting.contender], setting, links, cache)
    except MeasurementError as error:
        return {"setting": setting.to_json(), "error": str(error)}


def warmed(setting: Setting) -> Setting:
    """The same with as many steps before the measurement as this contender needs."""
    looks_ahead = CONTENDERS[setting.contender].looks_ahead
    return replace(setting, warmup=setting.lookahead + SETTLED if looks_ahead else PEER_WARMUP)


def _checked(links: Links) -> list[dict[str, Any]]:
    """The links' own measurement; another process may disturb it once or twice."""
    for left in reversed(range(CHECKS)):
        try:
            return links.check()
        except LinksError:
            if not left:
                raise
    raise AssertionError


def machine() -> dict[str, Any]:
    """Where this ran, without its name."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchrec": version("torchrec"),
    }


def _show(record: dict[str, Any]) -> None:
    setting = record["setting"]
    link = "unlimited" if setting["gbit"] is None else f"{setting['gbit']:g} Gbit/s"
    found = (
        f"{record['ms']:8.1f} ms, others {record['others_cores']:.2f} cores"
        if "ms" in record
        else f"failed: {record['error']}"
    )
    print(f"{link:>12s}  {setting['trainers']} trainers  {setting['contender']:20s} {found}", flush=True)
