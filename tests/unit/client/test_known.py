"""A status that another release of the operator wrote: what can be read is shown, and what cannot is named."""

import datetime as dt
import itertools

import pytest

from bagpipe.cli.job import _line
from bagpipe.client.jobs import JobView
from bagpipe.client.known import known_status
from bagpipe.client.story import tell

META = {"name": "j", "namespace": "ns", "uid": "u"}
NOW = dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC)
GOOD = {
    "phase": "Running",
    "reason": "AllReady",
    "phaseTime": "2026-01-01T11:00:00Z",
    "startTime": "2026-01-01T11:00:00Z",
    "attempt": 1,
    "restarts": 1,
    "disruptions": 0,
    "progress": {"step": 1, "totalSteps": 9, "loss": 1, "examplesPerSecond": 2.5, "etaSeconds": 3, "lastCheckpoint": 1},
    "durations": {"Running": 5},
    "lastFailure": {"attempt": 0, "time": "t", "reason": "r", "message": "m", "lastWords": "w"},
    "logs": {"configMap": "c", "message": "m"},
    "summary": {"auc": 1},
    "conditions": [
        {
            "type": "Running",
            "status": "True",
            "reason": "r",
            "message": "m",
            "lastTransitionTime": "2026-01-01T11:00:00Z",
        }
    ],
}


def paths(value, path=()):
    """The path of every field."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def changed(value, path, new):
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new) if path[1:] else new
    return copy


def test_a_status_of_this_release_is_read_whole():
    """Nothing is left out, and fields that are not known stay."""
    later = {**GOOD, "later": [1], "progress": {**GOOD["progress"], "later": {"a": 1}}}
    assert known_status({"status": later}) == (later, [])
    assert known_status({}) == known_status({"status": None}) == ({}, [])


@pytest.mark.parametrize("new", [None, 5, 2.5, True, "x", [], [1], [{}], {}, {"a": "b"}, "2026-01-01T11:00:00"])
def test_whatever_a_field_is_the_job_is_shown(new):
    """Each field in turn with each type: the page and the line are there, and a phase is never made up."""
    for path in itertools.chain([()], paths(GOOD)):
        status = changed(GOOD, path, new) if path else new
        view, page = JobView.of({"metadata": META, "status": status}), None
        assert view.name in _line(view) and isinstance(view.phase, str)
        page = tell({"metadata": META, "status": status}, [], [], NOW)
        if path == ("phase",) and isinstance(new, (int, float)):
            assert view.phase == "Unknown" and page.startswith("ns/j: Unknown")
            assert f"status.phase: expected text, found '{new}'; is the operator older or newer" in page


def test_a_figure_of_another_type_is_named():
    """It is in no figure, and a line says where it stands."""
    status = {**GOOD, "progress": {"step": 1, "loss": "0.5"}}
    page = tell({"metadata": META, "status": status}, [], [], NOW)
    assert "Progress\n  step 1\n" in page
    assert "status.progress.loss: expected a number, found '0.5'; is the operator older or newer than this" in page
