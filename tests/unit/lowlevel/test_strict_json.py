"""What is written as JSON can be read by every parser, and a number that is not finite is told from one not known."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.lowlevel.strict_json import encode, number

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def strict(text: str) -> Any:
    """Decode as a parser does that keeps to the standard."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_any_value_becomes_json_that_every_parser_reads(value: Any, indent: int | None, compact: bool) -> None:
    """No NaN and no infinity is in the text, however deep it lay."""
    strict(encode(value, indent=indent, compact=compact))


@given(st.dictionaries(st.text(), st.none() | st.floats() | st.integers(-(2**53), 2**53)))
def test_each_number_is_read_back(record: dict[str, float | None]) -> None:
    """`number` gives what was written, to the bit; NaN and infinities too; None for what was not known."""
    found = strict(encode(record))
    for name, value in record.items():
        if name == "notFinite":
            continue
        read = number(found, name)
        same = read == value or (read is not None and value is not None and math.isnan(read) and math.isnan(value))
        assert same, (name, value, read)


def test_what_is_not_finite_is_null_with_a_word() -> None:
    """The object that holds the number says which entry it was and what it was."""
    found = strict(encode({"loss": math.nan, "steps": 8, "evaluation": {"auc": None, "logLoss": math.inf}}))
    assert found == {
        "loss": None,
        "steps": 8,
        "evaluation": {"auc": None, "logLoss": None, "notFinite": {"logLoss": "Infinity"}},
        "notFinite": {"loss": "NaN"},
    }
    assert math.isnan(number(found, "loss") or 0.0)
    assert number(found["evaluation"], "auc") is None and number(found["evaluation"], "logLoss") == math.inf


@pytest.mark.parametrize("value", [{"loss": math.nan}, [math.inf, 1.0], -math.inf])
def test_pythons_own_encoder_writes_what_nobody_else_reads(value: Any) -> None:
    """The reason for this module: if Python's encoder becomes strict by itself, the module can go."""
    with pytest.raises(AssertionError, match="is no JSON"):
        strict(json.dumps(value))
