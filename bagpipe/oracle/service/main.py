"""The oracle's process: read ahead, plan, stream plans to the trainers, report progress.

`run_oracle` goes through the phases of an attempt, each of which returns the value that the next one needs
(`phases.py`). `conversation.py` decides what is sent to the roles and what their messages cause; `shell.py` does it.
Nothing here imports torch.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bagpipe.batch import Cursor
from bagpipe.checkpoint.places import WARM_START_REPORT
from bagpipe.config.document import Job, JobSpec
from bagpipe.errors import BagpipeError, Stopped
from bagpipe.net.admission import Admission
from bagpipe.net.messages import Wait
from bagpipe.net.sockets import Context
from bagpipe.oracle.service.conversation import Conversation
from bagpipe.oracle.service.evaluation import evaluate_test_part
from bagpipe.oracle.service.kept import Kept
from bagpipe.oracle.service.leaving import release, report_of
from bagpipe.oracle.service.ledger import StepLedger
from bagpipe.oracle.service.limits import Limits
from bagpipe.oracle.service.phases import Assembled, Ending, OpenedData, Start
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.report import METRICS, Reporter, keep_loss, skipped_steps
from bagpipe.oracle.service.shell import POLL_SECONDS, Shell
from bagpipe.oracle.service.start import assemble, open_data, reassemble, starting_point
from bagpipe.oracle.service.training import train
from bagpipe.oracle.service.validation import Validations
from bagpipe.oracle.sizing.auto import Widths
from bagpipe.oracle.sizing.steps import ends_before_steps, total_steps


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
    """Run one attempt of a job to its end.

    Args:
        bind: address to listen on.
        checkpoint: directory of the checkpoint to start from.
        stop: whether this process was asked to stop.
        echo: gets a copy of every progress record.
        widths: as `apply_init_cache` takes it.

    Raises:
        Stopped: the trainers were asked to stop and a checkpoint was planned.
        PeerLost: a role did not appear, vanished, or did not do what was its turn.
        ConfigError, DataError, CheckpointError, StorageError: the job cannot run.
    """
    kept = Kept(run_dir, attempt)
    known = kept.ending()
    # Of an attempt whose steps are all done, the checkpoint that it began from may be gone by now.
    start = starting_point(checkpoint) if known is None else Start(known[0].step, Cursor(), None)
    with forgotten_at_the_end(kept), ExitStack() as stack:
        context = stack.enter_context(Context(job.spec.transport))
        places = (job.spec.trainers.replicas, job.spec.servers.replicas)
        admission = Admission("oracle", job.metadata.name, attempt, context.token, *places)
        if (told := kept.topology()) is not None:
            admission.begin(told.trainer_processes)
        listener = stack.enter_context(context.listen(bind, admission))
        reporter = Reporter(run_dir, attempt=attempt, log_every=job.spec.log_every, echo=echo)
        stack.callback(reporter.close)
        shell = Shell(job.spec.transport, listener, conversation_of(job.spec, start, kept), reporter, stop)
        try:
            if known is None:
                files = Places(run_dir, job.spec.checkpoint.folder(run_dir), checkpoint)
                known = run_steps(shell, job.spec, start, kept, files, widths), frozenset()
            ending, left = known
            release(shell, kept, ending, left)
        except BagpipeError as error:
            shell.act(shell.conversation.give_up(error))
            raise
        reporter.finish(ending.report)
    if ending.stopped:
        raise Stopped(f"stopped after step {ending.step} as asked; a checkpoint of that step was planned")


@contextmanager
def forgotten_at_the_end(kept: Kept) -> Iterator[None]:
    """What is kept for a successor is removed when this process ends by itself, after its last step or by an error."""
    try:
        yield
    finally:
        kept.forget()


@dataclass(frozen=True, slots=True)
class Places:
    """Where an attempt's files lie."""

    run_dir: Path
    checkpoint_dir: Path
    checkpoint: Path | None
    """What it starts from."""


def run_steps(shell: Shell, spec: JobSpec, start: Start, kept: Kept, places: Places, widths: Widths | None) -> Ending:
    """From the data to the last step of training and evaluation.

    Raises:
        as `run_oracle`.
    """
    data = shell.prepare(
        lambda: open_data(
            spec,
            start,
            checkpoint=places.checkpoint,
            run_dir=places.run_dir,
            checkpoint_dir=places.checkpoint_dir,
            choose=kept.topology() is None,
        )
    )
    if (split := data.dataset.far_from_asked()) is not None and kept.topology() is None:
        shell.reporter.event("split", text=split)
    total = total_steps(spec, data.dataset.num_train_examples, trained=start.step, cursor=data.cursor)
    if (length := ends_before_steps(spec, total)) is not None and kept.topology() is None:
        shell.reporter.event("length", text=length)
    if data.first_values is not None:
        shell.reporter.event("warm start", text=(places.run_dir / WARM_START_REPORT).read_text(encoding="utf-8"))
    assembled = gather(shell, spec, data, start, kept, places, widths)
    trained = train(shell, data, assembled, kept, start)
    keep_loss(places.checkpoint_dir, trained.step, trained.figures.loss)
    evaluation = evaluate_test_part(shell, data, assembled, kept, trained)
    stopped = shell.conversation.stop_asked
    history = shell.conversation.validations.history
    skipped = skipped_steps(places.run_dir / METRICS, trained.step)
    report = report_of(trained, evaluation, assembled, data, history, stopped=stopped, skipped=skipped)
    return Ending(trained.step, stopped, report)


def conversation_of(spec: JobSpec, start: Start, kept: Kept) -> Conversation:
    """The attempt's machine; a predecessor of this process may have begun it."""
    transport, topology = spec.transport, kept.topology()
    limits = Limits(
        startup=transport.startup_seconds,
        step=transport.step_seconds,
        dead_peer=transport.dead_peer_seconds,
        server_return=(transport.deadline_seconds if spec.servers.storage == "file" else transport.dead_peer_seconds),
    )
    return Conversation(
        Rendezvous(spec.servers.replicas, spec.trainers.replicas),
        StepLedger(spec.trainers.replicas, start.step),
        limits,
        spec.prefetch_depth,
        answer=topology or Wait(),
        restarted=topology is not None,
        validations=Validations(
            spec.trainers.replicas,
            spec.evaluation,
            depth=spec.prefetch_depth,
            history=kept.validations() or list(start.validations),
        ),
    )


def gather(
    shell: Shell,
    spec: JobSpec,
    data: OpenedData,
    start: Start,
    kept: Kept,
    places: Places,
    widths: Widths | None,
) -> Assembled:
    """Wait for every role, then tell all of them the topology; where a predecessor has told it, go on at once."""
    known = kept.topology()
    if known is not None:
        return reassemble(known)
    conversation = shell.conversation
    roles = conversation.rendezvous
    shell.reporter.event("starting", waiting_for=roles.missing())
    conversation.gather(shell.now)
    while not roles.complete:
        shell.listen(POLL_SECONDS)
        if conversation.stop_asked:
            raise Stopped("oracle: asked to stop before the job began")
    assembled = assemble(
        spec,
        data,
        roles,
        start,
        checkpoint=places.checkpoint,
        checkpoint_dir=str(places.checkpoint_dir),
        widths=widths,
    )
    kept.keep_topology(assembled.topology)
    shell.begin(assembled.topology)
    return assembled
