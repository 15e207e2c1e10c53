"""Builds the model before there is data, as far as the job alone says with what it is built.

Preparing data may take an hour, and a mistake in a constructor should not wait for it. Known without the data are the
model's own arguments; where `data.columns` says what the columns are, the number of dense features and labels; and the
tables, unless their rows are counted in the data. Those get a made-up number of rows here, so that only errors are
believed to which no number of rows leads.
"""

import logging
from typing import Any

from bagpipe.config.document import JobSpec
from bagpipe.data.found_tables import column_tables, layout_of
from bagpipe.errors import BagpipeError, ConfigError
from bagpipe.models.base import Constructed, construct, constructor_arguments, find_model
from bagpipe.tables import TableLayout

log = logging.getLogger(__name__)

MADE_UP_ROWS = 1000
"""Of a table whose rows the data will count."""
_OF_THE_CODE = (BagpipeError, NameError, AttributeError, TypeError, ImportError)
"""Errors that no number of rows leads to."""


class _NotKnown:
    """Stands for an argument until it is known whether the model declares it."""


def early_model(spec: JobSpec) -> Constructed | None:
    """The model as its constructor makes it from what is known; None: it needs more than that.

    Raises:
        ConfigError: unknown model, an entrypoint that cannot be imported, arguments that do not fit, or no module.
        Exception: whatever the constructor raises, if it would raise that with the data too.
    """
    known, made_up = _known(spec)
    arguments = constructor_arguments(spec.model, *find_model(spec.model), **known)
    if any(isinstance(value, _NotKnown) for value in arguments.values()):
        return None
    try:
        return construct(spec.model, spec.seed, **known)
    except ConfigError as error:
        if spec.model.entrypoint is not None:
            raise
        # Whether a checkpoint is continued or evaluated is not known yet, so the line says what to do in both cases.
        raise ConfigError(
            f"{error}; or, if a loop of your own has trained another model here, name its class in "
            "spec.model.entrypoint of the job"
        ) from error
    except _OF_THE_CODE:
        raise
    except Exception:  # a ValueError, say: the number of rows that was made up may have led to it
        if not made_up or "layout" not in arguments:
            raise
        log.info("the model is built when the rows of its tables are known", exc_info=True)
        return None


def _known(spec: JobSpec) -> tuple[dict[str, Any], bool]:
    """What a constructor is offered, and whether tables among it have a made-up number of rows."""
    num_dense: int | _NotKnown = _NotKnown()
    num_labels: int | _NotKnown = _NotKnown()
    layout: TableLayout | _NotKnown = _NotKnown()
    made_up, data, embedding = False, spec.data, spec.embedding
    if data.columns is not None:
        num_dense, num_labels = len(data.columns.dense), len(data.columns.labels)
        made_up = not embedding.tables and data.encoding != "hash"
        layout = layout_of(column_tables(data.columns, MADE_UP_ROWS if made_up else data.hash_size), embedding)
    elif embedding.tables:
        layout = TableLayout.of(embedding.tables)
    return {"layout": layout, "num_dense": num_dense, "num_labels": num_labels}, made_up
