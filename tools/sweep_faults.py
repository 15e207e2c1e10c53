"""Disturbs a short run by each fault of a list, once each, and writes the outcome into `docs/reliability.md`.

python tools/sweep_faults.py                 every fault; half an hour
python tools/sweep_faults.py --only stop     those whose name has this in it, or one of several words
python tools/sweep_faults.py --write         also replaces the table in docs/reliability.md

Right is: the same model, or an end by name. After an end for want of a disk the run is resumed on one that works again,
and then right is the same model only.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pages import write_part

from bagpipe.testing.fault_run import DEAD_SECONDS, FAULTS, Faulted, preload, run_with

TARGET = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by tools/sweep_faults.py -->", "<!-- end of faults -->"


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if a run ended with another model, or without a reason."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", default=[""], help="faults whose name has one of these in it")
    made.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md")
    chosen = made.parse_args(arguments)
    faults = [fault for fault in FAULTS if any(part in str(fault) for part in chosen.only)]
    if not faults:
        print(f"--only: no fault has {' or '.join(chosen.only)} in its name; there are: {', '.join(map(str, FAULTS))}")
        return 1
    preload()
    results: list[Faulted] = []
    with tempfile.TemporaryDirectory(prefix="bagpipe-faults-") as folder:
        undisturbed = run_with(None, Path(folder) / "undisturbed")
        if undisturbed.digest is None:
            print(f"the undisturbed run ended with {undisturbed.code}: {undisturbed.told}")
            return 1
        for number, fault in enumerate(faults):
            result = run_with(fault, Path(folder) / f"run-{number}")
            results.append(result)
            right = "right" if is_right(result, undisturbed) else "WRONG"
            model = model_of(result, undisturbed)
            print(
                f"{right}: {fault}: {model}, {result.attempts} attempts, {result.seconds:.0f} s {result.told}",
                flush=True,
            )
    if chosen.write:
        write_part(
            TARGET, BEGIN, END, table(results, undisturbed, " ".join(["python tools/sweep_faults.py", *arguments]))
        )
    return int(not all(is_right(result, undisturbed) for result in results))


def is_right(result: Faulted, undisturbed: Faulted) -> bool:
    """The same model, or an end by name."""
    named = result.digest is None and bool(result.told) and not result.resumed
    return result.digest == undisturbed.digest or named


def model_of(result: Faulted, undisturbed: Faulted) -> str:
    """Which model the run left, in words."""
    model = "the same" if result.digest == undisturbed.digest else "none" if result.digest is None else "ANOTHER"
    return model + (", once resumed" if result.resumed else "")


def table(results: Sequence[Faulted], undisturbed: Faulted, command: str) -> list[str]:
    """Markdown lines, one for each fault."""
    wrong = sum(not is_right(result, undisturbed) for result in results)
    lines = [
        f"`{command}` on {platform.machine()}, Linux {platform.release().split('-')[0]}:",
        f"{len(results)} faults, {wrong} wrong. The undisturbed run took {undisturbed.seconds:.0f} s.",
        f"`deadPeerSeconds` was {DEAD_SECONDS:g}, `deadlineSeconds` and `stepSeconds` 30.",
        "",
        "| fault | model | attempts | longer by | what was told |",
        "|---|---|--:|--:|---|",
    ]
    for result in results:
        model = model_of(result, undisturbed)
        longer = max(0.0, result.seconds - undisturbed.seconds)
        told = result.told.replace("|", "/")[:300]
        lines.append(f"| {result.fault} | {model} | {result.attempts} | {longer:.0f} s | {told} |")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
