"""Prepared Parquet reads as the raw text does, appears whole or not at all, and needs constant memory."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bagpipe.cli.main import app
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.config.load import load_local_job
from bagpipe.data import prepare as module
from bagpipe.data import prepared_parts
from bagpipe.data.dataset import open_dataset
from bagpipe.data.prepare import prepare
from bagpipe.errors import ConfigError
from bagpipe.tables import Table


@pytest.mark.parametrize("kind", ["criteo_file", "ragged_file"])
@pytest.mark.parametrize("groups", [1, 2], ids=["one width", "two widths"])
def test_prepared_examples_equal_the_raw_ones(kind, groups, request, dataset, same, tmp_path):
    """Hashed or taken as ids, plain or ragged, in one width group or several."""
    raw = request.getfixturevalue(kind)
    names = ["C1", "C2", "C3"]
    tables = [Table(n, 1000, 4 if i < groups else 8, (n,)) for i, n in enumerate(names)][::-1]
    embedding = EmbeddingConfig(tables=tuple(tables) if kind == "ragged_file" else ())
    hashed = {"hash_size": 1000} if kind == "criteo_file" else {}
    folder = prepare(DataConfig(path=str(raw), **hashed), tmp_path / "out").folder
    expected = dataset(raw, embedding=embedding, **hashed)
    found = dataset(folder, embedding=embedding)
    assert found.layout == expected.layout
    pairs = zip(expected.train_batches(17, epochs=1), found.train_batches(17, epochs=1), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_many_row_groups_and_parts_read_as_one(criteo_file, dataset, same, tmp_path, monkeypatch):
    """Parts and row groups leave no trace; a cursor opens in the middle of any; parts can be read alone."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 16)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 48)
    folder = prepare(DataConfig(path=str(criteo_file), hash_size=1000), tmp_path / "out").folder
    parts = sorted(folder.glob("part-*.parquet"))
    assert [pq.ParquetFile(p).metadata.num_rows for p in parts] == [48, 48, 48, 48, 8]
    expected = list(dataset(criteo_file, hash_size=1000).train_batches(30, epochs=1))
    for path in (folder, f"{folder}/*.parquet", parts, f"file://{folder}"):
        assert all(same(a, b) for a, b in zip(expected, dataset(path).train_batches(30, epochs=1), strict=True))
    rest = dataset(folder, readers=2).train_batches(30, start=expected[3].cursor, epochs=1)
    assert all(same(a, b) for a, b in zip(expected[3:], rest, strict=True))
    assert sum(b.num_examples for b in dataset(parts[1:3]).train_batches(30, epochs=1)) == 96


def test_a_prepared_part_tells_names_sizes_and_transform(criteo_file, tmp_path):
    """What a reader of the folder needs to know is in each part, and the vocabulary within the first."""
    data = DataConfig(path=str(criteo_file), encoding="vocabulary", min_count=2, numeric_bins="log-squared")
    done = prepare(data, tmp_path / "out")
    assert sorted(p.name for p in done.folder.iterdir()) == ["part-00000.parquet"]
    schema = pq.read_schema(done.folder / "part-00000.parquet")
    listed = json.loads(schema.metadata[b"bagpipe"])
    assert [t["name"] for t in listed["tables"]][12:15] == ["I13", "C1", "C2"]
    stated = listed["transform"]
    assert (stated["source"], stated["minCount"], stated["numericBins"]) == ("criteo-tsv", 2, "log-squared")
    place = json.loads(pq.read_metadata(done.folder / "part-00000.parquet").metadata[b"bagpipe.vocabulary"])
    content = (done.folder / "part-00000.parquet").read_bytes()[place["offset"] :][: place["length"]]
    vocabulary = pa.ipc.open_file(content).read_all().to_pylist()
    for table in listed["tables"]:
        rows = [v["row"] for v in vocabulary if v["table"] == table["name"]]
        assert rows == list(range(1, table["numEmbeddings"]))
    c1 = [(v["value"], v["count"]) for v in vocabulary if v["table"] == "C1"]
    text = [line.split("\t")[14] for line in criteo_file.read_text().splitlines()]
    assert c1 == [
        (value or "(missing)", text.count(value))
        for value in sorted(set(text), key=lambda v: (-text.count(v), v))
        if text.count(value) >= 2
    ]
    assert [str(schema.field(n).type) for n in ("label", "dense_I1", "sparse_C1")] == ["float", "float", "int32"]


def test_a_capped_or_shared_table_keeps_the_most_frequent_values(criteo_file, dataset):
    """A table of the job is a cap: the most frequent values keep a row; features that share it share rows."""
    table = Table("both", 3, 4, ("C5", "C6"))
    data = dataset(criteo_file, encoding="vocabulary", embedding=EmbeddingConfig(tables=(table,)))
    keys = [k for b in data.train_batches(50, epochs=1) for k in b.sparse[0].keys_N.tolist()]
    values = [v for line in criteo_file.read_text().splitlines() for v in line.split("\t")[18:20]]
    top = sorted(set(values), key=lambda v: (-values.count(v), v))[:2]
    assert keys == [top.index(v) + 1 if v in top else 0 for v in values]


