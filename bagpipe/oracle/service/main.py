"""The oracle's process: read ahead, plan, stream plans to the trainers, report progress.

A shell around `schedule.py`. Over its one socket it answers three questions: who is there (every role
registers with `Hello` and gets the `Topology` once all have), what comes next (plans, as far ahead as
a trainer's credit reaches), and how far are we (`StepDone`, collected into `metrics.jsonl`). Nothing
here imports torch.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec
import numpy as np

from bagpipe.batch import Batch, Cursor, Floats
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config.document import Job
from bagpipe.config.rules import fixed_lookahead
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.errors import BagpipeError, ConfigError, ExitCode, PeerLost, Stopped
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.lowlevel.available_memory import available_bytes
from bagpipe.metrics.clicks import evaluate
from bagpipe.net.messages import (
    Finished,
    Hello,
    Message,
    NeedPlans,
    NoMorePlans,
    Refused,
    StepDone,
    Stop,
    Topology,
    Wait,
)
from bagpipe.net.plan_codec import pack_plan
from bagpipe.net.register import refusal
from bagpipe.net.sockets import Context, Listener, check_hello
from bagpipe.net.wire import encode
from bagpipe.oracle.plan.schedule import EvaluationSchedule, TrainingSchedule
from bagpipe.oracle.service.outbox import Outbox
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.report import Reporter, keep_loss, kept_loss
from bagpipe.oracle.sizing.auto import (
    LookaheadChoice,
    ResolvedSettings,
    Widths,
    apply_init_cache,
    choose_lookahead,
    resolve_auto,
    reuse_in_job,
    view_bytes,
)
from bagpipe.oracle.sizing.reuse import peek
from bagpipe.oracle.sizing.steps import check_first, check_trainers, total_steps
from bagpipe.plan import BatchPlan

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
PLANS_IN_RESERVE = 2
"""Steps planned beyond every trainer's credit, so that a credit is answered at once."""


def run_oracle(
    job: Job,
    *,
    bind: str,
    run_dir: Path,
    attempt: int,
    checkpoint: Path | None,
    stop: Callable[[], bool],
    echo: TextIO | None = None,
    widths: Widths | None = None,
) -> None:
    """Run one attempt of a job to its end; `echo` gets every progress record; `widths`: see `apply_init_cache`.

    Raises:
        Stopped: the trainers were asked to stop and a checkpoint was planned.
        PeerLost: a role did not appear, or a trainer fell silent.
        ConfigError, DataError, CheckpointError: the job cannot run.
    """
    with Context(job.spec.transport) as context, context.listen(bind) as listener:
        reporter = Reporter(run_dir, world_size=job.spec.trainers.replicas, log_every=job.spec.log_every, echo=echo)
        oracle = Oracle(job, listener, reporter, run_dir, attempt, checkpoint, stop, widths)
        try:
            oracle.run()
        except BagpipeError as error:
            oracle.dismiss(error)
            raise
        finally:
            reporter.close()


