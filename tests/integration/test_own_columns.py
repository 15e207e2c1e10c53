"""Data of one's own from `init` to scores: what is trained, evaluated and predicted is one function of the raw rows."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bagpipe.metrics.clicks import evaluate
from bagpipe.testing.warm_commands import run_warm


def rows(count: int, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        user, item = rng.randrange(40), rng.randrange(30)
        click = int(rng.random() < 1 / (1 + math.exp(-2 * math.sin(user) - 2 * math.cos(item))))
        price = "" if rng.random() < 0.1 else f"{rng.lognormvariate(2, 1):.2f}"
        found.append([f"u{user}", f"i{item}", price, str(1_700_000_000 + number), str(click)])
    return found


def write(path: Path, names: list[str], lines: list[list[str]]) -> None:
    path.write_text("".join(",".join(line) + "\n" for line in [names, *lines]))


def test_from_a_table_that_nobody_described_to_scores(tmp_path: Path) -> None:
    """`init`, `run`, `evaluate` on other rows, `predict` on the same rows without labels, in another order of
    columns and with a new one: the scores give the evaluated AUC and log loss, and each has its row beside it. Rows
    that lack a column are neither evaluated nor scored.
    """
    names = ["user_id", "item_id", "price", "time", "clicked"]
    write(tmp_path / "train.csv", names, rows(900, seed=1))
    other = rows(300, seed=2)
    write(tmp_path / "other.csv", names, other)
    write(tmp_path / "unlabelled.csv", [*names[3::-1], "new"], [[*line[3::-1], "x"] for line in other])
    write(tmp_path / "lacking.csv", names[1:], [line[1:] for line in other])
    assert run_warm(tmp_path, "init", "train.csv")[0] == 0
    assert run_warm(tmp_path, "init", "train.csv")[0] == 78, "an existing job is not replaced"
    code, _, err = run_warm(tmp_path, "run", "job.yaml", "--run-dir", "run", "--set", "epochs=2")
    assert code == 0, err
    code, out, err = run_warm(tmp_path, "evaluate", "run", "--json", "--set", "data.path=other.csv")
    assert code == 0, err
    keep = ["--keep", "user_id", "--keep", "time"]
    code, _, err = run_warm(tmp_path, "predict", "run", "--data", "unlabelled.csv", "--out", "scores.parquet", *keep)
    assert code == 0, err
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.column_names == ["file", "row", "user_id", "time", "score_clicked"]
    assert scores["row"].to_pylist() == list(range(1, 301))
    assert scores["user_id"].to_pylist() == [line[0] for line in other]
    assert scores["time"].to_pylist() == [line[3] for line in other]
    found = scores["score_clicked"].to_numpy()
    figures = evaluate(np.log(found / (1 - found)), np.array([float(line[4]) for line in other]))
    told = json.loads(out)
    assert told["examples"] == 300
    assert (figures.auc, figures.log_loss) == pytest.approx((told["auc"], told["logLoss"]), rel=1e-9)
    assert run_warm(tmp_path, "predict", "run", "--data", "other.csv", "--out", "scores.parquet")[0] == 78
    for command in (["evaluate", "run", "--set", "data.path=lacking.csv"],
                    ["predict", "run", "--data", "lacking.csv", "--out", "new.parquet"]):  # fmt: skip
        code, _, err = run_warm(tmp_path, *command)
        assert (code, "'user_id' is no column of" in err) == (65, True), err
