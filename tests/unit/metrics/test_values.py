"""Errors of predicted values against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.metrics.values import ValueErrors, value_errors

NUMBERS = st.floats(-1e3, 1e3, width=32)
EXAMPLES = st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 3)), min_size=1, max_size=30)


@settings(deadline=None)
@given(EXAMPLES, st.randoms())
def test_errors_equal_their_definitions_in_any_order(examples, random):
    """Root mean squared, mean absolute and mean error, each example counted as often as its weight says."""
    repeated = [(p, y) for p, y, weight in examples for _ in range(weight)]
    found = value_errors(*zip(*examples, strict=True))
    random.shuffle(examples)
    assert value_errors(*zip(*examples, strict=True)) == found
    if not repeated:
        assert found == ValueErrors(len(examples), None, None, None)
        return
    errors = [float(p) - float(y) for p, y in repeated]
    assert found.rmse == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)), abs=1e-9)
    assert found.mae == pytest.approx(sum(map(abs, errors)) / len(errors), abs=1e-9)
    assert found.bias == pytest.approx(sum(errors) / len(errors), abs=1e-9)


def test_what_is_not_finite_has_no_error():
    """None, never NaN; a count that does not match is a mistake of the caller."""
    assert value_errors([1.0, np.nan], [0, 0]) == ValueErrors(2, None, None, None)
    with pytest.raises(ValueError, match="1 predictions, 2 labels"):
        value_errors([1.0], [0, 0])
