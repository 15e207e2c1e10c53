"""Compares what a trainer says with what can be true and with what was planned. Pure.

The oracle keeps what a trainer reports of a step until every trainer has reported it, and plans ahead of the steps that
they say are done. So a step number that cannot be true, from a defective trainer or a damaged message, is ignored here.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bagpipe.net.array_forms import difference, floats
from bagpipe.net.messages import (
    Message,
    NeedPlans,
    NeedValidation,
    Saved,
    StepDone,
    Topology,
    ValidationOutputs,
    Wait,
)
from bagpipe.net.wire import Array
from bagpipe.oracle.service.stages import Stage, Streaming

WAITS = frozenset({"plan", "fetch", "gradients", "eager", "deferred", "dense", "write_back"})
"""What a step waits for: the keys that `StepDone.waits` may have. Others are refused, because the seconds of every key
are added up until the run ends. They are no part of the message's type, so that the form of messages stays as it is."""
_ANY_NUMBER = 2**53


def steps_claimed(message: Message) -> int | None:
    """Steps that must have been planned if this is true; None: the message says nothing of the kind."""
    match message:
        case NeedPlans():
            return max(message.step, message.done + 1, message.told_from)
        case StepDone() | NeedValidation() | ValidationOutputs():
            return message.step + 1
        case Saved():
            return message.step
        case _:
            return None


def disbelieved(message: Message, *, planned: int, told_from: int | None, ahead: int, restarted: bool) -> str:
    """Why this message is not believed; empty if it may be true.

    Args:
        planned: steps before this one have been planned, by this process.
        told_from: the first step that the trainer tells this process; None: it has not asked for plans yet.
        ahead: steps that a trainer can finish on plans which a predecessor of this process has sent.
        restarted: there may have been such a predecessor. What it had planned is not known before it is planned again;
            until then only what is kept in number is bounded, by where the trainer itself went on.
    """
    claimed = steps_claimed(message)
    if claimed is None:
        return ""
    possible = planned
    if restarted:
        if isinstance(message, NeedPlans) and message.told_from > message.done + 1:
            return f"ignored a NeedPlans that tells steps from {message.told_from} on, after {message.done} was done"
        if not isinstance(message, StepDone):
            return ""
        if told_from is None:
            return "a finished step of a trainer that has not asked for plans; it will be told again"
        possible = max(planned, told_from + ahead)
    if claimed <= possible:
        return ""
    return f"ignored a {type(message).__name__} that speaks of {claimed} steps; {possible} can be known to a trainer"


def contradiction(
    message: Message,
    arrays: Sequence[Array],
    stage: Stage,
    planned: int,
    *,
    answer: Topology | Wait,
    knows: Callable[[int], bool],
) -> str:
    """Why a trainer's message contradicts what this process has planned; empty: it does not.

    Args:
        planned: steps before this one have been planned, by this process.
        answer: to `Hello`: the topology, once there is one.
        knows: whether an evaluation after a step is planned or judged.
    """
    match message:
        case StepDone():
            return wrong_step_done(
                message, arrays, scored=_is_scored(message.step, stage, planned), most=_most_outputs(answer, 1)
            )
        case NeedValidation() | ValidationOutputs():
            unplanned = message.step < planned and not knows(message.step)
            batches = answer.validation_batches if isinstance(answer, Topology) else 1
            return wrong_validation(message, arrays, unplanned=unplanned, most=_most_outputs(answer, batches))
        case _:
            return ""


def _is_scored(step: int, stage: Stage, planned: int) -> bool | None:
    """Whether a step's outputs are judged (of the test part); None: this process has not come to it again yet."""
    match stage:
        case Streaming(first_step, True) if step >= first_step:
            return True
        case Streaming() if step < planned:
            return False
        case _:
            return None


def _most_outputs(answer: Topology | Wait, batches: int) -> int:
    """Most outputs that one trainer has for so many batches."""
    if not isinstance(answer, Topology):
        return _ANY_NUMBER
    return batches * answer.spec.batch_size * max(1, answer.num_labels)


def wrong_step_done(message: StepDone, arrays: Sequence[Array], *, scored: bool | None, most: int) -> str:
    """Why a finished step is not told as the step asks for; empty: it is.

    A step of training told like one of the evaluation, or the other way round, would count as done and never be
    reported, so that everybody waits for nobody.

    Args:
        scored: whether the step's outputs are judged; None: not known yet.
        most: outputs that one trainer has for a batch at most.
    """
    step = f"step {message.step} of trainer {message.rank}"
    if unknown := message.waits.keys() - WAITS:
        return f"{step}: expected waits for {', '.join(sorted(WAITS))}; found {min(unknown)!r}"
    if scored is not None and len(arrays) != scored:
        kind = "the evaluation, with one array of outputs" if scored else "training, without outputs"
        return f"{step}: it is a step of {kind}; found {len(arrays)} arrays"
    if len(arrays) > 1 or any(array.dtype != np.float32 or array.size > most for array in arrays):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in arrays[:2])
        return f"{step}: expected at most {most} outputs in one array of float32, found {found}"
    return ""


def wrong_validation(
    message: NeedValidation | ValidationOutputs, arrays: Sequence[Array], *, unplanned: bool, most: int
) -> str:
    """Why a trainer's word about an evaluation between two steps cannot be right; empty: it may be.

    Args:
        unplanned: the step was planned, and no evaluation after it.
        most: outputs that one trainer has for the validation part at most.
    """
    name = f"the validation after step {message.step} by trainer {message.rank}"
    if unplanned:
        return f"{name}: none was planned there"
    if isinstance(message, NeedValidation):
        return f"{name}: a request has no arrays, found {len(arrays)}" if arrays else ""
    if why := difference(arrays, [floats(None)]):
        return f"{name}: {why}"
    if arrays[0].size > most:
        return f"{name}: expected at most {most} outputs, found {arrays[0].size}"
    return ""
