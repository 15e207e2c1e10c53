"""Labels are checked against the loss, batch by batch."""

import numpy as np
import pytest

from bagpipe.batch import Batch, Cursor
from bagpipe.config.losses import LOSSES, loss_kind
from bagpipe.config.model import ModelConfig
from bagpipe.data.labels import checked
from bagpipe.errors import DataError


def batches(*parts: list[list[float]]) -> list[Batch]:
    found, position = [], 0
    for part in parts:
        labels = np.array(part, np.float32)
        dense = np.zeros((len(part), 0), np.float32)
        found.append(Batch(Cursor(0, position), Cursor(0, position + len(part)), dense, labels, ()))
        position += len(part)
    return found


@pytest.mark.parametrize(
    ("loss", "good", "bad", "words"),
    [
        ("bce", 0.3, 1.5, "1.5, and the loss bce (spec.model.loss) expects 0 to 1"),
        ("mse", 1.0, -1.0, "-1, and the loss mse"),
        ("poisson", 7.0, -0.5, "-0.5, and the loss poisson (spec.model.loss) expects 0 or more"),
        ("squared-error", -9.5, np.inf, "inf, and the loss squared-error (spec.model.loss) expects a finite number"),
        ("bce", 0.0, np.nan, "nan"),
    ],
)
def test_a_label_that_the_loss_has_no_meaning_for_is_refused(loss: str, good: float, bad: float, words: str) -> None:
    """By name, example and value, when its batch is read; batches before it pass."""
    stream = checked(batches([[good, good]] * 3, [[good, good], [good, bad]]), LOSSES[loss], ("a", "b"), "data.path")
    assert next(stream).num_examples == 3
    with pytest.raises(DataError) as refused:
        next(stream)
    assert "data.path, epoch 0, example 4: label 'b' is" in str(refused.value)
    assert words in str(refused.value)


def test_a_loss_of_the_models_own_takes_any_label() -> None:
    """Where only the model knows its loss, the oracle lets everything pass; the job's own losses are known."""
    assert loss_kind(ModelConfig(entrypoint="a:B")) is None
    assert loss_kind(ModelConfig(name="caser")) is None
    assert loss_kind(ModelConfig(entrypoint="a:B", loss="poisson")) is LOSSES["poisson"]
    assert loss_kind(ModelConfig()) is LOSSES["bce"]
    assert len(list(checked(batches([[5.0]], [[-5.0]]), None, ("a",), "x"))) == 2
