"""Tries one batch of evaluation in the first step, before anything is updated.

Otherwise a model that cannot be evaluated would be found out when it is trained: after hours.
"""

import logging
from collections.abc import Callable

from torch import nn

from bagpipe.batch import Floats
from bagpipe.errors import UserCodeError
from bagpipe.models.random_numbers import Draws
from bagpipe.models.untouched import untouched
from bagpipe.trainer.user_code import machine_error, user_error
from bagpipe.trainer.validation import evaluating

log = logging.getLogger(__name__)


def try_evaluation(model: nn.Module, evaluate: Callable[[], Floats]) -> None:
    """Evaluate a batch, and leave the model and the random numbers as they are.

    It comes between a forward pass in training and its backward pass, so that the model has whatever it keeps of the
    former, and nothing that the latter needs may change. What a machine fails to do is not tried again here: there may
    be more memory when the evaluation's turn comes.

    Args:
        evaluate: calls the model.

    Raises:
        UserCodeError: the model cannot be evaluated.
    """
    try:
        with Draws(0).going_on(), untouched(model), evaluating(model, None):
            evaluate()
    except UserCodeError:
        raise
    except BaseException as error:
        if (failed := machine_error(error)) is not None:
            log.warning("one batch of evaluation was tried before the first update: %s", failed)
            return
        named = user_error(error, model)
        if named is None:
            raise
        log.exception("the traceback of an error in the user's code, or below it")
        raise UserCodeError(
            f"{named}; this was one batch of evaluation, tried before the first update: mend it, or set spec.evaluate: "
            "false"
        ) from None
