"""The first phases of an attempt: where it starts, its data, and what every role is told once all are there.

starting_point -> open_data -> assemble
"""

import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bagpipe.batch import Batch, Cursor
from bagpipe.checkpoint.kept_data import open_job_data
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.checkpoint.warm_start import check_sources, prepare_first_values
from bagpipe.config.document import JobSpec
from bagpipe.config.losses import check_labels, labels_are_candidates, loss_kind
from bagpipe.config.metrics import SETTING, metrics_of
from bagpipe.config.rules import fixed_lookahead
from bagpipe.data.dataset import Dataset
from bagpipe.data.labels import checked
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.available_memory import available_bytes
from bagpipe.metrics.functions import load_functions
from bagpipe.metrics.validations import check_watched_figures, stops_at
from bagpipe.net.messages import Topology
from bagpipe.oracle.service.phases import Assembled, OpenedData, Start
from bagpipe.oracle.service.rendezvous import Rendezvous
from bagpipe.oracle.service.report import kept_loss
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
from bagpipe.oracle.sizing.steps import check_first, check_trainers, settle_schedules, total_steps
from bagpipe.rows.recipe import check_overrides

START_BYTES = 8
"""Length of a start's random name: enough that no two in one run directory are ever the same."""


def starting_point(checkpoint: Path | None) -> Start:
    """The beginning, or where the checkpoint was taken.

    Raises:
        CheckpointError: it cannot be read.
    """
    if checkpoint is None:
        return Start(0, Cursor(), None)
    manifest = open_checkpoint(checkpoint).manifest
    return Start(manifest.step, manifest.cursor, kept_loss(checkpoint.parent, manifest.step), manifest.validations)


def open_data(
    spec: JobSpec, start: Start, *, checkpoint: Path | None, run_dir: Path, checkpoint_dir: Path, choose: bool
) -> OpenedData:
    """Prepare the data and look at its first batches.

    Args:
        checkpoint: its transform encodes the data, and its fingerprint says which rows may follow.
        choose: `lookahead: auto` is still to be chosen, and what rows begin with still to be written.

    Raises:
        ConfigError, DataError, StorageError: the data cannot be read, or is too little for the job.
    """
    begins = checkpoint is None and choose
    if begins:
        check_sources(spec)
    opened = open_job_data(spec, checkpoint=checkpoint, run_dir=run_dir, root=checkpoint_dir)
    dataset, cursor = opened.dataset, opened.cursor
    if not dataset.layout.groups:
        raise DataError(
            "data.path: the data has no categorical feature, so there is no embedding table to train; "
            "expected at least one, for example `sparse` of a JSON line"
        )
    check_labels(spec.model, dataset.num_labels)
    check_overrides(spec.embedding, [table.name for table in dataset.layout.tables])
    if dataset.num_train_examples is not None:
        check_trainers(spec, dataset.num_train_examples)
    check_validation(spec, dataset)
    total = steps_to_train(spec, dataset.num_train_examples, start, cursor)
    left = None if total is None else max(0, total - start.step)
    batches: Iterator[Batch] = iter(())
    if left != 0:
        epochs = spec.epochs if spec.epochs or spec.steps else 1
        batches = dataset.train_batches(spec.batch_size, start=cursor, epochs=epochs)
        batches = checked(batches, loss_kind(spec.model), dataset.transform.label_names, "data.path")
        if cursor.position == 0:
            batches = check_first(spec, batches)
    auto_lookahead: LookaheadChoice | None = None
    if choose and spec.lookahead == "auto":
        room = view_bytes(available_bytes())
        first, batches = peek(itertools.islice(batches, left), max_bytes=room)
        auto_lookahead = choose_lookahead(reuse_in_job(first, spec, dataset.layout), room)
    first_values: Path | None = None
    if begins:
        first_values = prepare_first_values(
            spec, dataset.layout, dataset.transform, root=checkpoint_dir, run_dir=run_dir
        )
    return OpenedData(dataset, cursor, batches, first_values, auto_lookahead)


def steps_to_train(spec: JobSpec, num_train_examples: int | None, start: Start, cursor: Cursor) -> int | None:
    """The step at which training ends, if that is known; of a run that has stopped early, the one where it starts."""
    if stops_at(start.validations, spec.evaluation) is not None:
        return start.step
    return total_steps(spec, num_train_examples, trained=start.step, cursor=cursor)


