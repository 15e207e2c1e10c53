"""An export scores raw rows without Bagpipe, to the last digit as Bagpipe does: every shipped model, and others."""

import csv
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.columns import DenseColumn, SparseColumn
from bagpipe.config.model import MODEL_SETTINGS
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, StorageError
from bagpipe.export.predict import predict as predict_any
from bagpipe.export.tables import load_tables
from bagpipe.export.vectors import export_vectors
from bagpipe.export.write import export_model, load_export
from bagpipe.rows.initial import initial_rows, row_scale
from bagpipe.standalone import column_settings, plain_kernels
from bagpipe.standalone import embeddings as alone
from bagpipe.standalone.block import batches_of
from bagpipe.trainer.predict import predict

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = ("bagpipe", "msgspec", "numba", "safetensors", "yaml", "zmq", "fsspec", "typer")
WITHOUT_BAGPIPE = f"""
import importlib.util, json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Absent())
import pyarrow as pa, pyarrow.parquet as pq
for number, (folder, data, out) in enumerate(json.load(sys.stdin)):
    spec = importlib.util.spec_from_file_location(f"score_{{number}}", folder + "/score.py")
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    model = score.load()
    pq.write_table(pa.concat_tables(model.score_file(data)), out)
assert not [name for name in sys.modules if name.partition(".")[0] in {FORBIDDEN!r}]
"""
OWN_MODEL = '''"""A model with code of its own beside it."""
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from bagpipe import register_model
from bagpipe.models.layers import Dropout, mlp
import own_parts.gate
from own_parts import gate as g
if TYPE_CHECKING:
    from bagpipe.cache.lookup import SparseEmbeddings
    from bagpipe.config.document import JobSpec

@register_model("ours")
class Ours(nn.Module):
    def __init__(self, layout, num_dense, num_labels, hidden=4):
        super().__init__()
        width = sum(t.embedding_dim * len(t.feature_names) for t in layout.tables if t.pooling != "none")
        listed = [t for t in layout.tables if t.pooling == "none"]
        self.listed = [f for t in listed for f in t.feature_names]
        self.names = [f for t in layout.tables if t.pooling != "none" for f in t.feature_names]
        self.gate = own_parts.gate.Gate(width + sum(t.embedding_dim for t in listed) + num_dense)
        self.drop, self.mlp = Dropout(0.5), mlp(g.WIDTH, (hidden, num_labels), last_is_linear=True)

    def forward(self, dense, sparse):
        listed = [sparse.jagged(name).padded_BkD.sum(1) for name in self.listed]
        return self.mlp(self.drop(self.gate(torch.cat([dense, *(sparse[n] for n in self.names), *listed], dim=1))))
'''
GATE = """from torch import nn
from .sizes import WIDTH

class Gate(nn.Module):
    def __init__(self, num_inputs):
        super().__init__()
        self.linear = nn.Linear(num_inputs, WIDTH)

    def forward(self, x):
        return self.linear(x).tanh()
"""
BRANCHING = """from torch import nn

class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.over = nn.Linear(8, 1)

    def forward(self, dense, sparse):
        x = self.over(sparse.concatenated())
        return x if x.sum() > 0 else -x
"""
TORCHREC_MODEL = """from torch import nn
import torch
from bagpipe.nn import EmbeddingBagCollection, EmbeddingBagConfig

class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        configs = [
            EmbeddingBagConfig(name=n, num_embeddings=50, embedding_dim=4, feature_names=[n]) for n in ("a", "b")
        ]
        self.bags, self.over = EmbeddingBagCollection(tables=configs), nn.Linear(8, 1)

    def forward(self, dense, sparse):
        return self.over(self.bags(sparse).values())
"""


@dataclass(frozen=True)
class Case:
    """A job and the raw rows that it is asked to score."""

    name: str
    spec: dict[str, Any]
    text: str
    suffix: str = "txt"

    def job(self, folder: Path) -> str:
        data = folder / f"{self.name}.{self.suffix}"
        data.write_text(self.text, encoding="utf-8")
        spec = {"embedding": {"dim": 4}, "batchSize": 64, "seed": 3, "trainers": {"threads": 1}} | self.spec
        spec["data"] = {"path": str(data)} | spec["data"]
        return json.dumps({"metadata": {"name": self.name}, "spec": spec})


