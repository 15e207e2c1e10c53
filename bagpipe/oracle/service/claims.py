"""Compares what a trainer says of its progress with what can be true. Pure.

The oracle keeps what a trainer reports of a step until every trainer has reported it, and plans ahead of the steps that
they say are done. So a step number that cannot be true, from a defective trainer or a damaged message, is ignored here.
"""

from bagpipe.net.messages import Message, NeedPlans, NeedValidation, Saved, StepDone, ValidationOutputs


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
        if not isinstance(message, StepDone):
            return ""
        if told_from is None:
            return "a finished step of a trainer that has not asked for plans; it will be told again"
        possible = max(planned, told_from + ahead)
    if claimed <= possible:
        return ""
    return f"ignored a {type(message).__name__} that speaks of {claimed} steps; {possible} can be known to a trainer"
