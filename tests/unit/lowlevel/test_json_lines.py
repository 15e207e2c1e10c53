"""Records are read while they are written, after a kill, and among lines of others."""

import json

from hypothesis import given
from hypothesis import strategies as st

from bagpipe.lowlevel.json_lines import records_in

RECORDS = [{"time": 1.5, "step": 1, "text": "a {brace} and a \u2028 break"}, {"event": "training", "attempt": 0}]
FOREIGN = ["{0: 1}", "{'a': 1}", "{}{}", "[1]", "{...}", "a line", "", '{"a": ' * 100_000 + "}"]


@given(st.lists(st.sampled_from([*map(json.dumps, RECORDS), *FOREIGN])), st.integers(1, 60))
def test_what_is_no_whole_record_is_passed_over(lines: list[str], cut: int) -> None:
    """Torn lines, the last one while it is written, and braces of others are none; records come in their order."""
    text = "".join(line + "\n" for line in lines)
    whole = [json.loads(line) for line in lines if line in map(json.dumps, RECORDS)]
    assert list(records_in(text)) == whole
    assert list(records_in(iter(lines))) == whole
    for torn in (json.dumps(RECORDS[0])[:cut], json.dumps(RECORDS[0])):
        assert list(records_in(text + torn)) == whole
    killed = json.dumps(RECORDS[0])[:cut] + '{"event": "starting"}\n'
    assert list(records_in(text + killed + text)) == whole + whole
