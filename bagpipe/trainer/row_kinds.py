"""Finds which rows of a step are updated by which optimizer, where tables of one width group differ or are frozen.

The cache knows slots and no tables. The features that look up a row tell its table, so no plan has to.
"""

from collections.abc import Iterator

import numpy as np

from bagpipe.cache.cache import RowKind
from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.plan import GroupPlan, Indices
from bagpipe.rows.recipe import recipes_of
from bagpipe.tables import WidthGroup
from bagpipe.trainer.schedules import row_learning_rate

FROZEN = -1


class RowKinds:
    """The kinds of rows of one width group.

    Raises:
        ConfigError: a schedule's class of torch refuses its arguments.
    """

    def __init__(self, embedding: EmbeddingConfig, group: WidthGroup) -> None:
        recipes = recipes_of(embedding, group)
        optimizers: list[RowOptimizer] = []
        for recipe in recipes:
            if not recipe.frozen and recipe.optimizer not in optimizers:
                optimizers.append(recipe.optimizer)
        self.kinds = tuple(RowKind(o, row_learning_rate(o)) for o in optimizers)
        of_tables = [FROZEN if r.frozen else optimizers.index(r.optimizer) for r in recipes]
        features = [k for k, table in zip(of_tables, group.tables, strict=True) for _ in table.feature_names]
        self._of_features_T = np.array(features, np.int32)
        self._alike = len(set(of_tables)) == 1 and FROZEN not in of_tables

    def updated(self, part: GroupPlan) -> Iterator[tuple[int, Indices]]:
        """Local indices of the rows that this trainer updates in a step, by kind; frozen ones are left out."""
        owned = part.owned()
        if self._alike:
            yield 0, owned
            return
        kinds_K = self._of_rows(part)[owned]
        for kind in range(len(self.kinds)):
            yield kind, owned[kinds_K == kind]

    def _of_rows(self, part: GroupPlan) -> Indices:
        """Kind of each distinct row of the step, by local index."""
        features = self._of_features_T.size
        kinds_K = np.full(part.slots_K.size, FROZEN, np.int32)
        if part.lengths_BT is None:
            kinds_N = np.tile(self._of_features_T, part.inverse_N.size // features)
        else:
            kinds_BT = np.broadcast_to(self._of_features_T, part.lengths_BT.shape)
            kinds_N = np.repeat(kinds_BT.reshape(-1), part.lengths_BT.reshape(-1))
        kinds_K[part.inverse_N] = kinds_N
        return kinds_K
