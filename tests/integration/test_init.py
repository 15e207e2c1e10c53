"""`bagpipe init`, then training: the job that it writes runs as it is, on logs of the shape of known data sets.

The logs are made here, with a signal that a model can find; figures on the data sets themselves are in docs/data.md.
"""

import lzma
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from bagpipe.cli.main import app
from bagpipe.config.document import Job
from bagpipe.config.load import load_job
from bagpipe.data.files import find_files
from bagpipe.data.separated import AVAZU_COLUMNS
from bagpipe.testing.threads import run_in_threads

ROOT = Path(__file__).parents[2]
ROWS = 4000


def clicks(rng: np.random.Generator, *chance: np.ndarray) -> np.ndarray:
    """0 or 1, by features that say something."""
    return (rng.random(ROWS) < 0.1 + 0.8 * np.mean(chance, axis=0)).astype(int)


def criteo(rng: np.random.Generator) -> str:
    """40 columns without a header; empty cells are missing."""
    first, second = rng.integers(0, 8, ROWS), rng.integers(0, 30, ROWS)
    label = clicks(rng, first % 2, second % 3 == 0)
    lines = []
    for row in range(ROWS):
        numbers = [str(rng.integers(-1, 500)) if rng.random() < 0.8 else "" for _ in range(13)]
        values = [f"{v:08x}" for v in (first[row], second[row], *rng.integers(0, 40, 24))]
        lines.append("\t".join([str(label[row]), *numbers, *values]))
    return "\n".join(lines) + "\n"


def avazu(rng: np.random.Generator) -> str:
    """Avazu's header; hours as YYMMDDHH."""
    site, banner = rng.integers(0, 25, ROWS), rng.integers(0, 3, ROWS)
    label = clicks(rng, site % 2, banner == 1)
    lines = [",".join(AVAZU_COLUMNS)]
    for row in range(ROWS):
        cells = {name: str(rng.integers(0, 20)) for name in AVAZU_COLUMNS}
        cells |= {"id": str(10**18 + row), "click": str(label[row]), "hour": f"141021{row * 24 // ROWS:02d}"}
        cells |= {"site_id": f"{site[row]:08x}", "banner_pos": str(banner[row])}
        lines.append(",".join(cells[name] for name in AVAZU_COLUMNS))
    return "\n".join(lines) + "\n"


def movielens(rng: np.random.Generator) -> str:
    """User, item, rating from 1 to 5, unix time: by user, then by time, without a header."""
    user, item = np.sort(rng.integers(0, 60, ROWS)), rng.integers(0, 40, ROWS)
    rating = 1 + 3 * clicks(rng, item % 2, user % 2) + rng.integers(0, 2, ROWS)
    time = 956_700_000 + rng.integers(0, 10**7, ROWS)
    order = np.lexsort((time, user))
    return "".join(f"{user[i]}\t{item[i]}\t{rating[i]}\t{time[i]}\n" for i in order)


SHAPES: dict[str, tuple[str, Callable[[np.random.Generator], str]]] = {
    "criteo": ("train.tsv.xz", criteo),
    "avazu": ("train.csv.xz", avazu),
    "movielens": ("ratings.tsv.xz", movielens),
}


def written(folder: Path, shape: str) -> Path:
    """A log of this shape in a folder with what lies beside data: notes, a list of columns, a picture."""
    name, make = SHAPES[shape]
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(lzma.compress(make(np.random.default_rng(4)).encode()))
    (folder / "README.md").write_text("# Where this comes from\n")
    (folder / "columns.csv").write_text("name,meaning\nhour,when\n")
    (folder / "plot.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return path


def init(*words: str) -> tuple[Job, str]:
    """The job that the command writes, and what it says."""
    done = CliRunner().invoke(app, ["init", *words])
    assert done.exit_code == 0, done.output
    return load_job(Path("job.yaml")), done.output


@pytest.mark.parametrize("shape", SHAPES)
def test_init_of_the_current_folder_gives_a_job_that_learns(shape, tmp_path, monkeypatch):
    """With other files beside the log, which are named; the model finds the signal."""
    path = written(tmp_path / "here", shape)
    monkeypatch.chdir(path.parent)
    job, said = init(".")
    assert "left out: columns.csv (csv with 2 columns), plot.png (no table that can be read)" in said
    assert [Path(file.name).name for file in find_files(job.spec.data.path)] == [path.name]
    run = run_in_threads(job, tmp_path / "run")
    assert run.report["evaluation"]["examples"] == ROWS // 10
    assert run.report["evaluation"]["auc"] > 0.65


def test_the_job_for_criteo_is_the_hand_written_one(tmp_path, monkeypatch):
    """All that decides the model is as in examples/criteo-kaggle.yaml, so that its figures are the same."""
    path = written(tmp_path, "criteo")
    monkeypatch.chdir(tmp_path)
    job, _ = init(str(path))
    example = load_job(ROOT / "examples" / "criteo-kaggle.yaml")
    spec = msgspec.structs.replace(
        example.spec,
        data=msgspec.structs.replace(example.spec.data, path=job.spec.data.path),
        trainers=msgspec.structs.replace(example.spec.trainers, threads=job.spec.trainers.threads),
    )
    assert spec == job.spec


def test_a_run_beside_the_data_is_no_data(tmp_path, monkeypatch):
    """What `bagpipe run` leaves in the current folder changes nothing about the data that lies there."""
    path = written(tmp_path, "movielens")
    for other in (tmp_path / "columns.csv", tmp_path / "plot.png"):
        other.unlink()
    monkeypatch.chdir(tmp_path)
    job, said = init(".")
    assert (job.spec.data.path, "left out" in said) == (".", False)
    before = find_files(".")
    assert [Path(file.name).name for file in before] == [path.name]
    run = tmp_path / "runs" / "job-1"
    for name in ("logs/oracle-0.log", "data/prepared-1/part-00000.parquet", "attempt", "report.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("1")
    (run / "job.yaml").write_text("spec: {}")
    assert find_files(".") == before
