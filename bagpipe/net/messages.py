"""Every message that crosses a socket. The protocol is this file.

A message is a msgpack-encoded tagged struct (the *header*) followed by raw array frames; the header of a message with
arrays carries their dtypes and shapes (`wire.py`), and the attempt. Requests are idempotent and tagged (step, rank), so
that one sent again after a reconnect is harmless. `admission.py` lists who may send which message to whom. Decoding
enforces the bounds of the types below, so a number that passed it fits into an int64.
"""

from typing import Annotated, Literal

import msgspec

from bagpipe.batch import Cursor
from bagpipe.config.document import DenseOptimizer, JobSpec, RowOptimizer
from bagpipe.config.model import ModelConfig
from bagpipe.metrics.validations import Validation
from bagpipe.tables import TableLayout

PROTOCOL_VERSION = 11

Role = Literal["oracle", "server", "trainer"]
Step = Annotated[int, msgspec.Meta(ge=-1, le=2**53)]
"""Number of a step; -1 stands for "before the first"."""
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""Number of a rank, shard, width group or bucket, all from 0."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Text = Annotated[str, msgspec.Meta(max_length=65_536)]
"""A name, an address or a reason, for people."""


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base: `tag` is the class name."""


class Hello(Message, kw_only=True):
    """Every role but the oracle introduces itself, first of all, to everyone it connects to."""

    version: int = PROTOCOL_VERSION
    form: Text = ""
    """The form of all messages of the speaker's build (`form.py`), filled in by the connection; empty: not told."""
    job: Text
    attempt: int
    token: Text = ""
    """The job's secret, filled in by the connection that sends this (`sockets.py`); empty where the job has none."""
    role: Role
    index: Index
    """Shard of a server, rank of a trainer."""
    by_worker_id: bool = False
    """Servers: `index` is a number that only orders them; the oracle counts the shards."""
    endpoint: Text = ""
    """Where this role listens, as others reach it."""
    cache: "CacheMemory | None" = None
    """Trainers: memory offered for cached rows."""
    fresh: bool = False
    """Servers: this process has no rows of the attempt yet."""
    process: Text = ""
    """A random name of this process, which nobody else can guess."""
    init_cache: "InitCacheArguments | None" = None
    """Trainers that use the Python API: what its caller passed."""


class CacheMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory for cached rows, which all trainers that run in it share."""

    memory: Text
    """Names the memory: a machine, or one GPU. Trainers that name the same one share it."""
    num_bytes: Count


class InitCacheArguments(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of `init_cache`: they complete the job or agree with it, and their sender gets each row's key too."""

    table_sizes: tuple[Count, ...]
    embedding_dim: int | None
    """None: as the job says, where tables may differ."""
    cache_rows: int | None
    """None: as the job says."""
    lookahead: int
    optimizer: RowOptimizer | None
    steps: int | None = None
    """Batches the caller will take; None: as the job says."""
    model: ModelConfig | None = None
    dense_optimizer: DenseOptimizer | None = None
    """The caller's dense optimizer, for the checkpoint's manifest; None: not told."""
    evaluate: bool = True
    """The caller can score the test part."""


class Refused(Message, kw_only=True):
    """The answer to a stray, older or foreign peer; `exit_code` tells whether to retry."""

    reason: Text
    exit_code: int
    saved_first: Count = 0
    """Of a trainer that gives up: steps of a good checkpoint that is to be completed before the roles end; 0: none."""


class SayHello(Message, kw_only=True):
    """The answer to a peer that has not said `Hello`: what it just sent was dropped, and has to be sent again."""

    reason: Text = ""
    """Why a `Hello` that was said has to be said again; empty: none was said."""


class Wait(Message, kw_only=True):
    """The oracle's first answer to `Hello`: you are registered; the topology follows when all are."""

    missing: str = ""
    """Servers that have not registered, for people; empty: none, or the oracle still reads its data."""


