"""A model that computes inside `untouched` is afterwards what it was before, to the last bit and object."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.models import untouched as module_under_test
from bagpipe.models.untouched import untouched

CALLS = 0
SEEN: list[int] = []


class Busy(nn.Module):
    """Changes of itself, its class and its module whatever can be changed."""

    calls_of_all = 0
    seen_of_all: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.tied = self.weight
        self.register_buffer("mean", torch.zeros(2))
        self.calls, self.seen, self.by_name = 0, [torch.zeros(2)], {"a": torch.zeros(2)}
        self.numbers, self.names = np.zeros(2), {"a"}
        self.numbers_drawn = np.random.default_rng(3)
        self.generator = torch.Generator().manual_seed(3)
        self.inner = nn.BatchNorm1d(2)
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global CALLS, NEW  # what a model of somebody may do
        assert self.tied is self.weight
        CALLS, NEW = CALLS + 1, 1
        SEEN.append(CALLS)
        Busy.calls_of_all += 1
        Busy.seen_of_all.append(1)
        Busy.new_of_all = 1
        self.numbers_drawn.random()
        with torch.no_grad():
            self.weight += 1
            self.mean += 1
        self.calls += 1
        self.seen[0] += 1
        self.seen.append(x)
        self.by_name["a"] += 1
        self.numbers += 1
        self.names.add("b")
        self.last = torch.rand(2, generator=self.generator) + x
        self.new = x
        return self.inner(x) * self.weight


def state_of(model: Busy) -> dict[str, Any]:
    return {
        "weights": {name: value.tolist() for name, value in model.state_dict().items()},
        "versions": [value._version for value in (*model.parameters(), *model.buffers())],
        "objects": [id(value) for value in (model.weight, model.tied, model.mean, model.seen, model.by_name)],
        "plain": (model.calls, len(model.seen), model.seen[0].tolist(), model.by_name["a"].tolist(), model.last),
        "others": (model.numbers.tolist(), model.names.copy(), model.generator.get_state().tolist()),
        "class": (Busy.calls_of_all, len(Busy.seen_of_all), id(Busy.seen_of_all), sorted(vars(Busy))),
        "module": (CALLS, len(SEEN), id(SEEN), "NEW" in globals()),
        "drawn": model.numbers_drawn.bit_generator.state,
        "names": sorted(vars(model)),
        "modes": [each.training for each in model.modules()],
    }


def test_nothing_that_a_model_changes_of_itself_stays() -> None:
    model = Busy()
    before = state_of(model)
    with untouched(model):
        model(torch.ones(3, 2))
        model.eval()
        assert state_of(model) != before
    assert state_of(model) == before


def test_a_backward_pass_that_waits_is_not_disturbed() -> None:
    """What autograd keeps of a forward pass may not be written to before its backward pass."""
    model, x = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.rand(4, 2)
    twin = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    twin.load_state_dict(model.state_dict())
    loss, expected = model(x).square().mean(), twin(x).square().mean()
    with untouched(model), torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    loss.backward()
    expected.backward()
    for weight, right in zip(model.parameters(), twin.parameters(), strict=True):
        assert weight.grad is not None
        assert right.grad is not None
        assert torch.equal(weight.grad, right.grad)


def test_an_error_inside_leaves_it_untouched_too() -> None:
    model = Busy()
    before = state_of(model)
    with pytest.raises(RuntimeError), untouched(model):
        model(torch.ones(3, 5))
    assert state_of(model) == before


def test_copies_for_which_there_is_no_memory_leave_it_untouched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer goes on after such an error: a model that kept some of the copies would train those."""
    model = Busy()
    copied = module_under_test._of_tensor

    def copy_all_but_a_matrix(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (3, 3):
            raise torch.OutOfMemoryError("out of memory")
        return copied(tensor)

    model.inner.register_buffer("large", torch.zeros(3, 3))
    before = state_of(model)
    monkeypatch.setattr(module_under_test, "_of_tensor", copy_all_but_a_matrix)
    with pytest.raises(torch.OutOfMemoryError), untouched(model):
        pass
    assert state_of(model) == before


def test_a_recurrent_layer_computes_the_same_inside() -> None:
    """It keeps its weights in a list as well."""
    layer, x = nn.LSTM(2, 3), torch.rand(4, 1, 2)
    outside = layer(x)[0]
    with untouched(layer):
        assert torch.equal(layer(x)[0], outside)


def test_a_list_that_holds_itself_is_no_trap() -> None:
    model = nn.Module()
    model.ring = [1]  # type: ignore[assignment]  # any attribute
    model.ring.append(model.ring)  # type: ignore[operator]
    with untouched(model):
        pass
    assert model.ring[1] is model.ring  # type: ignore[index]


def test_what_is_too_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of gigabytes would need its memory twice."""
    monkeypatch.setattr(module_under_test, "LARGEST", 7)
    model = Busy()
    with untouched(model):
        assert model.weight.data_ptr() == model.tied.data_ptr()
        inside = model.weight
    assert model.weight is inside
