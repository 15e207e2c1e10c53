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


def test_what_came_of_the_test_part_is_told() -> None:
    """Of each label, and that there is nothing because the model's own code failed: only the summary said so."""
    words = "trained step 9, loss 0.5000"
    summary = {"steps": 9, "loss": 0.5}
    assert in_words(summary | {"evaluation": None}) == words
    one = {"examples": 7, "auc": 0.75, "logLoss": None}
    assert in_words(summary | {"evaluation": one}) == f"{words}, test AUC 0.7500"
    two = {"examples": 7, "tasks": {"click": {"auc": 0.75}, "buy": {"auc": 0.5, "logLoss": 0.7}}}
    told = f"{words}, test click AUC 0.7500, test buy AUC 0.5000, test buy log loss 0.7000"
    assert in_words(summary | {"evaluation": two}) == told
    failed = {"failed": "model.py:8 (forward): ValueError: no"}
    told = f"{words}; evaluation failed: model.py:8 (forward): ValueError: no; .evaluate() repeats it"
    assert in_words(summary | {"evaluation": failed}) == told
