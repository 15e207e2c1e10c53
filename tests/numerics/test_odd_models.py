"""What users' models do beside computing: draw random numbers, make weights late, hold odd tensors, call `sys.exit`.

Each either trains as it would alone, or is refused in one line before there is anything to lose.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.errors import BagpipeError, ConfigError, Diverged
from bagpipe.tables import Table, TableLayout
from bagpipe.testing.small_job import small_job
from bagpipe.testing.threads import ThreadedRun, run_in_threads
from bagpipe.trainer.finite import FiniteCheck

DATA = {"format": "synthetic", "synthetic": {"examples": 120, "tableSizes": [40, 60], "numDense": 3}}


class Plain(nn.Module):
    """One linear layer over everything."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__()
        self.width = num_dense + sum(t.embedding_dim * len(t.feature_names) for t in layout.tables)
        self.last = nn.Linear(self.width, num_labels)

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        return torch.cat([dense, sparse.concatenated()], 1)

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> Any:
        return self.last(self.features(dense, sparse))


class Noisy(Plain):
    """torch's dropout, and noise from all three generators."""

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        found = nn.functional.dropout(super().features(dense, sparse), 0.3, self.training)
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))  # noqa: NPY002  # as users write it
        return found + noise if self.training else found


class Shaping(Plain):
    """Cannot make anything of no examples."""

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        found = super().features(dense, sparse)
        return found.view(found.shape[0], -1) - found.max()


