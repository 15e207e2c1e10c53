"""A checkpoint whose model is not there, or is another one, is refused with what to do."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bagpipe.checkpoint.dense_files import DENSE_AVERAGE, DENSE_WEIGHTS, weights_in_use
from bagpipe.config.model import ModelConfig
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.models.base import build_model, naming_the_trained_model
from bagpipe.standalone.tensors import check_weights
from bagpipe.tables import Table, TableLayout


def checkpoint(*names: str) -> Any:
    files = [SimpleNamespace(name=name) for name in names]
    return SimpleNamespace(directory="runs/one/step-7", manifest=SimpleNamespace(dense=files))


def test_rows_without_a_model_are_named_as_such() -> None:
    """A loop that gave no model left rows alone: the message says so and how to keep the model."""
    with pytest.raises(CheckpointError, match=r"holds rows of tables and no dense weights.*cache.attach\(model"):
        weights_in_use(checkpoint())
    assert weights_in_use(checkpoint(DENSE_WEIGHTS)).name == DENSE_WEIGHTS
    assert weights_in_use(checkpoint(DENSE_WEIGHTS, DENSE_AVERAGE)).name == DENSE_AVERAGE


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, r"weight weight: expected \[1, 2\], found \[1, 3\]"),
        ({"weight": torch.zeros(1, 2)}, r"weight bias: expected \[1\], found nothing"),
        ({**torch.nn.Linear(2, 1).state_dict(), "more": torch.zeros(4)}, r"weight more: expected nothing, found \[4\]"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(found: dict[str, torch.Tensor], expected: str) -> None:
    """It is no RuntimeError of torch, and the message says where the class is named."""
    own = torch.nn.Linear(2, 1).state_dict()
    check_weights("here", own, own)
    with pytest.raises(CheckpointError, match=f"here: {expected}; give the model that was trained.*entrypoint"):
        check_weights("here", own, found)


def test_a_default_model_that_does_not_fit_the_tables_is_not_the_one_to_change() -> None:
    """A loop registered its own model, over tables of two widths, in a job without `model`."""
    layout = TableLayout.of([Table("a", 5, 4, ("a",)), Table("b", 5, 8, ("b",))])
    expected = r"names model.name dlrm.*give the model that was trained.*spec.model.entrypoint.*tables of one width"
    with pytest.raises(ConfigError, match=expected), naming_the_trained_model(ModelConfig()):
        build_model(ModelConfig(), layout, 1, 1, 0)