class Oracle:
    """One attempt. `run` is the calendar; everything it calls is a screen."""

    def __init__(
        self,
        job: Job,
        listener: Listener,
        reporter: Reporter,
        run_dir: Path,
        attempt: int,
        checkpoint: Path | None,
        stop: Callable[[], bool],
        widths: Widths | None = None,
    ) -> None:
        self.widths = widths
        self.job, self.spec, self.attempt, self.checkpoint = job, job.spec, attempt, checkpoint
        self.listener, self.reporter, self.run_dir, self.stop = listener, reporter, run_dir, stop
        self.rendezvous = Rendezvous(job.spec.servers.replicas, job.spec.trainers.replicas)
        self.peers: dict[bytes, Hello] = {}
        self.outbox = Outbox(job.spec.trainers.replicas, keep_early=4 * job.spec.prefetch_depth + 16)
        self.logits: dict[int, dict[int, Floats]] = {}
        self.schedule: TrainingSchedule | None = None
        self.topology: Topology | None = None
        """Once every role is there."""
        self.finished: set[int] = set()
        self.restarted = False
        self.stop_asked = False
        self.heard = time.monotonic()

    def run(self) -> None:
        start = self._start()
        dataset, batches, auto_lookahead = self._meanwhile(lambda: self._open(start))
        resolved = self._assemble(dataset, start, auto_lookahead)
        self.reporter.event("training", first_step=start.step, lookahead=resolved.lookahead, slots=resolved.slots)
        trained = self._train(dataset, batches, resolved, start)
        evaluation = None
        if self.spec.evaluate and not self.stop_asked and dataset.num_test_examples:
            self.reporter.event("evaluating", step=trained)
            evaluation = self._evaluate(dataset, resolved, trained)
        self._release(trained)
        self._report(dataset, resolved, trained, evaluation)
        if self.stop_asked:
            raise Stopped(f"stopped after step {trained} as asked; a checkpoint of that step was planned")

    # ── before the first step ─────────────────────────────────────────────────────────────────────

    def _start(self) -> "_Start":
        if self.checkpoint is None:
            return _Start(0, Cursor())
        manifest = open_checkpoint(self.checkpoint).manifest
        self.reporter.loss = kept_loss(self.checkpoint.parent, manifest.step)
        return _Start(manifest.step, manifest.cursor)

    def _meanwhile(self, prepare: Callable[[], Any]) -> Any:
        """Run this on a thread, so that roles are answered meanwhile."""
        self.reporter.event("preparing")
        with ThreadPoolExecutor(1) as pool:
            preparing = pool.submit(prepare)
            while not preparing.done():
                self._handle(POLL_SECONDS / 10)
            return preparing.result()

    def _open(self, start: "_Start") -> tuple[Dataset, Iterator[Batch], LookaheadChoice | None]:
        """The prepared data, its batches from `start` on, and the lookahead by the first of them if that is `auto`."""
        spec = self.spec
        dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=self.run_dir / "data")
        if dataset.num_train_examples is not None:
            check_trainers(spec, dataset.num_train_examples)
        batches: Iterator[Batch] = iter(())
        total = total_steps(spec, dataset.num_train_examples)
        if total is None or start.step < total:
            epochs = spec.epochs if spec.epochs or spec.steps else 1
            batches = dataset.train_batches(spec.batch_size, start=start.cursor, epochs=epochs)
            if start.cursor.position == 0:
                batches = check_first(spec, batches)
        if spec.lookahead != "auto" or self._memory.exists():
            return dataset, batches, None
        room = view_bytes(available_bytes())
        first, batches = peek(itertools.islice(batches, total and total - start.step), max_bytes=room)
        return dataset, batches, choose_lookahead(reuse_in_job(first, spec, dataset.layout), room)

    def _assemble(self, dataset: Dataset, start: "_Start", auto_lookahead: LookaheadChoice | None) -> ResolvedSettings:
        """Wait for every role, then tell all of them the topology."""
        if (known := self._recall()) is not None:
            self.topology = known
            self.rendezvous.begun = True
            self.spec = known.spec
            return ResolvedSettings(fixed_lookahead(known.spec), known.slots, "as before the oracle was restarted")
        self.reporter.event("starting", waiting_for=self.rendezvous.missing())
        deadline = time.monotonic() + self.spec.transport.startup_seconds
        while not self.rendezvous.complete:
            self._handle(POLL_SECONDS)
            self._check_interrupted()
            if self.stop_asked:
                raise Stopped("oracle: asked to stop before the job began")
            if time.monotonic() > deadline:
                raise PeerLost(
                    f"oracle: {self.rendezvous.missing()} did not register within "
                    f"{self.spec.transport.startup_seconds:g} s; look at their logs"
                )
        trainers = list(self.rendezvous.trainers.values())
        calls = [t.init_cache for t in trainers if t.init_cache]
        self.spec, layout = apply_init_cache(self.spec, dataset.layout, calls, self.widths)
        resolved = resolve_auto(self.spec, layout, [t.cache for t in trainers if t.cache], auto_lookahead)
        self.topology = Topology(
            servers=self.rendezvous.server_endpoints(),
            trainers=self.rendezvous.trainer_endpoints(),
            dense_endpoint=self.rendezvous.trainers[0].dense_endpoint,
            layout=layout,
            spec=msgspec.structs.replace(self.spec, lookahead=resolved.lookahead),
            num_dense=dataset.num_dense,
            num_labels=dataset.num_labels,
            slots=resolved.slots,
            checkpoint=str(self.checkpoint) if self.checkpoint else None,
            checkpoint_dir=self.spec.checkpoint.path or str(self.run_dir / "checkpoints"),
            first_step=start.step,
            total_steps=total_steps(self.spec, dataset.num_train_examples),
            with_keys=any(t.init_cache for t in trainers),
        )
        self.rendezvous.begun = True
        write_whole(self._memory, msgspec.msgpack.encode(self.topology))
        for peer in self.peers:
            self.listener.send(peer, self.topology)
        return resolved

    @property
    def _memory(self) -> Path:
        """Where the topology lies while the attempt lasts."""
        return self.run_dir / f"topology-{self.attempt}.msgpack"

    def _recall(self) -> Topology | None:
        """The topology of this very attempt, if an earlier oracle process had it complete.

        A restarted oracle must not wait for everybody: of two trainers, one may have got a step's plan
        from its predecessor and wait inside that step for the other, which has not.
        """
        try:
            found = msgspec.msgpack.decode(self._memory.read_bytes(), type=Topology)
        except OSError:
            return None
        self.restarted = True
        return found

    # ── training and evaluation ───────────────────────────────────────────────────────────────────

    def _train(self, dataset: Dataset, batches: Iterator[Batch], resolved: ResolvedSettings, start: "_Start") -> int:
        """Stream every training plan; returns the number of steps trained since step 0."""
        assert self.topology is not None
        total = total_steps(self.spec, dataset.num_train_examples)
        self.schedule = TrainingSchedule(
            dataset.layout,
            world_size=self.outbox.num_trainers,
            lookahead=resolved.lookahead,
            slots=resolved.slots,
            first_step=start.step,
            total_steps=total,
            checkpoint_every=self.spec.checkpoint.every,
            with_keys=self.topology.with_keys,
        )
        self.reporter.start_training(start.step, total)
        self._stream(self.schedule.plans(batches), first_step=start.step)
        if self.schedule.step == 0:
            raise ConfigError("spec.data: no batch to train on; with dropLast, batchSize must not exceed the examples")
        return self.schedule.step

    def _evaluate(self, dataset: Dataset, resolved: ResolvedSettings, first_step: int) -> dict[str, Any]:
        """Stream the test part's plans and score the logits that come back."""
        schedule = EvaluationSchedule(
            dataset.layout,
            world_size=self.outbox.num_trainers,
            lookahead=min(resolved.lookahead, 8),
            slots=resolved.slots,
            first_step=first_step,
        )
        labels: list[Floats] = []

        def batches() -> Iterator[Batch]:
            for batch in dataset.test_batches(self.spec.batch_size):
                labels.append(batch.labels_BL)
                yield batch

        self._stream(schedule.plans(batches()), first_step=first_step)
        logits = [parts[rank] for _, parts in sorted(self.logits.items()) for rank in sorted(parts)]
        if len(logits) < len(labels) * self.outbox.num_trainers:
            raise PeerLost("oracle: restarted during evaluation, whose earlier part is lost; it must be done again")
        scored = evaluate(np.concatenate(logits).reshape(-1), np.concatenate(labels).reshape(-1))
        return {
            "examples": scored.examples,
            "auc": scored.auc,
            "logLoss": scored.log_loss,
            "calibration": scored.calibration,
        }

    def _stream(self, plans: Iterator[tuple[BatchPlan, ...]], *, first_step: int) -> None:
        """Plan ahead of the trainers' credit, send within it, until every step is done."""
        planned = first_step
        exhausted = False
        while True:
            done = self.outbox.done(default=first_step - 1)
            if exhausted and self.outbox.everyone and done >= planned - 1:
                return
            reserve = self.spec.prefetch_depth + 1 + PLANS_IN_RESERVE
            ready = self.outbox.everyone or (self.restarted and self.outbox.joined)
            if not exhausted and ready and planned - done <= reserve:
                step_plans = next(plans, None)
                exhausted = step_plans is None
                for plan in step_plans or ():
                    if self.outbox.wants(plan.rank, plan.step):
                        message, arrays = pack_plan(plan)
                        self.outbox.add(plan.rank, plan.step, encode(message, arrays))
                planned += step_plans is not None
                self._send_plans()
                self._handle(0.0)
            else:
                self._handle(POLL_SECONDS)
            self._check_silence()
            self._check_interrupted()

    def _send_plans(self) -> None:
        for peer, frames in self.outbox.take_due():
            self.listener.send_frames(peer, frames)

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    def _handle(self, timeout_seconds: float) -> None:
        """Answer what has arrived, waiting at most so long for the first message."""
        for peer, message, arrays in self.listener.poll(timeout_seconds):
            self.heard = time.monotonic()
            self._answer(peer, message, arrays)
        self._send_plans()

    def _answer(self, peer: bytes, message: Message, arrays: list[Any]) -> None:
        match message:
            case Hello():
                self._register(peer, message)
            case NeedPlans():
                self.outbox.join(message.rank, peer, credit=message.credit, done=message.done, step=message.step)
                self.reporter.skip_to(message.done + 1)
            case StepDone():
                self._step_done(message, arrays)
            case Finished():
                self.finished.add(message.rank)
            case Stop():
                self._stop()
            case Refused() if peer in self.peers:
                raise refusal(message)
            case _:
                log.warning("ignored an unexpected %s", type(message).__name__)

    def _register(self, peer: bytes, hello: Hello) -> None:
        refused = check_hello(hello, job=self.job.metadata.name, attempt=self.attempt)
        if refused is None and peer not in self.peers and (lost := self.rendezvous.rows_lost(hello)) is not None:
            self.listener.send(peer, lost)
            raise PeerLost(f"oracle: {lost.reason}")
        refused = refused or self.rendezvous.register(hello)
        if refused is not None:
            log.warning("refused %s %s: %s", hello.role, hello.index, refused.reason)
            self.listener.send(peer, refused)
            return
        self.peers[peer] = hello
        self.listener.send(peer, self.topology or Wait())

    def _step_done(self, message: StepDone, arrays: list[Any]) -> None:
        if not self.outbox.finished(message.rank, message.step):
            return
        if arrays:
            self.logits.setdefault(message.step, {})[message.rank] = arrays[0]
        elif self.schedule is not None:
            self.reporter.done(message, hit_rate=self._hit_rate())

    def _stop(self) -> None:
        """A trainer was told to stop: end with a checkpoint at the next step that is planned."""
        self.stop_asked = True
        if self.schedule is not None:
            self.schedule.stopping = True

    def _check_interrupted(self) -> None:
        if self.stop() and not self.stop_asked:
            self._stop()

    def _check_silence(self) -> None:
        limit = self.spec.transport.step_seconds
        if time.monotonic() - self.heard > limit:
            steps = self.outbox.steps()
            raise PeerLost(
                f"oracle: no trainer has finished a step for {limit:g} s; they are at steps {steps} (by rank); "
                "look at their logs, or raise spec.transport.stepSeconds if a step may take that long"
            )

    # ── the end ───────────────────────────────────────────────────────────────────────────────────

    def _release(self, trained: int) -> None:
        """Let the trainers finish their checkpoints, then the servers go."""
        over = NoMorePlans(step=trained, stopped=self.stop_asked)
        for peer in self.outbox.peers:
            self.listener.send(peer, over)
        while len(self.finished) < self.outbox.num_trainers:
            self._handle(POLL_SECONDS)
            self._check_silence()
        for peer, hello in self.peers.items():
            if hello.role == "server":
                self.listener.send(peer, over)

    def _report(
        self, dataset: Dataset, resolved: ResolvedSettings, trained: int, evaluation: dict[str, Any] | None
    ) -> None:
        assert self.schedule is not None and self.topology is not None
        stats = [planner.stats for planner in self.schedule.planners]
        keep_loss(Path(self.topology.checkpoint_dir), trained, self.reporter.loss)
        self.reporter.finish(
            {
                "steps": trained,
                "stopped": self.stop_asked,
                "loss": self.reporter.loss,
                "examplesPerSecond": round(self.reporter.rate(), 1),
                "cacheHitRate": round(self._hit_rate(), 6),
                "waits": {name: round(seconds, 3) for name, seconds in sorted(self.reporter.waits.items())},
                "evaluation": evaluation,
                "plan": {
                    "lookahead": resolved.lookahead,
                    "cacheSlots": list(resolved.slots),
                    "reason": resolved.reason,
                    "peakRows": [max(s.peak_rows) for s in stats],
                    "stepsWithShortenedView": sum(s.shortened_steps for s in stats),
                    "shortestView": min((s.shortest_view for s in stats if s.shortest_view), default=None),
                },
                "data": asdict(dataset.report),
            }
        )

    def dismiss(self, error: BagpipeError) -> None:
        """Tell every role why the job cannot go on, so that none waits for a deadline."""
        code = error.exit_code if error.exit_code in (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA) else ExitCode.TRANSIENT
        for peer in self.peers:
            self.listener.send(peer, Refused(reason=f"the oracle gave up: {error}", exit_code=code))

    def _hit_rate(self) -> float:
        assert self.schedule is not None
        distinct = sum(p.stats.distinct_rows for p in self.schedule.planners)
        fetched = sum(p.stats.fetched_rows for p in self.schedule.planners)
        return 1.0 - fetched / distinct if distinct else 0.0


@dataclass(frozen=True, slots=True)
class _Start:
    """Where this attempt begins."""

    step: int
    cursor: Cursor
