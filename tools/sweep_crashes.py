"""Kills a short run at every numbered point of every role, and writes what came of it into `docs/reliability.md`.

python tools/sweep_crashes.py                     every point; hours
python tools/sweep_crashes.py --every 20          each 20th point of each role
python tools/sweep_crashes.py --minutes 30        as many as there is time for, spread evenly over all of them
python tools/sweep_crashes.py --write             also replaces the table in docs/reliability.md

A point lies before each instruction of a trainer, each action of the oracle and the servers, each store of new rows,
each part of a snapshot, and each file that is replaced (`bagpipe/lowlevel/crash_points.py`). A first run counts them;
then the run is repeated with a SIGKILL at one point, and must end by itself with the same model.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pages import with_part

from bagpipe.testing.crash_run import Killed, Killing, count_points, preload, run_and_kill

TARGET = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- crashes: written by tools/sweep_crashes.py -->", "<!-- end -->"
FREE = ("oracle", "server")
"""Roles whose death costs no attempt: they are started again alone (`bagpipe/local/policy.py`)."""


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if any run did not end with the same model."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--every", type=int, default=1, help="each so manyth point")
    made.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    made.add_argument("--roles", nargs="*", default=None, help="these only: oracle, 'server 0', ...")
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    chosen = made.parse_args(arguments)
    preload()
    begun = time.monotonic()
    results: list[Killed] = []
    with tempfile.TemporaryDirectory(prefix="bagpipe-crashes-") as folder:
        counted = count_points(Path(folder) / "count")
        total = sum(len(names) for names in counted.points.values())
        print(f"{total} points, digest {counted.digest[:12]}, one run takes {counted.seconds:.1f} s", flush=True)
        for number, killing in enumerate(in_turn(counted.points, chosen.every, chosen.roles)):
            if time.monotonic() - begun > 60 * chosen.minutes:
                break
            result = run_and_kill(Path(folder) / f"run-{number}", killing, counted.digest)
            results.append(result)
            print(result, flush=True)
    failed = [result for result in results if not result.right]
    print(f"{len(results)} of {total} points tried, {len(failed)} wrong")
    if chosen.write:
        command = " ".join(["python tools/sweep_crashes.py", *arguments])
        write(table(results, total, command, counted.seconds))
    return int(bool(failed))


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


def _reversed_bits(number: int, bits: int = 20) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2)


def table(results: Sequence[Killed], total: int, command: str, undisturbed: float) -> list[str]:
    """Markdown lines: kinds of role and point against what came of killing there."""
    groups: dict[tuple[str, str], list[Killed]] = defaultdict(list)
    for result in results:
        groups[result.killing.role.split()[0], result.killing.point].append(result)
    reached = [result for result in results if result.reached]
    wrong = [result for result in results if not result.right]
    lines = [
        f"`{command}` on {platform.machine()}, Linux {platform.release().split('-')[0]}:",
        f"**{len(results)} of {total} points** tried, {len(reached)} reached, {len(wrong)} wrong.",
        f"The undisturbed run took {undisturbed:.1f} s. Recovery is the time from the kill to the next reported step,",
        "or to the end.",
        "",
        "| role | killed before | tried | same digest | attempts used | recovery, median | recovery, most |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (role, point), group in sorted(groups.items()):
        seconds = [result.recovery_seconds for result in group if result.recovery_seconds is not None]
        median, most = (f"{statistics.median(seconds):.1f} s", f"{max(seconds):.1f} s") if seconds else ("", "")
        attempts = sorted({result.attempts for result in group if result.reached})
        used = " or ".join(map(str, attempts))
        same = sum(result.same_digest for result in group)
        lines.append(f"| {role} | {point} | {len(group)} | {same} | {used} | {median} | {most} |")
    return lines


def write(lines: Sequence[str]) -> None:
    page = TARGET.read_text(encoding="utf-8")
    TARGET.write_text(with_part(page, BEGIN, END, lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
