"""Every shipped model scores as an independent forward pass in plain PyTorch, written from its definition."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.model import MODEL_SETTINGS, OWN_LOSS, ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.base import build_model, find_model
from bagpipe.tables import Table, TableLayout

BATCH, DENSE, DIM, FEATURES = 13, 5, 4, 6
Weights = dict[str, torch.Tensor]
Plain = Callable[[Weights, torch.Tensor, torch.Tensor], torch.Tensor]


def layout(dim: int = DIM, features: int = FEATURES) -> TableLayout:
    return TableLayout.of([Table(f"t{i}", 9, dim, (f"t{i}",)) for i in range(features)])


def looked_up(num_examples: int = BATCH) -> tuple[SparseEmbeddings, torch.Tensor]:
    """What a model receives, and the same as a plain `[B, T, D]` tensor."""
    inverse = np.random.default_rng(0).integers(0, 40, num_examples * FEATURES).astype(np.int32)
    rows = torch.randn(40, DIM, generator=torch.Generator().manual_seed(1))
    plain = rows[torch.from_numpy(inverse).long()].view(num_examples, FEATURES, DIM)
    return SparseEmbeddings.of_lookups(layout(), [rows], [(inverse, None)]), plain


def build(name: str, **settings: Any) -> nn.Module:
    return build_model(ModelConfig(name=name, **settings), layout(), DENSE, 1, seed=8)


def mlp(w: Weights, prefix: str, x: torch.Tensor, *, last_is_linear: bool) -> torch.Tensor:
    numbers = sorted({int(k.removeprefix(prefix).split(".")[0]) for k in w if k.startswith(prefix)})
    for n in numbers:
        x = x @ w[f"{prefix}{n}.weight"].T + w[f"{prefix}{n}.bias"]
        x = x if last_is_linear and n == numbers[-1] else x.clamp(min=0)
    return x


def dots(vectors: torch.Tensor, *, itself: bool = False) -> torch.Tensor:
    c = vectors.shape[1]
    pairs = [(vectors[:, i] * vectors[:, j]).sum(1) for i in range(c) for j in range(i + itself)]
    return torch.stack(pairs, dim=1)


def dlrm_itself(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    bottom = mlp(w, "dense_arch.layers.", dense, last_is_linear=False)
    products = dots(torch.cat([bottom[:, None], emb], 1), itself=True)
    return mlp(w, "over_arch.layers.", torch.cat([bottom, products], 1), last_is_linear=True)


def dlrm_cat(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    bottom = mlp(w, "dense_arch.layers.", dense, last_is_linear=False)
    return mlp(w, "over_arch.layers.", torch.cat([bottom, *emb.unbind(1)], 1), last_is_linear=True)


def wdl(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    deep = mlp(w, "deep.", dense, last_is_linear=False)
    return torch.cat([*emb.unbind(1), deep], 1) @ w["wide.weight"].T + w["wide.bias"]


def wdl_all(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    deep = mlp(w, "deep.", torch.cat([dense, *emb.unbind(1)], 1), last_is_linear=False)
    return torch.cat([*emb.unbind(1), deep], 1) @ w["wide.weight"].T + w["wide.bias"]


def dcn(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    x0 = torch.cat([mlp(w, "dense_arch.layers.", dense, last_is_linear=False), *emb.unbind(1)], 1)
    x = x0
    for n in range(2):
        matrix = w[f"cross_net.up.{n}.weight"] @ w[f"cross_net.down.{n}.weight"]
        x = x0 * (x @ matrix.T + w[f"cross_net.up.{n}.bias"]) + x
    return mlp(w, "over_arch.layers.", x, last_is_linear=True)


def normalised(w: Weights, prefix: str, x: torch.Tensor, *, training: bool) -> torch.Tensor:
    over = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean = x.mean(over) if training else w[f"{prefix}running_mean"]
    variance = x.var(over, unbiased=False) if training else w[f"{prefix}running_var"]
    x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return x * w[f"{prefix}weight"].view(shape) + w[f"{prefix}bias"].view(shape)


def deepfm(w: Weights, _dense: torch.Tensor, emb: torch.Tensor, *, training: bool = True) -> torch.Tensor:
    first, factors = emb[:, :, 0], emb[:, :, 1:]
    x = torch.cat(factors.unbind(1), 1)
    for n in (0, 4):
        x = x @ w[f"deep.{n}.weight"].T + w[f"deep.{n}.bias"]
        x = normalised(w, f"deep.{n + 1}.", x, training=training).clamp(min=0)
    deep = x @ w["deep.8.weight"].T + w["deep.8.bias"]
    return w["bias"] + first.sum(1, keepdim=True) + dots(factors).sum(1, keepdim=True) + deep


def fgcnn(w: Weights, _dense: torch.Tensor, emb: torch.Tensor, *, training: bool = True) -> torch.Tensor:
    maps, vectors = emb[:, None], [emb]
    for n in range(2):
        kernel = w[f"generation.{n}.conv.weight"]
        maps = F.conv2d(maps, kernel, w[f"generation.{n}.conv.bias"], padding=(3, 0))
        maps = torch.tanh(normalised(w, f"generation.{n}.norm.", maps, training=training))
        # Largest of two neighbours; an odd last one stands alone.
        maps = torch.stack([maps[:, :, h : h + 2].amax(2) for h in range(0, maps.shape[2], 2)], dim=2)
        new = maps.flatten(1) @ w[f"generation.{n}.recombine.weight"].T + w[f"generation.{n}.recombine.bias"]
        vectors.append(torch.tanh(new).view(len(emb), -1, DIM))
    every = torch.cat(vectors, 1)
    return mlp(w, "over_arch.layers.", torch.cat([dots(every), every.flatten(1)], 1), last_is_linear=True)


def affine(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1))


def dcnv2(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    x0 = torch.cat([*emb.unbind(1), dense], 1)
    x = x0
    for n in range(2):
        x = torch.stack([x0[b] * (w[f"cross_net.layers.{n}.weight"] @ x[b]) for b in range(len(x0))]) + (
            x0 * w[f"cross_net.layers.{n}.bias"] + x
        )
    return affine(w, "logit", torch.cat([x, mlp(w, "deep.", x0, last_is_linear=False)], 1))


def dcnv2_stacked(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    x0 = x = torch.cat([*emb.unbind(1), dense], 1)
    for n in range(3):
        x = x0 * affine(w, f"cross_net.layers.{n}", x) + x
    return affine(w, "logit", mlp(w, "deep.", x, last_is_linear=False))


def autoint(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    """Head by head and pair by pair, as equations 5 to 8 of the paper."""
    numbers = torch.stack([dense[:, f, None] * w["dense_vectors"][f] for f in range(DENSE)], 1)
    first = e = torch.cat([emb, numbers], 1)
    for n in range(2):
        heads = []
        for h in range(2):
            part = slice(3 * h, 3 * (h + 1))
            q, k, v = (e @ w[f"layers.{n}.{kind}.weight"][part].T for kind in ("query", "key", "value"))
            similar = torch.stack([(q[:, m, None] * k).sum(2).exp() for m in range(e.shape[1])], 1)
            alpha = similar / similar.sum(2, keepdim=True)
            heads.append(torch.einsum("bmk,bkd->bmd", alpha, v))
        e = (torch.cat(heads, 2) + e @ w[f"layers.{n}.around.weight"].T).clamp(min=0)
    logit = affine(w, "logit", e.flatten(1))
    return logit + mlp(w, "deep.", first.flatten(1), last_is_linear=True) if "deep.0.weight" in w else logit


def two_tower(w: Weights, dense: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    item = mlp(w, "item_tower.", torch.cat([emb[:, 4], emb[:, 1]], 1), last_is_linear=True)
    user = torch.cat([dense, emb[:, 0], emb[:, 2], emb[:, 3], emb[:, 5]], 1)
    user = mlp(w, "user_tower.", user, last_is_linear=True)
    cosine = (user * item).sum(1) / (user.norm(dim=1) * item.norm(dim=1))
    return cosine[:, None] / 0.2


def mmoe(w: Weights, dense: torch.Tensor, emb: torch.Tensor, labels: int = 1) -> torch.Tensor:
    x, logits = torch.cat([dense, *emb.unbind(1)], 1), []
    experts = [mlp(w, f"experts.{e}.", x, last_is_linear=False) for e in range(3)]
    for task in range(labels):
        gates = affine(w, f"gates.{task}", x).exp()
        mixed = sum(gates[:, e, None] * experts[e] for e in range(3)) / gates.sum(1, keepdim=True)
        logits.append(mlp(w, f"towers.{task}.", mixed, last_is_linear=True))
    return torch.cat(logits, 1)


CASES: dict[str, tuple[str, dict[str, Any], Plain]] = {
    "dlrm-itself": ("dlrm", {"bottom_mlp": (7,), "over_mlp": (6, 3), "interaction_itself": True}, dlrm_itself),
    "dlrm-cat": ("dlrm", {"bottom_mlp": (7,), "over_mlp": (6, 3), "interaction": "cat"}, dlrm_cat),
    "wdl": ("wdl", {"bottom_mlp": (7, 6)}, wdl),
    "wdl-all": ("wdl", {"bottom_mlp": (7, 6), "deep_inputs": "all"}, wdl_all),
    "dcn": ("dcn", {"bottom_mlp": (7,), "over_mlp": (6, 5), "cross_rank": 2}, dcn),
    "deepfm": ("deepfm", {"over_mlp": (7, 6), "dropout": 0.0}, deepfm),
    "fgcnn": ("fgcnn", {"over_mlp": (9,), "filter_range": "0-1"}, fgcnn),
    "dcnv2": ("dcnv2", {"over_mlp": (7, 6), "cross_layers": 2}, dcnv2),
    "dcnv2-stacked": ("dcnv2", {"over_mlp": (7, 6), "cross_structure": "stacked"}, dcnv2_stacked),
    "autoint": ("autoint", {"attention_layers": 2, "attention_dim": 3}, autoint),
    "autoint-deep": ("autoint", {"attention_layers": 2, "attention_dim": 3, "over_mlp": (7,)}, autoint),
    "two-tower": (
        "two-tower",
        {"item_features": ("t4", "t1"), "tower_mlp": (7, 5), "temperature": 0.2, "normalise": True},
        two_tower,
    ),
    "mmoe": ("mmoe", {"experts": 3, "expert_mlp": (7, 6), "tower_mlp": (5,)}, mmoe),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_and_gradients_are_those_of_plain_pytorch(case: str) -> None:
    """Same weights, same logits, and the same gradient for every weight."""
    name, settings, plain = CASES[case]
    model = build(name, **settings)
    weights = {k: v.detach().clone().requires_grad_(v.is_floating_point()) for k, v in model.state_dict().items()}
    sparse, emb = looked_up()
    dense = torch.randn(BATCH, DENSE)
    logits, expected = model(dense, sparse), plain(weights, dense, emb)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn(BATCH, 1)
    logits.backward(upstream)
    expected.backward(upstream)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[key].grad, rtol=1e-3, atol=1e-4, msg=key)


def test_each_label_has_its_own_mixture_of_experts() -> None:
    """MMoE with three labels: a gate and a tower of its own for each, over the same experts."""
    config = ModelConfig(name="mmoe", experts=3, expert_mlp=(7, 6), tower_mlp=(5,))
    model = build_model(config, layout(), DENSE, 3, seed=8)
    sparse, emb = looked_up()
    dense = torch.randn(BATCH, DENSE)
    logits = model(dense, sparse)
    assert logits.shape == (BATCH, 3)
    torch.testing.assert_close(logits, mmoe(dict(model.state_dict()), dense, emb, labels=3), rtol=1e-4, atol=1e-5)
    logits[:, 1].sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[1] for name in moved if not name.startswith("experts")} == {"1"}


@pytest.mark.parametrize("log_q", [False, True])
def test_each_user_chooses_among_the_items_of_the_slice(log_q: bool) -> None:
    """Two towers with in-batch negatives: -log of its own item's share of the softmax, over the clicked examples."""
    settings = {"item_features": ("t4", "t1"), "tower_mlp": (7, 5), "temperature": 2.0, "negatives": "in-batch"}
    model = build("two-tower", **settings, log_q=log_q)
    sparse, emb = looked_up()
    dense = torch.randn(BATCH, DENSE, generator=torch.Generator().manual_seed(2))
    labels = (torch.arange(BATCH) % 3 > 0).float()[:, None]
    w = dict(model.state_dict())
    item = mlp(w, "item_tower.", torch.cat([emb[:, 4], emb[:, 1]], 1), last_is_linear=True)
    inputs = dense[:, :-1] if log_q else dense
    user = mlp(w, "user_tower.", torch.cat([inputs, emb[:, [0, 2, 3, 5]].flatten(1)], 1), last_is_linear=True)
    losses = []
    for b in range(BATCH):
        shares = torch.stack(
            [((user[b] @ item[j]) / 2.0).exp() / (dense[j, -1].exp() if log_q else 1) for j in range(BATCH)]
        )
        losses.append(-(shares[b] / shares.sum()).log() * labels[b])
    loss, expected = model.loss(model(dense, sparse), labels), torch.stack(losses).mean()  # type: ignore[operator]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    weighted = model.loss(model(dense, sparse), labels, torch.arange(BATCH).float())  # type: ignore[operator]
    amounts = torch.arange(BATCH)
    expected = (torch.stack(losses).squeeze(1) * amounts).sum() / amounts.sum()
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=1e-5)
    model.eval()
    torch.testing.assert_close(model(dense, sparse), (user * item).sum(1, keepdim=True) / 2.0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["deepfm", "fgcnn"])
