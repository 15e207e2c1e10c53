"""Every command of the seed document, typed as it stands there: does it end by itself, learn, and compute right?"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.config.document import DenseOptimizer
from bagpipe.config.model import ModelConfig
from bagpipe.models.base import register_model
from bagpipe.paper.log_format import read_log
from bagpipe.tables import TableLayout

SEED = Path(__file__).resolve().parents[3] / "shared" / "seed"

NIC = "TP_SOCKET_IFNAME=enp94s0f0"
BOTH = f"{NIC} GLOO_SOCKET_IFNAME=enp94s0f0"
DLRM = f'{BOTH} python trainer_main.py --arch-mlp-top "1024-512-256-1" --arch-mlp-bot "13-1024-1024-512-256-64-48"'
PLACE = "--worker-id {} --lookahead-val 200 --world-size 4 --cache-size {} --master-ip 10.10.1.1 --dist-worker-id {}"
REST = "--world-size-trainers 2 --dist-master-ip 10.10.1.2 --device cuda:0"
LOGGED = "--logging-prefix lookahead_200_batch_size_4096_optimized --dist-backend gloo"
ORACLE = (
    "python oracle_cacher.py --prefetch --lookahead-value 200 --mini-batch-size={} --dataset-multiprocessing "
    "--worker-id 0 --world-size 4 --cache --master-ip {} --world-size-trainers 2"
)
SERVER = "--worker-id 3 --world-size 4 --master-ip {}"
FILE, ABOVE = "--emb-info-file ../emb_table_info.txt", "--emb-info-file ../../emb_table_info.txt"
TO = "10.10.1.1"


def trainers(head: str, cache: int, tail: str) -> list[str]:
    return [f"{head} {PLACE.format(rank + 1, cache, rank)} {REST} {tail}" for rank in range(2)]


JOBS: dict[str, list[str]] = {
    "simple": [
        "python trainer_simple.py",
        f"python embedding_server.py {SERVER.format('127.0.0.1')}",
        f"{ORACLE.format(4096, '127.0.0.1')} --processed-csv ../../kaggle_criteo_weekly.txt --cache-size 5000000",
    ],
    "dlrm": [
        *trainers(DLRM, 5000000, LOGGED),
        f"{NIC} python embedding_server.py {SERVER.format(TO)}",
        f"{NIC} {ORACLE.format(4096, TO)} --processed-csv ../../kaggle_criteo_weekly.txt --cache-size 5000000",
    ],
    "fgcnn": [
        *trainers(f"{BOTH} python trainer_fgcnn_main.py", 8000000, f'--filter-range "2-5" {FILE} {LOGGED}'),
        f"{NIC} python embedding_server.py {SERVER.format(TO)} {FILE}",
        f"{NIC} {ORACLE.format(4096, TO)} {ABOVE} --processed-csv ../../parsed_train.txt --cache-size 8000000",
    ],
    "caser": [
        *trainers(f"{BOTH} python trainer_caser_main.py", 8000000, f"{ABOVE} --dist-backend gloo"),
        f"{NIC} python embedding_server.py --emb-size 50 {SERVER.format(TO)} {ABOVE}",
        f"{NIC} {ORACLE.format(512, TO)} {ABOVE} --processed-csv ../../parsed_caser.txt --cache-size 8000000",
    ],
}
LOGS = ["python parse_worker_file.py file_name"]
LAUNCHERS = ["python ec2_launcher_six_models.py", "python ec2_launcher_six_models_torchrec_baseline.py"]
"""They rent machines: the experiments' own tests start them."""


def test_the_document_has_these_commands_and_no_others() -> None:
    """What is typed below is what the seed document says, word for word: none is forgotten."""
    if not SEED.is_dir():
        pytest.skip(f"the seed document is not here: {SEED}")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(SEED.iterdir()))
    found = {" ".join(line.split()) for line in re.findall(r"^(?:\w+=\S+ )*python \S+\.py.*$", text, re.MULTILINE)}
    assert found == {*(c for job in JOBS.values() for c in job), *LOGS, *LAUNCHERS}


def run(artifact: Any, name: str, steps: int, batch: int, **more: object) -> None:
    """Type a job's commands, scaled down; every process must end by itself with 0."""
    commands = []
    for command in JOBS[name]:
        flags: dict[str, object] = dict(more) if "trainer_" in command else {}
        if "oracle" in command:
            flags = {"mini_batch_size": batch}
        elif "trainer_" in command:
            flags |= {"cache_size": 60000, "stop_iter": steps}
        elif "emb_size" in more:
            flags = {"emb_size": more["emb_size"]}
        commands.append(artifact.ports(artifact.scaled(command, **flags)))
    ended = artifact.type(commands)
    assert ended.codes == [0] * len(commands), ended.outputs


