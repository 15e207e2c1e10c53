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


def test_remaining_time() -> None:
    """Ten steps in five seconds leave ninety seconds for a hundred and eighty."""
    pace = Pace()
    assert pace.remaining_seconds({"time": 0.0, "step": 10, "total_steps": 200}) is None
    assert pace.remaining_seconds({"time": 5.0, "step": 20, "total_steps": 200}) == pytest.approx(90)


def test_remaining_time_after_going_back() -> None:
    """A new attempt repeats steps: the pace begins anew instead of turning negative."""
    pace = Pace()
    pace.remaining_seconds({"time": 0.0, "step": 100, "total_steps": 200})
    assert pace.remaining_seconds({"time": 9.0, "step": 50, "total_steps": 200}) is None
    assert pace.remaining_seconds({"time": 10.0, "step": 60, "total_steps": 200}) == pytest.approx(14)


def test_words() -> None:
    """A record says step, loss, speed, hit rate, what was waited for (longest first), and the time left."""
    expected = "step 50/100  loss 0.5123  12,346 examples/s  hits 93.1%  waited fetch 1.50 s, dense 0.02 s  ETA 1:05"
    assert describe(RECORD, 65.2) == expected
    assert describe({**RECORD, "total_steps": None, "loss": None, "waits": {}}, None) == (
        "step 50  12,346 examples/s  hits 93.1%  waited for nothing"
    )


def test_plain_lines_are_rare_but_the_last_is_shown() -> None:
    """Logs get a line every two seconds and the last one, events as sentences."""
    lines: list[str] = []
    view = PlainView(lines.append)
    view.record({"event": "training", "time": 99.0})
    for number in range(8):
        view.record({**RECORD, "time": 100 + number * 0.5, "step": 93 + number})
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
