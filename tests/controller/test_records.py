"""What a job's processes wrote is read leniently; whatever comes out can be written as JSON and read back equal."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe_operator import records

RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
"""A busy machine is no fault of what is tested."""
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@RELAXED
@given(st.dictionaries(st.text(), ANY, max_size=5))
def test_what_was_read_can_be_written(record):
    """Whatever Python's JSON writer makes of a record is read as strict JSON, which stays equal when it is written."""
    parsed = records.parse(json.dumps(record))
    assert parsed is not None
    assert json.loads(json.dumps(parsed, allow_nan=False).encode()) == parsed


@RELAXED
@given(st.text() | st.binary().map(lambda b: b.decode(errors="replace")))
def test_any_text_is_read(text):
    """Reading raises on no text."""
    records.parse(text)


def test_odd_numbers_are_named():
    """Each value that JSON cannot hold becomes null, and its path is told."""
    found = records.parse('{"loss": NaN, "a": {"b": [1, Infinity]}, "n": 123456789012345678901234567890, "ok": 1.5}')
    odd = {"loss": "NaN", "a.b[1]": "Infinity", "n": "beyond 64 bits"}
    assert found == {"loss": None, "a": {"b": [1, None]}, "n": None, "ok": 1.5, "notFinite": odd}


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_words(depth):
    """What is nested too deeply is cut off, and raises nothing."""
    records.parse('{"a":' * depth + "1" + "}" * depth)


def test_lone_surrogates_are_replaced():
    """Half a character would come back changed from the API server, and be written again for ever."""
    found = records.parse('{"a": "\\ud800x"}')
    assert found == {"a": "?x"}


def test_a_job_whose_loss_is_no_number_ends(world):
    """A summary with NaN ends the job Complete, without that number, and the condition names it."""
    w = world().run()
    for pod in w.live_pods("trainer"):
        w.end(pod, 0)
    w.end(w.pod("oracle"), 0, '{"steps": 12, "loss": NaN, "evaluation": {"auc": null}, "modelDigest": "ab5a"}')
    w.settle()
    assert w.is_true("Complete")
    odd = {"loss": "NaN"}
    assert w.status["summary"] == {"steps": 12, "evaluation": {}, "modelDigest": "ab5a", "notFinite": odd}
    assert "loss is NaN" in w.condition("Complete")["message"]
    json.dumps(w.status, allow_nan=False)
