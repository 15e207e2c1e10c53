"""A run that begins with another run's weights, or with vectors from files, trains as plain PyTorch does from there."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch

from bagpipe.batch import Cursor
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.store import Checkpoint, newest_complete, open_checkpoint
from bagpipe.config.document import Job
from bagpipe.data.dataset import open_dataset
from bagpipe.data.raw import value_text
from bagpipe.errors import ConfigError, DataError
from bagpipe.oracle.service.phases import Start
from bagpipe.oracle.service.start import open_data
from bagpipe.testing.compare import differences, rows_of
from bagpipe.testing.reference import ReferenceStart, train_reference
from bagpipe.testing.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

STEPS, BATCH, SIZES = 9, 30, [40, 200, 7, 90]


def job_of(trainers: int = 1, *, data: dict[str, Any] | None = None, **more: Any) -> Job:
    spec = {
        "model": {"name": "wdl", "bottomMlp": [8, 8], "deepInputs": "all"},
        "data": data
        or {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": SIZES, "numDense": 3, "multiHot": 2}},
        "embedding": {"dim": 4, "optimizer": {"name": "adagrad", "lr": 0.05}},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batchSize": BATCH,
        "steps": STEPS,
        "lookahead": 4,
        "seed": 3,
        "logEvery": 1,
        "servers": {"replicas": 2, "storage": "memory"},
        "trainers": {"replicas": trainers, "device": "cpu", "threads": 1},
    }
    return msgspec.convert({"spec": spec | more}, Job)


def table(name: str, feature: str, rows: int, dim: int = 4) -> dict[str, Any]:
    return {"name": name, "numEmbeddings": rows, "embeddingDim": dim, "featureNames": [feature], "pooling": "sum"}


def newest(run: Path) -> Checkpoint:
    found = newest_complete(run / "checkpoints")
    assert found is not None
    return open_checkpoint(found)


def expected_of(job: Job, start: ReferenceStart) -> Any:
    data = open_dataset(job.spec.data, job.spec.embedding, seed=job.spec.seed, work_dir=Path("/nonexistent"))
    return train_reference(
        itertools.islice(data.train_batches(BATCH), STEPS),
        data.layout,
        job.spec,
        num_dense=data.num_dense,
        world_size=job.spec.trainers.replicas,
        begin_with=start,
    )


@pytest.mark.parametrize("trainers", [1, 3])
def test_tables_renamed_grown_changed_and_new(trainers: int, tmp_path: Path) -> None:
    """Rows keep vectors and state where table and optimizer are the same; the rest begins anew, and is said."""
    run_in_threads(job_of(), tmp_path / "first")
    source = newest(tmp_path / "first")
    tables = [table("people", "C1", 60), table("C2", "C2", 200), table("C3", "C3", 7, dim=6), table("fresh", "C4", 90)]
    changed = {"tables": ["C2"], "optimizer": {"name": "adam", "lr": 0.01}}
    job = job_of(
        trainers,
        embedding={"tables": tables, "optimizer": {"name": "adagrad", "lr": 0.02}, "overrides": [changed]},
        initFrom={"run": str(tmp_path / "first"), "tables": {"people": "C1"}},
        seed=8,
    )
    run = run_in_threads(job, tmp_path / "second")
    records = {}
    for (name, row), record in rows_of(source).items():
        if name == "C1":  # the same optimizer: the accumulator stays, in a record with room for adam
            records["people", row] = np.concatenate([record, np.zeros(4, np.float32)])
        elif name == "C2":  # another optimizer: moments begin anew
            records["C2", row] = np.concatenate([record[:4], np.zeros(8, np.float32)])
    dense = safetensors.torch.load_file(source.directory / "dense.safetensors")
    fresh = expected_of(
        msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, steps=STEPS)), ReferenceStart({}, {})
    )
    fitting = {name: value for name, value in dense.items() if value.shape == fresh.dense[name].shape}
    assert fitting
    assert fitting.keys() != dense.keys()
    assert differences(run, expected_of(job, ReferenceStart(records, fitting))) == []
    told = (tmp_path / "second" / "warm-start.txt").read_text()
    counts = {name: sum(t == name for t, _ in rows_of(source)) for name in ("C1", "C2")}
    lines = [line.split() for line in told.splitlines()]
    assert ["people", "C1", str(counts["C1"]), "kept"] in lines
    assert ["C2", "C2", str(counts["C2"]), "begins", "anew"] in lines
    assert "none: width 4 there, 6 here" in told
    assert "fresh   fresh  none: not there" in told
    assert "C4     none: no table here" in told
    assert told in (tmp_path / "second" / "metrics.jsonl").read_text().encode().decode("unicode_escape")
    said = (tmp_path / "second" / "checkpoints" / "initial" / "dense-weights.txt").read_text()
    assert all((f"{name}  taken\n" in said) == (name in fitting) for name in dense)


@pytest.mark.parametrize("trainers", [1, 3])
def test_vectors_from_files_frozen_and_trained(trainers: int, tmp_path: Path) -> None:
    """A whole table from .npy, some rows of another from Parquet; the frozen one ends as it began."""
    draw = np.random.default_rng(4)
    whole, some = draw.standard_normal((200, 4)).astype(np.float32), draw.standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "c2.npy", whole)
    pq.write_table(pa.table({"row": [80, 2, 5], "vector": some.tolist()}), tmp_path / "c4.parquet")
    overrides = [
        {"tables": ["C2"], "initFrom": str(tmp_path / "c2.npy"), "frozen": True},
        {"tables": ["C4"], "initFrom": str(tmp_path / "c4.parquet")},
    ]
    rows = {"name": "adagrad", "lr": 0.05, "initialAccumulator": 0.5}
    job = job_of(trainers, embedding={"dim": 4, "optimizer": rows, "overrides": overrides})
    run = run_in_threads(job, tmp_path / "run")
    state = np.full(4, 0.5, np.float32)
    records = {("C2", row): np.concatenate([vector, state]) for row, vector in enumerate(whole)}
    records |= {("C4", row): np.concatenate([vector, state]) for row, vector in zip((80, 2, 5), some, strict=True)}
    assert differences(run, expected_of(job, ReferenceStart(records, {}))) == []
    left = rows_of(newest(tmp_path / "run"))
    assert all(np.array_equal(left["C2", row][:4], whole[row]) for row in range(200))


def people(path: Path, names: list[str]) -> dict[str, Any]:
    lines = [f"{number % 2},{name}" for number, name in enumerate(names)]
    path.write_text("\n".join(["clicked,name", *lines]) + "\n")
    columns = {"labels": [{"name": "clicked"}], "sparse": [{"name": "name"}]}
    return {"path": str(path), "format": "csv", "columns": columns, "testFraction": 0.0}


def test_a_value_keeps_its_vector_in_other_data(tmp_path: Path) -> None:
    """Vocabularies give the same value other rows; its vector goes with the value. The model has no dense features."""
    before = people(tmp_path / "before.csv", ["ann", "bob", "cid", "dan"] * 30)
    after = people(tmp_path / "after.csv", ["eve", "dan", "eve", "bob", "eve", "fay"] * 20)
    run_in_threads(job_of(data=before, steps=3), tmp_path / "first")
    embedding = {"dim": 4, "optimizer": {"name": "adagrad"}, "overrides": [{"tables": ["*"], "frozen": True}]}
    warm = job_of(2, data=after, steps=3, embedding=embedding, initFrom={"run": str(tmp_path / "first")})
    run_in_threads(warm, tmp_path / "second")
    vectors = []
    for place in ("first", "second"):
        checkpoint = newest(tmp_path / place)
        kept = load_kept(checkpoint)
        assert kept is not None
        assert kept.transform.vocabularies is not None
        vocabulary = kept.transform.vocabularies["name"]
        (feature,) = kept.transform.info.features
        rows = rows_of(checkpoint)
        found = {
            value_text(int(code), feature.kind): rows["name", vocabulary.first_row + number][:4].tobytes()
            for number, code in enumerate(vocabulary.codes)
            if ("name", vocabulary.first_row + number) in rows
        }
        vectors.append(found)
    first, second = vectors
    assert set(first) == {"ann", "bob", "cid", "dan"}
    assert set(second) == {"bob", "dan", "eve", "fay"}
    assert all(second[name] == first[name] for name in ("bob", "dan"))
    assert "rows taken" in (tmp_path / "second" / "warm-start.txt").read_text()


def test_a_warm_started_run_resumes_as_itself(tmp_path: Path) -> None:
    """Once there is a checkpoint of its own, the other run is not looked at again; it may be gone (X3)."""
    run_in_threads(job_of(), tmp_path / "first")
    warm = {"initFrom": {"run": str(tmp_path / "first")}, "seed": 8, "checkpoint": {"every": 4}}
    whole = run_in_threads(job_of(2, **warm), tmp_path / "whole")
    run_in_threads(job_of(2, **warm, steps=5), tmp_path / "parts")
    checkpoint = newest_complete(tmp_path / "parts" / "checkpoints")
    (tmp_path / "first").rename(tmp_path / "gone")
    again = run_in_threads(job_of(2, **warm), tmp_path / "parts", attempt=1, checkpoint=checkpoint)
    assert again.losses == whole.losses
    a, b = (rows_of(newest(tmp_path / place)) for place in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"initFrom": {"run": "/nowhere"}}, r"spec.initFrom.run: /nowhere: expected a run with a complete checkpoint"),
        ({"initFrom": {"run": "first", "tables": {"C9": "C1"}}}, "'C9' is no table of this job; it has C1, C2"),
        ({"initFrom": {"run": "first", "tables": {"C1": "C9"}}}, "'C9' no table of that run; it has C1, C2"),
        ({"files": [{"tables": ["C2"], "initFrom": "/no.npy"}]}, r"overrides\[0\].initFrom: /no.npy: no such file"),
        ({"files": [{"tables": ["C*"], "initFrom": "first.npy"}]}, "expected one table by its name"),
        (
            {"files": [{"tables": ["C2"], "initFrom": "first.npy"}]},
            r"expected floats \[200, 4\], found float64 \[4, 4\]",
        ),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_refused(more: dict[str, Any], named: str, first: Path) -> None:
    """One line that names the setting, before any training; what was written for the job until then is removed."""
    settings = dict(more)
    if "files" in settings:
        (override,) = settings.pop("files")
        override = override | {"initFrom": override["initFrom"].replace("first", str(first / "first"))}
        settings["embedding"] = {"dim": 4, "overrides": [override]}
    elif settings["initFrom"]["run"] == "first":
        settings["initFrom"] = settings["initFrom"] | {"run": str(first)}
    place, beginning = first.parent / "refused", Start(0, Cursor(), None)
    with pytest.raises((ConfigError, DataError), match=named):
        open_data(job_of(**settings).spec, beginning, checkpoint=None, run_dir=place, checkpoint_dir=place, choose=True)
    assert not (place / "initial").exists()


def test_a_folder_of_the_users_own_is_never_taken_for_first_values(tmp_path: Path) -> None:
    """The folder of checkpoints may hold one of that name, with the very file to begin with."""
    own = tmp_path / "initial" / "vectors.npy"
    own.parent.mkdir()
    np.save(own, np.zeros((200, 4), np.float32))
    job = job_of(embedding={"dim": 4, "overrides": [{"tables": ["C2"], "initFrom": str(own)}]})
    start = Start(0, Cursor(), None)
    with pytest.raises(
        ConfigError, match=r"checkpoint.path: .*initial: holds vectors.npy, which bagpipe did not write"
    ):
        open_data(job.spec, start, checkpoint=None, run_dir=tmp_path, checkpoint_dir=tmp_path, choose=True)
    assert own.is_file()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from, and an array that fits no table."""
    place = tmp_path_factory.mktemp("warm") / "first"
    run_in_threads(job_of(), place)
    np.save(place / "first.npy", np.zeros((4, 4)))
    return place