def check_logs(artifact: Any, steps: int, named: str) -> None:
    """One log a trainer, named and written as described, with its averages at the end."""
    logs = sorted(artifact.examples.glob("*.log"))
    assert [re.sub(r"\d\d:\d\d_[A-Z][a-z]+_\d\d_\d{4}", "TIME", path.name) for path in logs] == [
        f"training_worker_{rank}_TIME_{named}.log" for rank in range(2)
    ]
    for path in logs:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("INFO:root:Namespace(") and f"INFO:root:Current Iter {steps - 1}" in lines
        assert any(re.fullmatch(rf"INFO:root:Total Time of {steps} iterations: [0-9.]+ms", line) for line in lines)
        assert sum("Average" in line for line in lines) == 8
        assert all(i.total is not None and i.total > 0 for i in read_log(path).iterations)


def test_dlrm(artifact: Any, kaggle: Path, losses_fall: Callable[[Sequence[float]], bool]) -> None:
    """trainer_main.py over the 33.8 million rows of Criteo Kaggle's tables, with the layers of the document."""
    artifact.place(kaggle, sizes_at=())
    run(artifact, "dlrm", steps=16, batch=64)
    losses = artifact.losses()
    assert losses_fall(losses)
    artifact.assert_exact("kaggle_criteo_weekly.txt", losses)
    check_logs(artifact, 16, "lookahead_200_batch_size_4096_optimized_bagpipe")
    told = artifact.type(
        [f"python ../parse_worker_file.py {next(artifact.examples.glob('*.log')).name} --plot out.svg"]
    )
    assert told.codes == [0]
    assert re.search(r"Average per iter time: [0-9.]+ ms\nStandard deviation: [0-9.]+ ms\n", told.outputs[0])
    assert "over 8 iterations, the first 8 excluded as warm-up" in told.outputs[0]
    assert (artifact.examples / "out.svg").read_text().startswith("<svg")


def test_dlrm_on_three_machines(artifact: Any, kaggle: Path, machines: dict[str, str]) -> None:
    """The same on the document's three nodes, with its addresses, interface and ports as they stand there."""
    artifact.place(kaggle, sizes_at=())
    artifact.nodes = machines
    run(artifact, "dlrm", steps=6, batch=64)
    artifact.assert_exact("kaggle_criteo_weekly.txt", artifact.losses())


def test_simple(artifact: Any, kaggle: Path, losses_fall: Callable[[Sequence[float]], bool]) -> None:
    """trainer_simple.py, a model of one's own in the API's loop: it ends without killing anybody, and is saved."""
    artifact.place(kaggle, sizes_at=())
    commands = [artifact.ports(c) for c in JOBS["simple"]]
    commands[0] = artifact.scaled(commands[0], cache_size=60000, stop_iter=30, device="cpu")
    commands[2] = artifact.scaled(commands[2], mini_batch_size=64)
    ended = artifact.type(commands)
    assert ended.codes == [0, 0, 0], ended.outputs
    told = re.findall(r"trainer (\d) iteration (\d+) loss ([0-9.e-]+)", ended.outputs[0])
    by_rank = [[float(loss) for rank, _, loss in told if rank == str(r)] for r in range(2)]
    losses = [sum(pair) / 2 for pair in zip(*by_rank, strict=True)]
    assert len(losses) == 30 and losses_fall(losses)
    sgd = DenseOptimizer(name="sgd", lr=0.01)
    artifact.assert_exact(
        "kaggle_criteo_weekly.txt", losses, model=ModelConfig(name="the-papers-simple-model"), optimizer=sgd
    )


def test_fgcnn(artifact: Any, fgcnn: Path) -> None:
    """trainer_fgcnn_main.py on 39 features of a file made by `bagpipe data prepare`; a smaller last MLP, 8 wide."""
    artifact.place(fgcnn, sizes_at=("../emb_table_info.txt", "../../emb_table_info.txt"))
    run(artifact, "fgcnn", steps=12, batch=48, emb_size=8, arch_mlp_top="32-1")
    losses = artifact.losses()
    assert min(losses[6:]) < losses[0]
    artifact.assert_exact("parsed_train.txt", losses)
    check_logs(artifact, 12, "lookahead_200_batch_size_4096_optimized_bagpipe")


def test_caser(artifact: Any, caser: Path, losses_fall: Callable[[Sequence[float]], bool]) -> None:
    """trainer_caser_main.py on sequences made by `bagpipe data prepare`; nothing told it that they are ragged."""
    artifact.place(caser, sizes_at=("../../emb_table_info.txt",))
    run(artifact, "caser", steps=24, batch=32)
    losses = artifact.losses()
    assert losses_fall(losses)
    artifact.assert_exact("parsed_caser.txt", losses)
    check_logs(artifact, 24, "test_caser")


@register_model("the-papers-simple-model")
class SimpleModel(nn.Module):
    """The document's model once more, without a cache, for the reference."""

    def __init__(self, layout: TableLayout, num_dense: int) -> None:
        super().__init__()
        self.bot_mlp = nn.Sequential(nn.Linear(num_dense, 64), nn.Linear(64, 48), nn.ReLU())
        self.top_mlp = nn.Sequential(nn.Linear((len(layout.tables) + 1) * 48, 256), nn.Linear(256, 1), nn.Sigmoid())
        self.features = [name for table in layout.tables for name in table.feature_names]

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        found: torch.Tensor = self.top_mlp(torch.cat([self.bot_mlp(dense), *(sparse[f] for f in self.features)], dim=1))
        return found

    def loss(self, clicks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy(clicks, labels)
