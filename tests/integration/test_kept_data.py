"""A run keeps what turned its raw rows into table rows, and which rows they were: evaluation and resume hold to both.

One short run of a vocabulary on a Criteo log made here; then its checkpoint meets other rows.
"""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.cli.main import run_command
from bagpipe.data.transform import load_transform
from bagpipe.local.trained_rows import rows_trained_on
from bagpipe.metrics.clicks import evaluate
from bagpipe.testing.warm_commands import run_warm

ROOT = Path(__file__).resolve().parents[2]
JOB = """
metadata: {name: kept}
spec:
  model: {bottomMlp: [8], overMlp: [8]}
  data: {path: train.txt, encoding: vocabulary, minCount: 2, testFraction: 0.25, shuffle: always}
  embedding:
    tables: [{name: users, numEmbeddings: 300, embeddingDim: 8, featureNames: [C1]},
             {name: items, numEmbeddings: 90, embeddingDim: 8, featureNames: [C3, C4]}]
  batchSize: 50
  steps: 24
  checkpoint: {every: 8}
"""
pytestmark = pytest.mark.usefixtures("started_warm")


def lines(count: int, seed: int) -> list[list[str]]:
    """Criteo lines whose first and third value tell the label."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        user, item = rng.randrange(200), int(rng.paretovariate(0.8)) % 150
        click = int(rng.random() < 1 / (1 + math.exp(-2 * math.sin(user) - 2 * math.cos(item))))
        values = ["", "", f"i{item}", "" if rng.random() < 0.1 else f"i{rng.randrange(150)}", *[""] * 22]
        rows.append([str(click), *(str(rng.randrange(9)) for _ in range(13)), f"u{user}", *values[1:]])
    return rows


def write(path: Path, rows: list[list[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = run_warm(folder, "evaluate", "run", "--json", *arguments)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, trained on `train.txt`, and `test.txt` beside it."""
    folder = tmp_path_factory.mktemp("kept")
    write(folder / "train.txt", lines(1000, seed=1))
    write(folder / "test.txt", lines(400, seed=2))
    (folder / "job.yaml").write_text(JOB)
    code, _, err = run_warm(folder, "run", "job.yaml", "--run-dir", "run")
    assert code == 0, err
    return folder


def test_every_checkpoint_keeps_transform_and_fingerprint(place: Path) -> None:
    """They are listed in the manifest, so that `checkpoint verify` looks at them, and share their bytes on disk.

    A slow disk may have had the run give up the second of its three checkpoints, never the last.
    """
    kept = load_transform(place / "run" / "checkpoints" / "transform")
    folders = sorted((place / "run" / "checkpoints").glob("step-*"))
    assert len(folders) >= 2
    assert folders[-1].name == "step-00000024"
    for folder in folders:
        names = [f["name"] for f in json.loads((folder / "manifest.json").read_text())["data"]]
        assert names == [f"transform/{n}" for n in ("fingerprint.json", "transform.json", "vocabulary.arrow")]
        assert load_transform(folder / "transform").digest == kept.digest
        assert (folder / "transform" / "vocabulary.arrow").stat().st_nlink == 1 + len(folders)
    assert run_warm(place, "checkpoint", "verify", "run")[0] == 0


def encoded(train: list[list[str]], rows: list[list[str]], columns: list[int], size: int) -> list[list[int]]:
    """Rows by the vocabulary of `train`, one value at a time."""
    counts = Counter(row[c] for row in train for c in columns)
    ordered = sorted((v for v in counts if counts[v] >= 2), key=lambda v: (-counts[v], v))[: size - 1]
    return [[ordered.index(row[c]) + 1 if row[c] in ordered else 0 for c in columns] for row in rows]