class Topology(Message, kw_only=True):
    """The oracle's answer to `Hello` once every role has registered: all a role must know."""

    servers: tuple[str, ...]
    trainers: tuple[str, ...]
    layout: TableLayout
    spec: JobSpec
    """The job with `init_cache`'s arguments and the lookahead. Roles resolve other `auto`s; `slots` is `cacheRows`."""
    num_dense: Count
    """Dense features of the data."""
    num_labels: Count
    label_names: tuple[Text, ...] = ()
    slots: tuple[Count, ...]
    """Cache slots of each width group."""
    checkpoint: str | None
    """Checkpoint this attempt starts from."""
    checkpoint_dir: str
    """Where checkpoints go; servers and trainer 0 both see it."""
    first_step: Step
    start: Text = ""
    """Random name of this start: a server's files of another one with the same attempt's number are of no use."""
    server_processes: tuple[Text, ...] = ()
    """`Hello.process` of the servers, in their order: these processes have lost no rows, even if they ask again."""
    trainer_processes: tuple[Text, ...] = ()
    """Digests of the trainers' `Hello.process`, by rank: no other process is one in this attempt (`Admission`)."""
    total_steps: int | None
    evaluated: bool = False
    """Whether the model is evaluated: it then needs an output for each label."""
    validation_batches: Count = 0
    """Batches of the validation part, which trainers evaluate after steps whose plan says so."""
    with_keys: bool = False
    """Plans carry the keys of their rows (`InitCacheArguments`)."""


# ── oracle <-> trainer ────────────────────────────────────────────────────────────────────────────


class NeedPlans(Message, kw_only=True):
    """A trainer (re)joins: send plans from `step` on, at most `credit` beyond the last `StepDone`."""

    rank: Index
    step: Step
    credit: Count
    done: Step
    """Last step it finished: behind `step` where plans wait that an earlier oracle sent."""
    told_from: Step
    """First step whose `StepDone` follows, once more: those of the last steps may have been lost with a connection."""


class Plan(Message, kw_only=True, omit_defaults=True):
    """Header of a `BatchPlan`; its arrays follow in the order of `net/plan_codec.py`."""

    step: Step
    rank: Index
    num_examples: Count
    first_example: Count
    end: Cursor
    training: bool
    checkpoint: bool
    groups: tuple["GroupHeader", ...]
    validates: bool = False
    total_weight: float | None = None
    """Not None: a frame with the weight of each example follows the labels."""
    grouped: bool = False
    """A frame with the group of each example follows them."""


class GroupHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    num_fetch_records: Count
    fetch_after: Step
    num_features: Index | None
    """Columns of `lengths_BT`, or None where it is None."""
    sizes: tuple[Count, ...]
    """Length of every array of the group, in the order of `net/plan_codec.py`."""
    narrow_bits: Count
    """Bits of each number in the frame of slots, indices and offsets."""
    wide_bits: Count
    """Bits of each key."""
    weighted: bool = False
    """A frame with the weight of each lookup follows the keys."""


class NoMorePlans(Message, kw_only=True):
    """`step` is one past the last step; every role finishes and leaves."""

    step: Step
    stopped: bool = False
    """The run was asked to stop: leave with the exit code that says so."""


class StepDone(Message, kw_only=True):
    """A trainer finished a step, and may have one more plan. In evaluation the slice's logits follow, float32."""

    rank: Index
    step: Step
    loss: float | None
    """Mean loss over this trainer's slice (0 where the slice is empty); None: not told."""
    num_examples: Count
    seconds: float
    waits: Annotated[dict[Annotated[str, msgspec.Meta(max_length=32)], float], msgspec.Meta(max_length=32)]
    """Seconds that this step waited, by key: plan, fetch, gradients, eager, deferred, dense, write_back."""
    failed: Text = ""
    """Evaluation: why the model gave no logits; the array is empty then."""
    skipped: Text = ""
    """Training: why all trainers passed over this step (`notFinite: skip`)."""


class NeedValidation(Message, kw_only=True):
    """A trainer evaluates the validation part after `step`: send the batches from `next` on and below `until`."""

    rank: Index
    step: Step
    next: Count
    until: Count


class ValidationBatch(Message, kw_only=True):
    """A trainer's slice of a validation batch, evaluated after step `after`, with arrays; `plan.step` is its number."""

    after: Step
    plan: Plan


class ValidationOutputs(Message, kw_only=True):
    """A trainer's outputs for all its slices of the validation part after `step`; one array of float32 follows."""

    rank: Index
    step: Step
    failed: Text = ""
    """Why the model gave none; the array is empty then."""


class ValidationDone(Message, kw_only=True):
    """The oracle has the outputs of every trainer after `step`, and has judged them: go on."""

    step: Step
    validation: Validation


