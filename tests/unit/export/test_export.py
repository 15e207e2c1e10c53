"""An export scores raw rows without Bagpipe, to the last digit as Bagpipe does: every shipped model, and others."""

import csv
import errno
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_cases import ab_columns, ab_csv, ab_tables, cases, data_of
from pyarrow.csv import read_csv

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.cli.checkpoint import newest
from bagpipe.config.columns import DenseColumn, SparseColumn
from bagpipe.config.model import MODEL_SETTINGS
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, DataError, ExitCode, StorageError
from bagpipe.export.predict import predict as predict_any
from bagpipe.export.tables import load_tables
from bagpipe.export.write import _all_or_nothing, _check_empty, export_model, load_export
from bagpipe.interactive.run import Run
from bagpipe.rows.initial import initial_rows, row_scale
from bagpipe.standalone import column_settings, plain_kernels
from bagpipe.standalone import embeddings as alone
from bagpipe.trainer.predict import predict

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = ("bagpipe", "msgspec", "numba", "safetensors", "yaml", "zmq", "fsspec", "typer")
WITHOUT_BAGPIPE = f"""
import importlib.util, json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Absent())
import pyarrow as pa, pyarrow.parquet as pq
for number, (folder, data, out) in enumerate(json.load(sys.stdin)):
    spec = importlib.util.spec_from_file_location(f"score_{{number}}", folder + "/score.py")
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    model = score.load()
    pq.write_table(pa.concat_tables(model.score_file(data)), out)
assert not [name for name in sys.modules if name.partition(".")[0] in {FORBIDDEN!r}]
"""


def scores_of(path: Path) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in zip(*_columns(path), strict=True)}


def _columns(path: Path) -> tuple[list[str], list[Any]]:
    table = pq.read_table(path)
    return table.column_names, table.columns


def test_every_shipped_model_is_among_the_cases(criteo: Callable[[int, int], str]) -> None:
    """No shipped model is forgotten here."""
    assert set(MODEL_SETTINGS) <= {case.name for case in cases(criteo)}


def test_score_py_equals_predict_to_the_last_digit_without_bagpipe(
    folder: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """All exports, loaded side by side where none of our packages can be imported, score files as `predict` does."""
    asked = []
    for name, checkpoint in checkpoints.items():
        done = export_model(checkpoint, tmp_path / name)
        assert done.requires == ()
        asked.append((str(tmp_path / name), data_of(folder, name), str(tmp_path / f"{name}.alone.parquet")))
        predict(checkpoint, data_of(folder, name), tmp_path / f"{name}.parquet")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_BAGPIPE], input=json.dumps(asked), text=True, check=True, env=env
    )
    for name in checkpoints:
        ours, alone_ = scores_of(tmp_path / f"{name}.parquet"), scores_of(tmp_path / f"{name}.alone.parquet")
        assert list(ours) == list(alone_), name
        for column in ours:
            if column != "row" or name != "dcn":  # Avazu's lines count the header.
                assert ours[column] == alone_[column], (name, column)
        assert len(set(ours[list(ours)[-1]])) > 20, f"{name}: scores that hardly differ prove little"


