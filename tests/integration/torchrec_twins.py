"""Runs in the environment of the benchmark against peers, which has TorchRec: its classes beside ours, value by value.

    python tests/integration/torchrec_twins.py CLAIM

Prints nothing if the claim holds; `test_torchrec_twins.py` runs them all.
"""

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torchrec
from torchrec.models.dlrm import DLRM

import bagpipe.nn as ours
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.load import load_job
from bagpipe.config.model import ModelConfig
from bagpipe.data.dataset import open_dataset
from bagpipe.models.base import build_model
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import TableLayout
from bagpipe.testing.reference import train_reference

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 50
TABLES = {
    "products": {"num_embeddings": 40, "embedding_dim": 8, "feature_names": ["seen", "bought"]},
    "shops": {"num_embeddings": 30, "embedding_dim": 8, "feature_names": ["shop"]},
}
MEAN = ("shops",)
FEATURES = ["seen", "bought", "shop"]


def lists(seed: int, *, weighted: bool = False) -> dict[str, Any]:
    """Arguments of a KeyedJaggedTensor: many ids twice, some lists empty."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 5, len(FEATURES) * EXAMPLES)
    values = draw.integers(0, 30, lengths.sum())
    made = {"keys": FEATURES, "values": torch.from_numpy(values), "lengths": torch.from_numpy(lengths)}
    return made | ({"weights": torch.from_numpy(draw.random(len(values), np.float32))} if weighted else {})


def bags(library: Any, **more: Any) -> Any:
    pooling = {name: library.PoolingType.MEAN if name in MEAN else library.PoolingType.SUM for name in TABLES}
    if more.get("is_weighted"):
        pooling = dict.fromkeys(TABLES, library.PoolingType.SUM)  # torch weighs sums only
    tables = [library.EmbeddingBagConfig(name=name, pooling=pooling[name], **sizes) for name, sizes in TABLES.items()]
    return library.EmbeddingBagCollection(tables=tables, **more)


def sequences(library: Any) -> Any:
    return library.EmbeddingCollection(
        tables=[library.EmbeddingConfig(name=name, **sizes) for name, sizes in TABLES.items()]
    )


def twins(made: Any, found: Any) -> dict[str, torch.Tensor]:
    """Lend ours the tables of TorchRec's; gradients of ours are in what is returned."""
    modules = found.embedding_bags if hasattr(found, "embedding_bags") else found.embeddings
    tables = {name: module.weight.detach().clone().requires_grad_() for name, module in modules.items()}
    made.use_tables(tables)
    return tables


def as_step(arguments: dict[str, Any], tables: dict[str, torch.Tensor], made: Any) -> SparseEmbeddings:
    """The same lookups as a step of training brings them."""
    layout = TableLayout.of(ours.tables_of(made))
    (group,) = layout.groups
    offsets = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
    features = ours.KeyedJaggedTensor(**arguments)
    parts = {name: (features[name].values() + offsets[name], features[name].lengths()) for name in FEATURES}
    split = {name: torch.split(values, lengths.tolist()) for name, (values, lengths) in parts.items()}
    index = torch.cat([split[name][b] for b in range(EXAMPLES) for name in group.feature_names])
    lengths = torch.stack([parts[name][1] for name in group.feature_names], dim=1)
    rows = torch.cat([tables[t.name] for t in group.tables])
    return SparseEmbeddings.of_lookups(
        layout, [rows], [(index.numpy().astype(np.int32), lengths.numpy().astype(np.int32))]
    )


def same_gradients(tables: dict[str, torch.Tensor], modules: Any) -> None:
    for name, table in tables.items():
        torch.testing.assert_close(table.grad, modules[name].weight.grad, rtol=1e-6, atol=1e-6)


