"""An exported model: raw rows in, scores out."""

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from bagpipe.data.files import InputFile
from bagpipe.data.kept_columns import as_before
from bagpipe.data.value_counts import ValueCounts
from bagpipe.errors import CheckpointError, ConfigError, DataError
from bagpipe.lowlevel.strict_json import encode
from bagpipe.lowlevel.wording import no_column
from bagpipe.standalone.block import Block, Values, batches_of
from bagpipe.standalone.click_logs import CRITEO_DENSE, CRITEO_SPARSE, AvazuColumns, CriteoColumns
from bagpipe.standalone.columns import OwnColumns
from bagpipe.standalone.embeddings import FeatureRows, SparseEmbeddings
from bagpipe.standalone.layout import Table, TableLayout
from bagpipe.standalone.readers import fields_of, files_of, lines_of, tables_of, types_of
from bagpipe.standalone.records import CaserRecords, PlainRecords, parsed
from bagpipe.standalone.tables import StoredTable, row_finders, value_counts
from bagpipe.standalone.tensors import check_weights, read_arrays, read_tensors

VERSION = 1
SCORES = npt.NDArray[np.float64]
Tabular = OwnColumns | CriteoColumns | AvazuColumns
Records = PlainRecords | CaserRecords


class ExportedModel:
    """What `bagpipe export` wrote, loaded. Reads its folder only; may be used by one thread at a time."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """Load an export.

        Args:
            folder: where it lies.
            threads: torch's, which are the whole process's; None: as in training, where that was stated.

        Raises:
            CheckpointError: a file is missing, damaged, or of a version that this code does not read.
        """
        self.facts: dict[str, Any] = _json(folder / "model.json")
        if self.facts.get("format") != VERSION:
            raise CheckpointError(f"{folder}: format {self.facts.get('format')}, this score.py reads {VERSION}")
        self.info: dict[str, Any] = _json(folder / "transform" / "transform.json")
        try:
            self._read(folder, threads)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: damaged ({type(error).__name__}: {error}); export the model again"
            ) from None
        self.module = _module(folder, self.layout, self.facts)

    def _read(self, folder: Path, threads: int | None) -> None:
        """All but the dense model, whose code is its author's."""
        self.labels: tuple[str, ...] = tuple(self.facts["labels"])
        self.batch_size: int = self.facts["batchSize"]
        chosen = threads or self.facts["threads"]
        if chosen:
            torch.set_num_threads(chosen)
        self.layout = TableLayout.of(_table(t) for t in self.facts["tables"])
        self._finders = row_finders(folder / "transform", self.info, self.layout.tables)
        self._stored = _stored(folder, self.layout, self.facts)
        self.source: Tabular | Records = _source(self.info, value_counts(folder / "transform", self.info))

    def __repr__(self) -> str:
        return f"ExportedModel({self.facts['job']!r}, step={self.facts['step']}, labels={self.labels})"

    def score(self, rows: Sequence[Mapping[str, Any]]) -> SCORES:
        """`[rows, labels]`: what is predicted of each label (a probability, for clicks), for rows as dicts by column.

        A key that is missing is a missing value; keys that the model does not use are passed over.

        Raises:
            DataError: a value cannot be what its column is.
        """
        if not rows:
            return np.zeros((0, len(self.labels)))
        return self.predictions(self.block_of(rows))

    bad_data = DataError
    """Of the export's own code; `score.py` knows no other module of it."""

    @staticmethod
    def json(value: Mapping[str, Any]) -> str:
        """A row of scores as JSON in one line; a score that is not finite is null and told in words."""
        return encode({k: v if isinstance(v, float | int | str | None) else str(v) for k, v in value.items()})

    def block_of(self, rows: Sequence[Mapping[str, Any]]) -> Block:
        """Rows as the model's values."""
        if isinstance(self.source, PlainRecords | CaserRecords):
            return self.source.block(rows, "rows", 1)
        return self.source.block(_table_of(rows, self.source.names), "rows", 1)

    def score_file(self, path: str, keep: str | Sequence[str] = ()) -> Iterator[pa.Table]:
        """The scores of a file or folder of raw rows, batch by batch in memory that does not grow: file, row, the
        columns `keep` (a text is one column), and a score of each label.

        Raises:
            DataError: the data cannot be read, or a row is malformed.
            ConfigError: a kept column has the name of one that is written.
        """
        keep = (keep,) if isinstance(keep, str) else tuple(dict.fromkeys(keep))
        written = ("file", "row", *(f"score_{name}" for name in self.labels))
        for name in set(keep).intersection(written):
            raise ConfigError(f"--keep: {name!r} is a column of the scores already; rename it in the data to keep it")
        for block in batches_of(self.blocks(path, keep), self.batch_size):
            columns: dict[str, Any] = {"file": pa.array(block.file), "row": pa.array(block.rows_B)}
            if block.kept is not None:
                columns |= {name: block.kept.column(name) for name in keep}
            scores = self.predictions(block)
            yield pa.table(columns | {f"score_{name}": scores[:, i] for i, name in enumerate(self.labels)})

    def predictions(self, block: Block) -> SCORES:
        """`[B, L]`, as evaluation takes the model's outputs: probabilities 1 / (1 + e^-x), values, or counts e^x."""
        wide = self.logits(block).astype(np.float64)
        if self.facts["outputs"] != "clicks":
            return np.exp(wide) if self.facts["outputs"] == "counts" else wide
        small = np.exp(-np.abs(wide))
        return np.asarray(np.where(wide >= 0, 1.0, small) / (1.0 + small))

    def logits(self, block: Block) -> npt.NDArray[np.float32]:
        """`[B, L]`.

        Raises:
            DataError: the model's outputs are not one for each label.
        """
        dense_BF = torch.from_numpy(block.dense_BF).clone()
        narrow = torch.autocast("cpu", torch.bfloat16, enabled=self.facts["precision"] == "bfloat16")
        with torch.no_grad(), narrow:
            out = self.module(dense_BF, self.embeddings(block))
        return outputs_of(out, len(block), len(self.labels))

    def embeddings(self, block: Block) -> SparseEmbeddings:
        """What the dense model receives for its sparse features."""
        places = {feature["name"]: place for place, feature in enumerate(self.info["features"])}
        groups = []
        for group in self.layout.groups:
            features = []
            for table in group.tables:
                for name in table.feature_names:
                    values = block.values[places[name]]
                    rows = self._finders[table.name].rows(values.codes_N, name)
                    weights = self._stored[table.name].weights(rows)
                    pooling = table.pooling_of(name)
                    features.append(FeatureRows(name, pooling, weights, values.lengths_B, values.weights_N))
            groups.append(features)
        return SparseEmbeddings(groups, len(block))

    def graph_inputs(self, block: Block) -> dict[str, npt.NDArray[Any]]:
        """The inputs by name of the graph that was exported beside this model (`--format`).

        Raises:
            ConfigError: the export has no graph.
        """
        if "graph" not in self.facts:
            raise ConfigError("this export has no graph; make one with `bagpipe export --format onnx` or torch-export")
        places = {feature["name"]: place for place, feature in enumerate(self.info["features"])}
        tables = {name: table.name for table in self.layout.tables for name in table.feature_names}
        found: dict[str, npt.NDArray[Any]] = {}
        for known in self.facts["graph"]:
            name = known["feature"]
            if name is None:
                found[known["name"]] = block.dense_BF
                continue
            values = block.values[places[name]]
            if known["kind"] == "rows":
                cells: Any = self._finders[tables[name]].rows(values.codes_N, name)
            else:
                ones = np.ones(len(values.codes_N), np.float32)
                cells = ones if values.weights_N is None else values.weights_N
            found[known["name"]] = _rectangle(cells, values, known["longest"]) if known["several"] else cells
        return found

    def blocks(self, path: str, keep: tuple[str, ...] = ()) -> Iterator[Block]:
        """The rows of a file or folder as the model's values, in pieces as they are read."""
        if keep and not isinstance(self.source, OwnColumns):
            raise ConfigError("--keep: this format has no columns of its own; rows are named by file and number")
        files = files_of(path)
        kept_types: pa.Schema | None = None
        types = types_of(files[0], self.source.header) if isinstance(self.source, OwnColumns) else pa.schema([])
        for file in files:
            first = 1
            for block in self._pieces(file, types, keep):
                stop = first + len(block)
                if block.kept is not None:
                    block = replace(block, kept=as_before(block.kept, kept_types, file.name))
                    kept_types = block.kept.schema
                yield replace(block, file=(file.name,) * len(block), rows_B=np.arange(first, stop, dtype=np.int64))
                first = stop

    def _pieces(self, file: InputFile, types: pa.Schema, keep: tuple[str, ...]) -> Iterator[Block]:
        source, first = self.source, 1
        if isinstance(source, PlainRecords | CaserRecords):
            for lines in lines_of(file):
                yield source.block(parsed(lines, file.name, first), file.name, first)
                first += len(lines)
            return
        if isinstance(source, OwnColumns):
            tables = tables_of(file, tuple(dict.fromkeys((*source.names, *keep))), types, source.header)
        else:
            tables = _click_log(file, source)
        for table in tables:
            block = source.block(table, file.name, first)
            first += table.num_rows
            yield replace(block, kept=table.select(list(keep)).replace_schema_metadata(None)) if keep else block


