"""The collections against `nn.EmbeddingBag` and `nn.Embedding`: fed by a step, and by ids with tables lent."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import Lookups, SparseEmbeddings
from bagpipe.config.document import EmbeddingConfig as JobEmbedding
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.interactive.settings import spec_of
from bagpipe.models.base import build_model
from bagpipe.nn import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
    StepFeatures,
    feed_collections,
    tables_of,
)
from bagpipe.tables import Table, TableLayout

EXAMPLES = 9
BAGS = (
    EmbeddingBagConfig(name="items", num_embeddings=30, embedding_dim=4, feature_names=["seen", "bought"]),
    EmbeddingBagConfig(
        name="shops", num_embeddings=20, embedding_dim=3, feature_names=["shop"], pooling=PoolingType.MEAN
    ),
)
LISTS = (EmbeddingConfig(name="words", num_embeddings=25, embedding_dim=4, feature_names=["title", "query"]),)
CONFIGS = (*BAGS, *LISTS)
NAMES = [name for config in CONFIGS for name in config.feature_names]


class Both(nn.Module):
    """Two collections, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = EmbeddingBagCollection(tables=list(BAGS), device=torch.device("meta"))
        self.lists = EmbeddingCollection(tables=list(LISTS))

    def forward(self, dense: torch.Tensor, features: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.bags(features).values(), self.lists(features)


def layout() -> TableLayout:
    return TableLayout.of(tables_of(Both()))


def ids(*, single: bool = False) -> dict[str, list[list[int]]]:
    """By feature and example; many ids come twice, some lists are empty."""
    draw = np.random.default_rng(4)
    rows = {name: config.num_embeddings for config in CONFIGS for name in config.feature_names}
    return {
        name: [
            draw.integers(0, rows[name] // 3, 1 if single else draw.integers(0, 4)).tolist() for _ in range(EXAMPLES)
        ]
        for name in NAMES
    }


def tables() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return {c.name: torch.randn(c.num_embeddings, c.embedding_dim, generator=draw).requires_grad_() for c in CONFIGS}


def as_step(
    lists: dict[str, list[list[int]]], rows: dict[str, torch.Tensor], *, lengths: bool = True
) -> SparseEmbeddings:
    """What a model receives in a step: every row of a width group, and which of them each lookup means."""
    groups, lookups = [], []
    for group in layout().groups:
        groups.append(torch.cat([rows[t.name] for t in group.tables]))
        offset = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        listed = [[lists[f][b] for f in group.feature_names] for b in range(EXAMPLES)]
        index = [i + offset[f] for row in listed for f, one in zip(group.feature_names, row, strict=True) for i in one]
        counts = np.array([[len(one) for one in row] for row in listed], np.int32)
        lookups.append((np.array(index, np.int32), counts if lengths else None))
    return SparseEmbeddings.of_lookups(layout(), groups, lookups)


def with_weights(
    lists: dict[str, list[list[int]]], rows: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]
) -> SparseEmbeddings:
    """The same with a weight for each lookup."""
    groups, lookups = [], []
    for group in layout().groups:
        groups.append(torch.cat([rows[t.name] for t in group.tables]))
        offset = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        parts = {f: iter(weights[f].tolist()) for f in group.feature_names}
        places = [(f, i) for b in range(EXAMPLES) for f in group.feature_names for i in lists[f][b]]
        counts = np.array([[len(lists[f][b]) for f in group.feature_names] for b in range(EXAMPLES)], np.int32)
        index = np.array([i + offset[f] for f, i in places], np.int32)
        lookups.append(Lookups(index, counts, np.array([next(parts[f]) for f, _ in places], np.float32)))
    return SparseEmbeddings.of_lookups(layout(), groups, lookups)


def as_ids(lists: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=NAMES,
        values=torch.tensor([i for name in NAMES for one in lists[name] for i in one], dtype=torch.int64),
        lengths=torch.tensor([len(one) for name in NAMES for one in lists[name]]),
    )


def plain(
    lists: dict[str, list[list[int]]], rows: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """torch's own bags, one list after the other."""
    bags, flat = [], {}
    for config in CONFIGS:
        for name in config.feature_names:
            index = torch.tensor([i for one in lists[name] for i in one], dtype=torch.int64)
            if isinstance(config, EmbeddingBagConfig):
                starts = torch.tensor([0, *np.cumsum([len(one) for one in lists[name]])[:-1].tolist()])
                mode = config.pooling.value.lower()
                bags.append(nn.functional.embedding_bag(index, rows[config.name], starts, mode=mode))
            else:
                flat[name] = nn.functional.embedding(index, rows[config.name])
    return torch.cat(bags, 1), flat


def gradients(rows: dict[str, torch.Tensor], bags: torch.Tensor, lists: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of a loss in which every number counts differently."""
    everything = torch.cat([bags.flatten(), *(lists[name].flatten() for name in sorted(lists))])
    (everything * torch.linspace(-1, 1, everything.numel())).sum().backward()
    return [rows[config.name].grad for config in CONFIGS]  # type: ignore[misc]


@pytest.mark.parametrize("single", [False, True], ids=["lists", "one-each"])
@pytest.mark.parametrize("way", ["step", "rows", "lent"])
def test_equals_plain_torch(way: str, single: bool) -> None:
    """Vectors to the bit and gradients to rounding, whether rows come with a step or from tables lent."""
    lists, model = ids(single=single), Both()
    mine, theirs = tables(), tables()
    features: Any
    if way == "lent":
        model.bags.use_tables(mine)
        model.lists.use_tables(mine)
        features = as_ids(lists)
    else:
        features = as_step(lists, mine, lengths=not single)
        features = StepFeatures(features) if way == "step" else features
    bags, found = model(torch.empty(EXAMPLES, 0), features)
    expected_bags, expected = plain(lists, theirs)
    assert torch.equal(bags, expected_bags)
    assert all(torch.equal(found[name].values(), expected[name]) for name in expected)
    assert all(found[name].lengths().tolist() == [len(one) for one in lists[name]] for name in expected)
    after = gradients(mine, bags, {name: found[name].values() for name in expected})
    for ours, plains in zip(after, gradients(theirs, expected_bags, expected), strict=True):
        torch.testing.assert_close(ours, plains, rtol=1e-6, atol=1e-6)


def test_weights_of_ids_count() -> None:
    """With `is_weighted` a bag is the sum of its rows, each times the weight of its id."""
    config = EmbeddingBagConfig(name="items", num_embeddings=5, embedding_dim=2, feature_names=["seen"])
    bags = EmbeddingBagCollection(tables=[config], is_weighted=True)
    rows = torch.arange(10.0).view(5, 2)
    bags.use_tables({"items": rows})
    features = KeyedJaggedTensor(["seen"], torch.tensor([1, 4, 2]), torch.tensor([0.5, 2.0, 3.0]), torch.tensor([2, 1]))
    assert torch.equal(bags(features).values(), torch.stack([0.5 * rows[1] + 2.0 * rows[4], 3.0 * rows[2]]))


def test_a_steps_bags_are_weighted_by_the_data() -> None:
    """Fed by a step, weighted bags are those of tables lent; features without weights count 1, and know them."""
    lists, rows = ids(), tables()
    step = as_step(lists, rows)
    weights = {n: torch.rand(sum(map(len, lists[n])), generator=torch.Generator().manual_seed(1)) for n in NAMES}
    weights["seen"] = torch.ones_like(weights["seen"])
    weighted = with_weights(lists, rows, weights)
    bags = EmbeddingBagCollection(tables=[BAGS[0]], is_weighted=True)
    features = StepFeatures(weighted)
    assert torch.equal(features.weights(), torch.cat([weights[name] for name in features.keys()]))  # noqa: SIM118  # its own keys()
    assert torch.equal(features["bought"].weights(), weights["bought"])
    found = bags(features)
    bags.use_tables(rows)
    given = as_ids(lists)
    given = KeyedJaggedTensor(NAMES, given.values(), torch.cat([weights[n] for n in NAMES]), given.lengths())
    torch.testing.assert_close(found.values(), bags(given).values(), rtol=1e-6, atol=1e-6)
    assert StepFeatures(step).weights_or_none() is None
    with pytest.raises(ConfigError, match="ids of bought have weights in the data; set is_weighted to True"):
        EmbeddingBagCollection(tables=[BAGS[0]])(weighted)


def test_a_built_model_is_called_with_features() -> None:
    """What the trainer passes, rows, reaches the model as features with names, lengths and stride, and without ids."""
    model = Both()
    feed_collections(model, layout())
    lists, seen = ids(), []
    model.lists.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    bags, _ = model(torch.empty(EXAMPLES, 0), as_step(lists, tables()))
    (features,) = seen
    assert bags.shape == (EXAMPLES, 4 + 4 + 3)
    assert isinstance(features, KeyedJaggedTensor)
    assert set(features.keys()) == set(NAMES)
    assert features.stride() == EXAMPLES
    for name, part in features.to_dict().items():
        assert part.lengths().tolist() == [len(one) for one in lists[name]]
        assert features[name].offsets().tolist() == np.cumsum([0, *map(len, lists[name])]).tolist()
    chosen = features.permute([features.keys().index("query")])
    assert (chosen.keys(), list(model.lists(features))) == (["query"], ["title", "query"])
    with pytest.raises(ConfigError, match="ids stay with the oracle"):
        features["query"].values()


def test_collections_have_no_parameters() -> None:
    """Rows are the job's: nothing of them is a dense weight, in memory or in a checkpoint."""
    assert (list(Both().parameters()), Both().state_dict()) == ([], {})


def test_a_model_states_its_tables() -> None:
    """The configs of all collections, as a job's `embedding.tables` has them."""
    assert tables_of(Both()) == (
        Table("items", 30, 4, ("seen", "bought"), "sum"),
        Table("shops", 20, 3, ("shop",), "mean"),
        Table("words", 25, 4, ("title", "query"), "none"),
    )


def test_a_models_tables_fit_into_a_call_of_fit() -> None:
    """`embedding={"tables": tables_of(model)}` is the section of a job."""
    section = spec_of({"embedding": {"tables": tables_of(Both())}})["embedding"]
    assert msgspec.convert(section, JobEmbedding).tables == layout().tables


def bag(**changes: Any) -> EmbeddingBagCollection:
    fields = {"name": "items", "num_embeddings": 30, "embedding_dim": 4, "feature_names": ["seen", "bought"]}
    return EmbeddingBagCollection(tables=[EmbeddingBagConfig(**fields | changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_names": ["sean"]}, "table items: expected its feature 'sean' in the job, found seen, bought, shop"),
        ({"feature_names": ["seen"]}, r"table items: its config has features \['seen'\], the job's table items has"),
        ({"embedding_dim": 8}, "table items: its config has embedding_dim 8, the job's table items has 4"),
        ({"pooling": PoolingType.MEAN}, "table items: its config has pooling mean, the job's table items has sum"),
        ({"num_embeddings": 29}, "table items: its config has 29 rows, the job's table items has 30; raise"),
    ],
)
def test_tables_that_are_not_the_jobs_are_refused(changes: dict[str, Any], message: str) -> None:
    """When the model is built, in one line that names the table."""
    with pytest.raises(ConfigError, match=message):
        feed_collections(bag(**changes), layout())
    feed_collections(bag(num_embeddings=31), layout())


def test_the_model_of_a_job_is_checked() -> None:
    """`build_model`, which every role that scores calls, looks at the collections."""
    with pytest.raises(ConfigError, match="table shops: expected its feature 'shop' in the job, found a"):
        build_model(
            ModelConfig(entrypoint=f"{__name__}:Shops"), TableLayout.of([Table("t", 9, 3, ("a",))]), 0, 1, seed=0
        )


class Shops(nn.Module):
    """One collection that the job does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = EmbeddingBagCollection(tables=[BAGS[1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingBagCollection(tables=[]), "at least one table, found none"),
        (lambda: EmbeddingBagCollection(tables=[BAGS[0], BAGS[0]]), "table items: its name is another table's too"),
        (
            lambda: EmbeddingBagCollection(
                tables=[
                    BAGS[0],
                    EmbeddingBagConfig(name="x", num_embeddings=3, embedding_dim=4, feature_names=["seen"]),
                ]
            ),
            "feature 'seen' is looked up in table items already",
        ),
        (lambda: EmbeddingBagConfig(num_embeddings=3, embedding_dim=4), "EmbeddingBagConfig: expected a name"),
        (lambda: EmbeddingConfig(name="t", num_embeddings=0, embedding_dim=4), "positive num_embeddings, found 0"),
        (
            lambda: EmbeddingBagConfig(name="t", num_embeddings=3, embedding_dim=4, pooling=PoolingType.NONE),
            "use EmbeddingCollection",
        ),
        (
            lambda: EmbeddingConfig(name="t", num_embeddings=3, embedding_dim=4, data_type="FP16"),  # type: ignore[arg-type]
            "expected data_type FP32, found FP16",
        ),
        (
            lambda: EmbeddingCollection(
                tables=[EmbeddingConfig(name=f"t{n}", num_embeddings=3, embedding_dim=n) for n in (2, 4)]
            ),
            "one embedding_dim, found 2, 4",
        ),
        (lambda: bag()(as_ids(ids())), "expected the features of a step, found ids"),
        (lambda: bag().use_tables({}), r"table items: expected shape \[30, 4\], found none"),
        (lambda: bag().use_tables({"items": torch.ones(3, 4)}), r"expected shape \[30, 4\], found \[3, 4\]"),
        (
            lambda: EmbeddingBagCollection(tables=[BAGS[0]], is_weighted=True)(as_step(ids(), tables())),
            "is_weighted: the data has no weights of ids",
        ),
        (lambda: bag(feature_names=["title"])(as_step(ids(), tables())), "feature 'title' has pooling \"none\""),
    ],
)
def test_what_cannot_be_looked_up_is_refused(make: Callable[[], object], message: str) -> None:
    """One line with the table or feature, and what to do."""
    with pytest.raises(ConfigError, match=message):
        make()