class Lazy(Plain):
    """The same as `Plain`, but for who says how wide the layer's input is."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        nn.Module.__init__(self)
        self.last = nn.LazyLinear(num_labels)  # type: ignore[assignment]  # it becomes an nn.Linear


class Late(Plain):
    """Makes a layer when it is first called."""

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(self.width, self.width)
        return self.late(super().features(dense, sparse))


class Thawing(Plain):
    """Frees a layer in the middle of a run, which its optimizer does not know."""

    calls: ClassVar[int] = 0

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__(layout, num_dense, num_labels)
        self.first = nn.Linear(self.width, self.width).requires_grad_(False)

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        Thawing.calls += 1
        self.first.requires_grad_(Thawing.calls > 2)
        return self.first(super().features(dense, sparse))


class Remembering(Plain):
    """Keeps a running mean where no checkpoint looks."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__(layout, num_dense, num_labels)
        self.register_buffer("mean", torch.zeros(self.width), persistent=False)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("mask", torch.tensor([float("nan"), -float("inf")]), persistent=False)
        self.calls = 0

    def features(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        found = super().features(dense, sparse)
        with torch.no_grad():
            self.remember(found)
        return found - self.mean

    def remember(self, found: torch.Tensor) -> None:
        self.mean.data.lerp_(found.mean(0), 0.1)


class Growing(Remembering):
    """Has a buffer that is longer after each step."""

    def remember(self, found: torch.Tensor) -> None:
        self.seen = torch.cat([self.seen, torch.ones(1)])


class Registering(Remembering):
    """Registers a buffer at its first call."""

    def remember(self, found: torch.Tensor) -> None:
        self.register_buffer("late", found.mean(0))


class Caching(Remembering):
    """Makes a constant at its first call and counts its calls: both are fine, and the count is told."""

    def remember(self, found: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 1:
            self.register_buffer("angles", torch.arange(3.0), persistent=False)


class Gradless(Plain):
    """A decorator that is left over from evaluation."""

    @torch.no_grad()
    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> Any:
        return super().forward(dense, sparse)


class Stateful(Plain):
    """Has something in its `state_dict` that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}


class Scattered(Plain):
    """Has a sparse tensor in its `state_dict`."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__(layout, num_dense, num_labels)
        self.register_buffer("graph", torch.eye(3).to_sparse())


class Narrow(Plain):
    """Weights of half the width."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__(layout, num_dense, num_labels)
        self.bfloat16()

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> Any:
        return self.last(self.features(dense, sparse).bfloat16())


class Leaving(Plain):
    """Ends its process, in success."""

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> Any:
        raise SystemExit(0)


class LeavingWhenEvaluated(Plain):
    """The same, but only in evaluation, and not at the first step, where one batch of it is tried."""

    def __init__(self, layout: TableLayout, num_dense: int, num_labels: int) -> None:
        super().__init__(layout, num_dense, num_labels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> Any:
        self.calls += self.training
        if self.training or self.calls < 2:
            return super().forward(dense, sparse)
        raise SystemExit(0)


def job_of(model: type[nn.Module], trainers: int = 1, **more: Any) -> Job:
    section = {"entrypoint": f"{__name__}:{model.__name__}"}
    known = {"batchSize": 20, "seed": 3, "servers": {"replicas": 1, "storage": "memory"}}
    return small_job(section, more.pop("data", DATA), trainers={"replicas": trainers}, **(known | more))


def trained(job: Job, run_dir: Path, **given: Any) -> tuple[ThreadedRun, str]:
    run = run_in_threads(job, run_dir, **given)
    checkpoint = newest_complete(run_dir / "checkpoints")
    assert checkpoint is not None
    return run, model_digest(checkpoint)


def test_what_a_model_draws_is_drawn_again_by_a_resumed_run(tmp_path: Path) -> None:
    """Stopped after three of six steps, while the process's generators go on: the same losses and the same bits."""
    whole, expected = trained(job_of(Noisy, steps=6), tmp_path / "whole")
    trained(job_of(Noisy, steps=3), tmp_path / "run")
    torch.rand(7), np.random.normal(size=7), random.random()  # noqa: NPY002
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    run, digest = trained(job_of(Noisy, steps=6), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert (run.losses, digest) == (whole.losses, expected)
    other, _ = trained(job_of(Noisy, steps=6, seed=4), tmp_path / "other")
    assert other.losses != whole.losses


def test_lazy_weights_are_made_before_the_first_step(tmp_path: Path) -> None:
    """On two trainers, to the bit what the same layer with its size given is; and a resumed run finds its weights."""
    _, expected = trained(job_of(Plain, 2, steps=4), tmp_path / "plain")
    _, digest = trained(job_of(Lazy, 2, steps=2), tmp_path / "run")
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    _, digest = trained(job_of(Lazy, 2, steps=4), tmp_path / "run", attempt=1, checkpoint=checkpoint)
    assert digest == expected


def test_no_model_has_to_make_something_of_no_examples(tmp_path: Path) -> None:
    """The last batch of training, and that of the test part, has one example for three trainers. It was the end of the
    run, at its last step.
    """
    sizes = {"examples": 62, "tableSizes": [40, 60], "numDense": 3}
    data = {"format": "synthetic", "synthetic": sizes, "testFraction": 0.33}
    three, _ = trained(job_of(Shaping, 3, data=data, epochs=1), tmp_path / "three")
    assert three.report["evaluation"]["examples"] == 21
    assert len(three.losses) == 3 and three.report["evaluation"]["logLoss"] > 0
    one, _ = trained(job_of(Plain, 1, data=data, epochs=1), tmp_path / "one")
    plain, _ = trained(job_of(Plain, 3, data=data, epochs=1), tmp_path / "plain")
    np.testing.assert_allclose(plain.losses, one.losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Late, r"weight late.weight was made by step 1, after the optimizer was made"),
        (Thawing, r"weight first.weight was freed by step 6, after .* spec.optimizer.overrides"),
    ],
)
def test_weights_that_the_optimizer_does_not_know_are_refused(
    model: type[nn.Module], words: str, tmp_path: Path
) -> None:
    """They would keep their values in silence; the line is that of the user's forward."""
    Thawing.calls = 0
    with pytest.raises(BagpipeError, match=rf"test_odd_models.py:\d+ .*{words}"):
        run_in_threads(job_of(model, steps=6), tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Remembering, r"buffer mean, which no checkpoint holds \(persistent=False\), has changed by step 1"),
        (Growing, r"buffer seen has become \[3\] from \[2\] by step 1"),
        (Registering, r"buffer late was made by step 1"),
    ],
)
def test_state_that_a_resumed_run_would_not_have_is_refused(model: type[nn.Module], words: str, tmp_path: Path) -> None:
    """The run ended, and another model came of it when it was resumed, or none where the shapes had changed."""
    with pytest.raises(
        BagpipeError, match=rf"test_odd_models.py:\d+ .*{words}, so a resumed run would not end as this"
    ):
        run_in_threads(job_of(model, steps=2), tmp_path / "run")