def test_a_second_run_reuses_the_cache_and_a_changed_file_does_not(criteo_file, dataset, tmp_path, monkeypatch):
    """The digest covers files and settings that change examples, and no others."""
    settings = {"encoding": "vocabulary"}
    dataset(criteo_file, **settings)
    (first,) = (tmp_path / "work").iterdir()
    calls = []
    monkeypatch.setattr(module, "prepare", lambda *a, **k: calls.append(a) or prepare(*a, **k))
    dataset(criteo_file, shuffle="always", readers=1, embedding=EmbeddingConfig(dim=64), **settings)
    assert calls == []
    shutil.rmtree(first)
    dataset(criteo_file, **settings)
    assert len(calls) == 1, "what was deleted is made again"
    criteo_file.write_text(criteo_file.read_text() * 2)
    assert dataset(criteo_file, **settings).num_train_examples == 400
    dataset(criteo_file, min_count=9, **settings)
    assert len(calls) == 3


def test_prepare_never_overwrites_unless_told(criteo_file, tmp_path):
    data = DataConfig(path=str(criteo_file))
    prepare(data, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already; choose another, or replace it with --overwrite"):
        prepare(data, tmp_path / "out")
    assert prepare(data, tmp_path / "out", overwrite=True).examples == 200
    with pytest.raises(ConfigError, match="prepared already"):
        prepare(DataConfig(path=str(tmp_path / "out")), tmp_path / "again")


@pytest.mark.parametrize("limit", [4096, 16384], ids=["what was learned", "a part"])
def test_a_full_disk_leaves_nothing(limit, criteo_file, tmp_path):
    """A write that fails becomes StorageError, here of a limit (exit 78), and the folder beside is gone."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from bagpipe.config.document import DataConfig; from bagpipe.data.prepare import prepare\n"
        "from bagpipe.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "try: prepare(DataConfig(path=sys.argv[1]), Path(sys.argv[2]))\n"
        "except StorageError as error: print(error); sys.exit(error.exit_code)\n"
    )
    # The compiled parsers' cache must exist before files are limited.
    prepare(DataConfig(path=str(criteo_file)), tmp_path / "warm")
    out = tmp_path / "place" / "out"
    run = subprocess.run(
        [sys.executable, "-c", script, str(criteo_file), str(out), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (78, "")
    told = "out: cannot be written: " if limit > 4096 else "transform.json: cannot be written: "
    assert run.stdout.startswith(str(out.parent))
    assert told in run.stdout and "File too large; raise the limit of a file's size (ulimit -f)" in run.stdout
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
def test_memory_does_not_grow_with_the_file(encoding, criteo_lines, tmp_path, monkeypatch):
    """Ten times the lines, the same peak (Python's and Arrow's): blocks, one row group, and the distinct values."""
    from bagpipe.data import files

    monkeypatch.setattr(files.text_blocks, "__defaults__", (1 << 16,))
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 512)
    lines = "\n".join(criteo_lines(1000)) + "\n"

    def peak(times: int) -> int:
        path = tmp_path / f"{times}.txt"
        path.write_text(lines * times)
        data = DataConfig(path=str(path), encoding=encoding, test_fraction=0.1)
        tracemalloc.start()
        try:
            assert prepare(data, tmp_path / f"out{times}").examples == 1000 * times
            return tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory()
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(40) < 1.3 * peak(4)


def test_progress_is_told_by_stage(criteo_file, tmp_path):
    """Each pass names itself; fractions stay within 0 and 1 and end at 1."""
    told = []
    data = DataConfig(path=str(criteo_file), encoding="vocabulary", test_fraction=0.1)
    prepare(data, tmp_path / "out", progress=lambda stage, fraction: told.append((stage, fraction)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "counting examples",
        "building the vocabulary",
        "writing Parquet",
    ]
    assert all(0 <= fraction <= 1 for _, fraction in told)
    assert told[-1] == ("writing Parquet", 1.0)


def test_the_job_that_prepared_trains_on_it_as_the_last_line_says(tmp_path, monkeypatch):
    """What is for raw data is taken back, without which the run ended; the refusal itself says the same."""

    def opened(settings):
        spec = load_local_job(tmp_path / "job.yaml", settings).spec
        return open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")

    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 2},{i % 5},2024-01-01 10:{i:02}:00\n" for i in range(40))
    (tmp_path / "log.csv").write_text(f"y,item,at\n{rows}")
    (tmp_path / "job.yaml").write_text(
        "apiVersion: bagpipe.dev/v1alpha1\nkind: BagpipeJob\nmetadata: {name: j}\nspec:\n  data: {path: log.csv, "
        "encoding: vocabulary, splitBy: time, testFraction: 0.25, columns: {labels: [{name: y}], sparse: "
        "[{name: item}], time: at}}\n"
    )
    printed = CliRunner().invoke(app, ["data", "prepare", "job.yaml", "out"]).output
    assert "its test part is not by time" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("train on it with "))
    settings = line.removeprefix("train on it with ").replace("--set ", "").split()
    assert (opened(settings).num_train_examples, opened(settings).num_test_examples) == (30, 10)
    expected = (
        "data.columns and data.encoding: for raw data.*train with --set spec.data.columns=null --set "
        "spec.data.encoding=auto$"
    )
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace("splitBy: time, ", ""))
    with pytest.raises(ConfigError, match=expected):
        opened(["spec.data.path=out"])
    for command in (["run", "job.yaml", "--check"], ["data", "describe", "job.yaml"]):
        told = CliRunner().invoke(app, [*command, "--set", "spec.data.path=out"])
        assert re.search(expected.removesuffix("$"), f"{told.exception} {told.output}"), command
    assert "would be refused" not in CliRunner().invoke(app, ["data", "describe", "job.yaml"]).output
