"""What a loop of a user's own is told: of outputs that are no logits, of batches that are over, of nothing trained."""

import logging

import torch

from bagpipe.batch import Floats
from bagpipe.errors import ConfigError, UserCodeError
from bagpipe.trainer.user_code import calling_line, described, machine_error

UNTRAINED = (
    "trainer %d: in none of its %d batches a row had a gradient, so no embedding was trained; if that is not meant, "
    "compute a loss of the batch's embeddings and call its backward, or session.train(loss)"
)
"""With a rank and a number of batches."""


def scored(logits: object, expected: list[int]) -> Floats:
    """What the loop's `evaluate` gave for a batch of the test part, as `[B, L]` float32.

    Args:
        expected: the shape of the batch's labels.

    Raises:
        ConfigError: it is no tensor of real numbers of this shape.
    """
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        found = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"evaluate: expected a tensor of floating-point logits of shape {expected}, found {found}")
    if list(logits.shape) != expected:
        raise ConfigError(f"evaluate: expected logits of shape {expected}, found {list(logits.shape)}")
    found_BL: Floats = logits.detach().float().cpu().numpy()
    return found_BL


def loss_to_train(loss: object, training: str = "session.train") -> torch.Tensor:
    """The loss of a batch as the loop gives it, if backward reaches anything from it.

    Raises:
        UserCodeError: it is no tensor of one number with a gradient; names the line of the loop.
    """
    if not isinstance(loss, torch.Tensor):
        found, remedy = (
            f"{type(loss).__name__} {loss!r:.40}",
            "compute it of the model's outputs, without float() or .item()",
        )
    elif loss.numel() != 1:
        found, remedy = f"a tensor of shape {list(loss.shape)}", "take the mean over the examples, as in loss.mean()"
    elif not loss.is_floating_point():
        found, remedy = f"a tensor of {loss.dtype}", "compute it of the model's outputs"
    elif not loss.requires_grad:
        found = "one that depends on no row and no weight that is trained"
        remedy = "compute it of the model's outputs, without detach, .data or torch.no_grad"
    else:
        return loss
    raise UserCodeError(
        f"{_here()}{training}: expected the loss, a tensor of one number with a gradient, found {found}; {remedy}"
    )


def reported_loss(loss: object) -> float:
    """The loss of a batch that a loop tells, as a number.

    Raises:
        UserCodeError: it is none; names the line of the loop.
    """
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError, RuntimeError):
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UserCodeError(f"{_here()}report: expected the batch's mean loss, one number, found {found}") from None


def backward(loss: torch.Tensor, factor: float) -> None:
    """The backward pass of a loop's loss, times a factor.

    Raises:
        UserCodeError: torch refuses it, as when the batch was trained on before; names the line of the loop.
        ConfigError: the machine has too little memory.
    """
    try:
        (loss * factor).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
    except RuntimeError as error:
        if (machine := machine_error(error)) is not None:
            raise machine from None
        again = "; a batch is trained on once: add its losses up" if "second time" in str(error) else ""
        raise UserCodeError(f"{_here()}session.train: {described(error)}{again}") from error


def _here() -> str:
    place = calling_line()
    return "" if place is None else f"{place}: "


def asked_again(epochs: int | None, next_step: int) -> ConfigError:
    """The error of a loop that begins after the end of the job's batches: the second one of a loop of epochs."""
    return ConfigError(
        f"the batches of the job are at their end, after step {next_step}: one loop goes through all of its epochs "
        f"(epochs: {epochs or 1}); for more, set the job's epochs or steps, and loop once"
    )


def tell_lookahead(log: logging.Logger, asked: int, used: int | str) -> None:
    """Say where the lookahead that `init_cache` was given is another than the oracle's; 1 there is 0 in a job."""
    if used != asked and (used, asked) != (0, 1):
        log.info("lookahead_value %d has no effect: the oracle looks %s batches ahead", asked, used)
