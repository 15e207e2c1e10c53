"""`parse_worker_file.py`: the average time of an iteration and its standard deviation, from a trainer's log."""

from collections.abc import Sequence
from pathlib import Path

from bagpipe.errors import ConfigError, StorageError
from bagpipe.paper.breakdown import breakdown_svg
from bagpipe.paper.flags import Parser
from bagpipe.paper.log_format import WARM_UP, read_log, timing


def parser() -> Parser:
    """The flags of `parse_worker_file.py`."""
    made = Parser("Print the average time per iteration of a trainer's log and its standard deviation.")
    made.add_argument("file", type=Path, help="log of a trainer: ours, the original's, or TorchRec's")
    made.add_argument(
        "--warm-up", type=int, default=WARM_UP, help="iterations left out at the beginning (at most half)"
    )
    made.add_argument("--breakdown", action="store_true", help="print the parts of an iteration as well")
    made.add_argument(
        "--plot", type=Path, nargs="?", const=Path(), default=None, help="draw the parts as SVG; none named: FILE.svg"
    )
    return made


def run(argv: Sequence[str]) -> None:
    """Parse, print, draw.

    Raises:
        DataError: the file is no trainer's log.
        StorageError: the picture cannot be written.
    """
    arguments = parser().parse_args(argv)
    if arguments.warm_up < 0:
        raise ConfigError(f"--warm-up {arguments.warm_up}: expected 0 or more iterations")
    found = timing(read_log(arguments.file), arguments.warm_up)
    print(found)
    if arguments.breakdown:
        for name, ms in found.parts.items():
            print(f"  {name:20s} {ms:10.3f} ms")
    if arguments.plot is not None:
        target = arguments.plot if arguments.plot.name else arguments.file.with_name(arguments.file.name + ".svg")
        try:
            target.write_text(breakdown_svg(found, arguments.file.name), encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{target}: cannot be written ({error.strerror}); name another file: --plot FILE"
            ) from None
        print(f"plot: {target}")
