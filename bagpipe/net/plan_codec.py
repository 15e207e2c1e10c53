"""Turns a `BatchPlan` into a message and back: a small header and a few array frames. Pure.

A plan has dozens of short arrays for each width group; a frame for each would cost more than its bytes. So each group's
arrays are concatenated by element type: keys (int64) into one frame, slots, indices and offsets (int32) into another,
both in as few bits as they need (`net/pack_integers.py`). `inverse_N`, which is the largest and narrow already, is a
frame of its own and never copied. The header gives the length of every array in the order of `_narrow` and `_wide`
below, so that the receiver can cut views out of what it unpacked.

Frames: dense_BF, labels_BL, weights_B and groups_B where the header says that they are there, then for each width
group inverse_N, packed int32s, packed keys, and weights_N where its header says so.

Every length is checked against the frames before it is used; `plan_check.py` sees to it that a plan points to nothing
that its trainer does not have. The planner's other invariants are tested, and not checked again at every step.
"""

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bagpipe.errors import WireError
from bagpipe.net import messages
from bagpipe.net.pack_integers import WORD_BITS, pack, unpack
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Transfer

Array = npt.NDArray[Any]
Scalar = TypeVar("Scalar", bound=np.generic)
Number = TypeVar("Number", np.int32, np.int64)

FRAMES_BEFORE = 2
FRAMES_OF_GROUP = 3

_TRANSFERS = ("eager_values", "eager_records", "deferred_values", "deferred_records")
_NO_LENGTHS: npt.NDArray[np.int32] = np.zeros(0, np.int32)


def pack_plan(plan: BatchPlan) -> tuple[messages.Plan, list[Array]]:
    """The header and the frames of one plan. Frames may be views of the plan's own arrays."""
    of_examples = (plan.dense_BF, plan.labels_BL, plan.weights_B, plan.groups_B)
    frames: list[Array] = [np.ascontiguousarray(array) for array in of_examples if array is not None]
    groups = []
    for group in plan.groups:
        narrow, wide = _narrow(group), _wide(group)
        narrow_bits, narrow_words = pack(np.concatenate(narrow))
        wide_bits, wide_words = pack(np.concatenate(wide))
        groups.append(
            messages.GroupHeader(
                num_fetch_records=group.num_fetch_records,
                fetch_after=group.fetch_after,
                num_features=None if group.lengths_BT is None else group.lengths_BT.shape[1],
                sizes=tuple(a.size for a in narrow) + tuple(a.size for a in wide),
                narrow_bits=narrow_bits,
                wide_bits=wide_bits,
                weighted=group.weights_N is not None,
            )
        )
        frames += (np.ascontiguousarray(group.inverse_N), narrow_words, wide_words)
        frames += () if group.weights_N is None else (np.ascontiguousarray(group.weights_N),)
    header = messages.Plan(
        step=plan.step,
        rank=plan.rank,
        num_examples=plan.num_examples,
        first_example=plan.first_example,
        end=plan.end,
        training=plan.training,
        checkpoint=plan.checkpoint,
        validates=plan.validates,
        groups=tuple(groups),
        total_weight=plan.total_weight,
        grouped=plan.groups_B is not None,
    )
    return header, frames


