"""A model as one graph, lookup and dense part together: `torch.export`'s program, or ONNX.

The graph begins where the transform ends. Its inputs are `dense` and, for each sparse feature, numbers of rows of its
table: `[B]`, or `[B, k]` filled up with -1 where a feature may have several values, with `<feature>.weights` beside it
where they are weighted. Its output is `[B, L]`, before the sigmoid. `ExportedModel.graph_inputs` makes the inputs of
raw rows.

Whole tables are part of the graph: a row that nobody touched has its first value there too.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from bagpipe.batch import Lengths
from bagpipe.cache.lookup import GroupEmbeddings, Jagged, SparseEmbeddings
from bagpipe.checkpoint.kept_rows import KeptRows
from bagpipe.data.transform import TransformInfo
from bagpipe.errors import ConfigError
from bagpipe.tables import Pooling, TableLayout, WidthGroup

GraphFormat = Literal["torch-export", "onnx"]
FILES: Mapping[GraphFormat, str] = {"torch-export": "model.pt2", "onnx": "model.onnx"}
OPSET = 18
EXAMPLES = 3
"""Of the batch that is traced; any other number of examples fits the graph."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the graph."""

    name: str
    feature: str | None
    """None: the dense features."""
    kind: Literal["dense", "rows", "weights"]
    several: bool = False
    """`[B, k]`."""
    longest: int | None = None
    """k, where it is fixed; None: that of each batch."""


def graph_inputs(layout: TableLayout, info: TransformInfo, model: nn.Module) -> list[Input]:
    """The inputs of a model's graph.

    Raises:
        ConfigError: a feature is looked up in two tables.
    """
    found = [Input("dense", None, "dense")] if info.dense else []
    weighted = {c.name for c in info.columns.sparse if c.weight} if info.columns is not None else set()
    seen: set[str] = set()
    for group in layout.groups:
        for table in group.tables:
            for name in table.feature_names:
                if name in seen:
                    raise ConfigError(f"--format: feature {name} is looked up in two tables, and a graph has one input")
                seen.add(name)
                stays_list = table.pooling_of(name) == "none"
                longest = _longest(name, info, model) if stays_list else None
                several = info.jagged or stays_list
                found.append(Input(name, name, "rows", several, longest))
                if name in weighted:
                    found.append(Input(f"{name}.weights", name, "weights", several, longest))
    return found


def _longest(feature: str, info: TransformInfo, model: nn.Module) -> int | None:
    """Most values of a feature that the model sees as a list, where that is known: the model may say so itself."""
    if not info.jagged:
        return 1
    fixed: Mapping[str, int] = getattr(model, "list_lengths", {})
    if feature in fixed:
        return fixed[feature]
    columns = info.columns.sparse if info.columns is not None else ()
    return next((column.max_length for column in columns if column.name == feature), None)


class Graph(nn.Module):
    """What is exported: tables and model."""

    def __init__(
        self, model: nn.Module, num_dense: int, layout: TableLayout, rows: Sequence[KeptRows], inputs: Sequence[Input]
    ) -> None:
        super().__init__()
        self.model, self.num_dense, self.layout, self.inputs = model, num_dense, layout, list(inputs)
        for number, group_rows in enumerate(rows):
            weights = group_rows.weights(np.arange(group_rows.group.num_rows))
            self.register_buffer(f"rows_{number}", torch.from_numpy(weights))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """`[B, L]`."""
        given = {known.name: value for known, value in zip(self.inputs, inputs, strict=True)}
        batch = inputs[0].shape[0]
        dense_BF = given.get("dense", torch.zeros((batch, 0)))
        groups = [self._group(number, group, given) for number, group in enumerate(self.layout.groups)]
        lists = {name: found for _, lists in groups for name, found in lists.items()}
        out: torch.Tensor = self.model(dense_BF, GraphEmbeddings([g for g, _ in groups], batch, lists))
        return out.float().reshape(batch, -1)

    def _group(
        self, number: int, group: WidthGroup, given: Mapping[str, torch.Tensor]
    ) -> tuple[GroupEmbeddings, dict[str, Jagged]]:
        rows_KD = self.get_buffer(f"rows_{number}")
        firsts = [first for t, first in zip(group.tables, group.offsets, strict=True) for _ in t.feature_names]
        names, pooling, empty = group.feature_names, group.pooling, torch.zeros((0, group.embedding_dim))
        if all(given[name].dim() == 1 for name in names):  # One lookup for all.
            keys_BT = torch.stack([given[name] for name in names], dim=1) + torch.tensor(firsts)
            return GroupEmbeddings(names, pooling, rows_KD[keys_BT], empty, None), {}
        lists = {
            name: _list(rows_KD, given[name], first, given.get(f"{name}.weights"))
            for name, first in zip(names, firsts, strict=True)
        }
        pooled = [_pool(lists[name], how) for name, how in zip(names, pooling, strict=True) if how != "none"]
        stacked = torch.stack(pooled, dim=1) if pooled else empty
        return GroupEmbeddings(names, pooling, stacked, empty, None), lists


