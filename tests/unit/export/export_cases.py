"""Jobs of every shipped model and of others, each with raw rows: for tests of exports."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    rows = ["clicked,bought,price,age,user,item,tags,tag_weights,seen,when"]
    for _ in range(count):
        tags = [f"t{rng.randrange(30)}" for _ in range(rng.randrange(4))]
        weights = [f"{rng.random():.3f}" for _ in tags]
        seen = [f"i{rng.randrange(40)}" for _ in range(rng.randrange(4))]
        price = rng.choice(["", f"{rng.lognormvariate(2, 1):.2f}"])
        user = rng.choice(["", '""', f'"u {rng.randrange(30)}, ""the user"""', f"u{rng.randrange(200)}"])
        cells = [rng.randrange(2), rng.randrange(2), price, rng.randrange(90), user, f"i{rng.randrange(40)}"]
        when = f"2024-01-{rng.randrange(1, 29):02d} {rng.randrange(24):02d}:30:00"
        rows.append(",".join(map(str, [*cells, "|".join(tags), "|".join(weights), "|".join(seen), when])))
    return "\n".join(rows) + "\n"


OWN_COLUMNS = {
    "labels": [{"name": "clicked"}, {"name": "bought"}],
    "dense": [
        {"name": "price", "log1p": True, "standardise": True, "fill": 3.5},
        {"name": "age", "clip": [5, 60]},
        {"name": "often", "column": "user", "count": "number", "log1p": True, "standardise": True},
        {"name": "share", "column": "item", "count": "log-share"},
    ],
    "sparse": [
        {"name": "user"},
        {"name": "item", "table": "items"},
        {"name": "tags", "separator": "|", "weight": "tag_weights", "maxLength": 3},
        {"name": "seen", "separator": "|", "table": "items", "maxLength": 2, "keep": "first"},
        {"name": "age_band", "column": "age", "boundaries": [18, 30, 50]},
        {"name": "age_bin", "column": "age", "bins": "log-squared"},
        {"name": "hour", "column": "when", "part": "hour"},
        {"name": "weekday", "column": "when", "part": "weekday"},
    ],
}
OWN_TABLES = [
    {"name": "user", "numEmbeddings": 90, "embeddingDim": 4, "featureNames": ["user"]},
    {"name": "items", "numEmbeddings": 60, "embeddingDim": 4, "featureNames": ["item", "seen"], "pooling": "mean"},
    {"name": "tags", "numEmbeddings": 60, "embeddingDim": 6, "featureNames": ["tags"], "pooling": "mean"},
    {"name": "age_band", "numEmbeddings": 6, "embeddingDim": 3, "featureNames": ["age_band"], "pooling": "none"},
    *({"name": n, "numEmbeddings": 40, "embeddingDim": 4, "featureNames": [n]} for n in ("age_bin", "hour", "weekday")),
]
BINS = {"encoding": "vocabulary", "minCount": 1, "numericBins": "log-squared"}


def cases(criteo: Callable[[int, int], str]) -> list[Case]:
    rng = random.Random(5)
    small = {"overMlp": [8]}
    own = {"entrypoint": "own_model_of_a_test:Ours", "args": {"hidden": 6}}
    by_table = {"minCount": 2, "oov": {"user": 3, "items": 2, "*": 4}, "testFraction": 0.2}
    bags = {"entrypoint": "torchrec_model_of_a_test:Bags"}
    return [
        Case("dlrm", {"model": {"name": "dlrm", "bottomMlp": [8]} | small, "data": {"hashSize": 64}}, criteo(300, 1)),
        Case("wdl", {"model": {"name": "wdl", "bottomMlp": [8]}, "data": {}}, criteo_json(200, rng)),
        Case(
            "dcn",
            {"model": {"name": "dcn", "bottomMlp": [8]} | small, "data": {"encoding": "vocabulary", "oov": 5}},
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
                "data": {"columns": OWN_COLUMNS} | by_table,
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
    """Three features of one table: two stay lists, the third is their mean."""
    columns = {
        "labels": [{"name": "clicked"}],
        "sparse": [
            {"name": "user"},
            {"name": "item", "table": "items"},
            {"name": "seen", "separator": "|", "table": "items"},
            {"name": "seen_mean", "column": "seen", "separator": "|", "table": "items"},
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
    pooling = {"item": "none", "seen": "none", "seen_mean": "mean"}
    return {"model": model, "data": {"columns": columns}, "embedding": {"dim": 4, "pooling": pooling}}


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


def data_of(folder: Path, name: str) -> str:
    return str(next(folder.glob(f"{name}.*")))
