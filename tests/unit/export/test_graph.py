"""A model as one graph has the scores of the model, and the vectors of a table are the table's."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from export_cases import BRANCHING, ab_columns, ab_csv, ab_tables, data_of

from bagpipe.errors import ConfigError
from bagpipe.export.tables import load_tables
from bagpipe.export.vectors import export_vectors
from bagpipe.export.write import export_model, load_export
from bagpipe.standalone.block import batches_of


@pytest.mark.parametrize(("kind", "some"), [("torch-export", ("own",)), ("onnx", ())])
def test_a_graph_of_lookup_and_dense_part_gives_the_scores(
    kind: Any, some: tuple[str, ...], checkpoints: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """On raw rows in batches of other sizes than the traced one, within 1e-6 (AutoInt 4e-6): every model."""
    for name in some or checkpoints:
        export_model(checkpoints[name], tmp_path / name, graph=kind)
        model = load_export(tmp_path / name)
        run = graph_of(tmp_path / name)
        for block in batches_of(model.blocks(data_of(folder, name)), 70):
            logits = run(model.graph_inputs(block)).astype(np.float64)
            # onnxruntime adds AutoInt's attention in another order: one score of 70 was 1.9e-6 away.
            most = 4e-6 if name == "autoint" else 1e-6
            np.testing.assert_allclose(1 / (1 + np.exp(-logits)), model.predictions(block), atol=most, err_msg=name)


def graph_of(folder: Path) -> Callable[[dict[str, Any]], Any]:
    if (folder / "model.onnx").exists():
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)[0]
    module = torch.export.load(folder / "model.pt2").module()
    return lambda inputs: module(*map(torch.from_numpy, inputs.values())).numpy()


def test_a_model_without_a_graph_is_refused_by_name(
    folder: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """A condition on the data has no graph: one line names the model and the way out, and nothing is left."""
    (folder / "models" / "a_model_that_branches.py").write_text(BRANCHING)
    (folder / "ab.csv").write_text(ab_csv(random.Random(1)))
    data = {"path": str(folder / "ab.csv"), "columns": ab_columns(), "encoding": "hash"}
    spec = {"model": {"entrypoint": "a_model_that_branches:M"}, "data": data, "embedding": {"tables": ab_tables()}}
    checkpoint = trained(json.dumps({"metadata": {"name": "x"}, "spec": spec}))
    with pytest.raises(ConfigError, match=r"the model M has no graph: .*; export without --format: score.py runs it"):
        export_model(checkpoint, tmp_path / "graph", graph="onnx")
    assert not (tmp_path / "graph").exists()
    export_model(checkpoint, tmp_path / "alone")


def test_vectors_of_a_table_come_with_their_values(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Value, row and vector by row; the values are the vocabulary's, the vectors the table's."""
    export_model(checkpoints["own"], tmp_path / "all", all_rows=True)
    count = export_vectors(checkpoints["own"], "items", tmp_path / "items.parquet")
    found = pq.read_table(tmp_path / "items.parquet")
    assert count == found.num_rows > 20 and found.column_names == ["value", "row", "vector"]
    assert {"i1", "i39"} <= set(found["value"].to_pylist()), "texts of up to 8 characters are known"
    table = load_tables(tmp_path / "all")["items"]
    np.testing.assert_array_equal(np.stack(found["vector"].to_pylist()), table[found["row"].to_numpy()])
    ids = export_vectors(checkpoints["wdl"], "C1", tmp_path / "ids.parquet")
    numbers = pq.read_table(tmp_path / "ids.parquet")
    assert numbers["value"].to_pylist() == [str(row) for row in numbers["row"].to_pylist()] and ids > 10
    with pytest.raises(ConfigError, match="there is no table item; the tables are user, items, tags, age_band"):
        export_vectors(checkpoints["own"], "item", tmp_path / "none.parquet")
