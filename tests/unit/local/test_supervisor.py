"""The supervisor with tiny fake roles: real processes, real signals, no training."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_roles import PATIENCE, Notes, Runner, fakes, job_with, started

from bagpipe.local.process import error_in
from bagpipe.local.rundir import RunDir
from bagpipe.local.supervisor import Outcome, Supervisor
from bagpipe.local.wakeup import Wakeup

HANG = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nwhile True: signal.pause()\n"


def alive(box: Path) -> list[str]:
    """Roles whose process still exists."""
    return [p.name for p in box.glob("*.*.*") if Path(f"/proc/{p.suffix[1:]}/exe").exists()]


def test_done(supervise: Runner, tmp_path: Path) -> None:
    """When every role ends with 0 the run ends with 0, after one attempt."""
    outcome, _ = supervise({"oracle": "ready()", "server": "ready()", "trainer": "ready()"})
    assert (outcome.code, outcome.attempts, outcome.error) == (0, 1, "")
    assert [started(tmp_path, role) for role in ("oracle", "server 0", "trainer 0", "trainer 1")] == [1, 1, 1, 1]


def test_a_hopeless_role_ends_the_run_with_its_words(
    supervise: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 78 of one role stops all the others at once; the one line shown is that role's own."""
    monkeypatch.setattr("bagpipe.local.supervisor.SETTLE_SECONDS", 100.0)
    outcome, view = supervise({"trainer 1": "fail('spec.model.entrypoint: no module named x', 78)", "server": HANG})
    assert (outcome.code, outcome.error) == (78, "spec.model.entrypoint: no module named x")
    assert view.notes == []
    assert alive(tmp_path) == []
    assert outcome.seconds < 100


def test_a_refused_role_repeats_the_oracle_without_saying_so(supervise: Runner) -> None:
    """A role that heard the oracle's reason first is not the story: the reason is."""
    outcome, _ = supervise({"trainer 0": "fail('the oracle gave up: train.txt:3: expected 40 columns, found 2', 65)"})
    assert (outcome.code, outcome.error) == (65, "train.txt:3: expected 40 columns, found 2")


def test_a_dead_trainer_means_a_new_attempt(supervise: Runner, tmp_path: Path) -> None:
    """A killed trainer restarts all roles, numbered one higher."""
    dies_once = "ready()\nif attempt == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
    done_next = "ready()\nif attempt == 0:\n  while True: signal.pause()\n"
    outcome, view = supervise(
        {"trainer 0": dies_once, "trainer 1": done_next, "oracle": done_next, "server": done_next}
    )
    assert (outcome.code, outcome.attempts) == (0, 2)
    assert started(tmp_path, "server 0", attempt=1) == 1
    assert view.notes == ["trainer 0 was killed by SIGKILL; every role starts again from the beginning"]


def test_attempts_are_bounded(supervise: Runner, tmp_path: Path) -> None:
    """A trainer that always fails is tried backoffLimit times more, then its error is shown."""
    outcome, _ = supervise({"trainer 0": "ready()\nfail('server 0 is silent', 75)"}, job_with(backoff=2))
    assert (outcome.code, outcome.attempts) == (75, 3)
    assert outcome.error == (
        "trainer 0 ended with exit code 75 and runPolicy.backoffLimit allows 2 new attempts: server 0 is silent"
    )
    assert [started(tmp_path, "trainer 0", attempt) for attempt in range(4)] == [1, 1, 1, 0]


def test_what_cannot_get_better_is_tried_once(supervise: Runner, tmp_path: Path) -> None:
    """An error of the software ends the run with 70, also when the others' words come first; nothing starts again."""
    outcome, _ = supervise(
        {
            "trainer 0": "ready()\nfail('x.py:3: TypeError: boom', 70)",
            "oracle": "ready()\nfail('trainer 0: TypeError', 75)",
            "trainer 1": "ready()\nfail('the oracle gave up', 75)",
        }
    )
    assert (outcome.code, outcome.attempts) == (70, 1)
    assert outcome.error == "trainer 0 ended with exit code 70: x.py:3: TypeError: boom"
    assert started(tmp_path, "trainer 0", attempt=1) == 0


