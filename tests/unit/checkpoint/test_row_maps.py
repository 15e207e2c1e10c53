"""Which row goes where when another run's table is taken: by value, or by number, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.checkpoint.row_maps import TableOfRun, row_map
from bagpipe.config.columns import ColumnsConfig, SparseColumn
from bagpipe.data.transform import KeptFeature, KeptTable, Transform, TransformInfo
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.tables import Table


def table_of(
    rows: int,
    encoding: str = "ids",
    *,
    dim: int = 4,
    kind: str = "text",
    vocabulary: Vocabulary | None = None,
    boundaries: tuple[float, ...] = (),
) -> TableOfRun:
    info = TransformInfo(
        source="csv",
        encoding=encoding,
        hash_size=1,
        min_count=1,
        numeric_bins="none",
        num_labels=1,
        dense=(),
        jagged=False,
        features=(KeptFeature("f", kind),),  # type: ignore[arg-type]
        tables=(KeptTable("t", rows, ("f",)),),
        columns=ColumnsConfig(sparse=(SparseColumn(name="f", boundaries=boundaries),)),
    )
    return TableOfRun(Table("t", rows, dim, ("f",)), Transform(info, vocabulary and {"t": vocabulary}))


def vocabulary_of(codes: list[int], first_row: int = 1) -> Vocabulary:
    return Vocabulary(np.array(codes, np.uint64), np.ones(len(codes), np.int64), first_row)


@given(
    st.lists(st.integers(1, 40), unique=True),
    st.lists(st.integers(1, 40), unique=True),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_a_value_goes_to_its_own_row(here: list[int], there: list[int], first_here: int, first_there: int) -> None:
    """Every value that both know, to the row that it has here; rows for unknown values only where they are as many."""
    a = table_of(99, "vocabulary", vocabulary=vocabulary_of(here, first_here))
    b = table_of(99, "vocabulary", vocabulary=vocabulary_of(there, first_there))
    found = row_map(a, b)
    assert not isinstance(found, str)
    unknown = list(range(first_there)) if first_here == first_there else [-1] * first_there
    known = [first_here + here.index(code) if code in here else -1 for code in there]
    assert found.tolist() == unknown + known


@pytest.mark.parametrize(("rows_here", "expected"), [(5, [0, 1, 2]), (3, [0, 1, 2]), (2, [0, 1, -1])])
def test_ids_keep_their_numbers(rows_here: int, expected: list[int]) -> None:
    """A table may have grown or shrunk."""
    found = row_map(table_of(rows_here), table_of(3))
    assert not isinstance(found, str)
    assert found.tolist() == expected


def test_what_does_not_fit_is_said() -> None:
    """Another width, another encoding, another kind of value, another size of a hashed table, no transform at all."""
    words = {"vocabulary": vocabulary_of([1, 2])}
    numbers = table_of(9, "vocabulary", kind="int", **words)
    assert row_map(table_of(3), table_of(3, dim=8)) == "width 8 there, 4 here"
    assert (
        row_map(table_of(9, "vocabulary", **words), table_of(9))
        == "values have their rows by ids there, by vocabulary here"
    )
    assert row_map(table_of(9, "vocabulary", **words), numbers) == "values are of kind int there, text here"
    assert row_map(table_of(8, "hash"), table_of(9, "hash")) == "values are hashed into 9 rows there, 8 here"
    assert (
        row_map(table_of(3), TableOfRun(Table("t", 3, 4, ("f",)), None))
        == "values have their rows by unknown means there, by ids here"
    )
    assert row_map(table_of(9, "hash"), table_of(9, "hash", kind="int")) == "values are of kind int there, text here"
    same = row_map(table_of(9, "hash"), table_of(9, "hash"))
    assert not isinstance(same, str)
    assert same.tolist() == list(range(9))


@pytest.mark.parametrize("encoding", ["hash", "vocabulary"])
def test_an_interval_is_no_other_interval_of_the_same_number(encoding: str) -> None:
    """The second interval between 10 and 20 is not the second one between 1 and 2, and takes no vector of it."""
    words = vocabulary_of([1, 2, 3]) if encoding == "vocabulary" else None
    one, same, other = (
        table_of(4, encoding, kind="interval", vocabulary=words, boundaries=boundaries)
        for boundaries in ((10.0, 20.0), (10.0, 20.0), (1.0, 2.0))
    )
    assert row_map(one, other) == "values are intervals between other boundaries there"
    taken = row_map(one, same)
    assert not isinstance(taken, str)
    assert taken.tolist() == [0, 1, 2, 3]