def criteo_json(count: int, rng: random.Random) -> str:
    lines = []
    for _ in range(count):
        sparse = [rng.randrange(50), [rng.randrange(30) for _ in range(rng.randrange(4))]]
        lines.append(json.dumps({"label": rng.randrange(2), "dense": [rng.gauss(0, 1)], "sparse": sparse}))
    return "\n".join(lines)


def caser_json(count: int, rng: random.Random) -> str:
    def items(number: int) -> list[int]:
        return [rng.randrange(60) for _ in range(number)]

    records = (
        {"label": items(2), "dense": items(2), "sparse": [items(1), items(rng.randrange(1, 6))]} for _ in range(count)
    )
    return "\n".join(json.dumps(record) for record in records)


def avazu(count: int, rng: random.Random) -> str:
    from bagpipe.data.separated import AVAZU_COLUMNS

    hours = [f"1410{day}{hour:02d}" for day in (21, 22, 26) for hour in (0, 9, 23)]
    rows = []
    for number in range(count):
        row = dict.fromkeys(AVAZU_COLUMNS, "x") | {"id": str(number), "click": str(rng.randrange(2))}
        row |= {name: f"{rng.randrange(20)}-of-{name}" for name in ("site_id", "device_model", "C14")}
        rows.append(",".join((row | {"hour": rng.choice(hours)}).values()))
    return "\n".join([",".join(AVAZU_COLUMNS), *rows]) + "\n"


def own_csv(count: int, rng: random.Random) -> str:
    rows = ["clicked,bought,price,age,user,item,tags,tag_weights,seen"]
    for _ in range(count):
        tags = [f"t{rng.randrange(30)}" for _ in range(rng.randrange(4))]
        weights = [f"{rng.random():.3f}" for _ in tags]
        seen = [f"i{rng.randrange(40)}" for _ in range(rng.randrange(4))]
        price = rng.choice(["", f"{rng.lognormvariate(2, 1):.2f}"])
        user = rng.choice(["", '""', f'"u {rng.randrange(30)}, ""the user"""', f"u{rng.randrange(200)}"])
        cells = [rng.randrange(2), rng.randrange(2), price, rng.randrange(90), user, f"i{rng.randrange(40)}"]
        rows.append(",".join(map(str, [*cells, "|".join(tags), "|".join(weights), "|".join(seen)])))
    return "\n".join(rows) + "\n"


OWN_COLUMNS = {
    "labels": [{"name": "clicked"}, {"name": "bought"}],
    "dense": [{"name": "price", "log1p": True, "standardise": True, "fill": 3.5}, {"name": "age", "clip": [5, 60]}],
    "sparse": [
        {"name": "user"},
        {"name": "item", "table": "items"},
        {"name": "tags", "separator": "|", "weight": "tag_weights", "maxLength": 3},
        {"name": "seen", "separator": "|", "table": "items", "maxLength": 2, "keep": "first"},
        {"name": "age_band", "column": "age", "boundaries": [18, 30, 50]},
    ],
}
OWN_TABLES = [
    {"name": "user", "numEmbeddings": 90, "embeddingDim": 4, "featureNames": ["user"]},
    {"name": "items", "numEmbeddings": 60, "embeddingDim": 4, "featureNames": ["item", "seen"], "pooling": "mean"},
    {"name": "tags", "numEmbeddings": 60, "embeddingDim": 6, "featureNames": ["tags"], "pooling": "mean"},
    {"name": "age_band", "numEmbeddings": 6, "embeddingDim": 3, "featureNames": ["age_band"], "pooling": "none"},
]
BINS = {"encoding": "vocabulary", "minCount": 1, "numericBins": "log-squared"}


