"""A model is built before there is data, where the job says with what; errors that the data could change wait."""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.config.document import Job, JobSpec
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.base import build_model
from bagpipe.models.early import early_model
from bagpipe.tables import Table, TableLayout

CALLS: list[str] = []
COLUMNS = {"labels": [{"name": "y"}], "dense": [{"name": "a"}, {"name": "b"}], "sparse": [{"name": "u"}, {"name": "i"}]}
TABLE = {"name": "t", "numEmbeddings": 5, "embeddingDim": 4, "featureNames": ["u", "i"]}


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    CALLS.clear()
    yield
    CALLS.clear()


class Alone(nn.Module):
    """Needs nothing of the data; its lazy weights are drawn after the others."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        CALLS.append("Alone")
        self.first = nn.Linear(2, width)
        self.noise = float(np.random.rand())  # noqa: NPY002  # the generator that a model would use
        self.last = nn.LazyLinear(1)

    def forward(self, dense: torch.Tensor, sparse: object) -> torch.Tensor:
        return self.last(self.first(dense))  # type: ignore[no-any-return]


class Shaped(nn.Module):
    """Needs to know the data's form; `fault` says what goes wrong."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int, fault: str = "none") -> None:
        super().__init__()
        CALLS.append("Shaped")
        self.sizes = [table.num_embeddings for table in layout.tables]
        if fault == "name":
            nothing_of_that_name  # type: ignore[name-defined]  # noqa: B018, F821
        if fault == "size" and max(self.sizes) > 10:
            raise ValueError("too many rows")
        self.out = nn.Linear(num_dense + layout.groups[0].embedding_dim, num_labels)


def spec_of(
    model: str, *, args: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **more: Any
) -> JobSpec:
    spec = {
        "model": {"entrypoint": f"{__name__}:{model}", "args": args or {}},
        "data": {"format": "csv", "path": "nowhere.csv", "columns": COLUMNS} if data is None else data,
        "embedding": {"dim": 4},
        "batchSize": 32,
        **more,
    }
    return msgspec.convert({"spec": spec}, Job).spec


def layout_with(rows: int) -> TableLayout:
    return TableLayout.of(Table(name, rows, 4, (name,)) for name in ("u", "i"))


def test_it_is_built_once_and_is_the_model_that_would_be_built_later() -> None:
    spec = spec_of("Alone", args={"width": 4})
    right = build_model(spec.model, layout_with(7), 2, 1, spec.seed)
    CALLS.clear()
    torch.manual_seed(99)
    early = early_model(spec)
    between = torch.rand(3)
    model = build_model(spec.model, layout_with(7), 2, 1, spec.seed, early=early)
    assert CALLS == ["Alone"]
    assert model.noise == right.noise
    for name, value in right.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.manual_seed(99)
    assert torch.equal(torch.rand(3), between), "the calling program's random numbers are its own"


def test_rows_that_are_counted_later_are_built_for_anew() -> None:
    spec = spec_of("Shaped")
    model = build_model(spec.model, layout_with(7), 2, 1, spec.seed, early=early_model(spec))
    assert CALLS == ["Shaped", "Shaped"]
    assert model.sizes == [7, 7]


@pytest.mark.parametrize("more", [{"embedding": {"tables": [TABLE]}}, {"data": {"encoding": "hash", "hashSize": 5}}])
def test_tables_that_the_job_lists_are_not_made_up(more: dict[str, Any]) -> None:
    data = {"format": "csv", "path": "nowhere.csv", "columns": COLUMNS} | more.pop("data", {})
    early = early_model(spec_of("Shaped", data=data, **more))
    assert early is not None
    assert set(early.module.sizes) == {5}


def test_a_mistake_in_a_constructor_does_not_wait_for_the_data() -> None:
    with pytest.raises(NameError):
        early_model(spec_of("Shaped", args={"fault": "name"}))
    with pytest.raises(ConfigError, match="no argument 'falt'"):
        early_model(spec_of("Shaped", args={"falt": "name"}))


def test_a_default_model_that_does_not_fit_the_tables_may_be_of_no_loop() -> None:
    """A job without `model` may be that of a loop of one's own: the line names the setting that says which model."""
    tables = [TABLE | {"featureNames": ["u"]}, TABLE | {"name": "i", "embeddingDim": 8, "featureNames": ["i"]}]
    spec = msgspec.structs.replace(spec_of("Shaped", embedding={"tables": tables}), model=ModelConfig())
    with pytest.raises(ConfigError, match=r"expected tables of one width.*its class in spec.model.entrypoint"):
        early_model(spec)


def test_what_the_rows_may_be_the_reason_of_does() -> None:
    """The made-up number of rows is too many for this model, the data's may not be."""
    assert early_model(spec_of("Shaped", args={"fault": "size"})) is None
    listed = {"tables": [TABLE | {"numEmbeddings": 11}]}
    with pytest.raises(ValueError, match="too many rows"):
        early_model(spec_of("Shaped", args={"fault": "size"}, embedding=listed))


def test_where_only_the_data_says_its_form_the_model_waits() -> None:
    """Nothing is made up for it."""
    assert early_model(spec_of("Shaped", data={"format": "criteo-tsv", "path": "nowhere"})) is None
    assert not CALLS
    assert early_model(spec_of("Alone", data={"format": "criteo-tsv", "path": "nowhere"})) is not None
