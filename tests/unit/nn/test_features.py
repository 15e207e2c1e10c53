"""Lists of ids and of vectors: what TorchRec's names give, against lists cut by hand; and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.errors import ConfigError
from bagpipe.nn import JaggedTensor, KeyedJaggedTensor, KeyedTensor

Lists = list[list[list[int]]]
"""By feature, then by example."""


@st.composite
def some_lists(draw: st.DrawFn) -> Lists:
    examples = draw(st.integers(0, 4))
    one = st.lists(st.integers(0, 99), max_size=3)
    return draw(st.lists(st.lists(one, min_size=examples, max_size=examples), min_size=1, max_size=4))


def features_of(lists: Lists) -> KeyedJaggedTensor:
    values = [i for feature in lists for example in feature for i in example]
    lengths = [len(example) for feature in lists for example in feature]
    return KeyedJaggedTensor(
        [f"f{n}" for n in range(len(lists))],
        torch.tensor(values, dtype=torch.int64),
        torch.tensor(values, dtype=torch.float32) / 2,
        torch.tensor(lengths, dtype=torch.int64),
    )


def cut(lists: JaggedTensor) -> list[list[int]]:
    assert [w.tolist() for w in torch.split(lists.weights() * 2, lists.lengths().tolist())] == [
        v.tolist() for v in lists.to_dense()
    ]
    return [one.tolist() for one in lists.to_dense()]


@settings(deadline=None)
@given(some_lists())
def test_each_feature_has_its_lists(lists: Lists) -> None:
    """By name, as a dictionary, from lengths and from offsets: the lists that went in, with their weights."""
    made = features_of(lists)
    again = KeyedJaggedTensor.from_offsets_sync(made.keys(), made.values(), made.offsets(), made.weights())
    assert made.stride() == len(lists[0])
    assert made.length_per_key() == [sum(map(len, feature)) for feature in lists]
    assert made.offset_per_key()[1:] == np.cumsum(made.length_per_key()).tolist()
    for features in (made, again, KeyedJaggedTensor.from_jt_dict(made.to_dict())):
        assert [cut(features[key]) for key in features.keys()] == lists  # noqa: SIM118  # keys() of a KeyedJaggedTensor
        assert [cut(part) for part in features.to_dict().values()] == lists


@given(some_lists(), st.data())
def test_features_are_chosen_by_number(lists: Lists, data: st.DataObject) -> None:
    """`permute` takes features in the order asked for, `split` so many each."""
    features = features_of(lists)
    numbers = data.draw(st.lists(st.integers(0, len(lists) - 1), unique=True))
    chosen = features.permute(numbers)
    assert chosen.keys() == [f"f{n}" for n in numbers]
    assert [cut(part) for part in chosen.to_dict().values()] == [lists[n] for n in numbers]
    first = data.draw(st.integers(0, len(lists)))
    parts = features.split([first, len(lists) - first])
    assert [[cut(p) for p in part.to_dict().values()] for part in parts] == [lists[:first], lists[first:]]


@given(some_lists(), st.none() | st.integers(0, 4))
def test_lists_are_padded(lists: Lists, length: int | None) -> None:
    """Shorter lists are filled up, longer ones lose their end."""
    (part, *_) = features_of(lists).to_dict().values()
    longest = length if length is not None else max(map(len, lists[0]), default=0)
    expected = [(example + [-1] * longest)[:longest] for example in lists[0]]
    assert part.to_padded_dense(length, -1).tolist() == expected


def test_padded_vectors_have_gradients() -> None:
    """A vector's gradient is its place's in the padded tensor; what was cut away has none."""
    values = torch.arange(8.0).view(4, 2).requires_grad_()
    padded = JaggedTensor(values, lengths=torch.tensor([3, 0, 1])).to_padded_dense(2)
    assert padded.tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[0.0, 0.0]] * 2, [[6.0, 7.0], [0.0, 0.0]]]
    padded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_keyed_columns() -> None:
    """Columns by key, as a dictionary, and regrouped over several tensors."""
    one = KeyedTensor(["a", "b"], [1, 2], torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    two = KeyedTensor.from_tensor_list(["c"], [torch.tensor([[7.0], [8.0]])])
    assert one["b"].tolist() == one.to_dict()["b"].tolist() == [[2.0, 3.0], [5.0, 6.0]]
    assert (one.offset_per_key(), one.length_per_key()) == ([0, 1, 3], [1, 2])
    found = KeyedTensor.regroup_as_dict([one, two], [["c", "a"], ["b"]], ["x", "y"])
    assert found["x"].tolist() == [[7.0, 1.0], [8.0, 4.0]]
    assert found["y"].tolist() == [[2.0, 3.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeyedJaggedTensor(["a"], torch.arange(3)), "expected lengths or offsets, found neither"),
        (lambda: JaggedTensor(torch.arange(3)), "expected lengths or offsets, found neither"),
        (
            lambda: KeyedJaggedTensor(["a"], torch.arange(3), lengths=torch.tensor([1, 1])),
            "expected 2 values, the sum of the lengths, found 3",
        ),
        (
            lambda: KeyedJaggedTensor(["a", "b"], torch.arange(3), lengths=torch.tensor([1, 1, 1])),
            "as many lists for each of 2 keys, found 3",
        ),
        (
            lambda: KeyedJaggedTensor(["a", "a"], torch.arange(2), lengths=torch.tensor([1, 1])),
            "expected each key once, found a, a",
        ),
        (
            lambda: JaggedTensor(torch.arange(2), torch.ones(3), torch.tensor([2])),
            "expected 2 weights, one for each value, found 3",
        ),
        (
            lambda: JaggedTensor(torch.arange(2), lengths=torch.tensor([2])).weights(),
            "a weight for each value, found none",
        ),
        (lambda: features_of([[[1]]])["g"], "expected one of the features f0, found 'g'"),
        (lambda: features_of([[[1]]]).split([2]), "segments of 1 features in all, found 2"),
        (
            lambda: KeyedTensor(["a"], [2], torch.ones(1, 3)),
            "1 keys and 3 columns in all, found 1 lengths of 2 columns",
        ),
        (lambda: KeyedTensor(["a"], [3], torch.ones(1, 3))["b"], "expected one of the keys a, found 'b'"),
        (
            lambda: KeyedTensor.regroup([KeyedTensor(["a"], [3], torch.ones(1, 3))], [["b"]]),
            "expected keys among a, found 'b'",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(make: Callable[[], object], message: str) -> None:
    """One line that says what was expected and what was found."""
    with pytest.raises(ConfigError, match=message):
        make()