def by_hand(export: Path, train: list[list[str]], rows: list[list[str]]) -> Any:
    """The export's score of raw rows in plain PyTorch, with values looked up by the reading above."""
    tables = safetensors.torch.load_file(export / "tables.safetensors")
    weights = safetensors.torch.load_file(export / "dense.safetensors")

    def mlp(x: torch.Tensor, arch: str, last_relu: bool) -> torch.Tensor:
        names = sorted(n[: -len("weight")] for n in weights if n.startswith(arch) and n.endswith("weight"))
        for name in names:
            x = x @ weights[f"{name}weight"].T + weights[f"{name}bias"]
            x = torch.relu(x) if last_relu or name != names[-1] else x
        return x

    ids = np.array([a + b for a, b in zip(
        encoded(train, rows, [14], 300), encoded(train, rows, [16, 17], 90), strict=True)])  # fmt: skip
    dense = torch.tensor([[math.log1p(int(v)) for v in row[1:14]] for row in rows])
    bottom = mlp(dense, "dense_arch", True)
    looked_up = [tables[name][torch.from_numpy(ids[:, i])] for i, name in enumerate(("users", "items", "items"))]
    vectors = torch.stack([bottom, *looked_up], dim=1)
    row, column = torch.tril_indices(4, 4, offset=-1)
    products = (vectors @ vectors.transpose(1, 2))[:, row, column]
    logits = mlp(torch.cat([bottom, products], dim=1), "over_arch", False)
    return evaluate(logits.numpy().reshape(-1), np.array([float(r[0]) for r in rows]))


def test_other_raw_rows_are_scored_with_the_vocabulary_of_the_run(place: Path) -> None:
    """All 400 of them, as plain PyTorch scores them with rows looked up by hand; or the part that is asked for."""
    assert run_warm(place, "export", "run", "out", "--all-rows")[0] == 0
    assert (place / "out" / "transform" / "vocabulary.arrow").is_file()
    train, rows = lines(1000, seed=1)[:750], lines(400, seed=2)
    for chosen, part in ((rows, ()), (rows[300:], ("--set", "data.testFraction=0.25"))):
        found, plain = figures(place, "--set", "data.path=test.txt", *part), by_hand(place / "out", train, chosen)
        assert found["examples"] == len(chosen)
        assert (found["auc"], found["logLoss"]) == pytest.approx((plain.auc, plain.log_loss), rel=1e-6)
        assert plain.auc > 0.55


def test_the_same_rows_score_the_same_whatever_lies_before_them(place: Path) -> None:
    """The test part of the run, in a file of its own and behind other rows: the figures of the run to the digit."""
    rows = lines(1000, seed=1)[750:]
    write(place / "alone.txt", rows)
    write(place / "behind.txt", lines(750, seed=7) + rows)
    summary = json.loads((place / "run" / "summary.json").read_text())["evaluation"]
    assert figures(place, "--set", "data.path=behind.txt", "--set", "data.testFraction=0.25") == summary
    assert figures(place, "--set", "data.test=alone.txt", "--set", "data.testFraction=0") == summary


def test_evaluating_rows_that_were_trained_on_is_said(place: Path) -> None:
    """In one line on stderr, wherever the file lies now and however the run was split; of other rows nothing."""
    write(place / "moved.txt", lines(1000, seed=1))
    code, out, err = run_warm(place, "evaluate", "run", "--json", "--set", "data.path=moved.txt")
    assert code == 0 and json.loads(out)["examples"] == 1000
    assert err.count("moved.txt was trained on in part: these figures flatter the model") == 1
    checkpoint = newest_complete(place / "run" / "checkpoints")
    assert checkpoint is not None
    trained = open_checkpoint(checkpoint).manifest.spec.data

    def said(**changes: Any) -> str | None:
        return rows_trained_on(checkpoint, msgspec.structs.replace(trained, **changes))

    other = {"test": (str(place / "test.txt"), str(place / "moved.txt")), "test_fraction": 0.0}
    assert "1 of 2 files, the first" in (said(**other) or "")
    assert said(test=str(place / "test.txt"), test_fraction=0.0) is None
    assert said() is None and said(test_fraction=0.1) is None
    assert "the run was split otherwise" in (said(test_fraction=0.5) or "")


def test_data_of_another_form_is_refused(place: Path) -> None:
    """Rows that the transform was not made for have no score: exit 65, one line."""
    (place / "ids.json").write_text('{"label": 1, "dense": [0.5], "sparse": [1, 2]}\n')
    code, _, err = run_warm(place, "evaluate", "run", "--set", "data.path=ids.json")
    assert (code, "other format than the model was trained on: expected criteo-tsv, found criteo-json" in err) == (
        65,
        True,
    )
    code, _, _ = run_warm(place, "data", "prepare", "test.txt", "other", "--set", "data.encoding=vocabulary")
    assert code == 0
    code, _, err = run_warm(place, "evaluate", "run", "--set", "data.path=other")
    assert (code, "prepared with another transform than the model's" in err) == (65, True)


