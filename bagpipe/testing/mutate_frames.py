"""Messages of every kind, damaged as a bad link or a bad peer could damage them: input for fuzzing decoders.

python -m bagpipe.testing.mutate_frames 1000000   decodes so many mutations and prints the results
"""

import argparse
import collections
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import msgspec
import numpy as np

from bagpipe.batch import Cursor
from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.errors import WireError
from bagpipe.metrics.validations import Validation
from bagpipe.net import messages as m
from bagpipe.net.messages import Message
from bagpipe.net.plan_codec import pack_plan, unpack_plan
from bagpipe.net.wire import Array, decode, encode
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Transfer
from bagpipe.tables import Table, TableLayout

Frames = list[bytes]
Sample = tuple[Message, list[Array]]

EDGES = (0, 1, 2, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**64 - 1, -1, -(2**63))


@cache
def sample_messages() -> tuple[Sample, ...]:
    """One message at least of every kind, with arrays where it has some."""
    keys = np.arange(0, 12, 2, dtype=np.int64)
    rows = np.linspace(-1, 1, 6 * 8, dtype=np.float32).reshape(6, 8)
    table = Table(name="t", num_embeddings=100, embedding_dim=4, feature_names=("f",))
    topology = m.Topology(
        servers=("tcp://h:1",),
        trainers=("tcp://h:2", "tcp://h:3"),
        layout=TableLayout.of([table]),
        spec=JobSpec(data=DataConfig(path="x")),
        num_dense=2,
        num_labels=1,
        slots=(10,),
        checkpoint=None,
        checkpoint_dir="c",
        first_step=0,
        total_steps=None,
    )
    files = (m.SnapshotFile(name="a", num_bytes=3, sha256="0" * 64),)
    plain: tuple[Message, ...] = (
        m.Hello(job="job", attempt=0, role="trainer", index=1, endpoint="tcp://h:2"),
        m.Refused(reason="why", exit_code=75),
        m.SayHello(),
        m.Wait(),
        topology,
        m.NeedPlans(rank=0, step=1, credit=4, done=0, told_from=0),
        m.NoMorePlans(step=9),
        m.Saved(rank=0, step=10),
        m.NeedValidation(rank=0, step=9, next=2, until=5),
        m.ValidationDone(step=9, validation=Validation(step=10, figures={"auc": 0.5, "tasks": {"a": {"auc": None}}})),
        m.SaveFirst(step=10),
        m.Finished(rank=0),
        m.MayLeave(),
        m.Stop(rank=1),
        m.Confirmed(attempt=0, source=1, through=3),
        m.Written(step=5),
        m.SendAgain(after=3),
        m.SnapshotStatus(step=5),
        m.SnapshotFiles(step=5, done=True, files=files),
        m.Ping(),
        m.Pong(),
    )
    carriers: tuple[Sample, ...] = (
        (m.Fetch(rank=0, step=5, group=0, after=2, num_records=3), [keys]),
        (m.Rows(step=5, group=0), [rows[:3], rows[3:, :4].copy()]),
        (m.WriteBack(rank=1, step=4, checkpoint=True), [keys, rows]),
        (m.Exchange(attempt=0, step=3, source=1, kind="gradients", through=0), [rows]),
        (m.StepDone(rank=0, step=3, loss=0.5, num_examples=6, seconds=0.1, waits={"plan": 0.1}), [rows[:, 0].copy()]),
        pack_plan(sample_plan()),
        (m.ValidationOutputs(rank=1, step=9), [rows[:, 0].copy()]),
        (m.ValidationBatch(after=9, plan=pack_plan(sample_plan())[0]), pack_plan(sample_plan())[1]),
    )
    return tuple((message, []) for message in plain) + carriers


def sample_plan() -> BatchPlan:
    """A plan with every list in use, for trainer 0 of 2, with three slots and four examples of two features."""
    lists = PeerLists.of([[0, 1], [2]])
    moves = Transfer(lists, lists, lists, lists)
    few = np.arange(3, dtype=np.int32)
    keys = np.arange(3, dtype=np.int64)
    group = GroupPlan(
        slots_K=few,
        inverse_N=np.zeros(8, np.uint16),
        lengths_BT=np.ones((4, 2), np.int32),
        fetch_keys=keys,
        fetch_slots=few,
        num_fetch_records=2,
        fetch_after=-1,
        grad_send=lists,
        grad_recv=lists,
        send=moves,
        receive=moves,
        evict_keys=keys,
        evict_slots=few,
        flush_keys=keys[:0],
        flush_slots=few[:0],
        keys_K=keys,
        weights_N=np.ones(8, np.float32),
    )
    return BatchPlan(
        step=3,
        rank=0,
        num_examples=8,
        first_example=0,
        end=Cursor(),
        training=True,
        checkpoint=False,
        dense_BF=np.zeros((4, 2), np.float32),
        labels_BL=np.zeros((4, 1), np.float32),
        groups=(group,),
        weights_B=np.ones(4, np.float32),
        total_weight=8.0,
        groups_B=np.zeros(4, np.int64),
    )


