"""`--engine dask`: a cluster of two processes writes the bytes of one, and a missing scheduler or worker is named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.cli.data import _check_engine
from bagpipe.cli.values import scheduler_address
from bagpipe.config.load import load_local_job
from bagpipe.data import dask_engine as module
from bagpipe.data import prepared_parts, stretches
from bagpipe.data.dask_engine import dask_engine
from bagpipe.data.prepare import prepare
from bagpipe.errors import ConfigError, PeerLost

CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, **where) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
JOB = """
spec:
  data:
    path: {rows}
    testFraction: 0.2
    columns:
      labels: [{{name: y}}]
      dense: [{{name: price, standardise: true}}, {{name: item, count: log-share}}]
      sparse: [{{name: item}}]
"""


@contextmanager
def running(folder: Path, workers: int) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A cluster in processes of its own, and its address."""
    script = folder / "cluster.py"
    script.write_text(CLUSTER)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script), str(workers)], **pipes) as process:
        out: IO[str] = process.stdout
        try:
            yield out.readline().strip(), process
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("cluster"), 2) as (address, _):
        yield address


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Of two Parquet files with small row groups."""
    (tmp_path / "rows").mkdir()
    for number in range(2):
        rng = np.random.default_rng(number)
        table = pa.table({"y": rng.integers(0, 2, 400), "price": rng.random(400), "item": rng.integers(-9, 50, 400)})
        pq.write_table(table, tmp_path / "rows" / f"{number}.parquet", row_group_size=70)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(rows=tmp_path / "rows"))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def bagpipe(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bagpipe", "data", "prepare", *arguments], capture_output=True, text=True, check=False
    )


def test_two_workers_write_the_bytes_of_one_process(job, tmp_path, cluster, monkeypatch):
    """In many tasks and parts, by processes other than this one."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 32)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 64)
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 2000)
    data = load_local_job(job).spec.data
    whole = prepare(data, tmp_path / "whole")
    told = []
    with dask_engine(cluster, None) as engine:
        assert len(engine.client.nthreads()) == 2
        assert os.getpid() not in engine.client.run(os.getpid).values()
        spread = prepare(data, tmp_path / "spread", engine=engine, progress=lambda stage, share: told.append(stage))
    assert content(spread.folder) == content(whole.folder)
    assert len(content(spread.folder)) == 13
    assert list(dict.fromkeys(told)) == [
        "counting examples", "looking at the columns", "building the vocabulary", "writing Parquet"
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["there", "here"])
def test_the_command_writes_the_bytes_of_the_local_one(where, job, tmp_path, request):
    """By a cluster that is there, or one that it starts for itself and ends."""
    assert bagpipe(str(job), str(tmp_path / "whole")).returncode == 0
    options = ("--scheduler", request.getfixturevalue("cluster")) if where == "there" else ("--workers", "2")
    done = bagpipe(str(job), str(tmp_path / "out"), "--engine", "dask", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "800 examples, 1 tables" in done.stdout
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_error_of_the_data_is_the_local_one(job, tmp_path, cluster):
    """A worker's refusal arrives with its exit code and in one line."""
    pq.write_table(pa.table({"y": [0, 2], "price": [0.5, 1], "item": [1, 2]}), tmp_path / "rows" / "2.parquet")
    alone = bagpipe(str(job), str(tmp_path / "out"))
    spread = bagpipe(str(job), str(tmp_path / "out"), "--engine", "dask", "--scheduler", cluster)
    assert (spread.returncode, spread.stderr) == (alone.returncode, alone.stderr)
    assert spread.returncode == 65
    assert "2.parquet: row 2: column y" in spread.stderr


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    """After its deadline."""
    monkeypatch.setattr(module, "SCHEDULER_SECONDS", 0.5)
    with (
        pytest.raises(PeerLost, match=r"scheduler tcp://127.0.0.1:9: no answer .*check the address"),
        dask_engine("tcp://127.0.0.1:9", None),
    ):
        pass


def test_a_cluster_without_workers_is_named_and_one_that_ends_too(job, tmp_path, monkeypatch):
    """The next command goes on, so both may be tried again."""
    monkeypatch.setattr(module, "WORKERS_SECONDS", 1.0)
    monkeypatch.setattr(module, "SCHEDULER_SECONDS", 60.0)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)
    data = load_local_job(job).spec.data
    with running(tmp_path, 0) as (address, process), dask_engine(address, None) as engine:
        with pytest.raises(PeerLost, match=rf"scheduler {address}: no worker for 1 s; start some"):
            prepare(data, tmp_path / "out", engine=engine)
        process.kill()
        process.wait()
        with pytest.raises(PeerLost, match=rf"scheduler {address}: lost .*start it again"):
            prepare(data, tmp_path / "out", engine=engine)


def test_dask_is_asked_for_by_name(monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = r"the package distributed is not installed; pip install 'bagpipe-train\[dask\]'"
    with pytest.raises(ConfigError, match=words), dask_engine(None, 1):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("local", "tcp://a:1", None, "parquet"), "--scheduler: is for --engine dask"),
        (("local", None, 2, "parquet"), "--workers: is for --engine dask"),
        (("dask", "tcp://a:1", 2, "parquet"), "--workers: is for a cluster that is started here"),
        (("dask", None, None, "kaggle-json"), "--engine dask: writes Parquet, and --format is kaggle-json"),
    ],
)
def test_options_without_an_effect_are_refused(options, words):
    """Before anything is read."""
    with pytest.raises(ConfigError, match=words):
        _check_engine(*options)


def test_addresses_of_schedulers():
    """Plain or encrypted."""
    read = scheduler_address("--scheduler")
    assert [read("tcp://a:8786"), read("a:8786"), read("tls://a:8786")] == ["tcp://a:8786"] * 2 + ["tls://a:8786"]
    with pytest.raises(ConfigError, match="--scheduler: expected tcp://host:port"):
        read("http://a:8786")
