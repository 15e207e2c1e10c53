"""Whole numbers above 2^53, where neighbours are one float64."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bagpipe.config.columns import LabelColumn
from bagpipe.data.column_cells import label_cells
from bagpipe.data.column_values import Problems

LARGE = 2**53
IDS = [LARGE - 1, LARGE, LARGE + 1, LARGE + 2]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string(), pa.decimal128(20, 0)])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (f"x == {LARGE + 1}", [0, 0, 1, 0]),
        (f"x != {LARGE}", [1, 0, 1, 1]),
        (f"x > {LARGE}.0", [0, 0, 1, 1]),
        (f"x >= {LARGE + 1}", [0, 0, 1, 1]),
        (f"x < {LARGE + 1}", [1, 1, 0, 0]),
        (f"x <= {LARGE}.5", [1, 1, 0, 0]),
        (f"x == '{LARGE + 1}'", [0, 0, 1, 0]),
    ],
)
def test_a_rule_compares_large_integers_exactly(kind: Any, rule: str, expected: list[int]) -> None:
    """Neighbours from 2^53 are one float64, and were one value to a rule."""
    cells = pa.array([str(number) for number in IDS]).cast(kind)
    problems = Problems(np.zeros(len(IDS), np.bool_))
    found = label_cells(pa.table({"x": cells}), LabelColumn("y", rule=rule), problems)
    assert found.tolist() == expected and not problems.words


def test_a_neighbour_of_a_large_integer_is_neither_of_two_labels() -> None:
    """`else` names the only other value, and the line shows every digit."""
    problems = Problems(np.zeros(len(IDS), np.bool_))
    label = LabelColumn("y", rule=f"x == {LARGE + 1} else {LARGE}")
    assert label_cells(pa.table({"x": IDS}), label, problems).tolist() == [0.0, 0.0, 1.0, 0.0]
    assert problems.bad.tolist() == [True, False, False, True]
    assert problems.words == f"column x: expected the label {LARGE + 1} or {LARGE}, found {LARGE - 1}"
