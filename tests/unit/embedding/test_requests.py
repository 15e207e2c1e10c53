"""A request is checked whole, and also for what the door before it would have refused."""

import numpy as np
import pytest

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.embedding.requests import Bounds, check_fetch, check_write_back
from bagpipe.embedding.row_store import RowStore
from bagpipe.errors import WireError
from bagpipe.net.messages import Fetch, WriteBack
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import Table, TableLayout

GROUP = TableLayout.of([Table(name="t", num_embeddings=8, embedding_dim=4, feature_names=("f",))]).groups[0]
BOUNDS = Bounds(num_trainers=2, slots=(8,))
KEYS = np.array([0, 3], np.int64)
RECORDS = np.ones((2, 4), np.float32)


def stores() -> list[RowStore]:
    initial_rows = InitialRows(GROUP, EmbeddingConfig(optimizer=RowOptimizer(name="sgd")), seed=3)
    return [RowStore(GROUP, initial_rows, shard=0, num_shards=1, directory=None)]


def test_a_rank_that_the_job_has_not_is_refused() -> None:
    """The gate counts by rank, so an admitted message of a rank that it does not count never reaches it."""
    for rank in (0, 1):
        back = WriteBack(rank=rank, step=0, checkpoint=False)
        assert check_write_back(b"p", back, [KEYS, RECORDS], stores(), BOUNDS).rank == rank
        fetch = Fetch(rank=rank, step=1, group=0, after=0, num_records=2)
        assert check_fetch(b"p", fetch, [KEYS], stores(), BOUNDS).rank == rank
    with pytest.raises(WireError, match="expected a rank below 2, found 2"):
        check_write_back(b"p", WriteBack(rank=2, step=0, checkpoint=False), [KEYS, RECORDS], stores(), BOUNDS)
    with pytest.raises(WireError, match="expected a rank below 2, found 2"):
        check_fetch(b"p", Fetch(rank=2, step=1, group=0, after=0, num_records=2), [KEYS], stores(), BOUNDS)