def test_predict_takes_an_export_too(folder: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The same file as from the checkpoint, a score for each label; what the data lacks is said in the same way."""
    export_model(checkpoints["own"], tmp_path / "own")
    for where, out in ((checkpoints["own"], "a"), (tmp_path / "own", "b")):
        done = predict_any(where, data_of(folder, "own"), tmp_path / out, keep=("user", "user"))  # Twice is once.
        assert (done.rows, done.columns) == (300, ("score_clicked", "score_bought"))
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path / 'own'}: an export, which only `bagpipe predict` and"):
        newest(tmp_path / "own")
    one = next(load_export(tmp_path / "own").score_file(data_of(folder, "own"), keep="user"))
    assert one.column_names == ["file", "row", "user", "score_clicked", "score_bought"]
    lines = Path(data_of(folder, "own")).read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([lines[0].replace("price", "prise"), *lines[1:]]))
    said = []
    for where in (checkpoints["own"], tmp_path / "own"):
        with pytest.raises(BagpipeError, match=r"^'price' is no column of .*other.csv; did you mean 'prise'\?$") as no:
            predict_any(where, str(tmp_path / "other.csv"), tmp_path / "c")
        said.append((str(no.value), no.value.exit_code))
    assert said[0] == said[1]
    assert said[0][1] == ExitCode.BAD_DATA
    with pytest.raises(ConfigError, match=r"--keep: 'usr' is no column of .*own.csv; did you mean 'user'\?"):
        predict_any(checkpoints["own"], data_of(folder, "own"), tmp_path / "c", keep=("usr",))
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("c", ".c.tmp")]


def test_a_kept_column_has_one_type(folder: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """From a checkpoint and from an export: the first file's, or one line that names the file whose values are others;
    it was a bug of the library, or depended on where a batch ended.
    """
    export_model(checkpoints["own"], tmp_path / "own")
    rows = read_csv(data_of(folder, "own"))
    kinds = {"a": pa.array(range(300)), "b": pa.array(map(float, range(300))), "c": pa.array(map(str, range(300)))}
    (tmp_path / "data").mkdir()
    for name, column in kinds.items():
        pq.write_table(rows.append_column("key", column), tmp_path / "data" / f"{name}.parquet")
    for where in (checkpoints["own"], tmp_path / "own"):
        predict_any(where, str(tmp_path / "data"), tmp_path / "out", keep=["key"])
        found = pq.read_table(tmp_path / "out").column("key")
        assert (found.type, found.to_pylist()) == (pa.int64(), [*range(300)] * 3)
    pq.write_table(rows.append_column("key", pa.array([f"r{n}" for n in range(300)])), tmp_path / "data" / "d.parquet")
    for where in (checkpoints["own"], tmp_path / "own"):
        with pytest.raises(DataError, match=r"/d.parquet: column key: expected int64 as in .* before, found string;"):
            predict_any(where, str(tmp_path / "data"), tmp_path / "out2", keep=["key"])
    assert not (tmp_path / "out2").exists()


def test_an_export_is_given_no_url(tmp_path: Path) -> None:
    """Its code reads files of this machine: that is said, rather than that there is no such file."""
    for name in ("score.py", "model.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=r"^memory://new.csv: an export reads files of this machine only; fetch"):
        predict_any(tmp_path, "memory://new.csv", tmp_path / "out")


def test_from_python_a_frame_is_called_so_and_one_column_is_no_list_of_letters(
    folder: Path, checkpoints: dict[str, Path]
) -> None:
    """`keep="user"` keeps that column; messages name the argument and the frame, and no temporary file."""
    run, frame = Run(checkpoints["own"].parents[1]), read_csv(data_of(folder, "own"))
    kept = run.predict(frame, keep="user")
    assert kept.column("user").to_pylist() == frame.column("user").to_pylist()
    assert run.predict(frame, keep=None).column_names == ["row", "score_clicked", "score_bought"]
    with pytest.raises(ConfigError, match=r"^keep: expected a name or a list of names, found \[1\]$"):
        run.predict(frame, keep=[1])
    with pytest.raises(ConfigError, match=r"^keep: 'usr' is no column of the frame; did you mean 'user'\?$"):
        run.predict(frame, keep="usr")
    with pytest.raises(DataError, match=r"^'price' is no column of the frame; it has "):
        run.predict(frame.drop_columns(["price"]))


def test_rows_as_dicts_have_the_scores_of_the_file(folder: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The same rows as Python values, one by one and all at once, in another order of keys, with keys left out."""
    export_model(checkpoints["own"], tmp_path / "own")
    model = load_export(tmp_path / "own")
    whole = next(model.score_file(data_of(folder, "own"))).to_pylist()
    header, *lines = Path(data_of(folder, "own")).read_text().splitlines()
    rows: list[dict[str, Any]] = []
    for line, cells in zip(lines, csv.reader(lines), strict=True):
        row: dict[str, Any] = dict(zip(header.split(","), cells, strict=True))
        row = {name: cell if cell or (name == "user" and '""' in line) else None for name, cell in row.items()}
        row |= {"age": int(row["age"]), "price": float(row["price"]) if row["price"] else None}
        rows.append({name: value for name, value in reversed(row.items()) if value is not None} | {"strange": 1})
    expected = np.array([[one["score_clicked"], one["score_bought"]] for one in whole])
    np.testing.assert_array_equal(model.score(rows[:64]), expected[:64])
    one_by_one = np.concatenate([model.score([row]) for row in rows[:20]])
    np.testing.assert_allclose(one_by_one, expected[:20], rtol=1e-6)
    with pytest.raises(Exception, match="row 2: column age: expected a value as in row 1, found 'old'"):
        model.score([rows[0], rows[1] | {"age": "old"}])
    with pytest.raises(Exception, match="row 1: column age: expected a finite number, found 'old'"):
        model.score([rows[1] | {"age": "old"}])
    assert model.score([{"user": 2**63 + 5}, {"user": -7}]).shape == (2, 2)


def test_only_touched_rows_are_stored_unless_all_are_asked_for(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Both exports score alike; the small one holds the touched rows, the large one whole tables."""
    export_model(checkpoints["dlrm"], tmp_path / "touched")
    export_model(checkpoints["dlrm"], tmp_path / "all", all_rows=True)
    tables = load_tables(tmp_path / "all")
    assert {t.shape for t in tables.values()} == {(64, 4)} and not (tmp_path / "all" / "rows.safetensors").exists()
    small = (tmp_path / "touched" / "tables.safetensors").stat().st_size
    assert small < (tmp_path / "all" / "tables.safetensors").stat().st_size
    with pytest.raises(CheckpointError, match="--all-rows"):
        load_tables(tmp_path / "touched")
    rows = [{"C1": f"{n:08x}", "I1": n} for n in range(300)]
    a, b = (load_export(tmp_path / name).score(rows) for name in ("touched", "all"))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("dtype", "close"), [("fp16", 2e-3), ("int8", 2e-2)])
def test_rows_may_be_stored_in_fewer_bytes(
    dtype: Any, close: float, checkpoints: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """Scores move a little, the file shrinks, and a table may be left as it is; a table that is not there is named."""
    export_model(checkpoints["own"], tmp_path / "exact")
    export_model(checkpoints["own"], tmp_path / "coarse", dtypes={"*": dtype, "user": "fp32"})
    exact, coarse = (load_export(tmp_path / name) for name in ("exact", "coarse"))
    tables = [next(model.score_file(data_of(folder, "own"))) for model in (exact, coarse)]
    a, b = (table["score_clicked"].to_numpy() for table in tables)
    assert 0 < np.abs(a - b).max() < close
    sizes = [(tmp_path / name / "tables.safetensors").stat().st_size for name in ("exact", "coarse")]
    assert sizes[1] < sizes[0]
    assert json.loads((tmp_path / "coarse" / "model.json").read_text())["dtypes"]["user"] == "fp32"
    with pytest.raises(ConfigError, match="there is no table users; the tables are user, items, tags, age_band"):
        export_model(checkpoints["own"], tmp_path / "none", dtypes={"users": dtype})


def test_an_export_that_finds_no_room_leaves_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A file that may not grow so far stands for a full disk: one line, an empty place, and the next try succeeds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for out, size in ((tmp_path / "new", 1000), (tmp_path / "empty", 9000)):
        if out.name == "empty":
            out.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(StorageError, match=r"cannot be written: File too large; raise the limit"):
                export_model(checkpoints["own"], out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert out.exists() == (out.name == "empty") and not any(out.glob("*"))
        export_model(checkpoints["own"], out)
        with pytest.raises(ConfigError, match="expected an empty directory"):
            export_model(checkpoints["own"], out)


def test_an_export_that_was_killed_blocks_nothing_and_a_second_one_at_once_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until an export is whole its folder holds no part of one; two at once do not mix two models in one folder."""
    out = tmp_path / "out"
    seen = []

    def second(folder: Path) -> Any:
        seen.append(sorted(entry.name for entry in out.iterdir()))
        with pytest.raises(ConfigError, match=rf"^{out}: .*is in use by bagpipe export .*, pid {os.getpid()}, "):
            export_model(checkpoints["own"], out)

    (out / ".draft" / "code").mkdir(parents=True)  # What a kill leaves.
    for name in (".owner.json", "tables.safetensors", ".rows.safetensors.tmp"):
        (out / ".draft" / name).write_text("{")
    with monkeypatch.context() as within:
        within.setattr("bagpipe.export.write.load_export", second)
        export_model(checkpoints["dlrm"], out)
    assert seen == [[".draft"]] and not (out / ".draft").exists()
    assert load_export(out).facts["model"]["class"] == "DLRM"


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_export_that_cannot_take_its_name_blocks_no_next_try(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was moved already goes: a folder with some files of an export is neither one nor empty."""
    out, rename, moved = tmp_path / "out", os.rename, list[Path]()

    def fail(source: Path, target: Path) -> None:
        if len(moved) == 2:
            raise fault
        moved.append(target)
        rename(source, target)

    def export() -> None:
        with _all_or_nothing(out) as draft:
            for name in ("score.py", "model.json", "dense.safetensors"):
                (draft / name).write_text("x")
            (draft / "code").mkdir()
            monkeypatch.setattr(os, "rename", fail)

    out.mkdir()
    with pytest.raises((StorageError, KeyboardInterrupt)):
        export()
    assert len(moved) == 2 and not list(out.iterdir())


def test_an_export_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    """It was whole between the first look at the folder and the moment when the folder became this process's."""
    (tmp_path / "model.json").write_text("the other's")
    expected = f"{tmp_path}: expected an empty directory to export to, found model.json in it; choose another"
    with pytest.raises(ConfigError, match=expected), _all_or_nothing(tmp_path):
        pytest.fail("the body of a second export was run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.json"]
    assert (tmp_path / "model.json").read_text() == "the other's"
    with pytest.raises(ConfigError, match="export to, found a file; choose another name"):
        _check_empty(tmp_path / "model.json")


def test_a_model_that_needs_what_an_export_lacks_is_refused_by_name(
    folder: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """A library module that needs msgspec is no part of an export; a package of the user's is named as required."""
    text = "from torch import nn\nfrom bagpipe.config.document import JobSpec\n"
    body = "class M(nn.Linear):\n    def __init__(self): super().__init__(8, 1)\n"
    body += "    def forward(self, d, s): return super().forward(s.concatenated())\n"
    (folder / "models" / "needs_the_job.py").write_text(text + body)
    (folder / "models" / "needs_hypothesis.py").write_text("from torch import nn\nimport hypothesis.errors\n" + body)
    (folder / "ab.csv").write_text(ab_csv(random.Random(1)))
    jobs = {}
    for name in ("needs_the_job", "needs_hypothesis"):
        data = {"path": str(folder / "ab.csv"), "columns": ab_columns(), "encoding": "hash"}
        spec = {"model": {"entrypoint": f"{name}:M"}, "data": data, "embedding": {"tables": ab_tables()}}
        jobs[name] = trained(json.dumps({"metadata": {"name": "x"}, "spec": spec}))
    with pytest.raises(ConfigError, match=r"the model uses bagpipe\.config\.\w+, which needs msgspec"):
        export_model(jobs["needs_the_job"], tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert export_model(jobs["needs_hypothesis"], tmp_path / "b").requires == ("hypothesis",)
    assert "import hypothesis.errors" in (tmp_path / "b" / "code" / "needs_hypothesis.py").read_text()


def test_first_weights_of_rows_that_nobody_touched_are_those_of_training() -> None:
    """The numpy form gives the compiled one's bits, whatever the seed, table and width."""
    rng = np.random.default_rng(1)
    for seed, table, dim in ((0, 0, 1), (7, 3, 16), (2**40, 25, 5)):
        rows = rng.integers(0, 1 << 40, 500)
        scale = row_scale(1000, None)
        found = plain_kernels.first_weights(seed, table, rows, dim, scale)
        assert found.tobytes() == initial_rows(seed, table, rows, dim, scale).tobytes()


def test_the_stand_ins_have_all_that_the_library_has() -> None:
    """What a model may ask of its embeddings, and what a column may say, is the same in an export."""
    public = {name for name in vars(SparseEmbeddings) if not name.startswith("_")} - {"later", "of_lookups"}
    assert public <= {name for name in vars(alone.SparseEmbeddings) if not name.startswith("_")}
    for ours, theirs in ((SparseColumn, column_settings.SparseColumn), (DenseColumn, column_settings.DenseColumn)):
        a = {f.name: f.default for f in msgspec.structs.fields(ours) if f.name != "name"}
        b = {f.name: f.default for f in dataclass_fields(theirs) if f.name != "name"}
        assert a == b
