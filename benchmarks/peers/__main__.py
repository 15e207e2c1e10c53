"""`python -m peers run|table|sweep`: measure, and show what was measured."""

import argparse
import signal
import sys
from pathlib import Path

from peers.clicks import CACHE
from peers.sweep import SWEEPS, run_sweep

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
USUAL = {"rates": [None, 10.0, 1.0, 0.5, 0.25], "rounds": 3, "steps": 30}
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
    run.add_argument("--quick", action="store_true", help=f"defaults of {QUICK}")
    run.add_argument("--clicks", type=Path, help="a Criteo TSV file: its examples instead of the Zipf stream")
    sweep = commands.add_parser("sweep", help="ours, a parameter server and the bound over one setting; a plot")
    sweep.add_argument("name", choices=sorted(SWEEPS))
    sweep.add_argument("--gbit", type=rate, default=0.25, help="the links' rate")
    for parser_ in (run, sweep):
        parser_.add_argument("--rounds", type=int, help="repetitions; everything runs once in each")
        parser_.add_argument("--steps", type=int, help="steps measured")
        parser_.add_argument("--retries", type=int, default=2, help="times a disturbed measurement is repeated at once")
        parser_.add_argument("--note", default="", help="kept with every record, e.g. the state of the code")
    table = commands.add_parser("table", help="one JSON, one Markdown table and one plot from the records")
    table.add_argument("--notes", nargs="+", help="only records with one of these notes")
    for parser_ in (run, table, sweep):
        parser_.add_argument("--records", type=Path, help="file of records; default: in benchmarks/results/")
    return parser.parse_args(argv)


def main() -> int:
    """Entry of `python -m peers`."""
    asked = arguments(sys.argv[1:])
    asked.records = asked.records or RESULTS / f"{f'sweep-{asked.name}' if asked.command == 'sweep' else 'peers'}.jsonl"
    # SIGTERM must not leave processes or namespaces behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if asked.command == "table":
        from peers.report import write

        print(write(asked.records, asked.notes))
        return 0
    defaults = QUICK if getattr(asked, "quick", False) else USUAL
    for name, value in defaults.items():
        if getattr(asked, name, None) is None:
            setattr(asked, name, value)
    if asked.command == "sweep":
        return run_sweep(asked, CACHE)
    from peers.rounds import run

    return run(asked, CACHE)


if __name__ == "__main__":
    sys.exit(main())