def test_the_cause_may_come_last(supervise: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad model's trainer ends after the oracle that it told: 78 and its own words all the same."""
    monkeypatch.setattr("bagpipe.local.supervisor.SETTLE_SECONDS", PATIENCE)  # On a busy machine it comes late.
    late = "ready()\nimport select\nselect.select([], [], [], 0.5)\nfail('m.py:7 (forward): ValueError: boom', 78)"
    outcome, _ = supervise({"trainer 0": late, "oracle": "ready()\nfail('trainer 0 has vanished', 75)"})
    assert (outcome.code, outcome.attempts) == (78, 1)
    assert outcome.error == "m.py:7 (forward): ValueError: boom"


def test_a_traceback_ends_in_its_exception_and_not_in_the_last_line_of_the_log() -> None:
    """The text of an exception may go on for lines that say less and less; the first one counts, with its place."""
    log = ["starting", "Traceback (most recent call last):", '  File "/x/y.py", line 12, in forward', "    y = f(x)"]
    log += ["RuntimeError: Expected to have finished reduction", "Parameter indices: 2 3", " In addition, you can set"]
    assert error_in(log) == "/x/y.py:12: RuntimeError: Expected to have finished reduction"
    assert error_in([*log, "error: what the role itself said"]) == "what the role itself said"
    assert error_in(["starting", "Segmentation fault"]) is None


def test_a_closed_terminal_stops_at_a_checkpoint(run_dir: RunDir, tmp_path: Path) -> None:
    """SIGHUP is a request like Ctrl-C, and a wait ends with the signal, not with the clock."""
    with Wakeup() as wakeup:
        before = signal.signal(signal.SIGHUP, lambda *_: None)
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            assert wakeup.wait(PATIENCE)
            child = subprocess.Popen([sys.executable, "-S", "-E", "-c", ""])
            assert wakeup.wait(PATIENCE)
            child.wait()
        finally:
            signal.signal(signal.SIGHUP, before)
    job = job_with()
    run_dir.begin(job)
    view = Notes()

    class WhenReady(Supervisor):
        def _show_progress(self) -> None:
            if not view.notes and len(list(tmp_path.glob("*.0.*"))) == 4:
                os.kill(os.getpid(), signal.SIGHUP)

    def unheard(*_: object) -> None:
        raise AssertionError("SIGHUP came to the process that started the supervisor")

    before = signal.signal(signal.SIGHUP, unheard)
    try:
        outcome = WhenReady(job, run_dir, view, build=fakes({}, tmp_path)).run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (outcome.code, view.notes) == (143, ["stopping at a checkpoint; a second Ctrl-C or signal kills"])


def test_a_hangup_that_is_ignored_stays_ignored(run_dir: RunDir, tmp_path: Path) -> None:
    """Under `nohup` a closed terminal ends nothing; Ctrl-C and SIGTERM still stop at a checkpoint."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_dir.begin(job_with())
        supervisor = Supervisor(job_with(), run_dir, Notes(), build=fakes({}, tmp_path))
        with supervisor._signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_crash_without_words_shows_the_log(supervise: Runner) -> None:
    """What a crashed role printed last is shown, because it had no error line to give."""
    outcome, view = supervise(
        {"trainer 0": "ready()\nprint('about to crash', flush=True)\nos.abort()"}, job_with(backoff=0)
    )
    assert outcome.code == 128 + signal.SIGABRT
    assert "trainer 0 was killed by SIGABRT" in outcome.error
    assert any("about to crash" in note for note in view.notes)


def test_a_dead_server_restarts_alone(supervise: Runner, tmp_path: Path) -> None:
    """Only the server starts again, in the same attempt; nobody else notices."""
    server = "again = list(box.glob('server*'))\nready()\nif not again: os.kill(os.getpid(), signal.SIGKILL)\n"
    trainer = "ready()\nimport select\nwhile len(list(box.glob('server*'))) < 2: select.select([], [], [], 0.01)\n"
    outcome, view = supervise({"server": server, "trainer": trainer, "oracle": trainer})
    assert (outcome.code, outcome.attempts) == (0, 1)
    assert (started(tmp_path, "server 0"), started(tmp_path, "trainer 0")) == (2, 1)
    assert view.notes == ["server 0 was killed by SIGKILL; it restarts and goes on with its files"]


def test_a_role_that_hangs_after_the_end_is_killed(supervise: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that does not leave once the oracle has reported does not hold up the run."""
    monkeypatch.setattr("bagpipe.local.policy.LEAVE_SECONDS", 0.2)
    outcome, _ = supervise({"oracle": "ready()", "server": "ready()", "trainer 0": "ready()", "trainer 1": HANG})
    assert outcome.code == 0


class Interrupting(Notes):
    """Signals this process when every trainer has become ready, and again at each of the first notes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def note(self, text: str) -> None:
        super().note(text)
        if len(self.notes) < self.times:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(
    run_dir: RunDir, box: Path, scripts: dict[str, str], *, times: int = 1, grace_seconds: float = 60.0
) -> tuple[Outcome, Interrupting]:
    """Run fakes; Ctrl-C is pressed once all of them are ready."""
    job = job_with()
    run_dir.begin(job)
    view = Interrupting(times)

    class WhenReady(Supervisor):
        def _show_progress(self) -> None:
            if not view.notes and len(list(box.glob("*.0.*"))) == 4:
                os.kill(os.getpid(), signal.SIGINT)

    supervisor = WhenReady(job, run_dir, view, build=fakes(scripts, box), grace_seconds=grace_seconds)
    return supervisor.run(), view


def test_ctrl_c_stops_trainers_and_oracle_only(run_dir: RunDir, tmp_path: Path) -> None:
    """SIGTERM goes to trainers and oracle; servers serve until those have left, and the run ends with 143."""
    serves = "signal.signal(signal.SIGTERM, lambda *_: fail('told to stop', 78))\nready()\nimport select\n"
    serves += "while (box / 'stop').exists() is False: select.select([], [], [], 0.01)\n"
    stops = "signal.signal(signal.SIGTERM, lambda *_: ((box / 'stop').touch(), sys.exit(143)))\nready()\n"
    stops += "while True: signal.pause()\n"
    outcome, view = interrupted(run_dir, tmp_path, {"server": serves, "oracle": stops, "trainer": stops})
    assert (outcome.code, outcome.error) == (143, "")
    assert view.notes == ["stopping at a checkpoint; a second Ctrl-C or signal kills"]
    assert alive(tmp_path) == []


def test_a_second_ctrl_c_kills(run_dir: RunDir, tmp_path: Path) -> None:
    """Pressing Ctrl-C again ends a run that does not stop."""
    outcome, _ = interrupted(run_dir, tmp_path, {"trainer": HANG}, times=2)
    assert outcome.code == 130
    assert alive(tmp_path) == []


def test_stopping_has_a_deadline(run_dir: RunDir, tmp_path: Path) -> None:
    """A trainer that does not stop within the grace period is killed, and the run says so."""
    outcome, _ = interrupted(run_dir, tmp_path, {"trainer": HANG, "oracle": HANG}, grace_seconds=0.2)
    assert (outcome.code, outcome.error) == (75, "did not stop within 0.2 s and was killed")
    assert alive(tmp_path) == []


KILLED = """
import sys
sys.path[:0] = [{tests!r}]
import pathlib
import test_supervisor as t
from bagpipe.local.rundir import RunDir
box = pathlib.Path({box!r})
with RunDir.create(box / "run") as directory:
    job = t.job_with()
    directory.begin(job)
    t.Supervisor(job, directory, t.Notes(), build=t.fakes({{"server": t.HANG}}, box)).run()
"""


def test_a_killed_supervisor_leaves_no_child(tmp_path: Path) -> None:
    """SIGKILL of the supervisor takes every role with it, even one that ignores SIGTERM."""
    script = KILLED.format(tests=str(Path(__file__).parent), box=str(tmp_path))
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    try:
        pids = wait_until(lambda: ready_pids(tmp_path, 4) if supervisor.poll() is None else [])
        descriptors = [os.pidfd_open(pid) for pid in pids]
    finally:
        supervisor.kill()
        supervisor.wait()
    assert len(descriptors) == 4
    import select

    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    gone: set[int] = set()
    while len(gone) < 4 and (events := poller.poll(10_000)):
        for descriptor, _ in events:
            gone.add(descriptor)
            poller.unregister(descriptor)
    for descriptor in descriptors:
        os.close(descriptor)
    assert len(gone) == 4


def ready_pids(box: Path, count: int) -> list[int] | None:
    found = [int(p.suffix[1:]) for p in box.glob("*.0.*")]
    return found if len(found) == count else None


def wait_until(ask: Callable[[], list[int] | None]) -> list[int]:
    """Ask until there is an answer."""
    import select

    while (answer := ask()) is None:
        select.select([], [], [], 0.02)
    return answer


def test_progress_is_passed_on(supervise: Runner, run_dir: RunDir) -> None:
    """What the oracle appends to metrics.jsonl reaches the view, the last record too."""
    line = json.dumps({"step": 1, "time": 1.0})
    script = f"ready()\n(pathlib.Path({str(run_dir.metrics)!r})).write_text({line!r} + chr(10))\n"
    _, view = supervise({"oracle": script, "server": "ready()", "trainer": "ready()"})
    assert view.records == [{"step": 1, "time": 1.0}]
