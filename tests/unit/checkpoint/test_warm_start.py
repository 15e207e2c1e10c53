"""Where the run lies that a warm start begins with."""

from pathlib import Path

import pytest
from saved import save

from bagpipe.checkpoint.places import JOB_FILE
from bagpipe.checkpoint.warm_start import open_source
from bagpipe.config.document import Job
from bagpipe.config.load import dump_job, parse_job
from bagpipe.errors import ConfigError


def run_with(place: Path, root: Path) -> Job:
    """The directory of a run whose checkpoints are meant to lie in `root`."""
    data = "{format: synthetic, synthetic: {examples: 100, tableSizes: [5, 7]}}"
    job = parse_job(f"metadata: {{name: own}}\nspec: {{data: {data}, checkpoint: {{path: {root}}}}}", "the job")
    place.mkdir()
    (place / JOB_FILE).write_text(dump_job(job))
    return job


def test_a_run_is_found_whose_checkpoints_lie_elsewhere(tmp_path: Path) -> None:
    """Its job says where; their folder and each of them can be named too."""
    job = run_with(tmp_path / "run", tmp_path / "elsewhere")
    save(tmp_path / "elsewhere", 4, spec=job.spec)
    newest = save(tmp_path / "elsewhere", 8, spec=job.spec)
    for place in (tmp_path / "run", tmp_path / "elsewhere", newest):
        assert open_source(place).directory == newest


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], r"found none in \S*/elsewhere; let it run to its first checkpoint"),
        (["score.py", "model.json"], "found an export, from which no training begins; give the run"),
        (None, "found no such folder; give its directory, or one of its checkpoints"),
    ],
    ids=["no checkpoint yet", "export", "nothing"],
)
def test_what_is_no_run_is_told(tmp_path: Path, files: list[str] | None, told: str) -> None:
    """In one line, with what it is, and what to give."""
    place = tmp_path / "given"
    if files is not None:
        run_with(place, tmp_path / "elsewhere")
        for name in files:
            (place / name).touch()
    with pytest.raises(ConfigError, match=rf"^spec.initFrom.run: {place}: expected a run with a .*{told}"):
        open_source(place)
