"""`parse_worker_file.py`: the average time of an iteration and its standard deviation, from a trainer's log."""

from collections.abc import Sequence
from pathlib import Path

from bagpipe.errors import ConfigError
from bagpipe.lowlevel.atomic_files import refuse_existing, write_whole
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
    made.add_argument("--overwrite", action="store_true", help="replace the picture if it exists")
    return made


def run(argv: Sequence[str]) -> None:
    """Parse, print, draw.

    Raises:
        ConfigError: the picture exists already, or an option is wrong.
        DataError: the file is no trainer's log.
        StorageError: the picture cannot be written.
    """
    arguments = parser().parse_args(argv)
    if arguments.warm_up < 0:
        raise ConfigError(f"--warm-up {arguments.warm_up}: expected 0 or more iterations")
    target: Path | None = arguments.plot
    if target is not None:
        target = target if target.name else arguments.file.with_name(arguments.file.name + ".svg")
        refuse_existing(target, overwrite=arguments.overwrite, option="--plot")
    found = timing(read_log(arguments.file), arguments.warm_up)
    print(found)
    if arguments.breakdown:
        for name, ms in found.parts.items():
            print(f"  {name:20s} {ms:10.3f} ms")
    if target is not None:
        write_whole(target, breakdown_svg(found, arguments.file.name).encode())
        print(f"plot: {target}")
