"""A run directory, and the supervisor with fake roles in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_roles import Notes, Runner, fakes, job_with

from bagpipe.config.document import Job
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Outcome, Supervisor


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.create(tmp_path / "run") as directory:
        yield directory


@pytest.fixture
def supervise(run_dir: RunDir, tmp_path: Path) -> Runner:
    """Run fake roles to the end; the files in `tmp_path` tell which processes became ready."""

    def run(scripts: dict[str, str], job: Job | None = None, **options: float) -> tuple[Outcome, Notes]:
        chosen = job or job_with()
        run_dir.begin(chosen)
        view = Notes()
        supervisor = Supervisor(chosen, run_dir, view, build=fakes(scripts, tmp_path), **options)  # type: ignore[arg-type]
        return supervisor.run(), view

    return run
