"""The table of the six models here: with the cache, without it, and TorchRec for DLRM, on the same examples.

    tools/limited.sh 1gbit python tools/six_models_table.py runs/table --torchrec /path/to/torchrec/bin/python

`make six-models-table` calls it. Options that it does not know go to `bagpipe experiment six-models`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

from bagpipe.experiment import suite
from bagpipe.paper.flags import KAGGLE_TABLES

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 100_000
CLICKS = ("dlrm", "wdl", "dcn", "deepfm")


def main() -> int:
    arguments = parse()
    data, jobs = (
        arguments.out.with_name(f"{arguments.out.name}-data"),
        arguments.out.with_name(f"{arguments.out.name}-jobs"),
    )
    write_inputs(data.absolute(), jobs, arguments.steps)
    command = [sys.executable, "-m", "bagpipe", "experiment", "six-models", "--local", "--jobs", str(jobs)]
    command += [
        "--out",
        str(arguments.out),
        "--condition",
        f"Links: {arguments.links}. {os.cpu_count()} cores.",
        *arguments.rest,
    ]
    if arguments.torchrec:
        command += ["--torchrec-log", str(run_torchrec(arguments, data.absolute(), jobs))]
    return subprocess.run(command, check=False).returncode


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description="The six models' table on this machine.")
    made.add_argument("out", type=Path, help="where logs and tables go; data and jobs go beside it")
    made.add_argument(
        "--torchrec", type=Path, help="Python of TorchRec's environment (artifact/torchrec_baseline/setup.sh)"
    )
    made.add_argument("--links", default="loopback, not limited", help="words for the table: how fast the network was")
    made.add_argument("--steps", type=int, default=60, help="iterations of each run")
    arguments, arguments_of_the_experiment = made.parse_known_args()
    arguments.rest = arguments_of_the_experiment
    return arguments


def table_sizes() -> list[int]:
    return [min(size, LARGEST) for size in KAGGLE_TABLES]


def write_inputs(data: Path, jobs: Path, steps: int) -> None:
    """Examples that every system can read, and the job files."""
    data.mkdir(parents=True, exist_ok=True)
    jobs.mkdir(parents=True, exist_ok=True)
    (data / "sizes.txt").write_text("".join(f"{size}\n" for size in table_sizes()))
    with (data / "clicks.jsonl").open("w") as file:
        file.writelines(suite.small_clicks(40_000, table_sizes()))
    with (data / "caser.jsonl").open("w") as file:
        file.writelines(suite.small_sequences(20_000))
    for model in suite.MODELS:
        document = suite.job_document(model, "small")
        spec = document["spec"]
        spec["steps"] = steps
        if model in CLICKS:
            spec["data"] = {"path": str(data / "clicks.jsonl"), "format": "criteo-json"}
            spec["embedding"] = {**spec["embedding"], "tables": tables(spec["embedding"].pop("dim"))}
        elif model == "caser":
            spec["data"]["path"] = str(data / "caser.jsonl")
        (jobs / f"{model}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def tables(dim: int) -> list[dict[str, object]]:
    return [
        {"name": f"t{i}", "numEmbeddings": size, "embeddingDim": dim, "featureNames": [f"C{i + 1}"]}
        for i, size in enumerate(table_sizes())
    ]


def run_torchrec(arguments: argparse.Namespace, data: Path, jobs: Path) -> Path:
    """The baseline with the DLRM job's sizes; returns the log of its rank 0."""
    spec = yaml.safe_load((jobs / "dlrm.yaml").read_text())["spec"]
    trainers, dim = spec["trainers"]["replicas"], spec["embedding"]["tables"][0]["embeddingDim"]
    widths = [13, *spec["model"]["bottomMlp"], dim], [*spec["model"]["overMlp"], 1]
    command = [
        *(str(arguments.torchrec), "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(trainers)),
        *(str(ROOT / "artifact" / "torchrec_baseline" / "train.py"), "--dataset", str(data / "clicks.jsonl")),
        *("--emb-info-file", str(data / "sizes.txt"), "--emb-size", str(dim), "--device", "cpu"),
        *("--batch-size", str(spec["batchSize"] // trainers), "--iter", str(arguments.steps), "--log-dir", str(data)),
        *("--arch-mlp-bot", "-".join(map(str, widths[0])), "--arch-mlp-top", "-".join(map(str, widths[1]))),
    ]
    before = set(data.glob("training_worker_0_*"))
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    new = set(data.glob("training_worker_0_*")) - before
    return max(new or before, key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    sys.exit(main())