def pooled() -> None:
    for fed_by_step, weighted in ((False, False), (False, True), (True, False)):
        more = {"is_weighted": weighted}
        found, made = bags(torchrec, **more), bags(ours, **more)
        tables, arguments = twins(made, found), lists(1, weighted=weighted)
        expected = found(torchrec.KeyedJaggedTensor(**arguments))
        features = as_step(arguments, tables, made) if fed_by_step else ours.KeyedJaggedTensor(**arguments)
        result = made(features)
        assert result.keys() == expected.keys()
        assert result.length_per_key() == expected.length_per_key()
        assert result.offset_per_key() == expected.offset_per_key()
        assert torch.equal(result.values(), expected.values())
        for key in expected.keys():  # noqa: SIM118  # a method of KeyedTensor
            assert torch.equal(result[key], expected[key])
        (result.values() ** 2).sum().backward()
        (expected.values() ** 2).sum().backward()
        same_gradients(tables, found.embedding_bags)
        # TorchRec's own features are as good as ours.
        if not fed_by_step:
            assert torch.equal(made(torchrec.KeyedJaggedTensor(**arguments)).values(), expected.values())


def unpooled() -> None:
    for fed_by_step in (False, True):
        found, made = sequences(torchrec), sequences(ours)
        tables, arguments = twins(made, found), lists(2)
        expected = found(torchrec.KeyedJaggedTensor(**arguments))
        features = as_step(arguments, tables, made) if fed_by_step else ours.KeyedJaggedTensor(**arguments)
        result = made(features)
        assert list(result) == list(expected)
        for name, part in expected.items():
            assert torch.equal(result[name].values(), part.values())
            assert torch.equal(result[name].lengths(), part.lengths())
            assert torch.equal(result[name].offsets(), part.offsets())
            assert torch.equal(result[name].to_padded_dense(3), part.to_padded_dense(3))
        sum((part.values() ** 2).sum() for part in result.values()).backward()
        sum((part.values() ** 2).sum() for part in expected.values()).backward()
        same_gradients(tables, found.embeddings)


def lists_of_ids() -> None:
    arguments = lists(3, weighted=True)
    made, found = ours.KeyedJaggedTensor(**arguments), torchrec.KeyedJaggedTensor(**arguments)
    same_lists(made, found)
    same_lists(made.permute([2, 0]), found.permute([2, 0]))
    for ours_part, part in zip(made.split([1, 2]), found.split([1, 2]), strict=True):
        same_lists(ours_part, part)


def same_lists(made: Any, found: Any) -> None:
    for what in ("keys", "stride", "length_per_key", "offset_per_key"):
        assert getattr(made, what)() == getattr(found, what)(), what
    for what in ("values", "weights", "lengths", "offsets"):
        assert torch.equal(getattr(made, what)(), getattr(found, what)()), what
    for name, part in found.to_dict().items():
        for what in ("values", "weights", "lengths"):
            assert torch.equal(getattr(made.to_dict()[name], what)(), getattr(part, what)()), what
            assert torch.equal(getattr(made[name], what)(), getattr(found[name], what)()), what


