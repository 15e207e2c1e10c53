"""`bagpipe.fit` with real processes: from rows to a model, stopped, resumed, scored, exported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bagpipe
from bagpipe.errors import ConfigError, DataError, UserCodeError
from bagpipe.interactive.progress import NoView
from bagpipe.interactive.run import Run
from bagpipe.local.run import start_run

pytestmark = pytest.mark.usefixtures("started_warm")

COLUMNS = {"labels": ["click"], "dense": ["price"], "sparse": ["user", "item", {"name": "seen", "table": "item"}]}
SETTINGS: dict[str, Any] = {
    "batch_size": 100, "embedding": {"dim": 4, "init_scale": 0.01}, "lookahead": 4, "test_fraction": 0.2, "seed": 3,
}  # fmt: skip


def rows(count: int = 2000) -> pa.Table:
    """Clicks that depend on the item."""
    draw = np.random.default_rng(1)
    items = draw.integers(0, 30, count)
    seen = [[f"i{k}" for k in draw.integers(0, 30, draw.integers(0, 4))] for _ in range(count)]
    return pa.table(
        {
            "user": draw.integers(-(2**62), -(2**62) + 50, count),
            "item": [f"i{k}" for k in items],
            "seen": seen,
            "price": draw.normal(size=count),
            "click": (draw.random(count) < 0.1 + 0.8 * (items % 2)).astype(np.int64),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("fit")
    return bagpipe.fit(
        "dlrm", data=rows(), columns=COLUMNS, trainers=2, run_dir=folder / "run", progress=False, **SETTINGS
    )


def test_a_frame_trains(run: Run) -> None:
    """16 steps of 100 examples, a loss that fell, and a test AUC over the last fifth that shows what was learned."""
    assert run.summary["steps"] == 16 and not run.stopped
    assert run.summary["evaluation"]["examples"] == 400
    assert run.summary["evaluation"]["auc"] > 0.8
    assert repr(run).startswith(f"Run('{run.path}'): trained step 16, loss 0.")
    assert re.search(rf"(?m)^  modelDigest +{run.summary['modelDigest']}$", run.report())


def test_the_command_line_trains_the_same(run: Run, tmp_path: Path) -> None:
    """The job that lies in the run directory, run by `bagpipe run`, ends with the same model to the bit."""
    again = start_run(run.path / "job.yaml", (), tmp_path / "again", NoView())
    assert again.summary is not None
    assert again.summary["modelDigest"] == run.summary["modelDigest"]


def test_figures(run: Run) -> None:
    """Metrics are a row for each record, with what was waited for in their own columns; the plot is an SVG of them."""
    found = run.metrics()
    records = found if isinstance(found, list) else found.to_dict("records")
    assert [r["step"] for r in records] == [10, 16]
    assert all(r["loss"] > 0 and r["wait_plan"] >= 0 and "waits" not in r for r in records)
    svg = run.plot().svg
    assert svg.startswith("<svg") and svg.count("<polyline") == 2


def test_evaluation_of_rows(run: Run) -> None:
    """The test part again gives the same figures; other rows are scored whole."""
    assert run.evaluate() == run.summary["evaluation"]
    last = rows().slice(1600)
    assert run.evaluate(last) == run.summary["evaluation"]
    before = sorted((run.path / "data").iterdir())
    with pytest.warns(UserWarning, match="trained on in part: these figures flatter the model"):
        assert run.evaluate(rows())["examples"] == 2000
    assert run.evaluate(last.to_pylist()[:150])["examples"] == 150
    assert sorted((run.path / "data").iterdir()) == before
    with pytest.raises(DataError, match="'item' is no column of the frame; it has "):
        run.evaluate(last.drop_columns(["item"]))


def test_prediction_of_rows(run: Run) -> None:
    """Scores come in the order of the rows, labelled or not, and give the AUC of the evaluation."""
    last = rows().slice(1600)
    scores = run.predict(last.drop_columns(["click"]), keep=["item"])
    assert scores.column_names == ["row", "item", "score_click"]
    assert scores["row"].to_pylist() == list(range(400))
    assert scores["item"].to_pylist() == last["item"].to_pylist()
    labels, found = last["click"].to_numpy(), scores["score_click"].to_numpy()
    order = found[labels == 1][:, None] - found[labels == 0][None, :]
    assert np.mean((order > 0) + 0.5 * (order == 0)) == pytest.approx(run.summary["evaluation"]["auc"], abs=1e-9)
    pq.write_table(last, run.path.parent / "last.parquet")
    assert run.predict(run.path.parent / "last.parquet")["score_click"].to_pylist() == found.tolist()


def test_export_and_a_second_epoch(run: Run, tmp_path: Path) -> None:
    """The export is a folder of plain tensors; one more epoch goes on where the first ended, as one fit of two does."""
    assert (run.export(tmp_path / "model") / "tables.safetensors").is_file()
    both = bagpipe.fit(
        "dlrm",
        data=rows(),
        columns=COLUMNS,
        trainers=2,
        epochs=2,
        run_dir=tmp_path / "both",
        progress=False,
        **SETTINGS,
    )
    first = Run(Path(shutil.copytree(run.path, tmp_path / "one")))
    second = first.resume(epochs=2, progress=False)
    assert (second.path, second.summary["steps"]) == (first.path, 32)
    assert second.summary["modelDigest"] == both.summary["modelDigest"]
    with pytest.raises(ConfigError, match="batchSize: differs from the run"):
        second.resume(batch_size=50, progress=False)
    third = second.resume(data=rows(700), epochs=3, progress=False)  # An epoch of 560 rows for training: 6 steps more.
    assert (third.summary["steps"], third.summary["evaluation"]["examples"]) == (38, 140)
    with pytest.raises(ConfigError, match="the new data would begin epoch 4, so nothing is left to train"):
        third.resume(data=rows(900), progress=False)
    assert sorted(path.name for path in third.path.glob("input*")) == ["input", "input-2"]


def test_without_columns_the_data_is_looked_at(tmp_path: Path) -> None:
    """What `bagpipe init` suggests is trained; what is given here comes over it."""
    found = bagpipe.fit(data=rows(), label="click", steps=5, run_dir=tmp_path / "run", progress=False)
    job = bagpipe.Run(found.path).path.joinpath("job.yaml").read_text(encoding="utf-8")
    assert found.summary["steps"] == 5
    assert "batchSize: 128" in job and "testFraction: 0.1" in job


SCRIPT = """
import sys
import pyarrow.parquet as pq
import torch
from torch import nn
import bagpipe