def cases(criteo: Callable[[int, int], str]) -> list[Case]:
    rng = random.Random(5)
    small = {"overMlp": [8]}
    own = {"entrypoint": "own_model_of_a_test:Ours", "args": {"hidden": 6}}
    bags = {"entrypoint": "torchrec_model_of_a_test:Bags"}
    return [
        Case("dlrm", {"model": {"name": "dlrm", "bottomMlp": [8]} | small, "data": {"hashSize": 64}}, criteo(300, 1)),
        Case("wdl", {"model": {"name": "wdl", "bottomMlp": [8]}, "data": {}}, criteo_json(200, rng)),
        Case(
            "dcn",
            {"model": {"name": "dcn", "bottomMlp": [8]} | small, "data": {"encoding": "vocabulary", "oovRows": 5}},
            avazu(200, rng),
            "csv",
        ),
        Case("deepfm", {"model": {"name": "deepfm"} | small, "data": BINS}, criteo(200, 2)),
        Case("fgcnn", {"model": {"name": "fgcnn", "filterRange": "2-3"} | small, "data": BINS}, criteo(200, 3)),
        Case("caser", caser_spec(), caser_json(200, rng)),
        Case("dcnv2", {"model": {"name": "dcnv2"} | small, "data": BINS}, criteo(200, 4)),
        Case("autoint", {"model": {"name": "autoint"} | small, "data": BINS}, criteo(200, 5)),
        *(
            Case(
                name,
                {"model": {"name": name} | model, "data": {"columns": ab_columns(), "encoding": "hash"}},
                ab_csv(rng),
                "csv",
            )
            for name, model in (("two-tower", {"itemFeatures": ["b"]}), ("mmoe", {"experts": 2, "expertMlp": [8]}))
        ),
        Case("din", din_spec(), own_csv(200, rng), "csv"),
        Case("sasrec", sasrec_spec(), sasrec_json(200, rng)),
        Case(
            "own",
            {
                "model": own,
                "data": {"columns": OWN_COLUMNS, "minCount": 2, "oovRows": 3, "testFraction": 0.2},
                "embedding": {"tables": OWN_TABLES},
            },
            own_csv(300, rng),
            "csv",
        ),
        Case(
            "torchrec",
            {
                "model": bags,
                "data": {"columns": ab_columns(), "encoding": "hash"},
                "embedding": {"tables": ab_tables()},
            },
            ab_csv(rng),
            "csv",
        ),
    ]


def caser_spec() -> dict[str, Any]:
    tables = [
        {"name": "users", "numEmbeddings": 60, "embeddingDim": 4, "featureNames": ["user"]},
        {"name": "items", "numEmbeddings": 60, "embeddingDim": 4, "featureNames": ["history"], "pooling": "none"},
        {"name": "out", "numEmbeddings": 60, "embeddingDim": 9, "featureNames": ["candidates"], "pooling": "none"},
    ]
    model = {"name": "caser", "sequenceLength": 5, "horizontalFilters": 4, "verticalFilters": 2}
    return {"model": model, "data": {"format": "caser-json"}, "embedding": {"tables": tables}}


def din_spec() -> dict[str, Any]:
    items = {"embeddingDim": 4, "featureNames": ["item", "seen"], "pooling": "none"}
    tables = [OWN_TABLES[0], {"name": "items", "numEmbeddings": 60} | items]
    columns = {
        "labels": [{"name": "clicked"}],
        "sparse": [
            {"name": "user"},
            {"name": "item", "table": "items"},
            {"name": "seen", "separator": "|", "table": "items"},
        ],
        "ignore": ["*"],
    }
    model = {
        "name": "din",
        "targetFeatures": ["item"],
        "historyFeatures": ["seen"],
        "attentionMlp": [6],
        "overMlp": [8],
    }
    return {"model": model, "data": {"columns": columns}, "embedding": {"tables": tables}}


def sasrec_spec() -> dict[str, Any]:
    tables = [
        {"name": "items", "numEmbeddings": 60, "embeddingDim": 4, "featureNames": ["C1", "C2"], "pooling": "none"}
    ]
    model = {"name": "sasrec", "historyFeatures": ["C1"], "sequenceLength": 5}
    data = {"format": "criteo-json", "encoding": "ids"}
    return {"model": model, "data": data, "embedding": {"tables": tables}}