def test_an_attribute_that_changes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once: it may be for the user's own log. Constants are none of it, whatever they hold."""
    run_in_threads(job_of(Caching, steps=6, checkpoint={"every": 2}), tmp_path / "run")
    told = [record.getMessage() for record in caplog.records if "is in no checkpoint" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("Caching: attribute calls has changed by step 1 and is in no checkpoint: a resumed run ")


@pytest.mark.parametrize("trainers", [1, 2])
def test_a_loss_without_a_gradient_is_refused(trainers: int, tmp_path: Path) -> None:
    """With two trainers such a model ran to its end, and was what it was before."""
    line = Gradless.forward.__wrapped__.__code__.co_firstlineno
    with pytest.raises(BagpipeError, match=rf"test_odd_models.py:{line} \(Gradless\): the loss depends on no row"):
        run_in_threads(job_of(Gradless, trainers, steps=2), tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Stateful, r"model Stateful: _extra_state of its state_dict is a dict, which a checkpoint cannot hold"),
        (Scattered, r"model Scattered: graph of its state_dict is a tensor of layout torch.sparse_coo"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_before_the_first_step(
    model: type[nn.Module], words: str, tmp_path: Path
) -> None:
    """It was an error of the library at the first checkpoint: hours later, and with nothing saved."""
    with pytest.raises(ConfigError, match=words):
        run_in_threads(job_of(model, steps=2), tmp_path / "run")


def test_weights_of_a_type_that_numpy_lacks_have_a_digest(tmp_path: Path) -> None:
    """bfloat16: the run trained, and ended without a summary."""
    assert trained(job_of(Narrow, steps=2), tmp_path / "a")[1] == trained(job_of(Narrow, steps=2), tmp_path / "b")[1]


@pytest.mark.filterwarnings("error")
def test_both_parts_of_a_complex_weight_are_checked() -> None:
    """An imaginary part that is not finite was saved, because torch drops it where it adds real numbers."""
    model, layout = nn.Linear(2, 1, dtype=torch.complex64), TableLayout.of([Table("a", 5, 4, ("a",))])
    plan = SimpleNamespace(step=4)
    check = FiniteCheck(model, layout, rank=0, policy="stop")
    assert check.savable(plan)  # type: ignore[arg-type]  # the step is all that it looks at
    with torch.no_grad():
        model.weight[0, 1] = complex(1.0, float("inf"))
    with pytest.raises(Diverged, match="step 5: dense weight weight is not finite"):
        check.savable(plan)  # type: ignore[arg-type]


def test_a_model_that_ends_its_process_is_the_users_error(tmp_path: Path) -> None:
    """In training it ends the run, in evaluation it fails that evaluation alone."""
    with pytest.raises(BagpipeError, match=r"test_odd_models.py:\d+ \(forward\): SystemExit: 0"):
        run_in_threads(job_of(Leaving, steps=2), tmp_path / "run")
    run, _ = trained(job_of(LeavingWhenEvaluated, steps=2, data=DATA | {"testFraction": 0.2}), tmp_path / "evaluated")
    assert "SystemExit: 0" in str(run.report["evaluation"])
