"""Row updates, compared bit for bit with torch's own optimizers on sparse gradients."""

import numpy as np
import pytest
import torch

from bagpipe.cache.optimizers import RowUpdater, accumulate, gather, gather_sums, scatter
from bagpipe.config.document import RowOptimizer
from bagpipe.rows.record import initial_state, record_width

DIMS = (1, 2, 3, 7, 8, 16, 17, 31, 33, 48, 64, 100, 128)
NUM_ROWS, NUM_STEPS = 90, 4
SGD = RowOptimizer(name="sgd", lr=0.0123)
MOMENTUM = RowOptimizer(name="sgd", lr=0.0123, momentum=0.9)
ADAGRAD = RowOptimizer(name="adagrad", lr=0.037, eps=1e-8)
ADAGRAD_STARTED = RowOptimizer(name="adagrad", lr=0.037, initial_accumulator=0.1)
ROWWISE = RowOptimizer(name="rowwise-adagrad", lr=0.037, eps=1e-8)
ADAM = RowOptimizer(name="adam", lr=0.0041, eps=1e-8, beta1=0.87, beta2=0.993)
BOUNDED = RowOptimizer(name="adagrad", lr=0.037, weight_decay=0.5, clip_value=0.3, clip_norm=0.4)
ALL = (SGD, MOMENTUM, ADAGRAD, ADAGRAD_STARTED, ROWWISE, ADAM, BOUNDED)
LABELS = ("sgd", "momentum", "adagrad", "adagrad started", "rowwise", "adam", "bounded")


