"""Makes the list of an experiment's jobs: six models, each with its cache and without.

The paper's sizes and settings are those of its launcher (global batch 16,384, lookahead 200, 15 million cached rows,
plain SGD 0.01, 8 trainers, one server); `small` is the same on generated data, for one machine.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from bagpipe.config.document import API_VERSION, KIND, Job
from bagpipe.config.load import job_from, read_job_file
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.strict_json import encode

Scale = Literal["paper", "small"]
Variant = Literal["cached", "uncached"]
VARIANTS: tuple[Variant, ...] = ("cached", "uncached")
MODELS = ("dlrm", "wdl", "dcn", "deepfm", "fgcnn", "caser")
TITLES = {
    "dlrm": "DLRM", "wdl": "Wide & Deep", "dcn": "Deep & Cross", "deepfm": "DeepFM", "fgcnn": "FGCNN", "caser": "Caser",
}  # fmt: skip
LABEL = "bagpipe.dev/experiment"
"""Label of every job that an experiment submits; its value is the experiment's name."""

Document = dict[str, Any]
SMALL_USERS, SMALL_ITEMS = 3000, 2000
"""Rows of the small Caser's tables."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of an experiment."""

    model: str
    variant: str
    job: Job
    """Checked, with every override."""

    @property
    def name(self) -> str:
        return self.job.metadata.name


def job_document(model: str, scale: Scale) -> Document:
    """The job of one model, with its cache.

    Raises:
        ConfigError: there is no such model.
    """
    if model not in MODELS:
        raise ConfigError(f"--models: expected some of {', '.join(MODELS)}, found {model!r}")
    spec: Document = copy.deepcopy(_PAPER if scale == "paper" else _SMALL)
    for section, value in {**_EVERY_SCALE[model], **(_PAPER_DATA if scale == "paper" else _SMALL_DATA)[model]}.items():
        # What is made of several keys is replaced as a whole: half of one is no setting.
        spec[section] = copy.deepcopy(value)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": f"six-{model}"}, "spec": spec}


def small_sequences(examples: int, seed: int = 7) -> Iterator[str]:
    """Lines of the small Caser's data: a user, ten items of the past, three that came next, three that did not."""
    import random

    draw = random.Random(seed)
    for _ in range(examples):
        # Popularity falls with the square: the first tenth of the items takes a third of the visits.
        items = [int(SMALL_ITEMS * draw.random() ** 2) for _ in range(13)]
        others = [draw.randrange(SMALL_ITEMS) for _ in range(3)]
        record = {"label": items[10:], "dense": others, "sparse": [[draw.randrange(SMALL_USERS)], items[:10]]}
        yield encode(record, compact=True) + "\n"


def small_clicks(examples: int, sizes: Sequence[int], seed: int = 7) -> Iterator[str]:
    """JSON lines of clicks with learnable labels, for systems that cannot use our generator of synthetic data."""
    import random

    draw = random.Random(seed)
    taste = [draw.gauss(0.0, 1.0) for _ in range(1009)]
    for _ in range(examples):
        # log-uniform ranks: a few rows take most of the lookups, as in real click logs
        ids = [int(size ** draw.random()) - 1 for size in sizes]
        label = float(sum(taste[(31 * table + row) % 1009] for table, row in enumerate(ids)) > 0)
        dense = [round(draw.random(), 3) for _ in range(13)]
        yield encode({"label": label, "dense": dense, "sparse": ids}, compact=True) + "\n"


def read_document(path: Path) -> Document:
    """A job file as it stands, checked.

    Raises:
        ConfigError: it is no job.
    """
    document: Document = msgspec.to_builtins(read_job_file(path).document)
    return document


