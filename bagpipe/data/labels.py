"""Are the labels of a batch what the loss demands? One outside would train on a loss without a floor, and no error."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bagpipe.batch import Batch, Floats
from bagpipe.config.losses import LARGEST, LossKind
from bagpipe.errors import DataError


def check_labels(labels_BL: Floats, loss: LossKind, names: Sequence[str], where: str, first_example: int) -> None:
    """Refuse a label that the loss has no meaning for.

    Args:
        names: of the labels, `[L]`.
        where: what the examples are a part of, for the message.
        first_example: place of the first example in it.

    Raises:
        DataError: names the first such label, its example and its value.
    """
    if not labels_BL.size or (labels_BL.min() >= loss.least and labels_BL.max() <= loss.greatest):
        return
    example, place = np.argwhere(~((labels_BL >= loss.least) & (labels_BL <= loss.greatest)))[0].tolist()
    greatest = "or more" if loss.greatest == LARGEST else f"to {loss.greatest:g}"
    least = "a finite number" if loss.least == -LARGEST else f"{loss.least:g} {greatest}"
    raise DataError(
        f"{where}, example {first_example + example}: label {_name(names, place)} is {labels_BL[example, place]:g}, "
        f"and the loss {loss.name} (spec.model.loss) expects {least}; {loss.instead}"
    )


def _name(names: Sequence[str], place: int) -> str:
    return repr(names[place]) if place < len(names) else f"number {place}"


def checked(batches: Iterable[Batch], loss: LossKind | None, names: Sequence[str], part: str) -> Iterator[Batch]:
    """These batches, each looked at when it is read; `loss` None: any label will do.

    Raises:
        DataError: a label will not do.
    """
    for batch in batches:
        if loss is not None:
            begin = batch.cursor
            check_labels(batch.labels_BL, loss, names, f"{part}, epoch {begin.epoch}", begin.position)
        yield batch
