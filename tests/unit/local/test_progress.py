"""Progress of a run: records read as they are written, shown in words."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bagpipe.local.progress import BarView, MetricsTail, Pace, PlainView, describe, view_for

RECORD = {
    "time": 100.0, "step": 50, "total_steps": 100, "loss": 0.51234, "examples_per_second": 12345.6,
    "cache_hit_rate": 0.931, "waits": {"plan": 0.001, "fetch": 1.5, "dense": 0.02},
}  # fmt: skip


def test_the_tail_reads_what_is_new_and_whole(tmp_path: Path) -> None:
    """Each record is given once; a line still being written waits; an earlier run's records are not ours."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"old": 1}\n')
    tail = MetricsTail(path)
    with path.open("a") as file:
        file.write('{"step": 1}\n{"st')
        file.flush()
        assert tail.read() == [{"step": 1}]
        assert tail.read() == []
        file.write('ep": 2}\n')
        file.flush()
        assert tail.read() == [{"step": 2}]


def test_the_tail_waits_for_the_file(tmp_path: Path) -> None:
    """Before the oracle has begun there is nothing to read."""
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n')
    assert tail.read() == [{"step": 1}]


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def paced(clock: Hand, pace: Pace, now: float, step: int) -> float | None:
    """What is left when the record of this step is seen; its own time is nonsense."""
    clock.now = now
    return pace.remaining_seconds({"time": -1e9 * now, "step": step, "total_steps": 200})


def test_remaining_time() -> None:
    """Ten steps in five seconds leave ninety seconds for a hundred and eighty, whatever the machine's date is."""
    clock = Hand()
    pace = Pace(clock)
    assert paced(clock, pace, 0.0, 10) is None
    assert paced(clock, pace, 5.0, 20) == pytest.approx(90)


def test_remaining_time_of_records_that_are_read_together() -> None:
    """They say nothing of the pace one by one, and the last of them counts."""
    clock = Hand()
    pace = Pace(clock)
    assert [paced(clock, pace, 0.0, step) for step in (10, 11, 12)] == [None, None, None]
    paced(clock, pace, 10.0, 20)
    assert paced(clock, pace, 10.0, 30) == pytest.approx(85)


def test_remaining_time_after_going_back() -> None:
    """A new attempt repeats steps: the pace begins anew instead of turning negative."""
    clock = Hand()
    pace = Pace(clock)
    paced(clock, pace, 0.0, 100)
    assert paced(clock, pace, 9.0, 50) is None
    assert paced(clock, pace, 10.0, 60) == pytest.approx(14)


def test_words() -> None:
    """A record says step, loss, speed, hit rate, what was waited for (longest first), and the time left."""
    expected = "step 50/100  loss 0.5123  12,346 examples/s  hits 93.1%  waited fetch 1.50 s, dense 0.02 s  ETA 1:05"
    assert describe(RECORD, 65.2) == expected
    assert describe({**RECORD, "total_steps": None, "loss": None, "waits": {}}, None) == (
        "step 50  12,346 examples/s  hits 93.1%  waited for nothing"
    )


def test_plain_lines_are_rare_but_the_last_is_shown() -> None:
    """Logs get a line every two seconds and the last one, events as sentences, also when the date is set back."""
    lines: list[str] = []
    clock = Hand()
    view = PlainView(lines.append, clock)
    view.record({"event": "training", "time": 99.0})
    for number in range(8):
        clock.now = 100 + number * 0.5
        view.record({**RECORD, "time": -7200.0 * number, "step": 93 + number})
    view.close()
    steps = [line.split()[1] for line in lines if line.startswith("step")]
    assert lines[0] == "training"
    assert steps == ["93/100", "97/100", "100/100"]


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal the view redraws; notes stay above the bar. Elsewhere it prints lines."""
    screen = io.StringIO()
    view = view_for(Console(file=screen, force_terminal=True, width=200))
    assert isinstance(view, BarView)
    view.record({"event": "starting"})
    view.record(RECORD)
    view.note("server 0 was killed by SIGKILL; it restarts on its files")
    view.close()
    assert "loss 0.5123" in screen.getvalue()
    assert "it restarts on its files" in screen.getvalue()
    assert isinstance(view_for(Console(file=io.StringIO())), PlainView)
