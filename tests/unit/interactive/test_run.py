"""What a run's metrics show of its evaluations."""

import importlib.util
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bagpipe.errors import ConfigError, ExitCode
from bagpipe.interactive.cluster import ClusterRun
from bagpipe.interactive.run import Run, ended, with_validations
from bagpipe.local.run import RunResult
from bagpipe.local.supervisor import Outcome


def test_figures_of_the_validation_part_stand_in_the_row_of_their_step() -> None:
    """In the latest row of that step where it was trained twice; in a row of their own where none was recorded."""
    records = [{"time": 1.0, "step": 10, "loss": 0.5}, {"time": 3.0, "step": 10, "loss": 0.4}]
    one = {"examples": 9, "auc": 0.7, "calibration": None, "undefined": {"calibration": "every label is 0"}}
    several = {"examples": 9, "tasks": {"click": {"auc": 0.6}, "buy": {"auc": 0.8}}}
    validations = [{"time": 3.5, "step": 10, "validation": one}, {"time": 4.0, "step": 12, "validation": several}]
    assert with_validations(records, validations) == [
        {"time": 1.0, "step": 10, "loss": 0.5},
        {
            "time": 3.0,
            "step": 10,
            "loss": 0.4,
            "validation_auc": 0.7,
            "validation_calibration": None,
        },
        {"time": 4.0, "step": 12, "validation_click/auc": 0.6, "validation_buy/auc": 0.8},
    ]


class Logged(ClusterRun):
    """A run on a cluster of which a test knows what its oracle prints."""

    def __init__(self, lines: list[str]) -> None:
        self._printed = lines

    def logs(self, role: str = "oracle", index: int = 0) -> Iterator[str]:
        return iter(self._printed)


def test_a_run_on_a_cluster_shows_them_from_the_oracles_log() -> None:
    """Records and evaluations are lines of that log, among others."""
    records = [
        {"time": 1.0, "step": 10, "loss": 0.5, "waits": {"plan": 0.1}},
        {"time": 1.5, "event": "validated", "step": 10, "validation": {"examples": 9, "auc": 0.7}, "text": "..."},
        {"time": 2.0, "event": "evaluating", "step": 10},
    ]
    found = Logged(["joined", *map(json.dumps, records)]).metrics()
    rows = found if isinstance(found, list) else found.to_dict("records")
    assert rows == [{"time": 1.0, "step": 10, "loss": 0.5, "wait_plan": 0.1, "validation_auc": 0.7}]


def a_run(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.yaml").write_text("metadata: {name: j}\nspec: {data: {path: x}}\n")
    (folder / "summary.json").write_text(json.dumps({"steps": 3, "loss": 0.25}))


def test_a_run_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that changes its folder, and another process that unpickles the run, still have its figures."""
    a_run(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    run = Run("own")
    assert repr(run) == "Run('own'): trained step 3, loss 0.2500"
    monkeypatch.chdir("/")
    for one in (run, pickle.loads(pickle.dumps(run))):
        assert one.summary["steps"] == 3
        assert repr(one) == f"Run('{tmp_path / 'own'}'): trained step 3, loss 0.2500"


def test_a_run_whose_directory_is_gone_says_so(tmp_path: Path) -> None:
    """It has no figures, and is no run that is yet to have some."""
    a_run(tmp_path / "own")
    run = Run(tmp_path / "own")
    shutil.rmtree(tmp_path / "own")
    assert repr(run).endswith("its directory is gone; put it back, or train again")
    assert run.report() == f"{tmp_path / 'own'}: its directory is gone; put it back, or train again"
    asked: list[Callable[[], object]] = [
        run.metrics,
        run.plot,
        run.evaluate,
        run.resume,
        lambda: run.export(tmp_path / "model"),
        lambda: run.best_checkpoint,
        lambda: run.checkpoint,
    ]
    for ask in asked:
        with pytest.raises(ConfigError, match=f"^{tmp_path / 'own'}: the run's directory is gone; put it back"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_stopped_is_who_was_asked_to_stop(tmp_path: Path) -> None:
    """A run that still runs, or failed, has no summary and is not stopped; one asked before its first step is."""
    (tmp_path / "job.yaml").write_text("metadata: {name: j}\nspec: {data: {path: x}}\n")
    assert not Run(tmp_path).stopped
    asked = RunResult(tmp_path, Outcome(ExitCode.STOPPED, 1, 0.0), None)
    assert ended(asked, progress=False).stopped
    for stopped in (True, False):
        (tmp_path / "summary.json").write_text(json.dumps({"steps": 3, "stopped": stopped}))
        assert Run(tmp_path).stopped is stopped


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is optional, and not installed")
def test_a_run_without_a_record_has_the_columns_and_no_row() -> None:
    """So that a program that plots them need not ask first."""
    found = Logged(["joined"]).metrics()
    assert len(found) == 0
    assert list(found.columns) == ["time", "step", "total_steps", "loss", "examples_per_second", "cache_hit_rate"]
