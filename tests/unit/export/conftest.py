"""Trained models for tests of exports: a checkpoint of any job, made in this process."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from export_cases import GATE, OWN_MODEL, TORCHREC_MODEL, cases

from bagpipe.batch import Cursor
from bagpipe.checkpoint.kept_data import KeptData, fingerprint_of, save_kept
from bagpipe.checkpoint.kept_files import link_kept
from bagpipe.checkpoint.manifest import Manifest
from bagpipe.checkpoint.store import commit, describe_file, directory_of
from bagpipe.config.load import parse_job
from bagpipe.data.dataset import open_dataset
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.snapshot import Snapshot
from bagpipe.models.base import build_model
from bagpipe.rows.initial import InitialRows

Trained = Callable[[str], Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A function of a job's text: its checkpoint, with weights that are drawn; about half of its rows were touched."""
    return lambda text: train(text, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def criteo() -> Callable[[int, int], str]:
    """Lines of a Criteo log, so many, by a seed."""
    return criteo_lines


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def checkpoints(folder: Path, trained: Callable[[str], Path], criteo: Callable[[int, int], str]) -> dict[str, Path]:
    """A trained model of every case."""
    return {case.name: trained(case.job(folder)) for case in cases(criteo)}


def train(text: str, place: Path) -> Path:
    job = parse_job(text, "job", [])
    spec = job.spec
    dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=place / "work")
    root = place / job.metadata.name / "checkpoints"
    directory = directory_of(root, 8)
    rng = np.random.default_rng(spec.seed)
    stores, widths = [], []
    for number, group in enumerate(dataset.layout.groups):
        initial = InitialRows(group, spec.embedding, spec.seed)
        store = RowStore(group, initial, shard=0, num_shards=1, directory=None)
        seen = np.unique(np.concatenate([e.sparse[number].keys_N for e in dataset.all_examples()]))
        keys = rng.permutation(seen[rng.random(len(seen)) < 0.6])
        width = initial.record_width
        store.write(keys, rng.normal(0, 0.3, (len(keys), width)).astype(np.float32))
        stores.append(store)
        widths.append(width)
    taken = Snapshot(7, stores, directory, "shard-0-of-1")
    taken.write()
    taken.wait(20)
    assert taken.result is not None
    model = build_model(spec.model, dataset.layout, dataset.num_dense, dataset.num_labels, spec.seed)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.25)
    (directory / "dense.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    save_kept(root, KeptData(dataset.transform, fingerprint_of(spec)))
    kept = link_kept(root, directory)
    manifest = Manifest(
        job=job.metadata.name,
        step=8,
        cursor=Cursor(0, 8),
        spec=spec,
        tables=dataset.layout.tables,
        record_widths=tuple(widths),
        num_servers=1,
        num_trainers=1,
        shards=tuple(taken.result.files),
        dense=(describe_file(directory, "dense.safetensors"),),
        data=tuple(describe_file(directory, name) for name in kept),
        created="2026-01-01T00:00:00+00:00",
    )
    commit(directory, manifest)
    return directory


def criteo_lines(count: int, seed: int) -> str:
    rng = random.Random(seed)

    def integer() -> str:
        return rng.choice(["", "-1", "0", "2", "3", str(rng.randrange(10_000)), str(rng.randrange(10**9))])

    def token() -> str:
        return rng.choice(["", f"{rng.randrange(40):08x}", f"{rng.randrange(9):x}", "longer-than-eight-bytes", "äö"])

    rows = [
        [str(rng.randrange(2)), *(integer() for _ in range(13)), *(token() for _ in range(26))] for _ in range(count)
    ]
    return "".join("\t".join(row) + "\n" for row in rows)
