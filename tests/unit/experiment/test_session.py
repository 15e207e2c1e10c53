"""One job after another: failures, interruption, and that everything is taken away."""

import json
import os
import signal

import pytest

from bagpipe.errors import ConfigError, PeerLost
from bagpipe.experiment import suite
from bagpipe.experiment.session import Interrupted, run_experiment, signals_wait


class Runner:
    """Jobs that end at once; `act` may do something else instead."""

    def __init__(self, act=lambda name: None) -> None:
        self.act, self.ran, self.open, self.closed = act, [], set(), 0

    def run(self, case, directory):
        directory.mkdir()
        self.ran.append(case.name)
        self.act(case.name)
        target = directory / "records"
        target.write_text("".join(json.dumps({"time": i / 10, "step": i + 1}) + "\n" for i in range(20)))
        return target

    def close(self) -> None:
        self.closed += 1


def planned():
    documents = {m: suite.job_document(m, "small") for m in ("dlrm", "wdl")}
    return suite.cases(documents, suite.VARIANTS, (), "six")


def run(runner, out, warm=()):
    return run_experiment(planned(), warm, runner, out, lambda message: None, skip=10)


def test_every_job_is_run_and_measured(tmp_path):
    """Warm-ups first and not in the table, then model by model; the table is written in every form."""
    runner = Runner()
    rows = run(runner, tmp_path / "out", suite.warm_ups(planned(), 5))
    assert runner.ran == ["six-dlrm-warm", *(c.name for c in planned())]
    assert [round(r.timing.mean_ms, 6) for r in rows] == [100.0] * 4
    assert {p.name for p in (tmp_path / "out").glob("table.*")} == {"table.md", "table.csv", "table.json", "table.svg"}
    assert runner.closed == 1


def test_a_job_that_fails_is_a_row(tmp_path):
    """The others still run, and the table says why there is no figure."""

    def act(name):
        if name == "six-dlrm-uncached":
            raise PeerLost("trainer 1 is gone")

    rows = run(Runner(act), tmp_path / "out")
    assert [r.problem for r in rows] == [None, "failed: trainer 1 is gone", None, None]
    assert "failed: trainer 1 is gone" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_table(tmp_path, number):
    """Interrupted in its third job: cleaned up, and two rows are kept. The process's handlers are back."""
    before = signal.getsignal(number)
    runner = Runner(lambda name: name == "six-wdl-cached" and os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=number.name):
        run(runner, tmp_path / "out")
    assert runner.closed == 1
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())["rows"]) == 2
    assert signal.getsignal(number) is before


def test_a_bug_still_cleans_up(tmp_path):
    """Whatever is raised inside a job, what was started is taken away."""

    def act(name):
        raise ZeroDivisionError

    runner = Runner(act)
    with pytest.raises(ZeroDivisionError):
        run(runner, tmp_path / "out")
    assert runner.closed == 1


def test_cleaning_up_is_not_interrupted():
    """Ctrl-C while things are taken away is answered at once, and obeyed when that is done."""
    said = []

    def clean_up():
        with signals_wait(said.append):
            os.kill(os.getpid(), signal.SIGINT)
            said.append("cleaned up")

    with pytest.raises(Interrupted, match="SIGINT"):
        clean_up()
    assert said == ["still cleaning up; this ends by itself", "cleaned up"]


def test_results_are_not_mixed(tmp_path):
    """A directory with something in it is refused before anything runs."""
    (tmp_path / "old").touch()
    runner = Runner()
    with pytest.raises(ConfigError, match="not empty"):
        run(runner, tmp_path)
    assert runner.ran == []
