"""`bagpipe.local`: the user's own training loop in this process, with the oracle and the servers as its children.

    with bagpipe.local("job.yaml") as session:
        for batch in session:
            session.train(session.loss(session.model(batch["dense_x"], batch["embeddings"]), batch["target"]))
    session.run.evaluate()

The loop is the one trainer of the job. The model belongs to the session, so its weights are in every checkpoint.
`session.train(loss)` is backward, the optimizer's step and the loss for the records; a loop may do these itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from bagpipe.api import BagCache, BatchDict, Evaluate
from bagpipe.config.document import Job
from bagpipe.config.load import load_local_job
from bagpipe.errors import BagpipeError, ConfigError, PeerLost
from bagpipe.interactive.document import model_of
from bagpipe.interactive.opening import composed, going_on, later_data, opened, reopened
from bagpipe.interactive.progress import choose_view, teller
from bagpipe.interactive.run import Run, overrides_of
from bagpipe.interactive.settings import functions_named, path_of, spec_of
from bagpipe.interactive.surroundings import limited_threads, with_environment
from bagpipe.interactive.user_model import importable
from bagpipe.local.children import Children
from bagpipe.local.ports import loopback
from bagpipe.local.progress import MetricsTail
from bagpipe.local.run import sum_up_loop
from bagpipe.local.rundir import RunDir
from bagpipe.local.user_modules import offer_user_modules
from bagpipe.lowlevel.wording import counted
from bagpipe.models.base import build_model
from bagpipe.models.layers import step_setter
from bagpipe.models.loss import Loss, loss_of
from bagpipe.models.precision import in_precision
from bagpipe.net.messages import InitCacheArguments, Topology
from bagpipe.net.register import Impatience
from bagpipe.trainer.dense_update import DenseUpdate
from bagpipe.trainer.loop import choose_device, num_threads
from bagpipe.trainer.loop_words import backward, loss_to_train
from bagpipe.trainer.validation import evaluating

LEAVE_SECONDS = 60.0  # The oracle and the servers may take so long to leave after the last batch.
SHOW_SECONDS = 0.2  # New records are looked for at most so often.
NOT_BEGUN = "session: use it in a `with`: with bagpipe.local(...) as session: ..."


def local(
    job: str | Path | None = None,
    *,
    data: Any = None,
    test: Any = None,
    columns: Any = None,
    label: str | None = None,
    model: Any = None,
    model_args: Mapping[str, Any] | None = None,
    name: str = "local",
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> "Session":
    """A session: use it in a `with`, and loop over it.

    Args:
        job: a job file, whose `trainers` is taken as one; None: the other arguments say what the job is, as for `fit`.
        run_dir: where the run keeps everything; None: `runs/<name>-<time>`.
        resume: go on with the run in `run_dir`, from its newest checkpoint. `data` are then other rows to train on from
            here, as `Run.resume` takes them: an epoch of them begins, so give `epochs` too, with those that are done.
        progress: show how the run goes.
        **settings: as `fit` takes them; over those of the job file.

    Nothing is written, and the run directory is not owned, before the `with` begins.

    Raises:
        ConfigError: a setting or the model is wrong. Mistakes of columns, data or the run directory are raised when the
            `with` begins; so it is where a run to resume is finished.
    """
    if "trainers" in settings:
        raise ConfigError("local: trainers: the loop of a session is the only trainer; `init_cache` is for several")
    settings, functions = functions_named(settings)
    named = model_of(model, model_args or {}).beside(functions)
    given = {"data": data, "test": test, "columns": columns, "label": label}
    rows = later_data(given, job=job is not None, resume=resume)
    where = None if run_dir is None else path_of(run_dir, "run_dir")
    spec = spec_of({**settings, "trainers": 1}) | ({"model": dict(named.section)} if named.section else {})
    if resume:
        if where is None:
            raise ConfigError("local: resume: which run? give its directory as run_dir")
        job_file = None if job is None else path_of(job, "job")
        return Session(lambda: reopened(where, overrides_of(spec), named, job_file), progress=progress, rows=rows)
    if job is not None:
        loaded = load_local_job(path_of(job, "job"), overrides_of(spec))
        return Session(lambda: opened(where, loaded.metadata.name, named, lambda _: loaded), progress=progress)
    tell = teller(progress=progress)
    make = partial(composed, name, named, given=given, settings={**settings, "trainers": 1}, tell=tell)
    return Session(lambda: opened(where, name, named, make), progress=progress)


class Session:
    """A run whose trainer is a loop of this program. Made by `bagpipe.local`."""

    def __init__(self, open_run: Callable[[], tuple[RunDir, Job]], *, progress: bool, rows: Any = None) -> None:
        self._open, self._progress = open_run, progress
        self._rows = rows
        """Other rows for a run that goes on; None: those that it was trained on."""
        self._begun_with: tuple[RunDir, Job] | None = None
        self._stack = ExitStack()
        self._cache: BagCache | None = None
        self._children: Children | None = None
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._dense: DenseUpdate | None = None
        """The update of the job's own model: its optimizer and the rest of the recipe."""
        self._evaluate: Evaluate | None = None
        self._started = self._shown = monotonic()
        self._loss: Loss | None = None
        self._at = (0, 0)
        """Step of the current batch, and its first example's place."""
        self._set_step: Callable[[int, int], None] = lambda step, first: None

    def __repr__(self) -> str:
        return "Session()" if self._begun_with is None else f"Session({str(self.path)!r})"

    def __enter__(self) -> Self:
        if self._begun_with is not None:
            raise ConfigError(f"session: it was used already, for {self.path}; make another by bagpipe.local(...)")
        self._process = os.getpid()
        directory, job = self._begun_with = self._open()
        self._stack.push(directory)
        try:
            self._view = choose_view(progress=self._progress)
            self._stack.callback(self._view.close)
            checkpoint = self._checkpoint()
            job = going_on(directory, job, checkpoint, self._rows)
            self._begun_with = directory, job
            directory.begin(job)
            self._stack.callback(self._sweep)
            self._sweep()
            self._tail = MetricsTail(directory.metrics)
            servers = counted(job.spec.servers.replicas, "server")
            self._view.note(f"{job.metadata.name}: {servers} and this loop, in {directory.path}")
            self._stack.enter_context(importable(directory.path))
            offer_user_modules()
            self._stack.enter_context(limited_threads(num_threads(job.spec, 1)))
            self._children = self._stack.enter_context(Children(job, directory, checkpoint))
            with with_environment(self._children.environment):
                self._cache = self._join(self._children)
        except BagpipeError as error:
            why = self._why(error)
            self._stack.close()
            raise why from None
        except BaseException:
            self._stack.close()
            raise
        return self

    def _checkpoint(self) -> Path | None:
        """The checkpoint to go on from, found as `bagpipe run --resume` finds it; None: begin at step 0.

        Raises:
            CheckpointError: the newest is damaged and `spec.checkpoint.strict`, or every one is.
        """
        directory, job = self._begun()
        if not directory.job_file.exists():
            return None
        directory.own_checkpoints(job)  # Before anything is read: another run may be writing there.
        return directory.starting_checkpoint(job, self._view.note)

    def _sweep(self) -> None:
        """Remove what killed roles left unfinished, unless another run has taken the folders by now."""
        if not self._directory.lost:
            self._directory.sweep(self._job)

    def _join(self, children: Children) -> BagCache:
        return BagCache(
            self._job,
            InitCacheArguments(table_sizes=(), embedding_dim=None, cache_rows=None, lookahead=0, optimizer=None),
            oracle=children.oracle,
            bind=f"tcp://{loopback()}:0",
            device=choose_device(self._job, 0),
            rank=0,
            attempt=children.attempt,
            evaluate=self._score,
            impatience=Impatience(inf, "", self._directory.log("oracle", 0)),
            stop=lambda: children.anybody_ended or bool(self._directory.lost),
        )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without an exception the job is completed: at its end, or before it at a checkpoint of what was trained.

        With one it ends as failed; its last checkpoint stays as it was, and `bagpipe.local(resume=True)` goes on there.
        """
        if os.getpid() != self._process:  # A fork of the program leaves the block: the session is its parent's.
            self._stack.pop_all()
            return
        with self._stack:
            try:
                self.cache.__exit__(kind, value, trace)
                if value is None:
                    self._sum_up()
            except BagpipeError as error:
                raise self._why(error) from None
            if isinstance(value, PeerLost):
                raise self._why(value) from None

    def __iter__(self) -> Iterator[BatchDict]:
        """Batches to the job's end. Rows are updated, and the test part is scored, when the next one is asked for.

        Raises:
            ConfigError: no model belongs to the session, so there would be none in its checkpoints.
            PeerLost: another run has taken this one's folders.
        """
        for batch in self.cache:
            self._at = (self.cache.step, self.cache.first_example)
            self._set_step(*self._at)
            yield batch
            if self._model is None:
                raise ConfigError(
                    "session: it has no model: use session.model, which the job describes, or session.register(...)"
                )
            if lost := self._directory.lost:
                raise PeerLost(f"session: {lost}")
            self._show()
        self._show(always=True)

    # ── the model ─────────────────────────────────────────────────

    @property
    def model(self) -> nn.Module:
        """The dense model that the job describes, on the job's device, with the checkpoint's weights if there is one.

        Called as `model(batch["dense_x"], batch["embeddings"])`, it gives logits `[B, L]`.
        """
        if self._model is None:
            topology = self.topology
            spec = topology.spec
            built = build_model(spec.model, topology.layout, topology.num_dense, topology.num_labels, spec.seed)
            model = in_precision(built.to(self.device), spec.model)
            self._dense = DenseUpdate(spec.optimizer, model)
            self.register(model, self._dense.optimizer, evaluate=self._score_with(model, self._dense.evaluated))
            self._set_step = step_setter(model, spec.seed)
            self._set_step(*self._at)
        assert self._model is not None
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of dense weights: the job's, or the one registered; `ConfigError` if there are only rows."""
        _ = self.model  # The job's own is made, with its optimizer, when it is first asked for.
        if self._optimizer is None:
            raise ConfigError("session: the model has no dense weights to train, and so no optimizer")
        return self._optimizer

    def register(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        """Make the user's own model the session's, so that its weights and optimizer state are in every checkpoint.

        Args:
            optimizer: None where the model has nothing to train.
            scheduler: as for `BagCache.attach`.
            evaluate: from a batch of the test part to its logits `[B, L]`; needed where the job has a test part.

        Raises:
            ConfigError: there is a model already, or nothing scores the test part.
        """
        if self._model is not None:
            raise ConfigError("session: it has a model already; register one's own before session.model is used")
        spec = self.topology.spec
        if evaluate is None and spec.evaluate and (spec.data.test or spec.data.test_fraction):
            raise ConfigError(
                "session: the job has a test part, and nothing scores it; pass evaluate=lambda batch: logits, or "
                "evaluate=False to bagpipe.local"
            )
        self._evaluate = evaluate
        self.cache.attach(model, optimizer, scheduler, self._dense.average if self._dense is not None else None)
        self._model, self._optimizer = model, optimizer

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The job's loss, or the model's own: a mean over the current batch's examples, with their weights."""
        of_examples = [self.cache.weights, self.cache.groups]
        if self._loss is None:
            self._loss = loss_of(self.model, self.topology.spec.model)
        weights, groups = (None if found is None else found.to(logits.device) for found in of_examples)
        return self._loss(logits, labels.to(logits.device), weights, groups)

    def train(self, loss: torch.Tensor) -> None:
        """Backward, the optimizer's step (of the job's own model: as its recipe says), and `report`.

        The loss is one number that depends on the model's outputs; anything else is a `UserCodeError`.
        """
        self.report(loss_to_train(loss))
        backward(loss, self.cache.slice_weight)
        if self._dense is not None:
            self._dense.apply(self.cache.step)
        elif self._optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)

    def report(self, loss: torch.Tensor | float) -> None:
        """Report this batch's mean loss, for records; raises `Diverged` (not finite) or `UserCodeError` (no number)."""
        self.cache.report_loss(loss)

    def stop(self) -> None:
        """End the job at a checkpoint: a few more batches come until it is reached."""
        self.cache.stop()

    def _score_with(self, model: nn.Module, averaged: Callable[[], Any] = nullcontext) -> Evaluate:
        def score(batch: BatchDict) -> torch.Tensor:
            with averaged(), evaluating(model, None):
                return model(batch["dense_x"].to(self.device), batch["embeddings"])  # type: ignore[no-any-return]  # a module may return anything

        return score

    def _score(self, batch: BatchDict) -> torch.Tensor:
        _ = self.model  # A loop that had no batch left has asked for none.
        if self._evaluate is None:
            raise ConfigError("session: no model was registered that could score the test part")
        return self._evaluate(batch)

    # ── the run ───────────────────────────────────────────────────

    @property
    def _directory(self) -> RunDir:
        return self._begun()[0]

    @property
    def _job(self) -> Job:
        return self._begun()[1]

    def _begun(self) -> tuple[RunDir, Job]:
        if self._begun_with is not None:
            return self._begun_with
        raise ConfigError(NOT_BEGUN)

    @property
    def cache(self) -> BagCache:
        """What the loop trains through: `get_emb`, figures of each batch, `slice_weight`."""
        if self._cache is None:
            raise ConfigError(NOT_BEGUN)
        return self._cache

    @property
    def topology(self) -> Topology:
        """The job with every `auto` resolved, its tables (`layout`), and how many features and labels there are."""
        return self.cache.topology

    @property
    def device(self) -> torch.device:
        """The device of the job's model."""
        return choose_device(self._job, 0)

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def run(self) -> Run:
        """The run: its figures so far, and after the session its model."""
        return Run(self.path)

    def _show(self, *, always: bool = False) -> None:
        if always or monotonic() - self._shown > SHOW_SECONDS:
            self._shown = monotonic()
            for record in self._tail.read():
                self._view.record(record)

    def _sum_up(self) -> None:
        """Wait for the other roles to leave, then write the run's summary; `PeerLost` if the oracle did not report."""
        assert self._children is not None
        self._children.wait(LEAVE_SECONDS)
        self._show(always=True)
        sum_up_loop(self._job, self._directory, monotonic() - self._started)
        self._view.note(str(self.run))

    def _why(self, error: BagpipeError) -> BagpipeError:
        """The error itself; for a lost peer, the error of the child that has failed, which explains it."""
        return error if self._children is None else self._children.why(error, self._directory.lost)
