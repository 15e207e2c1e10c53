"""What a loop of a user's own is told: of outputs that are no logits, of batches that are over, of nothing trained."""

import logging

import torch

from bagpipe.batch import Floats
from bagpipe.errors import ConfigError

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