def dlrm() -> None:
    """TorchRec's own DLRM, unchanged, over our collection."""
    widths = {"dense_in_features": 5, "dense_arch_layer_sizes": [16, 8], "over_arch_layer_sizes": [16, 1]}
    found = DLRM(embedding_bag_collection=bags(torchrec), **widths)
    made = DLRM(embedding_bag_collection=bags(ours), **widths)
    made.load_state_dict({k: v for k, v in found.state_dict().items() if "embedding_bags" not in k})
    tables = twins(made.sparse_arch.embedding_bag_collection, found.sparse_arch.embedding_bag_collection)
    optimizers = [
        torch.optim.SGD([*made.parameters(), *tables.values()], 0.1),
        torch.optim.SGD(found.parameters(), 0.1),
    ]
    for step in range(5):
        arguments = lists(10 + step)
        dense, labels = torch.randn(EXAMPLES, 5), torch.randint(0, 2, (EXAMPLES, 1)).float()
        features = ours.StepFeatures(as_step(arguments, tables, made))
        losses = [
            torch.nn.functional.binary_cross_entropy_with_logits(model(dense, looked_up), labels)
            for model, looked_up in ((made, features), (found, torchrec.KeyedJaggedTensor(**arguments)))
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0.0)
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def example() -> None:
    """The example, read with TorchRec's imports and trained by plain PyTorch, against the uncached reference."""
    torch.set_num_threads(1)
    job = load_job(ROOT / "examples" / "torchrec-model.yaml")
    settings = {"batchSize": 128, "trainers": {"replicas": 1, "device": "cpu", "threads": 1}}
    document = msgspec.to_builtins(job.spec)
    spec = msgspec.convert(document | settings | {"optimizer": {"name": "sgd", "lr": 0.1}}, type(job.spec))
    data = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=Path("/nonexistent"))
    batches = list(itertools.islice(data.train_batches(spec.batch_size), 12))
    sys.modules["torchrec_model"] = module("bagpipe.nn")
    expected = train_reference(batches, data.layout, spec, num_dense=data.num_dense)
    first = build_model(ModelConfig(entrypoint="torchrec_model:make_model"), data.layout, data.num_dense, 1, spec.seed)
    losses = plain_losses(module("torchrec"), first.state_dict(), batches, data, spec)
    np.testing.assert_allclose(losses, expected.losses, rtol=1e-5)
    assert losses[-1] < losses[0]


def module(library: str) -> types.ModuleType:
    """The example's module with its classes imported from `library`."""
    text = (ROOT / "examples" / "torchrec_model.py").read_text()
    assert text.count("from bagpipe.nn import") == 1
    made = types.ModuleType("torchrec_model")
    text = text.replace("from bagpipe.nn import", f"from {library} import").replace('device("meta")', 'device("cpu")')
    exec(text, made.__dict__)  # our own example
    return made


def plain_losses(example: Any, dense: Any, batches: list[Any], data: Any, spec: Any) -> list[float]:
    model = example.make_model(data.num_dense)
    tables = {}
    for number, table in enumerate(data.layout.tables):
        rows = table.num_embeddings
        first = initial_rows(spec.seed, number, range(rows), table.embedding_dim, rows**-0.5)
        tables[table.name] = torch.from_numpy(first)
    kept = {k: tables[k.split(".")[-2]] for k in model.state_dict() if "embedding" in k}
    model.load_state_dict(dense | kept)
    rows = [p for name, p in model.named_parameters() if "embedding" in name]
    others = [p for name, p in model.named_parameters() if "embedding" not in name]
    # Rows without a gradient stay as they are under Adagrad: its dense form is the sparse one.
    optimizers = [torch.optim.Adagrad(rows, lr=0.05, eps=spec.embedding.optimizer.eps), torch.optim.SGD(others, lr=0.1)]
    losses = []
    for batch in batches:
        logits = model(torch.from_numpy(batch.dense_BF), lists_of(batch, data.layout))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels_BL))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def lists_of(batch: Any, layout: TableLayout) -> Any:
    """The batch as TorchRec's features."""
    ((group,), (block,)) = layout.groups, batch.sparse
    names = group.feature_names
    offsets = [at for table, at in zip(group.tables, group.offsets, strict=True) for _ in table.feature_names]
    feature_N = np.repeat(np.tile(np.arange(len(names)), batch.num_examples), block.lengths_BT.reshape(-1))
    values = [block.keys_N[feature_N == n] - at for n, at in enumerate(offsets)]
    return torchrec.KeyedJaggedTensor(
        keys=list(names),
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(block.lengths_BT.T.reshape(-1).copy()),
    )


CLAIMS = {c.__name__: c for c in (pooled, unpooled, lists_of_ids, dlrm, example)}

if __name__ == "__main__":
    assert importlib.util.find_spec("torchrec")
    CLAIMS[sys.argv[1]]()