def sasrec_json(count: int, rng: random.Random) -> str:
    def items(number: int) -> list[int]:
        return [rng.randrange(60) for _ in range(number)]

    return "\n".join(
        json.dumps({"label": [1, 0], "sparse": [items(rng.randrange(1, 6)), items(2)]}) for _ in range(count)
    )


def ab_columns() -> dict[str, Any]:
    return {"labels": [{"name": "y"}], "sparse": [{"name": "a"}, {"name": "b"}]}


def ab_tables() -> list[dict[str, Any]]:
    return [{"name": n, "numEmbeddings": 50, "embeddingDim": 4, "featureNames": [n]} for n in ("a", "b")]


def ab_csv(rng: random.Random) -> str:
    return "y,a,b\n" + "".join(f"{rng.randrange(2)},{rng.randrange(99)},{rng.randrange(99)}\n" for _ in range(150))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data and exports lie; models of one's own are importable from its `models`."""
    place = tmp_path_factory.mktemp("exports")
    models = place / "models"
    (models / "own_parts").mkdir(parents=True)
    (models / "own_model_of_a_test.py").write_text(OWN_MODEL)
    (models / "own_parts" / "__init__.py").write_text("")
    (models / "own_parts" / "gate.py").write_text(GATE)
    (models / "own_parts" / "sizes.py").write_text("WIDTH = 5\n")
    (models / "torchrec_model_of_a_test.py").write_text(TORCHREC_MODEL)
    sys.path.append(str(models))
    return place


@pytest.fixture(scope="module")
def checkpoints(folder: Path, trained: Callable[[str], Path], criteo: Callable[[int, int], str]) -> dict[str, Path]:
    """A trained model of every case."""
    return {case.name: trained(case.job(folder)) for case in cases(criteo)}


def data_of(folder: Path, name: str) -> str:
    return str(next(folder.glob(f"{name}.*")))


def scores_of(path: Path) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in zip(*_columns(path), strict=True)}


def _columns(path: Path) -> tuple[list[str], list[Any]]:
    table = pq.read_table(path)
    return table.column_names, table.columns


def test_every_shipped_model_is_among_the_cases(criteo: Callable[[int, int], str]) -> None:
    """No shipped model is forgotten here."""
    assert set(MODEL_SETTINGS) <= {case.name for case in cases(criteo)}


def test_score_py_equals_predict_to_the_last_digit_without_bagpipe(
    folder: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """All exports, loaded side by side where none of our packages can be imported, score files as `predict` does."""
    asked = []
    for name, checkpoint in checkpoints.items():
        done = export_model(checkpoint, tmp_path / name)
        assert done.requires == ()
        asked.append((str(tmp_path / name), data_of(folder, name), str(tmp_path / f"{name}.alone.parquet")))
        predict(checkpoint, data_of(folder, name), tmp_path / f"{name}.parquet")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_BAGPIPE], input=json.dumps(asked), text=True, check=True, env=env
    )
    for name in checkpoints:
        ours, alone_ = scores_of(tmp_path / f"{name}.parquet"), scores_of(tmp_path / f"{name}.alone.parquet")
        assert list(ours) == list(alone_), name
        for column in ours:
            if column != "row" or name != "dcn":  # Avazu's lines count the header.
                assert ours[column] == alone_[column], (name, column)
        assert len(set(ours[list(ours)[-1]])) > 20, f"{name}: scores that hardly differ prove little"


