"""The loss of the last step outlives the process that saw it."""

from pathlib import Path

from bagpipe.oracle.service.report import LAST_LOSS, keep_loss, kept_loss


def test_an_attempt_with_nothing_left_to_train_knows_the_loss(tmp_path: Path) -> None:
    """It is found for the very step it belongs to, to the bit."""
    keep_loss(tmp_path, 1000, 0.1 + 0.2)
    assert kept_loss(tmp_path, 1000) == 0.1 + 0.2
    assert kept_loss(tmp_path, 999) is None


def test_no_note_is_no_error(tmp_path: Path) -> None:
    """None, half of one, one that cannot be written."""
    keep_loss(tmp_path / "elsewhere", 1, 0.5)
    keep_loss(tmp_path, 1, None)
    assert kept_loss(tmp_path, 1) is None
    (tmp_path / LAST_LOSS).write_text('{"step": 1')
    assert kept_loss(tmp_path, 1) is None
