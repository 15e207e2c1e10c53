"""What a run's metrics show of its evaluations."""

from bagpipe.interactive.run import with_validations


def test_figures_of_the_validation_part_stand_in_the_row_of_their_step() -> None:
    """In the latest row of that step where it was trained twice; in a row of their own where none was recorded."""
    records = [{"time": 1.0, "step": 10, "loss": 0.5}, {"time": 3.0, "step": 10, "loss": 0.4}]
    one = {"examples": 9, "auc": 0.7, "calibration": None, "undefined": {"calibration": "every label is 0"}}
    several = {"examples": 9, "tasks": {"click": {"auc": 0.6}, "buy": {"auc": 0.8}}}
    validations = [{"time": 3.5, "step": 10, "validation": one}, {"time": 4.0, "step": 12, "validation": several}]
    assert with_validations(records, validations) == [
        {"time": 1.0, "step": 10, "loss": 0.5},
        {
            "time": 3.0,
            "step": 10,
            "loss": 0.4,
            "validation_auc": 0.7,
            "validation_calibration": None,
        },
        {"time": 4.0, "step": 12, "validation_click/auc": 0.6, "validation_buy/auc": 0.8},
    ]
