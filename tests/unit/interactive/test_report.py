"""The figures of a run as text."""

from bagpipe.interactive.run import figure_lines, in_words


def test_values_stand_in_one_column() -> None:
    """Whatever a figure is called and however deep it lies; a group's name stands alone."""
    figures = {"steps": 16, "evaluation": {"auc": 0.81234567, "aVeryLongNameOfAFigure": 2}, "reason": ""}
    assert figure_lines(figures) == [
        "  steps                     16",
        "  evaluation",
        "    auc                     0.812346",
        "    aVeryLongNameOfAFigure  2",
        "  reason",
    ]


def test_an_early_stop_is_told() -> None:
    """A run that ended before its last step, or that a resume did not carry on, says why."""
    for early, words in ((True, "stopped early at step 250"), (False, "trained step 250")):
        assert in_words({"steps": 250, "validation": {"stoppedEarly": early}}) == words
    assert in_words({"steps": 250, "validation": None}) == "trained step 250"
