"""Starts a tiny job very many times on a busy machine, and writes the outcome into `docs/reliability.md`.

python tools/sweep_starts.py                      2,000 starts
python tools/sweep_starts.py --starts 100         so many
python tools/sweep_starts.py --minutes 30         as many as there is time for
python tools/sweep_starts.py --write              also replaces the table in docs/reliability.md

A start is the whole life of a job of one step, with its oracle, a server and two trainers as processes. It is right if
it ends by itself with one step trained. A start that ends otherwise must say why, or where each of its threads stood.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from pages import write_part

from bagpipe.testing.forked_child import preload
from bagpipe.testing.start_run import LONGEST_SECONDS, Started, start_once

TARGET = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- starts: written by tools/sweep_starts.py -->", "<!-- end of starts -->"
FORKS = multiprocessing.get_context("fork")


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if a start did not end as it should."""
    chosen = parser().parse_args(arguments)
    preload()
    busy = [FORKS.Process(target=compute, daemon=True) for _ in range(chosen.busy)]
    for process in busy:
        process.start()
    folder = Path(tempfile.mkdtemp(prefix="bagpipe-starts-"))
    results = start_all(folder, chosen)
    for process in busy:
        process.kill()
    wrong = [result for result in results if not result.right]
    if wrong:
        print(f"what the wrong ones left: {folder}")
    else:
        folder.rmdir()
    print(f"{len(results)} starts, {len(wrong)} wrong, {sum(result.silent for result in results)} of them silent")
    if chosen.write:
        write_part(TARGET, BEGIN, END, table(results, " ".join(["python tools/sweep_starts.py", *arguments])))
    return int(bool(wrong))


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--starts", type=int, default=2000, help="how many")
    made.add_argument("--minutes", type=float, default=float("inf"), help="begin none after so long")
    made.add_argument("--at-once", type=int, default=2, help="so many starts at the same time")
    made.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="processes that compute all the time")
    made.add_argument(
        "--commands-every", type=int, default=20, help="each so manyth start is of commands, not of forks"
    )
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    return made


def start_all(folder: Path, chosen: argparse.Namespace) -> list[Started]:
    """Every start, `at_once` of them at a time; each is told when it has ended."""
    until = time.monotonic() + 60 * chosen.minutes
    told: SimpleQueue[Started | None] = FORKS.SimpleQueue()

    def work(first: int) -> None:
        """Every `at_once`th start, one after the other."""
        for number in range(first, chosen.starts, chosen.at_once):
            if time.monotonic() > until:
                break
            told.put(start_once(folder / f"start-{number}", forked=bool((number + 1) % chosen.commands_every)))
        told.put(None)

    workers = [FORKS.Process(target=work, args=(first,)) for first in range(chosen.at_once)]
    for worker in workers:
        worker.start()
    return collect(told, workers)


def collect(told: "SimpleQueue[Started | None]", workers: Sequence[ForkProcess]) -> list[Started]:
    """What all workers tell, until each has told that it is done."""
    results: list[Started] = []
    working = len(workers)
    while working:
        result = told.get()
        if result is None:
            working -= 1
        else:
            results.append(result)
            print(f"{len(results)}: {result}", flush=True)
    for worker in workers:
        worker.join(LONGEST_SECONDS)
    return results


def compute() -> None:
    """Keep a processor busy until this process is killed, or its parent is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(1_000_000))


def table(results: Sequence[Started], command: str) -> list[str]:
    """Markdown lines: how the roles were started against what came of it."""
    silent, wrong = sum(result.silent for result in results), sum(not result.right for result in results)
    lines = [
        f"`{command}` on {platform.machine()}, Linux {platform.release().split('-')[0]}, {os.cpu_count()} processors:",
        f"**{len(results)} starts, {wrong} wrong, {silent} of them silent.**",
        "",
        "| roles are | starts | right | ended with a reason | silent | wrote stacks | median | longest |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, forked in (("forks", True), ("commands of their own", False)):
        group = [result for result in results if result.forked == forked]
        if not group:
            continue
        seconds = [result.seconds for result in group]
        right, mute = sum(result.right for result in group), sum(result.silent for result in group)
        stacks = sum(result.stacks > 0 for result in group)
        lines.append(
            f"| {name} | {len(group)} | {right} | {len(group) - right - mute} | {mute} | {stacks} "
            f"| {statistics.median(seconds):.1f} s | {max(seconds):.1f} s |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