def _list(rows_KD: torch.Tensor, rows_Bk: torch.Tensor, first: int, weights_Bk: torch.Tensor | None) -> Jagged:
    """A feature's rows, zero where there is none."""
    there_Bk = rows_Bk >= 0
    padded = rows_KD[rows_Bk.clamp(min=0) + first] * there_Bk.unsqueeze(2)
    return Jagged(padded, there_Bk.sum(dim=1), None if weights_Bk is None else weights_Bk * there_Bk)


class GraphEmbeddings(SparseEmbeddings):
    """What the model receives while it is traced."""

    def __init__(self, groups: Sequence[GroupEmbeddings], num_examples: int, lists: Mapping[str, Jagged]) -> None:
        super().__init__(groups, num_examples)
        self._lists = lists

    def jagged(self, feature: str) -> Jagged:
        group, t = self._find(feature)
        if group.pooling[t] != "none":
            raise ConfigError(f"feature {feature!r} is pooled ({group.pooling[t]}); read it with `[{feature!r}]`")
        return self._lists[feature]

    def flat(self, feature: str) -> tuple[torch.Tensor, torch.Tensor]:
        raise ConfigError(f"--format: the model reads feature {feature} row by row (`flat`), which a graph cannot")

    def lengths(self, feature: str) -> torch.Tensor:
        self._find(feature)
        found = self._lists.get(feature)
        return torch.ones(self.num_examples, dtype=torch.int64) if found is None else found.lengths_B

    def weights(self, feature: str) -> torch.Tensor | None:
        self._find(feature)
        found = self._lists.get(feature)
        if found is None or found.weights_Bk is None:
            return None
        raise ConfigError(f"--format: the model reads weights of feature {feature} row by row, which a graph cannot")

    def _lengths(self, group: GroupEmbeddings) -> Lengths:
        raise ConfigError("--format: the model reads lengths outside the graph")


def _pool(found: Jagged, pooling: Pooling) -> torch.Tensor:
    weights_Bk = found.weights_Bk
    sums = found.padded_BkD.sum(1) if weights_Bk is None else (found.padded_BkD * weights_Bk.unsqueeze(2)).sum(1)
    if pooling == "sum":
        return sums
    totals = (found.lengths_B.float() if weights_Bk is None else weights_Bk.sum(1)).unsqueeze(1)
    return sums / torch.where(totals > 0, totals, torch.ones_like(totals))


def write_graph(graph: Graph, folder: Path, kind: GraphFormat) -> str:
    """Write the graph into `folder`; returns the file's name.

    Raises:
        ConfigError: the model cannot be traced, or the packages for ONNX are missing.
    """
    graph.eval().requires_grad_(requires_grad=False)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(graph, _sample(graph), dynamic_shapes=_shapes(graph), strict=False)
            if kind == "torch-export":
                torch.export.save(program, folder / FILES[kind])
            else:
                _write_onnx(program, graph, folder / FILES[kind])
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"--format onnx: {error.name} is missing; `pip install onnx onnxscript onnxruntime`"
        ) from None
    except Exception as error:  # whatever torch raises of a model that it cannot trace
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        name = type(graph.model).__qualname__
        raise ConfigError(
            f"--format {kind}: the model {name} has no graph: {words[:300]}; export without --format: score.py runs it"
        ) from error
    return FILES[kind]


def _write_onnx(program: Any, graph: Graph, path: Path) -> None:
    names = [known.name for known in graph.inputs]
    large = sum(t.nbytes for t in graph.buffers()) > 1 << 30  # one protobuf holds no more than 2 GiB
    options: dict[str, Any] = {"opset_version": OPSET, "dynamo": True, "external_data": large, "verbose": False}
    torch.onnx.export(program, (), path, input_names=names, output_names=["logits"], **options)


def _sample(graph: Graph) -> tuple[torch.Tensor, ...]:
    found = []
    for known in graph.inputs:
        if known.kind == "dense":
            found.append(torch.zeros((EXAMPLES, graph.num_dense)))
            continue
        shape = (EXAMPLES, known.longest or 2) if known.several else (EXAMPLES,)
        found.append(torch.zeros(shape, dtype=torch.int64 if known.kind == "rows" else torch.float32))
    return tuple(found)


def _shapes(graph: Graph) -> Any:
    batch = torch.export.Dim("batch", min=1)
    lists = [known.feature for known in graph.inputs if known.several and known.kind == "rows"]
    lengths = {name: torch.export.Dim(f"values_{number}", min=1) for number, name in enumerate(lists)}
    shapes = []
    for known in graph.inputs:
        shape = {0: batch}
        if known.several and known.longest is None:
            shape[1] = lengths[known.feature]
        shapes.append(shape)
    return {"inputs": tuple(shapes)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk on stdout and in warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
