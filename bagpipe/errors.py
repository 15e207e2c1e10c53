"""Every error Bagpipe raises on purpose, and the exit code each becomes.

    BagpipeError                      exit 70   a bug of ours unless a subclass says otherwise
    ├── ConfigError                   exit 78   the job file, a flag or `--set` is wrong; never retry
    ├── UserCodeError                 exit 78   a model or loss of the user's raised; never retry
    ├── DataError                     exit 65   input data is unreadable or malformed; never retry
    ├── Diverged                      exit 65   a loss or gradient is NaN or infinite; never retry
    ├── CheckpointError               exit 65   checkpoint missing, partial, corrupt or of another job
    ├── PlanError                     exit 70   the oracle broke its own promise
    ├── WireError                     exit 70   a peer sent bytes that are not our protocol
    ├── PeerLost                      exit 75   a peer died or missed a deadline; retry
    ├── DeviceError                   exit 75   a GPU failed; retry
    ├── StorageError                  exit 75   disk full, I/O error; retry
    └── Stopped                       exit 143  asked to stop; a checkpoint was written

A message says what was expected, what was found, where, and what to do. The operator never
imports this file and reads only the numbers; `tests/contract` pins them.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; the contract between every role and its supervisor, `bagpipe run` or the operator."""

    DONE = 0
    BAD_DATA = 65
    SOFTWARE = 70
    TRANSIENT = 75
    BAD_CONFIG = 78
    STOPPED = 143


class BagpipeError(Exception):
    """Base of every deliberate error."""

    exit_code: ExitCode = ExitCode.SOFTWARE

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show of it: one line, for the frames above it are ours and not the user's."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(BagpipeError):
    """The job file, a flag or an override is wrong; names the field and the remedy."""

    exit_code = ExitCode.BAD_CONFIG


class UserCodeError(BagpipeError):
    """The user's own code raised, a model or a loss; names its file and line."""

    exit_code = ExitCode.BAD_CONFIG


class DataError(BagpipeError):
    """Input data cannot be read; names file and line."""

    exit_code = ExitCode.BAD_DATA


class Diverged(BagpipeError):
    """A loss or gradient is no finite number; names the step and the first such tensor.

    Args:
        weights_are: it was the weights or rows with which the step began, so what was saved before it is broken too.
    """

    exit_code = ExitCode.BAD_DATA

    def __init__(self, message: str, *, weights_are: bool = False) -> None:
        super().__init__(message)
        self.weights_are = weights_are


class CheckpointError(BagpipeError):
    """A checkpoint is missing, half-written, corrupt, or belongs to another job."""

    exit_code = ExitCode.BAD_DATA


class PlanError(BagpipeError):
    """The planner broke one of its own invariants; carries the step."""


class WireError(BagpipeError):
    """A peer broke the protocol (bad version, bad length, unknown message)."""


class PeerLost(BagpipeError):
    """A peer died or did not answer in time; names who waited, for what, at which step."""

    exit_code = ExitCode.TRANSIENT


class DeviceError(BagpipeError):
    """A GPU failed, in our code or in the user's model."""

    exit_code = ExitCode.TRANSIENT


class StorageError(BagpipeError):
    """The disk is full or failed; nothing was left half-written."""

    exit_code = ExitCode.TRANSIENT


class Stopped(BagpipeError):
    """The process was asked to stop and its state is safe in a checkpoint."""

    exit_code = ExitCode.STOPPED


def error_of(code: int) -> type[BagpipeError]:
    """The class of error whose exit code a process ended with; where several share it, the most common one."""
    kinds: dict[int, type[BagpipeError]] = {
        ExitCode.BAD_CONFIG: ConfigError,
        ExitCode.BAD_DATA: DataError,
        ExitCode.SOFTWARE: BagpipeError,
        ExitCode.STOPPED: Stopped,
    }
    return kinds.get(code, PeerLost)
