"""The roles of a session are started by a thread of their own."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from bagpipe.config.load import load_job
from bagpipe.errors import ConfigError
from bagpipe.local import children


def test_what_hinders_the_start_is_raised_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread of whoever opens the session, and not as the end of a wait."""

    def refuse(*arguments: object) -> None:
        raise ConfigError("no command")

    monkeypatch.setattr(children, "role_commands", refuse)
    job = load_job(Path("examples/demo.yaml"))
    directory = SimpleNamespace(job_file=tmp_path / "job.yaml", path=tmp_path, next_attempt=lambda: 0)
    with pytest.raises(ConfigError, match="no command"):
        children.Children(job, directory, None)  # type: ignore[arg-type]  # the part of a run directory that is used
