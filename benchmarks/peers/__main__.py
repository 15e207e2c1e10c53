"""`python -m peers run|table`: measure, and show what was measured."""

import argparse
import signal
import sys
from pathlib import Path

from peers.setting import SERVERS

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
CACHE = HERE.parents[1] / "runs" / "peers"
QUICK = {"rates": [1.0, 0.25], "rounds": 1, "steps": 10}


def rate(text: str) -> float | None:
    """Gbit/s, or `none`."""
    return None if text == "none" else float(text)


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure in interleaved rounds; appends to a file of JSON lines")
    run.add_argument("--rates", nargs="+", type=rate, help="Gbit/s of every link and direction, or none (unlimited)")
    run.add_argument("--contenders", nargs="+", help="names; default: all")
    run.add_argument("--trainers", nargs="+", type=int, default=[2])
    run.add_argument("--rounds", type=int, help="repetitions; every contender runs once in each")
    run.add_argument("--steps", type=int, help="steps measured")
    run.add_argument("--quick", action="store_true", help=f"defaults of {QUICK}")
    run.add_argument("--retries", type=int, default=2, help="times a disturbed measurement is repeated at once")
    run.add_argument("--note", default="", help="kept with every record, e.g. the state of the code")
    for name, kind in (("batch", int), ("dim", int), ("alpha", float), ("lookahead", int), ("cache-rows", int)):
        run.add_argument(f"--{name}", type=kind, help="another value than the workload's")
    run.add_argument("--servers", type=int, default=SERVERS)
    table = commands.add_parser("table", help="one JSON, one Markdown table and one plot from the records")
    for parser_ in (run, table):
        parser_.add_argument("--records", type=Path, default=RESULTS / "peers.jsonl")
    return parser.parse_args(argv)


def main() -> int:
    """Entry of `python -m peers`."""
    asked = arguments(sys.argv[1:])
    # SIGTERM must not leave processes or namespaces behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if asked.command == "table":
        from peers.report import write

        print(write(asked.records))
        return 0
    defaults = QUICK if asked.quick else {"rates": [1.0, 0.5, 0.25, None], "rounds": 3, "steps": 30}
    for name, value in defaults.items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    from peers.rounds import run

    return run(asked, CACHE)


if __name__ == "__main__":
    sys.exit(main())