def check_validation(spec: JobSpec, dataset: Dataset) -> None:
    """Refuse settings of an evaluation that will not take place, or of figures that it does not have.

    Raises:
        ConfigError: names the setting.
    """
    asked = {
        "spec.evaluation.every": spec.evaluation.every,
        "spec.checkpoint.best": spec.checkpoint.best,
    }
    for setting, value in asked.items():
        if value and not dataset.num_validation_examples:
            raise ConfigError(
                f"{setting}: has no effect without a validation part; set data.validation: 0.1, or remove it"
            )
    loss = loss_kind(spec.model)
    kind = None if loss is None else loss.figures
    chosen = metrics_of(spec.evaluation.metrics, kind) or ()
    load_functions(chosen)
    own_groups = dataset.grouped or labels_are_candidates(spec.model, dataset.num_labels)
    if not own_groups and (lacking := next((one.key for one in chosen if one.needs_groups), None)):
        raise ConfigError(f"{SETTING}: {lacking} needs to know whom an example belongs to; set data.columns.group")
    check_watched_figures(spec, dataset.transform.label_names)


def assemble(
    spec: JobSpec,
    data: OpenedData,
    roles: Rendezvous,
    start: Start,
    *,
    checkpoint: Path | None,
    checkpoint_dir: str,
    widths: Widths | None,
) -> Assembled:
    """Every role has registered: complete the job by what they brought, and make the topology.

    Raises:
        ConfigError: arguments of `init_cache` disagree, or `cacheRows` is too few.
    """
    dataset, trainers = data.dataset, list(roles.trainers.values())
    calls = [t.init_cache for t in trainers if t.init_cache]
    spec, layout = apply_init_cache(spec, dataset.layout, calls, widths)
    validates = bool(dataset.num_validation_examples) and not calls
    if calls and spec.evaluation.every:
        raise ConfigError(
            "spec.evaluation.every: has no effect on a loop of your own, which evaluates when it likes; remove it"
        )
    if calls and spec.micro_batches > 1:
        raise ConfigError(
            "spec.microBatches: has no effect on a loop of your own, which takes a batch in parts itself if it likes; "
            "remove it, or let `bagpipe run` or `bagpipe.fit` train"
        )
    if calls and spec.not_finite == "skip":
        raise ConfigError(
            "spec.notFinite: skip: a loop of your own has stepped its optimizer before anybody could pass over the "
            "step; set stop or continue, or let `bagpipe run` or `bagpipe.fit` train"
        )
    examples, cursor = dataset.num_train_examples, data.cursor
    spec = settle_schedules(spec, total_steps(spec, examples, trained=start.step, cursor=cursor))
    settings = resolve_auto(spec, layout, [t.cache for t in trainers if t.cache], data.auto_lookahead)
    topology = Topology(
        servers=roles.server_endpoints(),
        server_processes=roles.server_processes(),
        trainers=roles.trainer_endpoints(),
        trainer_processes=roles.trainer_processes(),
        layout=layout,
        spec=msgspec.structs.replace(spec, lookahead=settings.lookahead),
        num_dense=dataset.num_dense,
        evaluated=validates or (spec.evaluate and bool(dataset.num_test_examples)),
        validation_batches=-(-dataset.num_validation_examples // spec.batch_size) if validates else 0,
        num_labels=dataset.num_labels,
        label_names=dataset.transform.label_names,
        slots=settings.slots,
        checkpoint=str(start_from) if (start_from := checkpoint or data.first_values) else None,
        checkpoint_dir=checkpoint_dir,
        first_step=start.step,
        start=secrets.token_hex(START_BYTES),
        total_steps=steps_to_train(spec, examples, start, cursor),
        with_keys=bool(calls),
    )
    return Assembled(topology, settings, restarted=False)


def reassemble(topology: Topology) -> Assembled:
    """What a predecessor of this process has told every role holds."""
    settings = ResolvedSettings(fixed_lookahead(topology.spec), topology.slots, "as before the oracle was restarted")
    return Assembled(topology, settings, restarted=True)
