"""The reference that judges every run is itself judged: at one trainer it is plain PyTorch, bit for bit."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.cache.lookup import GroupEmbeddings, SparseEmbeddings
from bagpipe.config.document import DataConfig, DenseOptimizer, EmbeddingConfig, JobSpec, ModelConfig, RowOptimizer
from bagpipe.models.base import build_model
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import Table, TableLayout
from bagpipe.testing.reference import ReferenceRun, train_reference

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

DIM, NUM_DENSE, STEPS = 8, 5, 6
TABLES = (
    Table("small", 40, DIM, ("s0",)),
    Table("large", 300, DIM, ("l0",), "mean"),
    Table("shared", 90, DIM, ("h0", "h1")),
)
LAYOUT = TableLayout.of(TABLES)
FEATURE_TABLE = (0, 1, 2, 2)
ROW_OPTIMIZERS = {
    "sgd": RowOptimizer(name="sgd", lr=0.3),
    "momentum": RowOptimizer(name="sgd", lr=0.3, momentum=0.9),
    "adagrad": RowOptimizer(name="adagrad", lr=0.07, initial_accumulator=0.1),
    "rowwise-adagrad": RowOptimizer(name="rowwise-adagrad", lr=0.07),
    "adam": RowOptimizer(name="adam", lr=0.01),
}
DENSE_OPTIMIZERS = {
    "sgd": (
        DenseOptimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    ),
    "adagrad": (DenseOptimizer(name="adagrad", lr=0.02), lambda p: torch.optim.Adagrad(p, lr=0.02)),
    "adam": (DenseOptimizer(name="adam", lr=0.002), lambda p: torch.optim.Adam(p, lr=0.002)),
    "adamw": (
        DenseOptimizer(name="adamw", lr=0.002, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.002, weight_decay=0.1),
    ),
}
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(
    row: RowOptimizer = ROW_OPTIMIZERS["sgd"], dense: DenseOptimizer = DENSE_OPTIMIZERS["adam"][0], **more
) -> JobSpec:
    return JobSpec(
        model=ModelConfig(bottom_mlp=(16,), over_mlp=(24,)),
        data=DataConfig(),
        embedding=EmbeddingConfig(dim=DIM, optimizer=row, **more),
        optimizer=dense,
        seed=11,
    )


def batches(*, jagged: bool, num_examples: int = 31) -> list[Batch]:
    """Labelled examples whose lookups repeat often, example-major; jagged ones have zero to four lookups."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(STEPS):
        lengths = rng.integers(0, 5, (num_examples, len(FEATURE_TABLE))).astype(np.int32)
        counts = lengths if jagged else np.ones_like(lengths)
        feature_N = np.repeat(np.tile(FEATURE_TABLE, num_examples), counts.reshape(-1))
        rows = (rng.random(feature_N.size) ** 3 * np.array([t.num_embeddings for t in TABLES])[feature_N]).astype(
            np.int64
        )
        keys = rows + np.array(LAYOUT.groups[0].offsets)[feature_N]
        dense = rng.standard_normal((num_examples, NUM_DENSE)).astype(np.float32)
        labels = (rng.random((num_examples, 1)) < 0.3).astype(np.float32)
        made.append(Batch(Cursor(), Cursor(), dense, labels, (SparseBlock(keys, lengths if jagged else None),)))
    return made


def reference(spec: JobSpec, data: list[Batch], world_size: int = 1) -> ReferenceRun:
    return train_reference(data, LAYOUT, spec, num_dense=NUM_DENSE, world_size=world_size)


# ── plain PyTorch: whole tables as nn.EmbeddingBag, torch.optim over them ─────────────────────────


class LazyRows(torch.optim.Optimizer):
    """The two row optimizers that torch has not, on whole tables: rows without a gradient stay as they are."""

    def __init__(self, parameters: list[nn.Parameter], config: RowOptimizer) -> None:
        super().__init__(parameters, {})
        self.config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for table in self.param_groups[0]["params"]:
            rows, g = table.grad.indices()[0], table.grad.values()
            if self.config.momentum:
                state = self.state[table].setdefault("state", torch.zeros_like(table))
                state[rows] = self.config.momentum * state[rows] + g
                change = state[rows]
            else:
                state = self.state[table].setdefault("state", torch.zeros(len(table), 1))
                state[rows] += (g * g).mean(dim=1, keepdim=True)
                change = g / (state[rows].sqrt() + self.config.eps)
            table.add_(torch.sparse_coo_tensor(rows[None], change, table.shape), alpha=-self.config.lr)


