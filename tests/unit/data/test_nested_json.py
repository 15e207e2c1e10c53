"""JSON that is nested too deep is a malformed row, wherever it is read."""

from pathlib import Path

import pyarrow as pa
import pytest
from small_logs import lines, opened, values

from bagpipe.data.files import find_files
from bagpipe.data.guesses import are_records
from bagpipe.data.jsonlines import JsonLines
from bagpipe.data.suggest import suggest_job
from bagpipe.data.written_lists import values_in
from bagpipe.errors import DataError

DEEP = "[" * 100_000 + "]" * 100_000
"""Arrow's reader calls itself for each list: it ended the whole process, without a word."""


@pytest.mark.parametrize(
    "deep",
    [DEEP, '{"k":' * 100_000 + "1" + "}" * 100_000, "[1," * 100_000 + "1" + "]" * 100_000],
    ids=["lists", "records", "lists beside numbers"],
)
def test_a_record_that_is_nested_too_deep_is_a_malformed_row(deep: str, tmp_path: Path) -> None:
    """In columns of one's own, by `init`, and in the paper's records; texts that hold brackets are texts."""
    texts = {"d": '[{"' * 5000}
    bad = f'{{"y":0,"d":"b","l":{deep}}}'
    path = lines(tmp_path / "log.jsonl", [{"y": 1, **texts}, bad.encode(), {"y": 0, **texts}])
    with pytest.raises(DataError, match=r"log.jsonl: row 2: expected a JSON record \(.*nested .*deep"):
        values(opened(path))
    assert len(values(opened(path, skip=True))) == 2
    many = [{"y": i % 2, "d": "ab"[i % 2]} for i in range(41)]
    other = lines(tmp_path / "other.jsonl", [*many, bad.encode()])
    assert "row 42: " in str(suggest_job(str(other)).notes)
    paper = tmp_path / "paper.jsonl"
    paper.write_text(f'{{"label":0,"sparse":[1]}}\n{{"label":0,"sparse":[1],"x":{deep}}}\n')
    source = JsonLines.open(find_files(str(paper)))
    (piece,) = source.pieces(0)[1]
    with pytest.raises(DataError, match=r"paper.jsonl:2: malformed record"):
        source.parse(piece)


def test_a_cell_that_is_nested_too_deep_is_no_list() -> None:
    assert values_in(DEEP) is None
    assert not are_records(pa.array(['{"k":' * 100_000 + "1" + "}" * 100_000]))
