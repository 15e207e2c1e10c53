"""The best recipe found for Criteo's log: several passes with new rows in each, and the mean of several seeds.

    python examples/criteo_recipe.py train.txt work/            # trains on the first 90 %, judges on the last 10 %
    python examples/criteo_recipe.py train.txt work/ --choose   # the same within the first 90 %: how it was chosen

A second pass over a click log learns the rows of the first by heart, and the figures fall. What can go on learning is
the dense part: each pass begins with the dense weights of the pass before and with new rows, which are then read for
the first time again. The logits of several seeds are averaged. `benchmarks/criteo_search.py` is the search.

Each pass is `bagpipe run examples/criteo-recipe.yaml`; its model is `continued` below. The last tenth of the log is
scored by `bagpipe predict`, once, when all passes are over.
"""

import argparse
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import safetensors.torch

from bagpipe.checkpoint.store import newest_complete
from bagpipe.metrics.clicks import evaluate
from bagpipe.models.dlrm import DLRM
from bagpipe.tables import TableLayout

JOB = Path(__file__).with_name("criteo-recipe.yaml")


def continued(layout: TableLayout, num_dense: int, weights: str = "") -> DLRM:
    """DLRM with the dense weights of an earlier run, a safetensors file; none given: with first ones."""
    model = DLRM(layout, num_dense, bottom_mlp=(64,), over_mlp=(256,))
    if weights:
        model.load_state_dict(safetensors.torch.load_file(weights))
    return model


def run(*arguments: str) -> None:
    """A command of bagpipe, which finds `continued` in this file."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(JOB.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "bagpipe", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def train(log: Path, folder: Path, seed: int, passes: int) -> Path:
    """All passes of one seed; the last one's run directory. Passes that are there already are not trained again."""
    weights = ""
    for number in range(1, passes + 1):
        place = folder / f"seed-{seed}" / f"pass-{number}"
        if not (place / "summary.json").exists():
            settings = [f"data.path={log}", f"seed={seed}", f"model.args.weights={json.dumps(weights)}"]
            run("run", str(JOB), "--run-dir", str(place), *(w for s in settings for w in ("--set", f"spec.{s}")))
        checkpoint = newest_complete(place / "checkpoints")
        assert checkpoint is not None
        weights = str((checkpoint / "dense.safetensors").resolve())
        print(f"seed {seed}, pass {number}: trained", flush=True)
    return place


def lines_of(path: Path) -> list[bytes]:
    return (lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()).splitlines(keepends=True)


def split(log: Path, folder: Path, *, choose: bool) -> tuple[Path, Path]:
    """Write the log's training part and what is judged, as two files."""
    lines = lines_of(log)
    if choose:
        lines = lines[: len(lines) * 9 // 10]
    end = len(lines) * 9 // 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.txt", lines[:end]), ("judged.txt", lines[end:])):
        (folder / name).write_bytes(b"".join(part))
    return folder / "train.txt", folder / "judged.txt"


def logits(run_dir: Path, data: Path) -> np.ndarray:
    """The model's log-odds of every line."""
    out = run_dir / "scores.parquet"
    run("predict", str(run_dir), "--data", str(data), "--out", str(out))
    table = pyarrow.parquet.read_table(out)
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    scores = table[next(name for name in table.column_names if name.startswith("score"))].to_numpy()[order]
    found: np.ndarray = np.log(scores / (1.0 - scores))
    return found


def main(arguments: Any) -> None:
    log, judged = split(arguments.log, arguments.folder, choose=arguments.choose)
    labels = np.array([int(line.split(b"\t", 1)[0]) for line in lines_of(judged)])
    runs = [train(log.resolve(), arguments.folder, seed, arguments.passes) for seed in range(1, arguments.seeds + 1)]
    found = [logits(place, judged) for place in runs]
    for seed, one in enumerate(found, 1):
        figures = evaluate(one, labels)
        print(f"seed {seed}: AUC {figures.auc:.4f}, log loss {figures.log_loss:.4f}")
    figures = evaluate(np.mean(found, axis=0), labels)
    print(f"together: AUC {figures.auc:.4f}, log loss {figures.log_loss:.4f}, examples {figures.examples}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="the log, tab separated, plain or .xz")
    parser.add_argument("folder", type=Path, help="where runs lie")
    parser.add_argument("--seeds", type=int, default=5, help="how many are averaged (default 5)")
    parser.add_argument("--passes", type=int, default=3, help="over the training part, each with new rows (default 3)")
    parser.add_argument("--choose", action="store_true", help="judge on the last tenth of the training part")
    main(parser.parse_args())
