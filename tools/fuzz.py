"""Sends damaged frames to every decoder and each role, tries valid and damaged job files, and writes the outcome.

python tools/fuzz.py                        a million messages decoded, 100,000 into each role each way, 1,000 job files
python tools/fuzz.py --frames 100000 --role-frames 1000 --jobs 100 --seed 7
python tools/fuzz.py --write                also replaces the table in docs/reliability.md

It begins with the messages of the corpus (`tests/unit/net/corpus.jsonl`, see `bagpipe/testing/corpus.py`) and adds to
it what ends in a way that none of those does; the tests decode all of it each time.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pages import write_part

from bagpipe.testing.corpus import read_corpus, search, write_corpus
from bagpipe.testing.fuzz_roles import ROLES, Fuzzed, fuzz_role
from bagpipe.testing.mutate_frames import sample_messages

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "tests" / "unit" / "net" / "corpus.jsonl"
TARGET = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- fuzz: written by tools/fuzz.py -->", "<!-- end of fuzz -->"


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if a decoder raised anything but `WireError`, a role died or a job file made a traceback."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--frames", type=int, default=1_000_000, help="into the decoders")
    made.add_argument("--role-frames", type=int, default=100_000, help="into each role, for each way of talking to it")
    made.add_argument("--jobs", type=int, default=1_000, help="job files, and as many command lines")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    chosen = made.parse_args(arguments)
    decoders_right, row = decoders(chosen.frames, chosen.seed)
    rows = [row]
    results = roles(chosen.role_frames, chosen.seed)
    rows += [row_of(result) for result in results]
    jobs_right, row = job_files(chosen.jobs)
    rows.append(row)
    if chosen.write:
        write(rows, " ".join(["python tools/fuzz.py", *arguments]))
    return int(not decoders_right or not jobs_right or any(result.error for result in results))


def decoders(count: int, seed: int) -> tuple[bool, str]:
    """Whether so many damaged messages broke no decoder, and the table row; the corpus gets what is new."""
    begun = time.monotonic()
    corpus = read_corpus(CORPUS)
    found = search(corpus, sample_messages(), count, seed)
    for entry in found.entries[len(corpus) :]:
        print(f"added to the corpus: {entry.name}")
    write_corpus(CORPUS, found.entries)
    refused = sum(number for end, number in found.endings.items() if end.startswith("refused"))
    print(f"{count} messages decoded: {dict(found.endings.most_common(5))} {found.broken[:3]}", flush=True)
    seconds = time.monotonic() - begun
    rest = f"{len(found.broken):,} broke a decoder" if found.broken else "nothing else"
    outcome = f"{refused:,} refused, {count - refused - len(found.broken):,} messages, {rest}"
    return not found.broken, f"| every decoder | | {count:,} | {outcome} | {seconds:.0f} s | |"


def roles(count: int, seed: int) -> list[Fuzzed]:
    """Each role, plain and with CURVE, before and after Hello."""
    results = []
    with tempfile.TemporaryDirectory(prefix="bagpipe-fuzz-") as folder:
        for role in ROLES:
            for security in ("plain", "curve"):
                for hello in (False, True):
                    place = Path(folder) / f"{role}-{security}-{hello}"
                    result = fuzz_role(role, place, security=security, hello=hello, frames=count, seed=seed)
                    print(result, flush=True)
                    results.append(result)
    return results


def row_of(result: Fuzzed) -> str:
    """A table row of one role."""
    how = f"{result.security}, {'after' if result.hello else 'before'} `Hello`"
    outcome = result.error or "lives and answers"
    figures = f"{result.seconds:.0f} s | {result.grown_mib:+.0f} MiB"
    return f"| {result.role} | {how} | {result.frames:,} | {outcome} | {figures} |"


def job_files(count: int) -> tuple[bool, str]:
    """Whether no job file and no command line made more than one line of it, and the table row."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--timeout", "3600"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/unit/cli/test_any_input.py")],
        env=os.environ | {"BAGPIPE_FUZZ_EXAMPLES": str(count)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-2000:], flush=True)
    right = done.returncode == 0
    outcome = "one line each, never a traceback" if right else "WRONG: see the command's output"
    where = "`run --check`, `plan`, `data describe`, `job submit`"
    return (
        right,
        f"| {where} | job files, and command lines | 2 x {count:,} | {outcome} | {time.monotonic() - begun:.0f} s | |",
    )


def write(rows: Sequence[str], command: str) -> None:
    """Replace the table."""
    lines = [
        f"`{command}` on {platform.machine()}, Linux {platform.release().split('-')[0]}:",
        "",
        "| into | how | messages | outcome | took | memory grew by |",
        "|---|---|--:|---|--:|--:|",
        *rows,
    ]
    write_part(TARGET, BEGIN, END, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
