"""A flood of refusals is a line every few seconds, with the number of the others."""

import logging

import pytest

from bagpipe.net.refusal_log import LOG_SECONDS, LONGEST_LINE, RefusalLog


def test_a_flood_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand refusals in three intervals are three lines, and the count in them is right."""
    now = 0.0
    refused = RefusalLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for number in range(10_000):
            now = number * 2.5 * LOG_SECONDS / 10_000
            refused.add(f"refused number {number}")
    assert refused.total == 10_000
    assert [r.getMessage() for r in caplog.records] == [
        "refused number 0",
        "refused number 4000 (and 3999 more before it, 4001 in all)",
        "refused number 8000 (and 3999 more before it, 8001 in all)",
    ]


def test_a_strangers_words_stay_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    """Control characters and length of what a stranger wrote do not reach the log."""
    with caplog.at_level(logging.WARNING):
        RefusalLog().add("refused \x1b[2J\nerror: forged" + "x" * 10_000)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("refused ?[2J?error: forged") and len(line) == LONGEST_LINE
