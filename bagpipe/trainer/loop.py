"""A trainer's process: join the job, build the model, train, checkpoint, evaluate, leave."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.batch import Floats
from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import Job, JobSpec
from bagpipe.config.losses import LOSSES, loss_kind
from bagpipe.data.labels import check_labels
from bagpipe.errors import BagpipeError, ConfigError, Diverged, ExitCode, Stopped, UserCodeError
from bagpipe.lowlevel import crash_points, stacks
from bagpipe.lowlevel.wording import text_of
from bagpipe.models.base import Constructed, build_model, naming_the_trained_model
from bagpipe.models.early import early_model
from bagpipe.models.loss import has_own_loss, loss_of
from bagpipe.models.precision import forward_of
from bagpipe.models.random_numbers import step_setter
from bagpipe.net.messages import Refused
from bagpipe.plan import BatchPlan
from bagpipe.trainer.checkpointer import Checkpointer
from bagpipe.trainer.dense_update import DenseUpdate
from bagpipe.trainer.diverging import save_what_is_good
from bagpipe.trainer.empty_slice import nothing_to_compute
from bagpipe.trainer.finite import FiniteCheck
from bagpipe.trainer.made_weights import MadeWeights
from bagpipe.trainer.membership import Membership, join
from bagpipe.trainer.micro_batches import micro_batches
from bagpipe.trainer.peer_reducer import PeerReducer
from bagpipe.trainer.pipeline import open_pipeline
from bagpipe.trainer.reduction import dense_reduction, share_buffers, wrap_dense
from bagpipe.trainer.skipping import Skipping
from bagpipe.trainer.step import Step, mean_loss, slice_weight, told_loss
from bagpipe.trainer.trial import try_evaluation
from bagpipe.trainer.user_code import definition_of, failed_evaluation, naming_user_code
from bagpipe.trainer.validation import Rows, Validation

log = logging.getLogger(__name__)


def run_trainer(
    job: Job,
    *,
    oracle: str,
    bind: str,
    advertise: str | None,
    rank: int,
    attempt: int,
    stop: Callable[[], bool],
) -> None:
    """Run one trainer of one attempt to its end.

    Raises:
        Stopped: the run was asked to stop and its checkpoint is complete.
        PeerLost: another role died or fell silent.
        UserCodeError: the model or its loss raised.
        ConfigError: the job's device is not there, or its model does not fit.
    """
    device = choose_device(job, rank)
    torch.set_num_threads(num_threads(job.spec, job.spec.trainers.replicas))
    with naming_user_code([]):
        early = early_model(job.spec)  # Before the oracle's data is waited for.
    with (
        join(
            job, oracle=oracle, bind=bind, advertise=advertise, rank=rank, attempt=attempt, device=device, stop=stop
        ) as members,
        telling_the_oracle(members),
    ):
        stacks.start_goes_on()  # Every role has registered; the first step is given as much time again.
        models: list[nn.Module] = []
        with naming_user_code(models):
            trainer = Trainer(members, device, stop, models, early)
            try:
                trainer.run()
            except Diverged as error:
                save_what_is_good(error, members, trainer.checkpointer, trainer.pipeline)
                raise


@contextmanager
def telling_the_oracle(members: Membership) -> Iterator[None]:
    """Tell the oracle why this trainer ends early, so that every role ends at once and for the same reason."""
    try:
        yield
    except Stopped:
        raise
    except BagpipeError as error:
        members.oracle.send(Refused(reason=str(error), exit_code=error.exit_code))
        raise
    except Exception as error:
        reason = f"trainer {members.rank}: {type(error).__name__}: {text_of(error)}"
        members.oracle.send(Refused(reason=reason, exit_code=ExitCode.SOFTWARE))
        raise


def num_threads(spec: JobSpec, world_size: int) -> int:
    """torch threads of one trainer; sums inside matrix products depend on it."""
    return spec.trainers.threads or max(1, (os.cpu_count() or 1) // world_size)


def choose_device(job: Job, rank: int) -> torch.device:
    """Rank r takes device r modulo the devices it sees (on a cluster a pod sees its own only).

    Raises:
        ConfigError: the job wants a GPU and there is none.
    """
    wanted = job.spec.trainers.device
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    devices = torch.cuda.device_count()
    if not torch.cuda.is_available() or not devices:
        raise ConfigError("spec.trainers.device: cuda, but torch sees no CUDA device on this machine; set cpu or auto")
    return torch.device("cuda", rank % devices)


class Trainer:
    """One rank: the dense model, its optimizer, and the row pipeline.

    Args:
        models: the dense model is added to it as soon as it is built, for `naming_user_code`.
        early: what the constructor has made before there was data.
    """

    def __init__(
        self,
        members: Membership,
        device: torch.device,
        stop: Callable[[], bool],
        models: list[nn.Module],
        early: Constructed | None = None,
    ) -> None:
        topology = members.topology
        spec = topology.spec
        self.members, self.device, self.stop, self.layout = members, device, stop, topology.layout
        shape = (topology.layout, topology.num_dense, topology.num_labels)
        with naming_the_trained_model(spec.model) if topology.first_step else nullcontext():
            model = build_model(spec.model, *shape, spec.seed, early=early)
        models.append(model)
        self.model: nn.Module = model.to(device)
        self.dense = DenseUpdate(spec.optimizer, self.model)
        self.made = MadeWeights(self.model)
        self.checkpointer = Checkpointer(members, self.model, self.dense.optimizer, self.dense.average)
        self.checkpointer.restore()
        with dense_reduction(members.rank, topology.first_step):
            self.parallel = wrap_dense(self.model, members.process_group, _reducer(members, device))
        self.pipeline = open_pipeline(members, device)
        self.forward, self.loss = forward_of(spec.model), loss_of(self.model, spec.model)
        # Where the job alone does not say whether the model brings its own loss, the oracle could not check the labels.
        self.unchecked = LOSSES["bce"] if loss_kind(spec.model) is None and not has_own_loss(self.model) else None
        self.finite = FiniteCheck(self.model, topology.layout, rank=members.rank, policy=spec.not_finite)
        skips = spec.not_finite == "skip"
        self.skipping = Skipping(self.model, self.finite, members.process_group, device) if skips else None
        self.tried = not topology.evaluated
        """Whether one batch of evaluation has been tried."""
        self.set_step = step_setter(self.model, spec.seed, device)
        self.pipeline.meanwhile = self.checkpointer.poll_but_latest
        self.pipeline.save_first = self.checkpointer.trust_latest
        self.validation = Validation(members, self.pipeline, self._outputs, device, self._look_for_a_stop)

    def run(self) -> None:
        """Every step of the plan, training first; then leave."""
        while (step := self.pipeline.next()) is not None:
            if step.plan.training:
                self.train(step)
            else:
                self.evaluate(step)
            stacks.started()
            self._look_for_a_stop()
        self.checkpointer.close(self.pipeline.look_around)
        self.pipeline.leave_finished()
        if self.pipeline.machine.stopped:
            raise Stopped(f"trainer {self.members.rank}: stopped as asked after step {self.pipeline.machine.next_step}")

    def train(self, step: Step) -> None:
        """One step: forward, backward, the dense update. The rows' update is a part of `backward`.

        - Forward: the model computes on its dense features, and where it first reads a row, waits for this step's
          rows (`_rows`).
        - Backward: row gradients leave for their owners as soon as they exist, and dense gradients bucket by bucket.
          Where it has nothing left to compute, the rows owned here are updated with everybody's gradients and the
          values that the next step needs are sent; then it waits for the dense gradients, and returns. A trainer that
          is alone updates its rows in `finish` instead.
        - `dense.apply` comes last, while those values travel.
        """
        plan = step.plan
        self.members.at_step(plan.step)
        with dense_reduction(self.members.rank, plan.step):
            loss = self._backward(step)
            skipped = self.skipping.reason(plan, self.pipeline.rows_here) if self.skipping else None
        step.watch.backward_returned()
        self.finite.gradients(plan, self.pipeline.rows_here)
        first = plan.step == self.members.topology.first_step
        if plan.checkpoint or first:
            self.made.check(plan.step + 1)
        if first and self.checkpointer.unsaved is not None:
            self.checkpointer.unsaved.check(plan.step + 1)
        if skipped is not None:
            log.warning("%s; all trainers pass over this step", skipped)
            self.pipeline.hands.skipped[plan.step] = skipped
        self.pipeline.finish(step, told_loss(plan, loss))
        crash_points.passed("dense update")
        self.dense.apply(plan.step) if skipped is None else self.dense.pass_over()
        if plan.checkpoint and self.finite.savable(plan):
            self.checkpointer.begin(plan)
        # Only the next step's loss shows whether this one's rows are finite, so its checkpoint is completed after that.
        self.checkpointer.poll(but=plan.step)
        if plan.validates:
            crash_points.passed("validation")
            done = self.validation.after(plan.step, self.model)
            self.checkpointer.validated(done.validation)

    def _look_for_a_stop(self) -> None:
        # At every step until the plan ends: the oracle may be restarted in between.
        if self.stop():
            self.pipeline.ask_to_stop()

    def _backward(self, step: Step) -> float:
        """Forward and backward, part by part (`microBatches`); returns the slice's mean loss."""
        parts = micro_batches(step.plan, self.members.topology.spec.micro_batches)
        losses = []
        if self.skipping is not None:
            self.skipping.begin()
        for part in parts:
            self.set_step(part.step, part.first_example)
            with self._last_part() if part is parts[-1] else self._adding_up():
                with nothing_to_compute(self.model, self._rows, step) if not len(part.dense_BF) else nullcontext():
                    logits, labels = self._forward(part, lambda: self._rows(step), self.parallel)
                weights = None if part.weights_B is None else aligned(part.weights_B).to(self.device)
                groups = None if part.groups_B is None else torch.from_numpy(part.groups_B.copy()).to(self.device)
                loss = self.loss(logits, labels, weights, groups) if len(part.dense_BF) else logits.sum() * 0.0
                self._check_gradient(loss)
                self._try_evaluation(Step(part, step.watch))
                # Reading the loss waits for a GPU, so there only gradients are checked, unless steps may be skipped.
                if self.device.type == "cpu" or self.skipping is not None:
                    self.finite.loss(part, float(loss.detach()), logits, self.pipeline.rows_here)
                # Slices of a short batch differ in size; weighted so, their mean is the global batch's mean.
                (loss * slice_weight(part, self.members.world_size)).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
            losses.append(float(loss.detach()))
        return mean_loss(parts, losses)

    def _check_gradient(self, loss: torch.Tensor) -> None:
        """Refuse a loss from which backward would reach nothing.

        Raises:
            UserCodeError: names the model.
        """
        if not loss.requires_grad:
            where = definition_of(self.model) or f"model {type(self.model).__name__}"
            raise UserCodeError(
                f"{where}: the loss depends on no row and no weight that is trained; forward, or the model's own loss, "
                "runs under torch.no_grad, detaches its outputs or returns numbers without gradients: mend that"
            )

    def _last_part(self) -> AbstractContextManager[None]:
        """Row gradients leave inside, or after it where all trainers first check whether they are finite."""
        return nullcontext() if self.skipping is None else self.pipeline.holding_gradients()

    @contextmanager
    def _adding_up(self) -> Iterator[None]:
        """More gradients follow: those of rows and of dense weights that are made inside are kept and added up."""
        quiet = self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else nullcontext()
        with quiet, self.pipeline.holding_gradients():
            yield

    def evaluate(self, step: Step) -> None:
        self.members.at_step(step.plan.step)
        if self.model.training:
            seconds = self.members.topology.spec.transport.step_seconds / 2
            self.checkpointer.settle(seconds, self.pipeline.look_around)
            share_buffers(self.model, self.members.process_group)
            self.model.eval()
        try:
            logits = self._outputs(step.plan, lambda: self._rows(step))
        except BaseException as error:
            failed = failed_evaluation(error, self.model, f"step {step.plan.step} of the evaluation")
            if failed is None:
                raise
            self.pipeline.finish_evaluation(step, np.zeros(0, np.float32), failed=failed)
        else:
            self.pipeline.finish_evaluation(step, logits)

    def _outputs(self, plan: BatchPlan, rows: Callable[[], Rows]) -> Floats:
        """The outputs for a slice in an evaluation: of the averaged weights, where the job has an average."""
        with self.dense.evaluated():
            return self._computed(plan, rows)

    def _computed(self, plan: BatchPlan, rows: Callable[[], Rows]) -> Floats:
        """The outputs of the model as it is for a slice; it is not called for no examples.

        Raises:
            UserCodeError: they are not one for each example and label.
        """
        if not len(plan.dense_BF):
            rows()
            return np.zeros(plan.labels_BL.shape, np.float32)
        with torch.no_grad():
            logits, labels = self._forward(plan, rows, self.model)
        if logits.numel() != labels.numel():
            where = definition_of(self.model) or f"model {type(self.model).__name__}"
            raise UserCodeError(
                f"{where}: forward gives {list(logits.shape)} for labels of shape {list(labels.shape)}, but evaluation "
                "needs one output for each example and label; return that where self.training is False, or set "
                "spec.evaluate: false"
            )
        return logits.float().cpu().numpy()

    def _try_evaluation(self, step: Step) -> None:
        """At the first step, before anything is updated: try one batch of evaluation."""
        tried, self.tried = self.tried, True
        if not tried:
            try_evaluation(self.model, lambda: self._computed(step.plan, lambda: self._rows(step)))

    def _forward(
        self, plan: BatchPlan, rows: Callable[[], Rows], model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.unchecked is not None:
            names, where = self.members.topology.label_names, f"batch of step {plan.step}"
            check_labels(plan.labels_BL, self.unchecked, names, where, plan.first_example)
        dense_BF = aligned(plan.dense_BF).to(self.device)
        sparse = SparseEmbeddings.later(self.layout, rows, plan.groups, plan.dense_BF.shape[0])
        logits_BL = self.forward(model, dense_BF, sparse)
        return logits_BL, aligned(plan.labels_BL).to(self.device)

    def _rows(self, step: Step) -> Rows:
        """Wait for the step's rows; once they are here, what the step before has held back is sent under forward."""
        rows = self.pipeline.rows(step)
        self.pipeline.rows_handed_out()
        return rows


def _reducer(members: Membership, device: torch.device) -> PeerReducer | None:
    """Gradients on a GPU stay there, and are reduced in the process group."""
    if device.type != "cpu":
        return None
    return PeerReducer(
        members.peers,
        rank=members.rank,
        world_size=members.world_size,
        first_step=members.topology.first_step,
    )