def cases(
    documents: Mapping[str, Document], variants: Sequence[str], overrides: Sequence[str], experiment: str
) -> tuple[Case, ...]:
    """Every run, in order: model by model, so that runs that are compared are close together in time.

    Overrides come last, on every job.

    Raises:
        ConfigError: a job that will not do, before anything has run.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise ConfigError(f"--variants: expected some of {', '.join(VARIANTS)}, found {variant!r}")
    return tuple(
        _case(model, document, variant, overrides, experiment)
        for model, document in documents.items()
        for variant in variants
    )


def warm_ups(planned: Iterable[Case], steps: int) -> tuple[Case, ...]:
    """A short run for each data set, so that data, images and compiled code are loaded before anything is measured."""
    first: dict[str, Case] = {}
    for case in planned:
        first.setdefault(repr(case.job.spec.data), case)
    return tuple(_shortened(case, steps) for case in first.values())


def _case(model: str, document: Document, variant: str, overrides: Sequence[str], experiment: str) -> Case:
    made = copy.deepcopy(document)
    meta, spec = made.setdefault("metadata", {}), made["spec"]
    # A job of an experiment is named after it: two experiments never meet.
    meta["name"] = f"{experiment}-{model}-{variant}"
    meta["labels"] = {**(meta.get("labels") or {}), LABEL: experiment}
    spec["logEvery"] = 1
    # Pods stay until their logs are collected; then the job is deleted.
    spec["runPolicy"] = {**(spec.get("runPolicy") or {}), "cleanPodPolicy": "None"}
    if variant == "uncached":
        spec["lookahead"] = 0
    return Case(model, variant, _checked(made, overrides))


def _shortened(case: Case, steps: int) -> Case:
    document = msgspec.to_builtins(case.job)
    document["metadata"]["name"] = f"{case.name.rsplit('-', 1)[0]}-warm"
    wanted = document["spec"]["steps"]
    data = document["spec"]["data"]
    if data["format"] != "synthetic" and data["testFraction"] == 0:
        data["testFraction"] = 0.01  # to cut a test part off, text is read whole and counted: the warm-up's purpose
    document["spec"] |= {"steps": min(steps, wanted) if wanted else steps, "epochs": None}
    return Case(case.model, "warm-up", _checked(document, ()))


def _checked(document: Document, overrides: Sequence[str]) -> Job:
    return job_from(document, document["metadata"]["name"], overrides)


# ── the six models ────────────────────────────────────────────────────────────────────────────────

_SGD = {"name": "sgd", "lr": 0.01}
_PAPER: Document = {
    "embedding": {"dim": 48, "optimizer": _SGD},
    "optimizer": _SGD,
    "batchSize": 16384,
    "steps": 500,
    "lookahead": 200,
    "cacheRows": 15_000_000,
    "seed": 7,
    "evaluate": False,
    "oracle": {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "training-data", "readOnly": True}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    },
    "servers": {"replicas": 1},
    "trainers": {"replicas": 8, "device": "cuda", "gpuProfile": "v100"},
}
_SMALL: Document = {
    "embedding": {"dim": 16, "optimizer": _SGD},
    "optimizer": _SGD,
    "batchSize": 1024,
    "steps": 60,
    "lookahead": 50,
    "seed": 7,
    "evaluate": False,
    "servers": {"replicas": 1},
    "trainers": {"replicas": 2, "device": "cpu"},
}
_EVERY_SCALE: dict[str, Document] = {
    "dlrm": {"model": {"name": "dlrm", "bottomMlp": [512, 256, 64], "overMlp": [1024, 1024, 1024, 256, 128]}},
    "wdl": {"model": {"name": "wdl"}},
    "dcn": {"model": {"name": "dcn"}},
    "deepfm": {"model": {"name": "deepfm"}},
    "fgcnn": {"model": {"name": "fgcnn"}},
    "caser": {"model": {"name": "caser"}, "optimizer": {"name": "adam", "lr": 0.001, "weightDecay": 1e-6}},
}


def _caser_tables(users: int, items: int, dim: int) -> Document:
    """Caser's three tables. The items' output weights are one: as wide as user and state together, and a bias."""
    history, out = {"pooling": "none", "featureNames": ["history"]}, {"pooling": "none", "featureNames": ["candidates"]}
    tables = [
        {"name": "users", "numEmbeddings": users, "embeddingDim": dim, "featureNames": ["user"]},
        {"name": "items", "numEmbeddings": items, "embeddingDim": dim, **history},
        {"name": "itemsOut", "numEmbeddings": items, "embeddingDim": 2 * dim + 1, **out},
    ]
    return {"tables": tables, "optimizer": _SGD}


_CRITEO = {"data": {"path": "/data/kaggle_criteo_weekly.txt", "format": "criteo-json"}}
_PAPER_DATA: dict[str, Document] = {
    "dlrm": _CRITEO,
    "wdl": _CRITEO,
    "dcn": _CRITEO,
    "deepfm": _CRITEO,
    "fgcnn": {
        "data": {"path": "/data/parsed_train.txt", "format": "criteo-json"},
        "batchSize": 8192,
        "cacheRows": 8_000_000,
    },
    "caser": {
        "data": {"path": "/data/parsed_caser.txt", "format": "caser-json"},
        "embedding": _caser_tables(71_177, 36_902, 50),
        "batchSize": 512,
        "cacheRows": 500_000,
    },
}
_CLICKS = {"data": {"format": "synthetic", "synthetic": {"examples": 61_440}}}
_SMALL_DATA: dict[str, Document] = {
    "dlrm": _CLICKS,
    "wdl": _CLICKS,
    "dcn": _CLICKS,
    "deepfm": _CLICKS,
    # 13 tables more, as Criteo's integer features have when they are looked up.
    "fgcnn": {
        "data": {"format": "synthetic", "synthetic": {"examples": 61_440, "tableSizes": [1000] * 13 + [20_000] * 26}},
        "model": {"name": "fgcnn", "overMlp": [512, 256]},
        "batchSize": 256,
    },
    "caser": {
        "data": {"path": "/data/caser.jsonl", "format": "caser-json"},
        "embedding": _caser_tables(SMALL_USERS, SMALL_ITEMS, 16),
        "batchSize": 256,
    },
}
