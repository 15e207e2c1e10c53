"""`score.py` of an export as a program: what it says of its work, of rows that are wrong, and of damaged files."""

import importlib.util
import io
import json
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from export_cases import data_of

from bagpipe.errors import CheckpointError, ConfigError, ExitCode
from bagpipe.export.manifest import write_manifest
from bagpipe.export.predict import predict as predict_any
from bagpipe.export.tables import load_tables
from bagpipe.export.write import export_model, load_export


class Own(NamedTuple):
    """An export of a model of one's own."""

    out: Path
    data: str
    """A file of its raw rows."""
    ended: Callable[..., tuple[int, str, str]]
    """Runs its program with these words, and `stdin`: exit code, standard output, standard error."""


@pytest.fixture
def own(
    folder: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Own:
    out = tmp_path / "own"
    export_model(checkpoints["own"], out)
    score = score_module(out)

    def ended(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["score.py", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        return score.main(), *capsys.readouterr()

    return Own(out, data_of(folder, "own"), ended)


def score_module(export: Path) -> Any:
    spec = importlib.util.spec_from_file_location("score_of_an_export", export / "score.py")
    assert spec is not None and spec.loader is not None
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    return score


def test_score_py_says_what_it_wrote(own: Own, tmp_path: Path) -> None:
    """One line with the file, the number of its rows and its columns, as `bagpipe predict` prints; nothing is replaced
    that it was not told to replace.
    """
    out = tmp_path / "scores.parquet"
    told = f"{out}: 300 rows, columns file, row, score_clicked, score_bought\n"
    assert own.ended(own.data, str(out)) == (0, told, "")
    out.write_text("theirs")
    refused = f"error: {out}: exists already; choose another name, or allow --overwrite\n"
    assert own.ended(own.data, str(out)) == (78, "", refused) and out.read_text() == "theirs"
    assert own.ended(own.data, str(out), "--overwrite") == (0, told, "")
    refused = f"error: {tmp_path}: is a folder, and scores are written as a file; choose another name\n"
    assert own.ended(own.data, str(tmp_path), "--overwrite") == (78, "", refused)


def test_score_py_leaves_no_draft_on_a_full_disk_and_ends_at_once_when_interrupted(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a Parquet file finds no more room than its rows did."""
    score, place = score_module(own.out), tmp_path / "place"
    place.mkdir()
    noise = pa.table({"score": np.random.default_rng(0).random(10_000)})
    model = SimpleNamespace(score_file=lambda data, keep: [noise])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            score._to_parquet(model, own.data, place / "scores.parquet", [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(place.iterdir())

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "load", interrupted)
    monkeypatch.setattr("sys.argv", ["score.py", own.data, str(place / "scores.parquet")])
    assert score.main() == 130


def test_score_py_tells_in_one_line_what_is_wrong(own: Own, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A line of stdin that is no record, a folder that is not there, a kept column whose name is taken."""
    row = '{"user": "u1"}\n'
    wrong = "expected a JSON object, found"
    assert own.ended("-", "-", stdin="clicks\n") == (65, "", f"error: stdin: line 1: {wrong} 'clicks'\n")
    code, said, wrong = own.ended("-", "-", stdin=f"{row}\n[1]\n")
    assert (code, said.count("\n"), wrong) == (65, 1, "error: stdin: line 3: expected a JSON object, found '[1]'\n")
    code, _, wrong = own.ended(own.data, str(tmp_path / "no" / "out.parquet"))
    assert (code, wrong.count("\n"), "No such file" in wrong) == (78, 1, True)
    for where in (own.out, checkpoints["own"]):
        with pytest.raises(ConfigError, match=r"--keep: '\w+' is "):
            predict_any(where, own.data, tmp_path / "c", keep=("row",))
    code, _, wrong = own.ended(own.data, str(tmp_path / "d"), "--keep", "row")
    assert (code, wrong.startswith("error: --keep: 'row' is a column of the scores already; rename it")) == (78, True)
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("c", "d")]


def test_every_damaged_byte_of_an_export_is_noticed_before_it_scores(own: Own, tmp_path: Path) -> None:
    """One bit in the middle of any file, a file cut short or gone: one line names it, whichever way it is loaded."""
    out, data = own.out, own.data
    (out / "model.onnx.data").write_bytes(b"side file")
    cached = out / "__pycache__" / "cached.pyc"
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"Python writes these anew when it likes")
    write_manifest(out)
    files = [*json.loads((out / "files.json").read_text())["files"], "files.json"]
    assert cached.relative_to(out).as_posix() not in files

    def refused(name: str, why: str) -> None:
        with pytest.raises(CheckpointError, match=f"^{out / name}: {why}.*copy or export the model again$") as damaged:
            predict_any(out, data, tmp_path / "scores")
        assert damaged.value.exit_code == ExitCode.BAD_DATA
        assert own.ended(data, str(tmp_path / "scores")) == (65, "", f"error: {damaged.value}\n")

    assert {"tables.safetensors", "dense.safetensors", "transform/vocabulary.arrow", "score.py"} <= set(files)
    for name in files:
        whole = (out / name).read_bytes()
        if not whole:
            continue
        middle = len(whole) // 2
        (out / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        refused(name, "not a manifest" if name == "files.json" else "its checksum differs from files.json's")
        (out / name).write_bytes(whole)
    for name in ("rows.safetensors", "code/own_parts/sizes.py"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-1])
        refused(name, f"expected {len(whole)} bytes, found {len(whole) - 1};")
        (out / name).unlink()
        refused(name, "no such file;")
        (out / name).write_bytes(whole)
    assert load_export(out).labels == ("clicked", "bought")
    assert not (tmp_path / "scores").exists()


def test_an_export_that_is_not_checked_still_tells_what_it_cannot_read(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """`check=False` spares reading large tables; facts that are missing are one line all the same."""
    out = tmp_path / "out"
    export_model(checkpoints["dlrm"], out, all_rows=True)
    whole = (out / "model.json").read_text()
    (out / "model.json").write_text(whole.replace('"threads"', '"thread_s"'))
    with pytest.raises(CheckpointError, match=rf"^{out / 'model.json'}: expected \d+ bytes, found \d+; copy or export"):
        load_export(out)
    with pytest.raises(Exception, match=rf"^{out}: damaged \(KeyError: 'threads'\); export the model again") as damaged:
        score_module(out).load(out, check=False)
    assert getattr(damaged.value, "exit_code", None) == ExitCode.BAD_DATA
    tables = (out / "tables.safetensors").read_bytes()
    (out / "tables.safetensors").write_bytes(tables[:-1] + bytes([tables[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"tables.safetensors: its checksum differs from files.json's; copy or"):
        load_tables(out)
