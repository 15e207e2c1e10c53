"""What rounding the rows of an export costs, in AUC, on the test part of the run's own data where it is at hand."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.kept_rows import KeptRows, kept_rows
from bagpipe.checkpoint.places import reuse_prepared_data
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.examples import Examples
from bagpipe.data.transform import Transform
from bagpipe.errors import BagpipeError
from bagpipe.export.tables import Dtype, restored, rounded
from bagpipe.export.write import table_dtypes
from bagpipe.metrics.clicks import evaluate
from bagpipe.tables import WidthGroup
from bagpipe.trainer.scorer import Scorer


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows as an export gives them back: touched ones rounded, the others as they were born."""

    kept: KeptRows
    dtypes: Mapping[str, Dtype]

    @property
    def group(self) -> WidthGroup:
        return self.kept.group

    def weights(self, keys_K: Keys) -> Floats:
        """`[K, D]`."""
        out, touched = self.kept.weights(keys_K), np.isin(keys_K, self.kept.touched())
        for table, first in zip(self.group.tables, self.group.offsets, strict=True):
            here = (keys_K >= first) & (keys_K < first + table.num_embeddings) & touched
            out[here] = restored(*rounded(out[here], self.dtypes[table.name], table.name))
        return out


def loss_in_auc(directory: Path, dtypes: Mapping[str, Dtype]) -> str:
    """One line: the AUC of every label before and after rounding, or why it is not known."""
    checkpoint = open_checkpoint(directory)
    kept = load_kept(checkpoint)
    assert kept is not None
    try:
        with tempfile.TemporaryDirectory(prefix="bagpipe-export-") as folder:
            dataset = _test_part(checkpoint, kept.transform, Path(folder))
            if not dataset.num_test_examples:
                return "the loss in AUC is not known: the job has no test part (data.testFraction, data.test)"
            return _compare(checkpoint, kept.transform, dataset, table_dtypes(checkpoint, dtypes))
    except BagpipeError as error:
        return f"the loss in AUC is not known: {error}"


def _test_part(checkpoint: Checkpoint, transform: Transform, folder: Path) -> Dataset:
    spec = checkpoint.manifest.spec
    reuse_prepared_data(checkpoint.directory, folder)
    return open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=folder, kept=transform, only_test=True)


def _compare(checkpoint: Checkpoint, transform: Transform, dataset: Dataset, dtypes: Mapping[str, Dtype]) -> str:
    rows = kept_rows(checkpoint)
    exact = Scorer(checkpoint, transform, rows)
    coarse = Scorer(checkpoint, transform, [RoundedRows(one, dtypes) for one in rows])
    before, after, labels = [], [], []
    for batch in dataset.test_batches(exact.spec.batch_size):
        examples = Examples(batch.labels_BL, batch.dense_BF, batch.sparse)
        before.append(exact.logits(examples))
        after.append(coarse.logits(examples))
        labels.append(batch.labels_BL)
    a_BL, b_BL, labels_BL = np.concatenate(before), np.concatenate(after), np.concatenate(labels)
    words = []
    for place, name in enumerate(transform.label_names):
        a, b = (evaluate(x[:, place], labels_BL[:, place]).auc for x in (a_BL, b_BL))
        told = "not defined" if a is None or b is None else f"{a:.6f} before, {b:.6f} after ({b - a:+.6f})"
        words.append(f"AUC of {name}: {told}")
    return f"{'; '.join(words)}; on {len(labels_BL):,} test examples"
