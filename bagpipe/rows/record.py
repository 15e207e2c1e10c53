"""Records: what is stored for a row, its weights and then its optimizer's state, all float32.

A record moves as a whole between server and owner, so the state stays with the row. All records of a width group are as
wide as the optimizer with most state among its tables needs; columns that a row's own optimizer does not need keep
their initial value.
"""

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.rows.recipe import recipes_of
from bagpipe.tables import TableLayout, WidthGroup


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
    """Floats of one record, if all tables of its width group have this optimizer."""
    return embedding_dim + state_width(optimizer, embedding_dim)


def group_record_width(embedding: EmbeddingConfig, group: WidthGroup) -> int:
    """Floats of every record of a width group."""
    dim = group.embedding_dim
    return max(record_width(recipe.optimizer, dim) for recipe in recipes_of(embedding, group))


def record_widths(embedding: EmbeddingConfig, layout: TableLayout) -> tuple[int, ...]:
    """The same of every width group."""
    return tuple(group_record_width(embedding, group) for group in layout.groups)


def initial_state(optimizer: RowOptimizer) -> float:
    """The initial value of every float of a new row's state."""
    return optimizer.initial_accumulator if optimizer.name in ("adagrad", "rowwise-adagrad") else 0.0