def unpack_plan(message: messages.Plan, arrays: Sequence[Array]) -> BatchPlan:
    """The plan that `pack_plan` packed.

    Raises:
        WireError: frames and header do not describe one plan.
    """
    where = f"plan of step {message.step}"
    weighted = message.total_weight is not None
    before = FRAMES_BEFORE + weighted + message.grouped
    starts = [before]
    for header in message.groups:
        starts.append(starts[-1] + FRAMES_OF_GROUP + header.weighted)
    expected = starts[-1]
    if len(arrays) != expected:
        raise WireError(f"{where}: expected {expected} frames for {len(message.groups)} groups, found {len(arrays)}")
    dense, labels = _typed(arrays[0], np.float32, 2, where), _typed(arrays[1], np.float32, 2, where)
    examples = dense.shape[0]
    if labels.shape[0] != examples or not 0 <= message.first_example <= message.num_examples - examples:
        raise WireError(
            f"{where}: {examples} dense rows and {labels.shape[0]} labels from example {message.first_example} "
            f"of {message.num_examples}"
        )
    rest = iter(arrays[FRAMES_BEFORE:before])
    weights = _of_examples(next(rest), np.float32, examples, where) if weighted else None
    belongs = _of_examples(next(rest), np.int64, examples, where) if message.grouped else None
    groups = tuple(
        _unpack_group(header, arrays[start:end], examples, f"{where}, group {number}")
        for number, (header, (start, end)) in enumerate(zip(message.groups, itertools.pairwise(starts), strict=True))
    )
    return BatchPlan(
        step=message.step,
        rank=message.rank,
        num_examples=message.num_examples,
        first_example=message.first_example,
        end=message.end,
        training=message.training,
        checkpoint=message.checkpoint,
        validates=message.validates,
        dense_BF=dense,
        labels_BL=labels,
        groups=groups,
        weights_B=weights,
        total_weight=message.total_weight,
        groups_B=belongs,
    )


def plan_bytes(frames: Sequence[Array]) -> int:
    """Bytes of the frames; the header is a few hundred more."""
    return sum(frame.nbytes for frame in frames)


def _narrow(group: GroupPlan) -> list[npt.NDArray[np.int32]]:
    """A group's int32 arrays, in the order of the wire (`_unpack_group` reads the same order)."""
    lengths = _NO_LENGTHS if group.lengths_BT is None else group.lengths_BT.reshape(-1)
    arrays = [group.slots_K, lengths, group.fetch_slots, group.evict_slots, group.flush_slots]
    for lists in (group.grad_send, group.grad_recv, *_lists(group.send), *_lists(group.receive)):
        arrays += (lists.offsets, lists.values)
    return arrays


def _wide(group: GroupPlan) -> list[npt.NDArray[np.int64]]:
    return [group.fetch_keys, group.evict_keys, group.flush_keys, group.keys_K]


def _lists(transfer: Transfer) -> list[PeerLists]:
    return [getattr(transfer, name) for name in _TRANSFERS]


_NUM_NARROW = 5 + 2 * (2 + 2 * len(_TRANSFERS))
_NUM_WIDE = 4


def _unpack_group(header: messages.GroupHeader, frames: Sequence[Array], examples: int, where: str) -> GroupPlan:
    inverse = frames[0]
    if inverse.ndim != 1 or inverse.dtype not in (np.uint16, np.int32):
        raise WireError(f"{where}: expected local indices as uint16 or int32, found {inverse.dtype} {inverse.shape}")
    if len(header.sizes) != _NUM_NARROW + _NUM_WIDE:
        raise WireError(f"{where}: expected {_NUM_NARROW + _NUM_WIDE} lengths, found {len(header.sizes)}")
    narrow = _cut(frames[1], header.narrow_bits, np.int32, header.sizes[:_NUM_NARROW], where)
    wide = _cut(frames[2], header.wide_bits, np.int64, header.sizes[_NUM_NARROW:], where)
    slots, lengths, fetch_slots, evict_slots, flush_slots = narrow[:5]
    fetch_keys, evict_keys, flush_keys, row_keys = wide
    paired = ((fetch_keys, fetch_slots), (evict_keys, evict_slots), (flush_keys, flush_slots))
    if any(keys.size != slots.size for keys, slots in paired):
        raise WireError(f"{where}: keys and slots differ in number: {[(k.size, s.size) for k, s in paired]}")
    if row_keys.size not in (0, slots.size):
        raise WireError(f"{where}: {row_keys.size} keys for {slots.size} rows")
    if not 0 <= header.num_fetch_records <= fetch_keys.size:
        raise WireError(f"{where}: {header.num_fetch_records} records among {fetch_keys.size} fetched rows")
    lists = [_peer_lists(narrow[i], narrow[i + 1], where) for i in range(5, _NUM_NARROW, 2)]
    if len({part.offsets.size for part in lists}) != 1:
        raise WireError(f"{where}: lists for different numbers of trainers: {[x.offsets.size - 1 for x in lists]}")
    return GroupPlan(
        slots_K=slots,
        inverse_N=inverse,
        lengths_BT=_shaped(lengths, header.num_features, examples, where),
        weights_N=_weights(frames[FRAMES_OF_GROUP], header, inverse.size, where) if header.weighted else None,
        fetch_keys=fetch_keys,
        fetch_slots=fetch_slots,
        num_fetch_records=header.num_fetch_records,
        fetch_after=header.fetch_after,
        grad_send=lists[0],
        grad_recv=lists[1],
        send=Transfer(*lists[2:6]),
        receive=Transfer(*lists[6:10]),
        evict_keys=evict_keys,
        evict_slots=evict_slots,
        flush_keys=flush_keys,
        flush_slots=flush_slots,
        keys_K=row_keys,
    )