def mutated(rng: random.Random, samples: Sequence[Sample], count: int) -> Iterator[Frames]:
    """`count` messages, each damaged once to three times."""
    whole = [
        [bytes(frame) for frame in encode(message, arrays, packed=packed)]
        for message, arrays in samples
        for packed in (False, True)
    ]
    return damaged(rng, whole, count)


def damaged(rng: random.Random, whole: Sequence[Frames], count: int) -> Iterator[Frames]:
    """As `mutated`, of messages that are encoded already."""
    for _number in range(count):
        frames = rng.choice(whole)
        for _damage in range(rng.randint(1, 3)):
            frames = rng.choice(_MUTATIONS)(rng, frames, whole)
        yield frames


def _flip(rng: random.Random, frames: Frames, whole: Sequence[Frames]) -> Frames:
    at = rng.randrange(len(frames)) if frames and rng.random() < 0.4 else 0
    if not frames or not frames[at]:
        return frames
    changed = bytearray(frames[at])
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return [*frames[:at], bytes(changed), *frames[at + 1 :]]


def _cut(rng: random.Random, frames: Frames, whole: Sequence[Frames]) -> Frames:
    if not frames:
        return frames
    at = rng.randrange(len(frames))
    return [*frames[:at], frames[at][: rng.randrange(len(frames[at]) + 1)], *frames[at + 1 :]]


def _reorder(rng: random.Random, frames: Frames, whole: Sequence[Frames]) -> Frames:
    kept = [frame for frame in frames for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    rng.shuffle(kept)
    return kept


def _splice(rng: random.Random, frames: Frames, whole: Sequence[Frames]) -> Frames:
    other = rng.choice(whole)
    return [*frames[: rng.randrange(len(frames) + 1)], *other[rng.randrange(len(other)) :]]


def _rewrite(rng: random.Random, frames: Frames, whole: Sequence[Frames]) -> Frames:
    """Another number, depth or text somewhere in the header, so that it stays well-formed msgpack."""
    try:
        arrays, message = msgspec.msgpack.decode(frames[0])
    except (IndexError, msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return frames
    try:
        return [msgspec.msgpack.encode((_edited(rng, arrays), _edited(rng, message))), *frames[1:]]
    except (OverflowError, RecursionError, TypeError):
        return frames


def _edited(rng: random.Random, value: object, chance: float = 0.15) -> object:
    if isinstance(value, list):
        return [_edited(rng, item) for item in value] * rng.choice((1, 1, 1, 1, 2))
    if isinstance(value, dict):
        return {key: _edited(rng, item) for key, item in value.items()}
    if rng.random() > chance:
        return value
    kind = rng.randrange(7)
    if kind == 0:
        return _nested(rng.choice((1, 3, 2000)))
    if kind == 1:
        return [rng.choice(EDGES)] * 70
    return rng.choice(EDGES) if kind == 2 else rng.choice(("\ud7ff" * 3, float("nan"), None, b"\xff"))


@cache
def _nested(depth: int) -> object:
    """A list in a list in a list. It is kept: thousands of levels take longer to make than a message to decode."""
    found: object = None
    for _ in range(depth):
        found = [found]
    return found


_MUTATIONS = (_flip, _flip, _cut, _reorder, _splice, _rewrite, _rewrite)


def decoded(messages: Iterable[Frames]) -> "collections.Counter[str]":
    """Counts of the results of decoding these: messages by name, and `WireError`. Any other exception is raised."""
    found: collections.Counter[str] = collections.Counter()
    for frames in messages:
        try:
            message, arrays = decode(frames)
            if isinstance(message, m.Plan):
                unpack_plan(message, arrays)
            found[type(message).__name__] += 1
        except WireError:
            found["WireError"] += 1
    return found


def main(count: int, seed: int = 0) -> None:
    """Decode `count` mutations; anything but a message or a `WireError` ends this with its traceback."""
    begun = time.monotonic()
    found = decoded(mutated(random.Random(seed), sample_messages(), count))
    print(f"{count} mutations in {time.monotonic() - begun:.0f} s: {dict(found.most_common())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="of mutations")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    main(**vars(parser.parse_args()))