def test_predict_takes_an_export_too(folder: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The same file as from the checkpoint, a score for each label; what the data lacks is said in the same way."""
    export_model(checkpoints["own"], tmp_path / "own")
    for where, out in ((checkpoints["own"], "a"), (tmp_path / "own", "b")):
        done = predict_any(where, data_of(folder, "own"), tmp_path / out, keep=("user",))
        assert (done.rows, done.columns) == (300, ("score_clicked", "score_bought"))
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")
    (tmp_path / "other.csv").write_text("clicked,price\n1,2\n")
    with pytest.raises(BagpipeError, match="age"):
        predict_any(tmp_path / "own", str(tmp_path / "other.csv"), tmp_path / "c")
    with pytest.raises(ConfigError, match=r"--keep: .* has no column 'usr'; did you mean 'user'\?"):
        predict_any(checkpoints["own"], data_of(folder, "own"), tmp_path / "c", keep=("usr",))
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("c", ".c.tmp")]


def test_rows_as_dicts_have_the_scores_of_the_file(folder: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The same rows as Python values, one by one and all at once, in another order of keys, with keys left out."""
    export_model(checkpoints["own"], tmp_path / "own")
    model = load_export(tmp_path / "own")
    whole = next(model.score_file(data_of(folder, "own"))).to_pylist()
    header, *lines = Path(data_of(folder, "own")).read_text().splitlines()
    rows: list[dict[str, Any]] = []
    for line, cells in zip(lines, csv.reader(lines), strict=True):
        row: dict[str, Any] = dict(zip(header.split(","), cells, strict=True))
        row = {name: cell if cell or (name == "user" and '""' in line) else None for name, cell in row.items()}
        row |= {"age": int(row["age"]), "price": float(row["price"]) if row["price"] else None}
        rows.append({name: value for name, value in reversed(row.items()) if value is not None} | {"strange": 1})
    expected = np.array([[one["score_clicked"], one["score_bought"]] for one in whole])
    np.testing.assert_array_equal(model.score(rows[:64]), expected[:64])
    one_by_one = np.concatenate([model.score([row]) for row in rows[:20]])
    np.testing.assert_allclose(one_by_one, expected[:20], rtol=1e-6)
    with pytest.raises(Exception, match="row 2: column age: expected a value as in row 1, found 'old'"):
        model.score([rows[0], rows[1] | {"age": "old"}])
    with pytest.raises(Exception, match="row 1: column age: expected a finite number, found 'old'"):
        model.score([rows[1] | {"age": "old"}])
    assert model.score([{"user": 2**63 + 5}, {"user": -7}]).shape == (2, 2)


def test_only_touched_rows_are_stored_unless_all_are_asked_for(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Both exports score alike; the small one holds the touched rows, the large one whole tables."""
    export_model(checkpoints["dlrm"], tmp_path / "touched")
    export_model(checkpoints["dlrm"], tmp_path / "all", all_rows=True)
    tables = load_tables(tmp_path / "all")
    assert {t.shape for t in tables.values()} == {(64, 4)} and not (tmp_path / "all" / "rows.safetensors").exists()
    small = (tmp_path / "touched" / "tables.safetensors").stat().st_size
    assert small < (tmp_path / "all" / "tables.safetensors").stat().st_size
    with pytest.raises(CheckpointError, match="--all-rows"):
        load_tables(tmp_path / "touched")
    rows = [{"C1": f"{n:08x}", "I1": n} for n in range(300)]
    a, b = (load_export(tmp_path / name).score(rows) for name in ("touched", "all"))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("dtype", "close"), [("fp16", 2e-3), ("int8", 2e-2)])
def test_rows_may_be_stored_in_fewer_bytes(
    dtype: Any, close: float, checkpoints: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """Scores move a little, the file shrinks, and a table may be left as it is; a table that is not there is named."""
    export_model(checkpoints["own"], tmp_path / "exact")
    export_model(checkpoints["own"], tmp_path / "coarse", dtypes={"*": dtype, "user": "fp32"})
    exact, coarse = (load_export(tmp_path / name) for name in ("exact", "coarse"))
    tables = [next(model.score_file(data_of(folder, "own"))) for model in (exact, coarse)]
    a, b = (table["score_clicked"].to_numpy() for table in tables)
    assert 0 < np.abs(a - b).max() < close
    sizes = [(tmp_path / name / "tables.safetensors").stat().st_size for name in ("exact", "coarse")]
    assert sizes[1] < sizes[0]
    assert json.loads((tmp_path / "coarse" / "model.json").read_text())["dtypes"]["user"] == "fp32"
    with pytest.raises(ConfigError, match="there is no table users; the tables are user, items, tags, age_band"):
        export_model(checkpoints["own"], tmp_path / "none", dtypes={"users": dtype})


def test_an_export_that_finds_no_room_leaves_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A file that may not grow so far stands for a full disk: one line, an empty place, and the next try succeeds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for out, size in ((tmp_path / "new", 1000), (tmp_path / "empty", 9000)):
        if out.name == "empty":
            out.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(StorageError, match=r"cannot be written: File too large; free some"):
                export_model(checkpoints["own"], out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert out.exists() == (out.name == "empty") and not any(out.glob("*"))
        export_model(checkpoints["own"], out)
        with pytest.raises(ConfigError, match="expected an empty directory"):
            export_model(checkpoints["own"], out)


@pytest.mark.parametrize(
    ("kind", "some"), [("torch-export", ("own",)), ("onnx", ("dlrm", "wdl", "dcn", "deepfm", "fgcnn", "caser", "own"))]
)
def test_a_graph_of_lookup_and_dense_part_gives_the_scores(
    kind: Any, some: tuple[str, ...], checkpoints: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    """On raw rows in batches of other sizes than the traced one, within 1e-6 (AutoInt 4e-6): DIN has no graph yet."""
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


def test_a_model_that_needs_what_an_export_lacks_is_refused_by_name(
    folder: Path, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    """A library module that needs msgspec is no part of an export; a package of the user's is named as required."""
    text = "from torch import nn\nfrom bagpipe.config.document import JobSpec\n"
    body = "class M(nn.Linear):\n    def __init__(self): super().__init__(8, 1)\n"
    body += "    def forward(self, d, s): return super().forward(s.concatenated())\n"
    (folder / "models" / "needs_the_job.py").write_text(text + body)
    (folder / "models" / "needs_hypothesis.py").write_text("from torch import nn\nimport hypothesis.errors\n" + body)
    (folder / "ab.csv").write_text(ab_csv(random.Random(1)))
    jobs = {}
    for name in ("needs_the_job", "needs_hypothesis"):
        data = {"path": str(folder / "ab.csv"), "columns": ab_columns(), "encoding": "hash"}
        spec = {"model": {"entrypoint": f"{name}:M"}, "data": data, "embedding": {"tables": ab_tables()}}
        jobs[name] = trained(json.dumps({"metadata": {"name": "x"}, "spec": spec}))
    with pytest.raises(ConfigError, match=r"the model uses bagpipe\.config\.\w+, which needs msgspec"):
        export_model(jobs["needs_the_job"], tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert export_model(jobs["needs_hypothesis"], tmp_path / "b").requires == ("hypothesis",)
    assert "import hypothesis.errors" in (tmp_path / "b" / "code" / "needs_hypothesis.py").read_text()


def test_first_weights_of_rows_that_nobody_touched_are_those_of_training() -> None:
    """The numpy form gives the compiled one's bits, whatever the seed, table and width."""
    rng = np.random.default_rng(1)
    for seed, table, dim in ((0, 0, 1), (7, 3, 16), (2**40, 25, 5)):
        rows = rng.integers(0, 1 << 40, 500)
        scale = row_scale(1000, None)
        found = plain_kernels.first_weights(seed, table, rows, dim, scale)
        assert found.tobytes() == initial_rows(seed, table, rows, dim, scale).tobytes()


def test_the_stand_ins_have_all_that_the_library_has() -> None:
    """What a model may ask of its embeddings, and what a column may say, is the same in an export."""
    public = {name for name in vars(SparseEmbeddings) if not name.startswith("_")} - {"later", "of_lookups"}
    assert public <= {name for name in vars(alone.SparseEmbeddings) if not name.startswith("_")}
    for ours, theirs in ((SparseColumn, column_settings.SparseColumn), (DenseColumn, column_settings.DenseColumn)):
        a = {f.name: f.default for f in msgspec.structs.fields(ours) if f.name != "name"}
        b = {f.name: f.default for f in dataclass_fields(theirs) if f.name != "name"}
        assert a == b