def _typed(array: Array, dtype: type[Scalar], ndim: int, where: str) -> npt.NDArray[Scalar]:
    if array.dtype != dtype or array.ndim != ndim:
        raise WireError(f"{where}: expected {np.dtype(dtype)} in {ndim} dimensions, found {array.dtype} {array.shape}")
    return array


def _weights(frame: Array, header: messages.GroupHeader, lookups: int, where: str) -> npt.NDArray[np.float32]:
    if header.num_features is None or frame.shape != (lookups,):
        raise WireError(f"{where}: expected counts and weights of {lookups} lookups, found weights {frame.shape}")
    return _typed(frame, np.float32, 1, where)


def _of_examples(array: Array, dtype: type[Scalar], examples: int, where: str) -> npt.NDArray[Scalar]:
    """One number for each example."""
    if array.shape != (examples,):
        raise WireError(f"{where}: expected a number for each of {examples} examples, found {array.shape}")
    return _typed(array, dtype, 1, where)


def _cut(frame: Array, bits: int, dtype: type[Number], sizes: Sequence[int], where: str) -> list[npt.NDArray[Number]]:
    """Consecutive views of the given lengths, which must fill the frame exactly."""
    words = _typed(frame, np.int64, 1, where)
    # Checked before memory is reserved: a number takes at least a bit.
    if min(sizes) < 0 or sum(sizes) > WORD_BITS * words.size:
        raise WireError(f"{where}: lengths {tuple(sizes)} do not add up to the frame's {words.size} words")
    numbers = np.empty(sum(sizes), dtype)
    try:
        unpack(words, bits, numbers)
    except WireError as error:
        raise WireError(f"{where}: {error}") from None
    views, at = [], 0
    for size in sizes:
        views.append(numbers[at : at + size])
        at += size
    return views


def _peer_lists(offsets: npt.NDArray[np.int32], values: npt.NDArray[np.int32], where: str) -> PeerLists:
    if not offsets.size or offsets[0] != 0 or offsets[-1] != values.size or (np.diff(offsets) < 0).any():
        raise WireError(f"{where}: {offsets.size} offsets do not cut {values.size} values into lists")
    return PeerLists(offsets, values)


def _shaped(
    lengths: npt.NDArray[np.int32], num_features: int | None, examples: int, where: str
) -> npt.NDArray[np.int32] | None:
    if num_features is None:
        if lengths.size:
            raise WireError(f"{where}: {lengths.size} lookup counts, but none were announced")
        return None
    if num_features < 0 or lengths.size != num_features * examples:
        raise WireError(f"{where}: {lengths.size} lookup counts for {examples} examples of {num_features} features")
    return lengths.reshape(examples, num_features)
