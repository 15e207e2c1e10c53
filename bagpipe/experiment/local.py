"""Jobs of an experiment as processes on this machine: `bagpipe run`, one after another."""

import shutil
from collections.abc import Container, Iterable
from pathlib import Path

from bagpipe.config.load import dump_job
from bagpipe.config.paths import is_url
from bagpipe.errors import BagpipeError, ConfigError, ExitCode
from bagpipe.experiment.session import Interrupted
from bagpipe.experiment.suite import Case
from bagpipe.local.progress import View
from bagpipe.local.run import start_run

HEAVY = ("checkpoints", "servers", "data")
"""What a run directory holds besides logs and records."""


class RunFailed(BagpipeError):
    """A job failed; carries its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        known = {int(c) for c in ExitCode}
        self.exit_code = ExitCode(code) if code in known else ExitCode.SOFTWARE


class LocalRunner:
    """Supervised processes; each run's directory keeps its logs and its records."""

    def __init__(self, view: View, *, keep: bool) -> None:
        """`keep`: also checkpoints and servers' files."""
        self._view, self._keep = view, keep
        self._directories: list[Path] = []

    def run(self, case: Case, directory: Path) -> Path:
        job_file = directory.parent / "jobs" / f"{case.name}.yaml"
        job_file.parent.mkdir(exist_ok=True)
        job_file.write_text(dump_job(case.job), encoding="utf-8")
        self._directories.append(directory)
        try:
            # The supervisor takes the signals itself: its processes end before it returns.
            outcome = start_run(job_file, (), directory, self._view).outcome
        finally:
            self._tidy(directory)
        if outcome.code in (ExitCode.STOPPED, 130):
            raise Interrupted(f"stopped while {case.name} was running")
        if outcome.code != ExitCode.DONE:
            raise RunFailed(outcome.error or f"exit code {outcome.code}", outcome.code)
        return directory / "metrics.jsonl"

    def close(self) -> None:
        for directory in self._directories:
            self._tidy(directory)
        self._view.close()

    def _tidy(self, directory: Path) -> None:
        for name in () if self._keep else HEAVY:
            shutil.rmtree(directory / name, ignore_errors=True)


def check_here(planned: Iterable[Case], generated: Container[str]) -> None:
    """Local runs need every data file here; a missing one is found before anything has run.

    Args:
        generated: paths that the experiment makes itself.

    Raises:
        ConfigError: names the first that is missing.
    """
    for case in planned:
        path = case.job.spec.data.path
        for one in (path,) if isinstance(path, str) else path:
            if (
                one
                and one not in generated
                and not is_url(one)
                and not any(c in one for c in "*?[")
                and not Path(one).expanduser().exists()
            ):
                raise ConfigError(
                    f"{case.name}: spec.data.path: {one}: no such file; --set spec.data.path=... names it"
                )
