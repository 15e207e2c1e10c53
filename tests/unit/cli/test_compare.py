"""Runs side by side: what `bagpipe compare` finds in run directories, and what it says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER
from bagpipe.cli import main as cli
from bagpipe.config.load import dump_job, parse_job
from bagpipe.local.comparison import compare

MakeRun = Callable[..., Path]

SUMMARY = {
    "steps": 600,
    "skippedSteps": 0,
    "loss": 0.5,
    "examplesPerSecond": 4096.0,
    "cacheHitRate": 0.75,
    "evaluation": {
        "examples": 800,
        "auc": 0.75,
        "logLoss": 0.5,
        "calibration": None,
        "undefined": {"calibration": "x"},
    },
    "validation": {"best": {"metric": "auc", "value": 0.8, "step": 400}},
    "plan": {"lookahead": 20},
    "data": {"num_train_examples": 39_200, "num_test_examples": 800},
    "modelDigest": "a" * 64,
    "attempts": 1,
    "seconds": 15.3,
}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes what a run leaves: its job, its summary unless that is None, and which files it read."""

    def make(name: str, *overrides: str, summary: dict[str, Any] | None = SUMMARY, rows: str = "r") -> Path:
        run = tmp_path / name
        (run / "checkpoints" / FOLDER).mkdir(parents=True)
        job = parse_job("spec:\n  data: {path: log.csv, format: criteo-tsv}\n", "test", overrides)
        (run / "job.yaml").write_text(dump_job(job), encoding="utf-8")
        files = [{"name": f"{name}.csv", "size": 9, "rows": rows}]
        (run / "checkpoints" / FOLDER / FINGERPRINT_FILE).write_text(json.dumps({"files": files}), encoding="utf-8")
        if summary is not None:
            (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return run

    return make


def test_settings_that_differ_and_no_others(make_run: MakeRun) -> None:
    """Every setting is compared, also one that only one run has, and those that are equal are left out."""
    one = make_run("one", "optimizer.lr=0.1", "embedding.tables=[{name: a, numEmbeddings: 5, embeddingDim: 4, "
                          "featureNames: [C1]}]")  # fmt: skip
    two = make_run("two", "checkpoint.best=auc", "data.validation=0.1", "evaluation.every=5", "batchSize=64")
    found = compare([one, two]).settings
    assert found["optimizer.lr"] == [0.1, 0.001]
    assert found["embedding.tables[0].numEmbeddings"] == [5, None]
    assert found["checkpoint.best"] == [None, "auc"]
    assert found["batchSize"] == [2048, 64]
    assert {name for name in found if not name.startswith("embedding.tables")} == {
        "optimizer.lr", "checkpoint.best", "data.validation", "evaluation.every", "batchSize",
    }  # fmt: skip


def test_a_section_that_one_run_lacks_is_one_row(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows no default of it; `--json` has every setting. In a section that both have, each one is a row."""
    one = make_run("one")
    columns = "data.columns={labels: [{name: y}], sparse: [{name: u}, {name: i}]}"
    two, three = (make_run(name, "data.format=csv", columns, *more) for name, more in [
        ("two", []), ("three", ["data.columns.sparse[1].column=item", "optimizer.lr=0.1"]),
    ])  # fmt: skip
    assert cli.run_command(["compare", str(one), str(two)]) == 0
    table = capsys.readouterr().out.partition("figures")[0]
    assert re.search(r"\n  data.columns +none +labels: 1 given, sparse: 2 given\n", table)
    assert len(table.splitlines()) == 4, table
    assert compare([one, two]).settings["data.columns.sparse[1].name"] == [None, "i"]
    assert list(compare([two, three]).sections) == ["data.columns.sparse[1].column", "optimizer.lr"]
    assert compare([one, one]).sections == {}


def test_figures_of_each_run(make_run: MakeRun) -> None:
    """Figures are those of the summaries; the time of a step follows from batch and speed."""
    tasks = {"examples": 800, "tasks": {"click": {"auc": 0.7}, "buy": {"auc": 0.6}}}
    runs = [make_run("one"), make_run("two", "batchSize=1024", summary={**SUMMARY, "evaluation": tasks})]
    figures = compare(runs).figures
    assert figures["msPerStep"] == [500.0, 250.0]
    assert figures["evaluation.auc"] == [0.75, None]
    assert figures["evaluation.buy/auc"] == [None, 0.6]
    assert figures["validation.best.auc"] == [0.8, 0.8]
    assert figures["testExamples"] == [800, 800]


def test_which_models_are_the_same(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs with equal digests are named together; a run that has not ended is named with what that may mean."""
    other = {**SUMMARY, "modelDigest": "b" * 64}
    runs = [make_run("one"), make_run("two", "lookahead=0"), make_run("three", summary=other)]
    assert compare(runs).same_models == [["one", "two"]]
    assert cli.run_command(["compare", *map(str, runs), str(make_run("four", summary=None))]) == 0
    shown = capsys.readouterr().out
    assert "the same model, to the bit: one, two\n" in shown
    assert "four: no summary.json: this run goes on, failed, or was stopped" in shown
    assert "other examples" not in shown


@pytest.mark.parametrize(
    ("overrides", "summary", "rows"),
    [
        ([], SUMMARY, "other"),
        ([], {**SUMMARY, "data": {"num_test_examples": 7}}, "r"),
        (["data.testFraction=0.1"], SUMMARY, "r"),
    ],
)
def test_figures_of_other_examples_are_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], overrides: list[str], summary: dict[str, Any], rows: str
) -> None:
    """Figures of runs that were not tested on the same examples are not left to be compared in silence."""
    runs = [make_run("one"), make_run("two", *overrides, summary=summary, rows=rows)]
    assert cli.run_command(["compare", *map(str, runs)]) == 0
    assert "data or test parts differ, so the figures may be of other examples" in capsys.readouterr().out


