"""The figures of a run as text."""

from bagpipe.interactive.run import figure_lines


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