def steps(seed: int, dim: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Distinct rows in any order with gradients of widely different sizes, some zero."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(NUM_STEPS):
        slots = rng.permutation(NUM_ROWS)[: int(rng.integers(1, NUM_ROWS))].astype(np.int32)
        grads = rng.standard_normal((slots.size, dim)) * 10.0 ** rng.integers(-6, 2, (slots.size, 1))
        grads[rng.random(grads.shape) < 0.02] = 0.0
        out.append((slots, grads.astype(np.float32)))
    return out


def new_slab(optimizer: RowOptimizer, dim: int) -> np.ndarray:
    slab = np.empty((NUM_ROWS, record_width(optimizer, dim)), np.float32)
    slab[:, :dim] = np.random.default_rng(1).standard_normal((NUM_ROWS, dim))
    slab[:, dim:] = initial_state(optimizer)
    return slab


def by_torch(optimizer: RowOptimizer, dim: int, seed: int) -> np.ndarray:
    """Weights after torch's own optimizer, fed with coalesced sparse gradients."""
    weights = torch.nn.Parameter(torch.from_numpy(new_slab(optimizer, dim)[:, :dim].copy()))
    own: torch.optim.Optimizer
    match optimizer.name:
        case "sgd":
            own = torch.optim.SGD([weights], lr=optimizer.lr)
        case "adagrad":
            own = torch.optim.Adagrad(
                [weights],
                lr=optimizer.lr,
                eps=optimizer.eps,
                initial_accumulator_value=optimizer.initial_accumulator,
            )
        case _:
            own = torch.optim.SparseAdam(
                [weights],
                lr=optimizer.lr,
                eps=optimizer.eps,
                betas=(optimizer.beta1, optimizer.beta2),
            )
    with torch.sparse.check_sparse_tensor_invariants():
        for slots, grads in steps(seed, dim):
            index = torch.from_numpy(slots).long()[None]
            weights.grad = torch.sparse_coo_tensor(index, torch.from_numpy(grads), weights.shape).coalesce()
            own.step()
    return weights.detach().numpy()


def by_formula(optimizer: RowOptimizer, dim: int, seed: int) -> np.ndarray:
    """Lazy momentum and row-wise Adagrad as plain torch operations on the rows of the step."""
    slab = torch.from_numpy(new_slab(optimizer, dim))
    for slots, grads in steps(seed, dim):
        index, g = torch.from_numpy(slots).long(), torch.from_numpy(grads)
        w, state = slab[index, :dim].contiguous(), slab[index, dim:].contiguous()
        if optimizer.name == "sgd":
            state = state.mul(optimizer.momentum).add(g)
            w = w.add(state, alpha=-optimizer.lr)
        else:
            state = state + (g * g).mean(dim=1, keepdim=True)
            w = w.add(g / (state.sqrt() + optimizer.eps), alpha=-optimizer.lr)
        slab[index] = torch.cat([w, state], dim=1)
    return slab.numpy()


def updated(optimizer: RowOptimizer, dim: int, seed: int) -> np.ndarray:
    slab, updater = new_slab(optimizer, dim), RowUpdater(optimizer, dim)
    for step, (slots, grads) in enumerate(steps(seed, dim)):
        updater.apply(slab, slots, grads, step)
    return slab


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("optimizer", [SGD, ADAGRAD, ADAGRAD_STARTED, ADAM], ids=lambda o: o.name)
def test_equals_torchs_sparse_result(optimizer: RowOptimizer, dim: int) -> None:
    """SGD, Adagrad and SparseAdam of torch.optim, to the bit, at every width."""
    expected = by_torch(optimizer, dim, seed=dim)
    np.testing.assert_array_equal(
        updated(optimizer, dim, seed=dim)[:, :dim].view(np.int32),
        expected.view(np.int32),
    )


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("optimizer", [MOMENTUM, ROWWISE], ids=lambda o: o.name)
def test_equals_its_formula_in_torch(optimizer: RowOptimizer, dim: int) -> None:
    """Lazy momentum and row-wise Adagrad equal their definition in torch operations, state included."""
    expected = by_formula(optimizer, dim, seed=dim)
    np.testing.assert_array_equal(updated(optimizer, dim, seed=dim).view(np.int32), expected.view(np.int32))


def test_gradients_are_bounded_and_rows_shrink_before_their_update() -> None:
    """Clamp, then scale to the length, row by row; a row shrinks by rate times decay at the steps that use it."""
    optimizer = RowOptimizer(name="sgd", lr=0.5, weight_decay=0.25, clip_value=2.0, clip_norm=2.5)
    slab = np.ones((3, 2), np.float32)
    grads = np.array([[1.0, -1.0], [300.0, -1.5]], np.float32)
    RowUpdater(optimizer, 2).apply(slab, np.array([2, 0], np.int32), grads, 0)
    shrunk = np.float32(1 - 0.5 * 0.25)
    np.testing.assert_array_equal(slab[1], [1, 1])
    np.testing.assert_allclose(slab[2], [shrunk - 0.5, shrunk + 0.5])
    np.testing.assert_allclose(
        slab[0], [shrunk - 0.5 * 2.0, shrunk + 0.5 * 1.5], rtol=1e-5
    )  # length 2.5 after the clamp
    half = RowOptimizer(name="sgd", lr=1.0, clip_norm=1.25)
    slab = np.zeros((1, 2), np.float32)
    RowUpdater(half, 2).apply(slab, np.zeros(1, np.int32), np.array([[2.0, -1.5]], np.float32), 0)
    np.testing.assert_allclose(slab[0], [-1.0, 0.75], rtol=1e-5)


def test_momentum_of_a_row_used_at_every_step_is_torchs() -> None:
    """Where every row is touched at every step, lazy momentum is torch.optim.SGD's."""
    rng = np.random.default_rng(0)
    slab, updater = new_slab(MOMENTUM, 8), RowUpdater(MOMENTUM, 8)
    weights = torch.nn.Parameter(torch.from_numpy(slab[:, :8].copy()))
    own = torch.optim.SGD([weights], lr=MOMENTUM.lr, momentum=MOMENTUM.momentum)
    for step in range(5):
        grads = rng.standard_normal((NUM_ROWS, 8)).astype(np.float32)
        weights.grad = torch.from_numpy(grads.copy())
        own.step()
        updater.apply(slab, np.arange(NUM_ROWS, dtype=np.int32), grads, step)
    np.testing.assert_array_equal(slab[:, :8], weights.detach().numpy())


@pytest.mark.parametrize("optimizer", ALL, ids=LABELS)
def test_a_row_does_not_depend_on_its_company(optimizer: RowOptimizer) -> None:
    """Updating rows one at a time, or scattered over a larger slab, gives the same bits as all at once."""
    dim = 17
    together = updated(optimizer, dim, seed=2)
    alone, updater = new_slab(optimizer, dim), RowUpdater(optimizer, dim)
    for step, (slots, grads) in enumerate(steps(2, dim)):
        for i in reversed(range(slots.size)):
            updater.apply(alone, slots[i : i + 1], grads[i : i + 1], step)
    np.testing.assert_array_equal(together.view(np.int32), alone.view(np.int32))


@pytest.mark.parametrize("optimizer", ALL, ids=LABELS)
def test_the_path_for_devices_agrees(optimizer: RowOptimizer) -> None:
    """The torch path, which GPUs take, gives the compiled path's result up to rounding."""
    _device_agrees(optimizer, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ALL, ids=LABELS)
def test_gpu_agrees(optimizer: RowOptimizer) -> None:
    """Updates on a GPU agree with the CPU's up to rounding."""
    _device_agrees(optimizer, "cuda")


def _device_agrees(optimizer: RowOptimizer, device: str) -> None:
    slab, updater = (
        torch.from_numpy(new_slab(optimizer, 16)).to(device),
        RowUpdater(optimizer, 16),
    )
    for step, (slots, grads) in enumerate(steps(4, 16)):
        updater.apply(
            slab,
            torch.from_numpy(slots).to(device),
            torch.from_numpy(grads).to(device),
            step,
        )
    np.testing.assert_allclose(slab.cpu().numpy(), updated(optimizer, 16, seed=4), rtol=1e-5, atol=1e-6)


def test_the_learning_rate_is_that_of_the_gradients_step() -> None:
    """A schedule is asked for the step that produced the gradient, whenever that is applied."""
    updater = RowUpdater(SGD, 2, learning_rate=lambda step: 1.0 if step == 3 else 0.0)
    slab = np.zeros((1, 2), np.float32)
    for step in (4, 3):
        updater.apply(slab, np.zeros(1, np.int32), np.ones((1, 2), np.float32), step)
    assert slab.tolist() == [[-1.0, -1.0]]


def test_gather_and_scatter_touch_only_what_they_name() -> None:
    """Whole records or weights only, of listed slots only."""
    slab = np.arange(24, dtype=np.float32).reshape(6, 4)
    before, slots = slab.copy(), np.array([4, 1], np.int32)
    weights, records = np.empty((2, 3), np.float32), np.empty((2, 4), np.float32)
    gather(slab, slots, 3, weights)
    gather(slab, slots, 4, records)
    np.testing.assert_array_equal(weights, before[[4, 1], :3])
    np.testing.assert_array_equal(records, before[[4, 1]])
    scatter(slab, slots, -weights)
    before[[4, 1], :3] *= -1
    np.testing.assert_array_equal(slab, before)


def test_accumulate_adds_repeated_rows_in_order() -> None:
    """Sums follow the list, one rounding for each addition."""
    acc = np.zeros((3, 1), np.float32)
    rows = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)
    accumulate(acc, np.array([2, 2, 2, 0], np.int32), rows)
    assert acc[:, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("zero", "expected"), [(0.0, [0.5, 0.0, -2.0]), (-0.0, [0.5, -0.0, -2.0])])
def test_sums_are_scaled_and_begin_with_what_they_are_told(zero: float, expected: list[float]) -> None:
    """From 0 there is no negative zero; -0.0 leaves every number as it is."""
    rows, out = np.array([[-4.0], [-0.0], [1.0]], np.float32), np.empty((3, 1), np.float32)
    gather_sums(rows, np.array([2, 1, 0], np.int32), np.float32(zero), np.float32(0.5), out)
    np.testing.assert_array_equal(out[:, 0], np.array(expected, np.float32))
    np.testing.assert_array_equal(np.signbit(out[:, 0]), np.signbit(np.array(expected, np.float32)))
