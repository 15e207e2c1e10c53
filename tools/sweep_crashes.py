"""Kills a short run at every numbered point of every role, and writes what came of it into `docs/reliability.md`.

python tools/sweep_crashes.py                     every point; hours
python tools/sweep_crashes.py --jobs 2            two runs at a time
python tools/sweep_crashes.py --every 20          each 20th point of each role
python tools/sweep_crashes.py --minutes 30        as many as there is time for, spread evenly over all of them
python tools/sweep_crashes.py --pairs 5           behind each 5th point of a role somebody else dies, or its successor
python tools/sweep_crashes.py --record FILE       what came of each point is kept there, and not tried again
python tools/sweep_crashes.py --after 1700        those behind the first 1,700, where their record is lost
python tools/sweep_crashes.py --write             also replaces the table in docs/reliability.md

A point lies before each instruction of a trainer, each action of the oracle and the servers, each store and each file
(`bagpipe/lowlevel/crash_points.py`). A first run counts them; then the run is repeated with a SIGKILL at one point, and
must end by itself with the same model.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

import msgspec
from pages import write_part

from bagpipe.testing.crash_run import Counted, Killed, Killing, count_points, preload, run_and_kill
from bagpipe.testing.forked_child import end_with

TARGET = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- crashes: written by tools/sweep_crashes.py -->", "<!-- end -->"
SUCCESSOR_POINTS = 12
"""The successor of a role that was killed dies at one of its first so many points, a different one each time."""


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if any run did not end with the same model."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--every", type=int, default=1, help="each so manyth point")
    made.add_argument("--pairs", type=int, default=0, help="two deaths a run, the first at each so manyth point")
    made.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    made.add_argument("--roles", nargs="*", default=None, help="these only die first: oracle, 'server 0', ...")
    made.add_argument("--jobs", type=int, default=1, help="runs at a time")
    made.add_argument("--record", type=Path, default=None, help="a file that keeps what came of each")
    made.add_argument("--after", type=int, default=0, help="pass over so many, in the order of a sweep")
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    chosen = made.parse_args(arguments)
    preload()
    until = time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory(prefix="bagpipe-crashes-") as folder:
        record = Record.of(chosen.record, Path(folder))
        counted, total = record.counted, sum(len(names) for names in record.counted.points.values())
        print(f"{total} points, digest {counted.digest[:12]}, one run takes {counted.seconds:.1f} s", flush=True)
        wanted = (
            pairs(counted.points, chosen.pairs, chosen.roles)
            if chosen.pairs
            else in_turn(counted.points, chosen.every, chosen.roles)
        )
        known = {result.killing.setting for result in record.results}
        left = [killing for killing in wanted[chosen.after :] if killing.setting not in known]
        for result in tried(left, Path(folder), counted.digest, chosen.jobs, until):
            record.add(result)
            print(result, flush=True)
    failed = [result for result in record.results if not result.right]
    print(f"{len(record.results)} tried, {len(failed)} wrong")
    if chosen.write:
        write_part(TARGET, BEGIN, END, page_of(record, total))
    return int(bool(failed))


class Record:
    """What came of each kill, one JSON document a line, behind one of the run that was not disturbed."""

    def __init__(self, file: Path, counted: Counted, results: list[Killed]) -> None:
        self.file, self.counted, self.results = file, counted, results

    @classmethod
    def of(cls, file: Path | None, folder: Path) -> "Record":
        """As it is in `file`; a new one begins with the run that counts the points."""
        file = file or folder / "record"
        if file.exists():
            first, *lines = file.read_bytes().splitlines()
            results = [msgspec.json.decode(line, type=Killed) for line in lines]
            return cls(file, msgspec.json.decode(first, type=Counted), results)
        counted = count_points(folder / "count")
        file.write_bytes(msgspec.json.encode(counted) + b"\n")
        return cls(file, counted, [])

    def add(self, result: Killed) -> None:
        self.results.append(result)
        with self.file.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")


def in_turn(points: dict[str, list[str]], every: int, roles: Sequence[str] | None) -> list[Killing]:
    """Each `every`th point of each role, in an order of which every beginning is spread evenly over all of them."""
    wanted = [
        (_reversed_bits(number), Killing(role, number + 1, name))
        for role, names in sorted(points.items())
        if roles is None or role in roles
        for number, name in enumerate(names)
        if number % every == 0
    ]
    return [killing for _, killing in sorted(wanted, key=lambda entry: (entry[0], entry[1].role))]


def pairs(points: dict[str, list[str]], every: int, roles: Sequence[str] | None) -> list[Killing]:
    """Behind each `every`th point of each role another one dies at once, or the first one's successor, in turn."""
    names = sorted(points)
    found = []
    for turn, first in enumerate(in_turn(points, every, roles)):
        second = names[(turn + turn // len(names)) % len(names)]
        number = 1 + turn % SUCCESSOR_POINTS if second == first.role else 1
        found.append(Killing(first.role, first.number, first.point, then=second, then_number=number))
    return found


def _reversed_bits(number: int, bits: int = 20) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2)


def tried(killings: Sequence[Killing], folder: Path, digest: str, jobs: int, until: float) -> Iterator[Killed]:
    """What came of each, so many at a time, each of them in the order given; none is begun after `until`."""
    fork = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    for number in range(jobs):
        ours, theirs = fork.Pipe(duplex=False)
        place = folder / f"worker-{number}"
        task = (os.getpid(), theirs, killings[number::jobs], place, digest, until)
        fork.Process(target=_work, args=task).start()
        theirs.close()
        ends.append(ours)
    while ends:
        for end in wait(ends):
            assert isinstance(end, Connection)
            try:
                yield end.recv()
            except EOFError:
                ends.remove(end)


def _work(
    parent: int, results: Connection, killings: Sequence[Killing], place: Path, digest: str, until: float
) -> None:
    end_with(parent)
    place.mkdir()
    for number, killing in enumerate(killings):
        if time.monotonic() > until:
            return
        results.send(run_and_kill(place / f"run-{number}", killing, digest))


def page_of(record: Record, total: int) -> list[str]:
    """Markdown lines: what was tried, and kinds of role and point against what came of killing there."""
    single = [result for result in record.results if not result.killing.then]
    double = [result for result in record.results if result.killing.then]
    machine = f"{platform.machine()}, Linux {platform.release().split('-')[0]}"
    lines = [
        f"`python tools/sweep_crashes.py` on {machine}: **{len(single)} of {total} points** tried, {_counts(single)}",
        f"The undisturbed run took {record.counted.seconds:.1f} s. Recovery is the time from the kill to the next",
        "reported step, or to the end.",
        "",
        "| role | killed before | tried | same digest | attempts used | recovery, median | recovery, most |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str], list[Killed]] = defaultdict(list)
    for result in single:
        groups[_kind(result.killing.role), result.killing.point].append(result)
    lines += [f"| {role} | {point} | {_figures(group)} |" for (role, point), group in sorted(groups.items())]
    if double:
        lines += [
            "",
            f"Two deaths in one run (`--pairs`): {len(double)} pairs, {_counts(double)} The second one dies at its",
            "next point after the first one's death; a successor at one of its first twelve points.",
            "",
            "| the first to die | then | tried | same digest | attempts used | recovery, median | recovery, most |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
        groups = defaultdict(list)
        for result in double:
            killing = result.killing
            other = "its successor" if killing.then == killing.role else f"a {_kind(killing.then)}"
            groups[_kind(killing.role), other.replace("a oracle", "the oracle")].append(result)
        lines += [f"| {role} | {then} | {_figures(group)} |" for (role, then), group in sorted(groups.items())]
    return lines


def _kind(role: str) -> str:
    return role.split(maxsplit=1)[0]


def _counts(results: Sequence[Killed]) -> str:
    reached = sum(result.reached for result in results)
    wrong = sum(not result.right for result in results)
    return f"{reached} of them reached, {wrong} wrong."


def _figures(group: Sequence[Killed]) -> str:
    seconds = [result.recovery_seconds for result in group if result.recovery_seconds is not None]
    median, most = (f"{statistics.median(seconds):.1f} s", f"{max(seconds):.1f} s") if seconds else ("", "")
    used = " or ".join(map(str, sorted({result.attempts for result in group if result.reached})))
    return f"{len(group)} | {sum(result.same_digest for result in group)} | {used} | {median} | {most}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
