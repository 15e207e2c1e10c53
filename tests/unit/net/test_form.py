"""Two builds whose messages differ know it."""

from typing import Any

import msgspec
import pytest

from bagpipe.net import form as module
from bagpipe.net.form import form

Fields = list[tuple[str, Any, Any]]
ROWS: Fields = [("rows", int, 0)]


def form_of(fields: Fields, monkeypatch: pytest.MonkeyPatch, words: str = "A setting.") -> str:
    """Of a protocol whose only message has these fields."""
    message = msgspec.defstruct("Setting", fields, namespace={"__doc__": words})
    monkeypatch.setattr(module, "MESSAGE_TYPES", (message,))
    return form.__wrapped__()


def test_a_field_more_is_another_form_and_other_words_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a message holds decides; how it is described does not."""
    more: Fields = [*ROWS, ("more", bool, False)]
    assert form_of(ROWS, monkeypatch, words="Said better.") == form_of(ROWS, monkeypatch)
    assert form_of(more, monkeypatch) != form_of(ROWS, monkeypatch)


def test_a_field_may_be_called_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of fields are no descriptions."""
    assert form_of([*ROWS, ("description", str, "")], monkeypatch) != form_of(ROWS, monkeypatch)


def test_the_settings_of_a_job_are_part_of_it() -> None:
    """The topology carries the whole specification: a build with one more setting has another form."""
    _, kinds = msgspec.json.schema_components(module.MESSAGE_TYPES)
    assert "batchSize" in kinds["JobSpec"]["properties"]
    assert len(form()) == 12
