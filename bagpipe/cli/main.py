"""The `bagpipe` command: the list of its subcommands, and the handling of their errors.

Each subcommand has a file of its own, which parses, calls and prints. Heavy modules are imported when a command runs,
so that `bagpipe --help` answers at once. An error becomes one line on stderr and an exit code (`bagpipe.cli.failures`).
"""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

import typer

from bagpipe.cli import (
    checkpoint,
    compare,
    data,
    evaluate,
    experiment,
    export,
    init,
    job,
    oracle,
    plan,
    predict,
    run,
    server,
    trainer,
    version,
)
from bagpipe.cli.failures import INTERRUPTED, Failure, failure_of
from bagpipe.cli.output import STDOUT, name_stdout
from bagpipe.config.paths import shown
from bagpipe.errors import ExitCode
from bagpipe.local.user_modules import offer_user_modules
from bagpipe.lowlevel.kernel_cache import choose_cache, unpack_kernels
from bagpipe.lowlevel.process_life import Ended, ending_in_order, leave, occupy_standard_descriptors

# typer is built on click, its own copy or the installed one; either way this is the class it raises.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

ROLES = ("oracle", "server", "trainer")
"""Commands whose stderr is a log, which may hold tracebacks before the one line of the error."""
LEGIBLE = 60
"""Columns that the help needs; a narrower terminal breaks its lines."""

app = typer.Typer(
    name="bagpipe",
    help="Exact distributed training of deep recommendation models: an oracle plans, trainers obey, servers store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("init")(init.init)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(data.app, name="data")
app.add_typer(job.app, name="job")
app.add_typer(experiment.app, name="experiment")
app.command("oracle", rich_help_panel="Roles (started by `run` and on a cluster)")(oracle.oracle)
app.command("server", rich_help_panel="Roles (started by `run` and on a cluster)")(server.server)
app.command("trainer", rich_help_panel="Roles (started by `run` and on a cluster)")(trainer.trainer)
app.command("version")(version.version)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end this process with its code."""
    occupy_standard_descriptors()
    name_stdout()
    offer_user_modules()
    given = sys.argv[1:] if argv is None else argv
    # A role that is told to end before it listens to that is ended at once: it has not begun anything.
    with nullcontext() if given and given[0] in ROLES else ending_in_order():
        code = run_command(given)
    leave(code)


def plugin() -> NoReturn:
    """`kubectl bagpipe ...`: what kubectl runs when it finds `kubectl-bagpipe` on the PATH is `bagpipe job ...`."""
    main(["job", *sys.argv[1:]])


def run_command(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    unpack_kernels()
    choose_cache()
    if shutil.get_terminal_size().columns < LEGIBLE:
        os.environ.setdefault("TERMINAL_WIDTH", str(LEGIBLE))  # For the help: its tables would drop the options' names.
    try:
        result = typer.main.get_command(app)(list(argv), prog_name="bagpipe", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.DONE
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown instead
            return ExitCode.BAD_CONFIG
        context = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return _report(Failure(f"{error.format_message()}{context}", ExitCode.BAD_CONFIG))
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Ended as told:
        return _report(Failure(f"ended by {told.name}, and nothing is left half-written", told.exit_code))
    except BrokenPipeError:
        # The reader of our output is gone (`bagpipe ... | head`); nobody is left to tell.
        sys.stdout = None  # keeps the interpreter from flushing it again
        return ExitCode.DONE
    except SystemExit:
        raise
    except BaseException as error:  # top of every command: nothing else may reach the user as a traceback
        if isinstance(error, OSError) and error.filename == STDOUT:
            sys.stdout = None  # keeps the end of the process from failing by it once more
        return _report(failure_of(error, role=argv[0] if argv and argv[0] in ROLES else None))


def _report(failure: Failure) -> int:
    line = shown(" ".join(failure.message.splitlines()))
    if sys.stderr is not None:  # else `print` would take standard output
        with suppress(OSError, ValueError):  # The second where it was closed.
            print(f"error: {line}", file=sys.stderr, flush=True)
    return int(failure.code)


if __name__ == "__main__":
    main()