def test_evaluation_uses_running_statistics(case: str) -> None:
    """After a step of training, `eval()` normalises by what was collected, not by the batch."""
    name, settings, plain = CASES[case]
    model = build(name, **settings)
    sparse, emb = looked_up()
    model(torch.randn(BATCH, DENSE), sparse)
    model.eval()
    expected = plain(model.state_dict(), emb, emb, training=False)  # type: ignore[call-arg]
    torch.testing.assert_close(model(emb, sparse), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, plain(model.state_dict(), emb, emb), atol=1e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_examples", [0, 1])
def test_a_slice_of_no_or_one_example_trains(case: str, num_examples: int) -> None:
    """A short last batch may leave a trainer next to nothing; that is no error, and every weight has a gradient."""
    name, settings, _ = CASES[case]
    model = build(name, **settings)
    sparse, _ = looked_up(num_examples)
    logits = model(torch.randn(num_examples, DENSE), sparse)
    logits.sum().backward()
    assert logits.shape == (num_examples, 1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(b.isfinite().all() for b in model.buffers())


@pytest.mark.parametrize("name", MODEL_SETTINGS)
def test_every_setting_is_an_argument_of_its_model(name: str) -> None:
    """The list by which the job file is checked is what the class takes, by the same names."""
    _, model = find_model(ModelConfig(name=name))
    fields = {f.encode_name: f.name for f in msgspec.structs.fields(ModelConfig)}
    offered = {"layout", "num_dense", "num_labels"}
    assert {fields[s] for s in MODEL_SETTINGS[name]} == set(inspect.signature(model).parameters) - offered
    assert hasattr(model, "loss") == (name in OWN_LOSS)


ORIGINAL: dict[str, tuple[dict[str, Any], int, float]] = {
    "dlrm": ({"bottom_mlp": (1024, 1024, 512, 256, 64), "over_mlp": (1024, 512, 256)}, 26, 2.81e6),
    "wdl": ({}, 26, 0.137e6),
    "dcn": ({}, 26, 2.72e6),
    "fgcnn": ({}, 39, 96.6e6),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_sizes_are_the_originals(name: str) -> None:
    """At embedding width 48 and its own settings, each model has as many dense weights as the original."""
    settings, features, expected = ORIGINAL[name]
    _, model = find_model(ModelConfig(name=name))
    given = {"layout": layout(48, features), "num_dense": 13, **settings}
    with torch.device("meta"):
        built = model(**{k: v for k, v in given.items() if k in inspect.signature(model).parameters})
    assert sum(p.numel() for p in built.parameters()) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fgcnn", {"filter_range": "5-2"}, "expected filterRange as first-last within 0-8, found '5-2'"),
        ("fgcnn", {"filter_range": "7-9"}, "found '7-9'"),
        ("fgcnn", {"conv_kernel": 4}, "odd convKernel, found 4; use 5"),
        ("dlrm", {"cross_rank": 4}, "model.name dlrm: it has no setting cross_rank"),
        ("two-tower", {}, "missing a required argument: 'item_features'"),
        ("two-tower", {"item_features": ("x",)}, "two-tower: expected one of the features t0, t1, .*, found 'x'"),
        ("two-tower", {"item_features": ("t1",), "log_q": True}, "logQ needs negatives: in-batch and a dense feature"),
        ("two-tower", {"item_features": ()}, "features of the item's tower, found none; name itemFeatures"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    """One line with the remedy."""
    with pytest.raises(ConfigError, match=message):
        build(name, **settings)


def test_literals_of_the_job_are_those_of_the_models() -> None:
    """What the file may say is what the class distinguishes."""
    for name, setting in (
        ("dlrm", "interaction"),
        ("wdl", "deep_inputs"),
        ("dcnv2", "cross_structure"),
        ("two-tower", "negatives"),
    ):
        _, model = find_model(ModelConfig(name=name))
        own = inspect.get_annotations(model.__init__, eval_str=True)[setting]  # type: ignore[misc]
        job = inspect.get_annotations(ModelConfig, eval_str=True)[setting]
        assert set(get_args(own)) == set(get_args(get_args(get_args(job)[0])[0]))
