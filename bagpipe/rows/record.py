"""What is stored for a row: its weights, then its optimizer's state, all float32.

A record moves as a whole between server and owner, so state belongs to the row wherever it is.
"""

from bagpipe.batch import Floats
from bagpipe.config.document import RowOptimizer


def state_width(optimizer: RowOptimizer, embedding_dim: int) -> int:
    """Floats of optimizer state beside `embedding_dim` weights."""
    match optimizer.name:
        case "sgd":
            return embedding_dim if optimizer.momentum else 0
        case "adagrad":
            return embedding_dim
        case "rowwise-adagrad":
            return 1
        case "adam":
            return 2 * embedding_dim


def record_width(optimizer: RowOptimizer, embedding_dim: int) -> int:
    """Floats of one record."""
    return embedding_dim + state_width(optimizer, embedding_dim)


def initial_state(optimizer: RowOptimizer) -> float:
    """What every float of a new row's state starts as."""
    return optimizer.initial_accumulator if optimizer.name in ("adagrad", "rowwise-adagrad") else 0.0


def set_initial_state(records_KR: Floats, optimizer: RowOptimizer, embedding_dim: int) -> None:
    """Fill the state part of new records in place."""
    records_KR[:, embedding_dim:] = initial_state(optimizer)