class Saved(Message, kw_only=True):
    """Trainer 0: the checkpoint after so many steps is complete."""

    rank: Index
    step: Count


class SaveFirst(Message, kw_only=True):
    """The oracle to the trainers: the attempt ends when the checkpoint after so many steps, a good one, is complete."""

    step: Count


class Finished(Message, kw_only=True):
    """A trainer is done: its write-backs are stored and its checkpoints complete. It leaves at `MayLeave`."""

    rank: Index


class MayLeave(Message, kw_only=True):
    """The oracle's answer to `Finished`: it is written down, so a restarted oracle will not wait for this trainer."""


class Stop(Message, kw_only=True):
    """A trainer was asked to stop (SIGTERM): plan a checkpoint as soon as possible and end there."""

    rank: Index


# ── trainer <-> embedding server ──────────────────────────────────────────────────────────────────


FIRST_READING = 2**52
"""Number of a trainer's first `Fetch` for an evaluation between two steps. No training step has such a number."""


class Fetch(Message, kw_only=True):
    """Read rows. One array follows: keys (int64); the first `num_records` want optimizer state too. Answered by `Rows`
    once every trainer has written back step `after`.
    """

    rank: Index
    step: Step
    group: Index
    after: Step
    num_records: Count
    packed: bool = False
    """Whether the answer's floats are worth packing."""


class Rows(Message, kw_only=True):
    """Two arrays follow: records [num_records, record width], values [rest, embedding_dim]."""

    step: Step
    group: Index


class WriteBack(Message, kw_only=True):
    """Whole records that left a cache after `step`: for each width group, keys and records.

    Sent at every step, empty too: it is what advances this trainer's watermark.
    """

    rank: Index
    step: Step
    checkpoint: bool
    """The shard must take a snapshot of exactly this step."""


class Written(Message, kw_only=True):
    """Every write-back of this trainer up to `step` is stored on this server."""

    step: Step


class SendAgain(Message, kw_only=True):
    """Write-backs beyond step `after` are missing here: they were lost with an earlier process."""

    after: Step


class SnapshotStatus(Message, kw_only=True):
    """Rank 0 asks whether this shard's snapshot of `step` is on disk."""

    step: Step


class SnapshotFiles(Message, kw_only=True):
    """How far a shard's snapshot of `step` is.

    `done`: `files` are on disk. `error`: why it failed; `for_good`: the next one would too. `lost`: it will never be
    complete, for the reason in `why_lost`: the server was restarted while it wrote, or a later one took its place.
    """

    step: Step
    done: bool
    files: tuple["SnapshotFile", ...] = ()
    error: Text = ""
    for_good: bool = False
    lost: bool = False
    why_lost: Text = ""
    written_bytes: Count = 0
    total_bytes: Count = 0
    """Of this snapshot, so far and in all; 0 where it has not begun."""
    waits_for: Step = -1
    """The step whose earlier snapshot must be on disk first; -1: none."""


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a checkpoint, relative to its directory."""

    name: Text
    num_bytes: Count
    sha256: Text


class Ping(Message, kw_only=True):
    """Is anybody there? Answered by `Pong`."""


class Pong(Message, kw_only=True):
    """Answer to `Ping`, and to a `Hello` between peers."""


# ── trainer <-> trainer ───────────────────────────────────────────────────────────────────────────


class Exchange(Message, kw_only=True):
    """One trainer to another, in a step. The arrays that follow depend on `kind`: for gradients of rows one array for
    each width group; for eager and deferred rows two for each (values, then records); for dense gradients and their
    means one array, a part of a DDP bucket; for a collective of DDP the bytes of its tensors; for the store through
    which NCCL's ranks find each other a key and its value.
    """

    attempt: int
    step: Step
    source: Index
    kind: Literal["gradients", "eager", "deferred", "dense", "dense_means", "collective", "store"]
    bucket: Index = 0
    """DDP's number of the bucket; of a collective or a key, its number in the step."""
    through: Step
    """The sender needs nothing of steps up to this one any more: the receiver may forget what it sent for them."""


class Confirmed(Message, kw_only=True):
    """`Exchange.through` in a message of its own, for a peer that nothing else is sent to."""

    attempt: int
    source: Index
    through: Step