def test_versions_that_differ(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models of equal settings that differ may have been trained by different builds, and the table says so.

    A library that is equal is left out, and a run from before versions were kept differs from none.
    """
    ours = {"bagpipe": "0.1.0", "python": "3.11.2", "torch": "2.8.0"}
    newer = {**SUMMARY, "modelDigest": "b" * 64, "versions": {**ours, "torch": "2.9.0"}}
    runs = [make_run("one", summary={**SUMMARY, "versions": ours}), make_run("two", summary=newer)]
    assert compare(runs).versions == {"torch": ["2.8.0", "2.9.0"]}
    assert cli.run_command(["compare", *map(str, runs)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"all settings are equal\nversions that differ\n  torch +2\.8\.0 +2\.9\.0\n", shown)
    assert shown.endswith("the models differ\nversions differ, which alone can make models differ\n")
    assert compare([runs[0], make_run("old")]).versions == {}


def test_json_has_everything(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is one object, with whole digests and the runs as they were named."""
    runs = [str(make_run("one")), str(make_run("two"))]
    assert cli.run_command(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == runs
    assert found["settings"] == found["versions"] == {}
    assert found["figures"]["modelDigest"] == ["a" * 64] * 2
    assert found["sameModels"] == [["one", "two"]]


def test_runs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    """Where the last parts of the paths are equal, the whole paths are shown."""
    runs = [make_run("a/run"), make_run("b/run")]
    assert compare(runs).names == tuple(map(str, runs))


def test_what_cannot_be_compared(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run alone, and a folder that is no run, are one line and code 78."""
    run = str(make_run("one"))
    for given, expected in [([run], "at least two run directories, found 1"), ([run, str(tmp_path)], "no job.yaml")]:
        assert cli.run_command(["compare", *given]) == 78
        captured = capsys.readouterr()
        assert expected in captured.err and captured.err.count("\n") == 1 and captured.out == ""