HIDDEN = 8
HALF = 0.5

def share(labels, scores, weights, groups):
    return float((scores > HALF).mean())

class Net(nn.Module):
    def __init__(self, layout, num_dense, hidden=HIDDEN):
        super().__init__()
        width = sum(t.embedding_dim * len(t.feature_names) for t in layout.tables) + num_dense
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, dense, sparse):
        {body}
        return self.layers(torch.cat([dense, sparse.concatenated()], 1))

rows = pq.read_table(sys.argv[1])
run = bagpipe.fit(Net, data=rows, model_args={{"hidden": 5}}, run_dir=sys.argv[2], label="click",
                  evaluation={{"metrics": ["auc", share]}}, {more})
print(run)
"""


def script(tmp_path: Path, body: str = "", more: str = "steps=6, trainers=2") -> list[str]:
    """A program without a guard: importing it would start it once more."""
    pq.write_table(rows(), tmp_path / "rows.parquet")
    (tmp_path / "program.py").write_text(SCRIPT.format(body=body, more=more))
    return [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "rows.parquet"), str(tmp_path / "run")]


def test_a_model_of_the_script_itself(tmp_path: Path) -> None:
    """A class that the program defines trains on two trainers, and the command line scores its run from anywhere.

    So does a figure that it defines, which is given as the function.
    """
    done = subprocess.run(script(tmp_path), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"Run('{tmp_path / 'run'}'): trained step 6, loss 0.")
    command = [sys.executable, "-m", "bagpipe", "evaluate", "--json", str(tmp_path / "run")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    scored = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout) == Run(tmp_path / "run").summary["evaluation"]
    assert 0.0 <= json.loads(scored.stdout)["share"] <= 1.0


def children_of(pid: int) -> set[int]:
    """Processes below this one, as the kernel lists them."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return set()
    return {int(one) for one in text.split()}


def test_ctrl_c_stops_at_a_checkpoint(tmp_path: Path) -> None:
    """Interrupted, `fit` returns a run that says so and leaves no child; resumed, it ends as if never stopped."""
    more = "steps=400, lookahead=2, batch_size=20, log_every=1"
    command = script(tmp_path, more=more)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        children: set[int] = set()
        said = ""
        for line in process.stdout:
            said = line.strip() or said
            if re.match(r"step \d+/400", line) and not children:
                children = children_of(process.pid)
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert ": stopped at step " in said and said.endswith(".resume() goes on")
    assert len(children) == 3 and not any(Path(f"/proc/{child}").exists() for child in children)
    run = Run(tmp_path / "run")
    assert run.stopped and 0 < run.summary["steps"] < 400
    sys.path.append(str(tmp_path))
    ended = run.resume(progress=False)
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(script(whole, more=more), check=True, stdout=subprocess.DEVNULL, cwd=whole)
    assert ended.summary["modelDigest"] == Run(whole / "run").summary["modelDigest"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"batch_sise": 3}, ConfigError, r"spec.batch_sise: unknown setting; did you mean batchSize"),
        ({"columns": {"labels": ["clik"]}}, ConfigError, "spec.data.columns"),
        (
            {"columns": {**COLUMNS, "sparse": ["usr", "item"]}},
            ConfigError,
            "'usr' is no column of the frame; did you mean 'user'",
        ),
        ({"model": "dlrn"}, ConfigError, "did you mean 'dlrm'"),
        ({"data": rows().set_column(4, "click", pa.array([2] * 2000))}, DataError, "row 1: column click: .*0 or 1"),
        ({"on": "moon"}, ConfigError, "on='moon': expected 'here' or 'cluster'"),
    ],
)
def test_mistakes_leave_one_line_and_nothing_else(
    arguments: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    """An error of `bagpipe.errors` in one line; the run directory is gone, and so is every child."""
    given = {"model": "dlrm", "data": rows(), "columns": COLUMNS, **SETTINGS} | arguments
    model, before = given.pop("model"), children_of(os.getpid())
    with pytest.raises(kind, match=message) as caught:
        bagpipe.fit(model, run_dir=tmp_path / "run", progress=False, **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert children_of(os.getpid()) == before


def test_an_error_in_the_model_names_its_line(tmp_path: Path) -> None:
    """What the user's own class raises in a trainer is one line with the file that holds it."""
    command = script(tmp_path, body="raise ValueError('too wide')")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert re.search(r"ConfigError: .*run/model_\w+.py:\d+ \(forward\): ValueError: too wide", done.stderr), done.stderr
    assert UserCodeError.exit_code == ConfigError.exit_code


def test_only_the_main_thread_starts_children() -> None:
    """In another thread nobody would hear Ctrl-C; `fit` says so before it makes anything."""
    caught: list[Exception] = []

    def work() -> None:
        try:
            bagpipe.fit("dlrm", data=rows(), columns=COLUMNS)
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "call it from the main thread" in str(caught[0])