@pytest.mark.parametrize(
    "setting", ["minCount=3", "oov=4", "encoding=hash", "hashSize=99", "test=0.5", "numericBins=log-squared"]
)
def test_how_rows_are_encoded_is_the_model_s(
    setting: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another vocabulary, another way to encode, another training part: refused by name when a run goes on, and what
    concerns the encoding when it is evaluated, where it would change nothing.
    """
    monkeypatch.chdir(place)
    name = setting.partition("=")[0]
    given = ["--set", f"data.{setting}", *(["--set", "data.encoding=hash"] if name == "hashSize" else [])]
    given += ["--set", "data.minCount=1"] if "hash" in setting else []
    given += ["--set", "data.testFraction=0"] if name == "test" else []
    resume = ["run", "--resume", "--run-dir", "run", "--set", "steps=99"]
    for command in (resume, ["evaluate", "run"]):
        if command[0] == "evaluate" and name == "test":
            continue
        code = run_command([*command, *given])
        said = capsys.readouterr().err
        assert (code, said.count("\n"), "spec.data." in said and "differs from the " in said) == (78, 1, True), said
    assert newest_complete(place / "run" / "checkpoints") == place / "run" / "checkpoints" / "step-00000024"


def test_a_run_goes_on_with_the_same_rows_only(place: Path) -> None:
    """A shorter file is refused by name; `--new-data` takes it, from a new epoch on, with the vocabulary of the run."""
    more = ["run", "--resume", "--run-dir", "run", "--set", "steps=32"]
    write(place / "train.txt", lines(1000, seed=1)[:900])
    left = [(place / "run" / name).read_bytes() for name in ("job.yaml", "summary.json", "metrics.jsonl")]
    code, _, err = run_warm(place, *more)
    assert (code, "train.txt is shorter than it was" in err, "--new-data" in err) == (65, True, True)
    # The run stays as it was: a resume that is refused costs it neither its job nor its figures.
    assert [(place / "run" / name).read_bytes() for name in ("job.yaml", "summary.json", "metrics.jsonl")] == left
    code, _, err = run_warm(place, *more, "--new-data")
    assert code == 0, err
    newest = place / "run" / "checkpoints" / "step-00000032"
    manifest = json.loads((newest / "manifest.json").read_text())
    # 24 steps of 50 took 15 of epoch 0 and 9 of epoch 1; epoch 2 begins with 675 examples: 8 steps.
    assert manifest["cursor"] == {"epoch": 2, "position": 400}
    before = load_transform(newest.with_name("step-00000024") / "transform")
    assert load_transform(newest / "transform").digest == before.digest
    write(place / "train.txt", lines(1000, seed=1)[:900][::-1])
    code, _, err = run_warm(place, *more[:-1], "steps=40")
    assert (code, "train.txt holds other rows" in err) == (65, True)
    epochs = [*more[:-1], "steps=null", "--new-data", "--set"]
    code, _, err = run_warm(place, *epochs, "epochs=3")
    assert (code, "would begin epoch 4, so nothing is left to train; give spec.epochs=4" in err) == (78, True)
    code, _, err = run_warm(place, *more[:-1], "steps=60", "--new-data", "--set", "epochs=3")
    assert (code, "would begin epoch 4, so nothing is left to train; give spec.epochs=4" in err) == (78, True)
    code, _, err = run_warm(place, *more, "--new-data")
    assert (code, "spec.steps: 32, and 32 are trained, so nothing is left to train on the new data" in err) == (
        78,
        True,
    )
    write(place / "train.txt", lines(1000, seed=1)[:300])
    code, _, err = run_warm(place, *epochs, "epochs=4")
    assert code == 0, err
    # One whole epoch of 225 examples, 5 steps, although the epochs before had more: 4 such epochs were 20 steps.
    last = json.loads((place / "run" / "checkpoints" / "step-00000037" / "manifest.json").read_text())
    assert last["cursor"] == {"epoch": 4, "position": 0}


def test_new_data_needs_a_run_to_resume(place: Path) -> None:
    """`--new-data` without `--resume` is refused with exit code 78."""
    code, _, err = run_warm(place, "run", "job.yaml", "--new-data")
    assert (code, "--new-data: only a run that is resumed" in err) == (78, True)