def row_optimizer(config: RowOptimizer, tables: list[nn.Parameter]) -> torch.optim.Optimizer:
    match config.name:
        case "sgd" if not config.momentum:
            return torch.optim.SGD(tables, lr=config.lr)
        case "adagrad":
            return torch.optim.Adagrad(
                tables, lr=config.lr, eps=config.eps, initial_accumulator_value=config.initial_accumulator
            )
        case "adam":
            return torch.optim.SparseAdam(tables, lr=config.lr, eps=config.eps)
        case _:
            return LazyRows(tables, config)


def plain_pytorch(
    spec: JobSpec, data: list[Batch], dense_optimizer: MakeOptimizer
) -> tuple[list[float], list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, whole tables and dense weights of textbook training in one process."""
    model = build_model(spec.model, LAYOUT, NUM_DENSE, 1, spec.seed)
    bags = [_bag(spec, number, table) for number, table in enumerate(TABLES)]
    tables = [bag.weight for bag in bags]
    rows, dense = row_optimizer(spec.embedding.optimizer, tables), dense_optimizer(list(model.parameters()))
    losses = []
    for batch in data:
        rows.zero_grad()
        dense.zero_grad()
        pooled = torch.cat([_pool(bag, number, batch) for number, bag in enumerate(bags)], dim=1)
        group = GroupEmbeddings(LAYOUT.groups[0].feature_names, ("sum",) * 4, pooled, pooled.new_empty(0, DIM), None)
        logits = model(torch.from_numpy(batch.dense_BF), SparseEmbeddings([group], batch.num_examples))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels_BL))
        loss.backward()
        for table in tables:
            table.grad = _coalesced(table.grad)
        rows.step()
        dense.step()
        losses.append(loss.item())
    return losses, [table.detach() for table in tables], model.state_dict()


def _bag(spec: JobSpec, number: int, table: Table) -> nn.EmbeddingBag:
    scale = spec.embedding.init_scale or table.num_embeddings**-0.5
    first = initial_rows(spec.seed, number, range(table.num_embeddings), DIM, scale)
    return nn.EmbeddingBag(table.num_embeddings, DIM, mode=table.pooling, sparse=True, _weight=torch.from_numpy(first))


def _pool(bag: nn.EmbeddingBag, number: int, batch: Batch) -> torch.Tensor:
    """`[B, features of the table, D]`; one call, so that torch lists the lookups' gradients in batch order."""
    counts = batch.sparse[0].lengths_BT
    if counts is None:
        counts = np.ones((batch.num_examples, len(FEATURE_TABLE)), np.int32)
    table_N = np.repeat(np.tile(FEATURE_TABLE, batch.num_examples), counts.reshape(-1))
    rows = torch.from_numpy(batch.sparse[0].keys_N[table_N == number] - LAYOUT.groups[0].offsets[number])
    mine = counts[:, np.array(FEATURE_TABLE) == number].astype(np.int64)
    lengths = torch.from_numpy(mine.reshape(-1))
    return bag(rows, lengths.cumsum(0) - lengths).view(*mine.shape, DIM)


def _coalesced(gradient: torch.Tensor) -> torch.Tensor:
    """As `gradient.coalesce()`, adding in the order of the batch rather than of torch's unstable sort."""
    indices, values = gradient._indices()[0], gradient._values()
    rows = indices.unique()
    total = torch.full((len(rows), DIM), -0.0)
    for place, value in zip(torch.searchsorted(rows, indices).tolist(), values, strict=True):
        total[place] += value
    return torch.sparse_coo_tensor(rows[None], total, gradient.shape, is_coalesced=True)


# ── claims ────────────────────────────────────────────────────────────────────────────────────────


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def assert_same(run: ReferenceRun, plain: tuple[list[float], list[torch.Tensor], dict[str, torch.Tensor]]) -> None:
    losses, tables, dense = plain
    assert run.losses == losses
    assert all(same_bits(run.dense[name], dense[name]) for name in dense)
    for number, table in enumerate(TABLES):
        mine = {row: record for (name, row), record in run.records.items() if name == table.name}
        assert len(mine) > table.num_embeddings // 5
        assert all(same_bits(torch.from_numpy(record[:DIM]), tables[number][row]) for row, record in mine.items())


@pytest.mark.parametrize("jagged", [False, True], ids=["plain", "jagged"])
@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_one_trainer_is_plain_pytorch(name: str, jagged: bool) -> None:
    """Losses, rows and dense weights are those of nn.EmbeddingBag and torch.optim, for every row optimizer."""
    spec, data = job(ROW_OPTIMIZERS[name]), batches(jagged=jagged)
    assert_same(reference(spec, data), plain_pytorch(spec, data, DENSE_OPTIMIZERS["adam"][1]))


@pytest.mark.parametrize("name", DENSE_OPTIMIZERS)
def test_dense_optimizers_are_torchs(name: str) -> None:
    """Every dense optimizer, with its settings, is the torch.optim class of that name."""
    config, make = DENSE_OPTIMIZERS[name]
    spec, data = job(dense=config), batches(jagged=True)
    assert_same(reference(spec, data), plain_pytorch(spec, data, make))


@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_only_rows_that_were_looked_up_have_records(name: str) -> None:
    """A record exists for every row looked up and for no other, and holds finite state that has moved."""
    data = batches(jagged=True)
    run = reference(job(ROW_OPTIMIZERS[name]), data)
    looked_up = np.unique(np.concatenate([b.sparse[0].keys_N for b in data]))
    ends = np.cumsum([t.num_embeddings for t in TABLES])
    places = np.searchsorted(ends, looked_up, side="right")
    expected = {(TABLES[t].name, int(k - LAYOUT.groups[0].offsets[t])) for t, k in zip(places, looked_up, strict=True)}
    assert set(run.records) == expected
    assert all(np.isfinite(r).all() and (r.size == DIM or r[DIM:].any()) for r in run.records.values())


@pytest.mark.parametrize("world_size", [2, 3, 40])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_more_trainers_change_the_order_of_sums_only(name: str, world_size: int) -> None:
    """Any number of trainers follows one trainer's global-batch mean, also with uneven and empty slices."""
    spec, data = job(ROW_OPTIMIZERS[name], DENSE_OPTIMIZERS["sgd"][0]), batches(jagged=False)
    one, several = reference(spec, data), reference(spec, data, world_size)
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-4)
    assert set(several.records) == set(one.records)
    # Adam and Adagrad divide by a gradient's size: where it is all rounding, so is the step.
    for key, record in one.records.items():
        np.testing.assert_allclose(several.records[key][:DIM], record[:DIM], atol=2e-3 if name != "sgd" else 1e-5)


def test_summed_row_gradients_are_world_size_times_the_mean() -> None:
    """`gradientReduction: sum` is the paper's code: with SGD, as if the rows' learning rate were multiplied."""
    data = batches(jagged=True)[:1]
    summed = reference(job(RowOptimizer(name="sgd", lr=0.25), gradient_reduction="sum"), data, world_size=2)
    mean = reference(job(RowOptimizer(name="sgd", lr=0.5)), data, world_size=2)
    assert summed.records.keys() == mean.records.keys()
    for key, record in mean.records.items():
        np.testing.assert_array_equal(summed.records[key], record)


def test_rows_are_born_where_the_job_says() -> None:
    """`initScale` bounds a new row; without it the bound is 1 / sqrt(rows of the table)."""
    still = RowOptimizer(name="sgd", lr=1e-30)
    for scale, bounds in ((0.5, [0.5] * 3), (None, [t.num_embeddings**-0.5 for t in TABLES])):
        run = reference(job(still, init_scale=scale), batches(jagged=False)[:1])
        for table, bound in zip(TABLES, bounds, strict=True):
            largest = max(np.abs(r).max() for (name, _), r in run.records.items() if name == table.name)
            assert 0.8 * bound < largest <= bound
