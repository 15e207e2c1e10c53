"""What the paper's command lines have in common: lists of sizes, flags without effect, errors as exit codes.

Here and in the files beside this one, "the original" is the code of the paper's artifact.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bagpipe.errors import BagpipeError, ConfigError, DataError, ExitCode
from bagpipe.lowlevel.process_life import leave

KAGGLE_TABLES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
"""Rows of Criteo Kaggle's 26 tables: the original's default."""
MASTER_PORT = 18000
DENSE_PORT = 9988


class Parser(argparse.ArgumentParser):
    """A parser that accepts prefixes of flags, as the original's does, and flags without effect here (`useless`)."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def useless(self, flag: str, because: str, *, takes_value: bool) -> None:
        """Add a flag of the original that has no effect here; it is accepted, and a note on stderr says why."""
        self.add_argument(
            flag, action=_Useless, because=because, nargs=1 if takes_value else 0, help=f"no effect: {because}"
        )

    def error(self, message: str) -> NoReturn:
        """Exit with the code of a wrong configuration, so that nothing retries a usage error."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(int(ExitCode.BAD_CONFIG))


class _Useless(argparse.Action):
    """Says once, on stderr, that a flag has no effect."""

    def __init__(self, option_strings: Sequence[str], dest: str, because: str = "", **more: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **more)
        self.because = because

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        print(f"note: {self.option_strings[0]} has no effect: {self.because}", file=sys.stderr)


def add_tables(parser: Parser, default: str) -> None:
    """`--ln-emb` and `--emb-info-file`."""
    parser.add_argument(
        "--ln-emb",
        type=_sizes,
        default=None,
        help=f"rows of each table, separated by commas or dashes; none: {default}",
    )
    parser.add_argument("--emb-info-file", type=Path, default=None, help="file with one table size a line")


def add_master(parser: Parser) -> None:
    """Where the oracle listens."""
    parser.add_argument("--master-ip", default="localhost", help="host of the oracle")
    parser.add_argument("--master-port", type=int, default=MASTER_PORT, help="port of the oracle")


def table_sizes(arguments: argparse.Namespace) -> tuple[int, ...] | None:
    """The sizes that were given, or None.

    Raises:
        DataError: the file of sizes cannot be read.
    """
    if arguments.emb_info_file is not None:
        return read_table_sizes(arguments.emb_info_file)
    given: tuple[int, ...] | None = arguments.ln_emb
    return given


def read_table_sizes(path: Path) -> tuple[int, ...]:
    """One integer a line, in the order of the tables; blank lines are passed over.

    Raises:
        DataError: no such file, no size in it, or a line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"--emb-info-file {path}: {error.strerror}; give the file with one table size a line") from None
    sizes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.strip().isdecimal() or int(line) < 1:
            raise DataError(
                f"{path}:{number}: expected the number of a table's rows, found {line[:40]!r}; fix the line"
            )
        sizes.append(int(line))
    if not sizes:
        raise DataError(f"{path}: empty; expected one table size a line")
    return tuple(sizes)


def _sizes(text: str) -> tuple[int, ...]:
    """`1460,583`, `1460-583` or `[1460, 583]`."""
    try:
        values = json.loads(text) if text.startswith("[") else [int(part) for part in text.replace("-", ",").split(",")]
        return tuple(int(v) for v in values)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected table sizes such as 1460,583,24, found {text!r}") from None


def widths(text: str) -> tuple[int, ...]:
    """`13-512-48`: layer widths."""
    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layer widths such as 13-512-48, found {text!r}") from None


def replicas(world_size: int, trainers: int) -> int:
    """The number of embedding servers: all roles but the trainers and the one oracle.

    Raises:
        ConfigError: no role is left to be a server.
    """
    servers = world_size - trainers - 1
    if trainers < 1 or servers < 1:
        raise ConfigError(
            f"--world-size {world_size} with --world-size-trainers {trainers}: expected one oracle, at least one "
            "trainer and at least one server; --world-size counts them all"
        )
    return servers


def check_worker_id(worker_id: int, world_size: int) -> None:
    """Check the id of a role; any assignment of ids to roles is accepted.

    Raises:
        ConfigError: it is not from 0 to `world_size` - 1.
    """
    if not 0 <= worker_id < world_size:
        raise ConfigError(
            f"--worker-id {worker_id}: expected 0 to {world_size - 1}, because --world-size is {world_size}"
        )


def exit_with(body: Callable[[], None]) -> NoReturn:
    """Run a role and end this process; a deliberate error is one line on stderr and its exit code."""
    try:
        body()
    except BagpipeError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
        leave(error.exit_code)
    except Exception:  # noqa: BLE001  # top of every role: a bug prints its traceback
        traceback.print_exc()
        leave(ExitCode.SOFTWARE)
    leave(ExitCode.DONE)