def outputs_of(out: object, examples: int, labels: int) -> npt.NDArray[np.float32]:
    """What a model gave, as `[B, L]` float32.

    Raises:
        DataError: it is no tensor of real numbers, or not one for each example and label.
    """
    if not isinstance(out, torch.Tensor) or not out.is_floating_point():
        found = out.dtype if isinstance(out, torch.Tensor) else type(out).__name__
        raise DataError(f"the model gives {found}; expected a tensor of floating-point numbers, one for each label")
    if out.numel() != examples * labels:
        raise DataError(f"the model gives {list(out.shape)} for {examples} examples of {labels} labels")
    return np.asarray(out.float().numpy().reshape(examples, labels), np.float32)


def _rectangle(cells: npt.NDArray[Any], values: Values, longest: int | None) -> npt.NDArray[Any]:
    """`[B, k]`: each example's cells, filled up with -1; k is at least 1.

    Raises:
        DataError: an example has more values than the graph takes.
    """
    lengths = np.ones(len(cells), np.int64) if values.lengths_B is None else values.lengths_B
    most = int(lengths.max(initial=1))
    if longest is not None and most > longest:
        raise DataError(f"an example has {most} values of a feature of which the graph takes {longest}")
    out = np.full((len(lengths), longest or most), -1, cells.dtype)
    within = np.arange(len(cells)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[np.repeat(np.arange(len(lengths)), lengths), within] = cells
    return out


def _source(info: Mapping[str, Any], counts: Mapping[str, ValueCounts]) -> Tabular | Records:
    found = info["source"]
    if found == "columns":
        return OwnColumns(info, counts)
    if found == "criteo-tsv":
        return CriteoColumns(info)
    if found == "avazu-csv":
        return AvazuColumns(info)
    if found == "caser-json":
        return CaserRecords(info)
    return PlainRecords(info)


def _click_log(file: InputFile, source: CriteoColumns | AvazuColumns) -> Iterator[pa.Table]:
    """The columns of a text file by name; Criteo's may lack the label, Avazu's begins with a header."""
    names: list[str] | None = None
    for table in fields_of(file, "\t" if isinstance(source, CriteoColumns) else ","):
        if names is None and isinstance(source, CriteoColumns):
            names = ["label", *CRITEO_DENSE, *CRITEO_SPARSE][40 - table.num_columns :]
            if len(names) != table.num_columns:
                raise DataError(f"{file.name}: expected 39 or 40 tab-separated fields, found {table.num_columns}")
        elif names is None:
            names = [(table.column(i)[0].as_py() or b"").decode() for i in range(table.num_columns)]
            lacking = next((name for name in source.names if name not in names), None)
            if lacking is not None:
                raise DataError(f"{file.name}: expected Avazu's header, found one that lacks {lacking}")
            table = table.slice(1)
        yield table.rename_columns(names)


def _table_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.Table:
    """Rows as a table.

    Raises:
        DataError: a row has keys, none of which the model knows, or values are not of one type.
    """
    for number, row in enumerate(rows, 1):
        if row and names and not any(name in row for name in names):
            raise DataError(f"rows: row {number}: {no_column(names[0], 'the row', list(map(str, row)))}")
    return pa.table({name: _cells([row.get(name) for row in rows], name) for name in names})


def _cells(values: list[Any], name: str) -> pa.Array:
    """One column; NaN is missing, and a whole number of 64 bits is its bits, whatever its sign.

    Raises:
        DataError: values are not of one type.
    """
    try:
        return pa.array(values, from_pandas=True)
    except UnicodeEncodeError as error:
        number = next(n for n, v in enumerate(values, 1) if v == error.object)
        raise DataError(f"rows: row {number}: column {name}: expected text, found {error.object!r:.60}") from None
    except (pa.ArrowException, OverflowError):
        pass
    given = [(number, value) for number, value in enumerate(values, 1) if value is not None]
    if all(isinstance(value, int) and -(2**63) <= value < 2**64 for _, value in given):
        return pa.array([None if v is None else v & 0xFFFF_FFFF_FFFF_FFFF for v in values], pa.uint64())
    first = type(given[0][1])
    number, found = next((n, v) for n, v in given if type(v) is not first or v == given[-1][1])
    raise DataError(f"rows: row {number}: column {name}: expected a value as in row {given[0][0]}, found {found!r:.60}")


def _table(facts: Mapping[str, Any]) -> Table:
    names = tuple(facts["featureNames"])
    pooling = (facts.get("pooling", "sum"), facts.get("featurePooling", {}))
    return Table(facts["name"], facts["numEmbeddings"], facts["embeddingDim"], names, *pooling)


def _stored(folder: Path, layout: TableLayout, facts: Mapping[str, Any]) -> dict[str, StoredTable]:
    values = read_arrays(folder / "tables.safetensors")
    touched = {} if facts["allRows"] else read_arrays(folder / "rows.safetensors")
    scales = read_arrays(folder / "scales.safetensors") if "int8" in facts["dtypes"].values() else {}
    found = {}
    for number, table in enumerate(layout.tables):
        stated = facts["initScales"][number]
        half_width = stated if stated is not None else 1.0 / math.sqrt(table.num_embeddings)
        found[table.name] = StoredTable(
            table,
            number,
            values[table.name],
            touched.get(table.name),
            scales.get(table.name),
            facts["seed"],
            half_width,
        )
    return found


def _module(folder: Path, layout: TableLayout, facts: Mapping[str, Any]) -> nn.Module:
    """The dense model, built by its own class and filled with its weights."""
    model = facts["model"]
    # In an export this module lies below a package of the export's own; so does the model's.
    prefix = __name__.removesuffix("bagpipe.standalone.model")
    try:
        made: Any = importlib.import_module(prefix + model["module"])
    except ImportError as error:
        raise CheckpointError(
            f"{folder}: its model cannot be imported ({error}); install what model.json requires"
        ) from None
    for name in model["class"].split("."):
        made = getattr(made, name)
    offered = {"layout": layout, "num_dense": len(facts["dense"]), "num_labels": len(facts["labels"])}
    with torch.random.fork_rng(devices=[]):
        module = made(**{name: offered[name] for name in model["offered"]}, **model["arguments"])
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{folder}: {model['class']} made a {type(module).__name__}, expected a torch.nn.Module")
    collections = sys.modules.get(f"{prefix}bagpipe.nn.tables")
    if collections is not None:  # The model's code has TorchRec's collections.
        collections.feed_collections(module, layout)
    weights = read_tensors(folder / "dense.safetensors")
    check_weights("dense.safetensors", module.state_dict(), weights)
    module.load_state_dict(weights)
    return module.eval()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; export the model again") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); export the model again") from None
