"""The trainers that the seed document does not type: any ranks, several servers, part folders, one trainer."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bagpipe.testing.warm_commands import run_warm

Falls = Callable[[Sequence[float]], bool]
TRAINER = (
    "python {} --worker-id {} --dist-worker-id {} --dist-master-ip 127.0.0.1 --cache-size 20000 --master-ip 127.0.0.1"
)
ORACLE = "python oracle_cacher.py --master-ip 127.0.0.1 --emb-info-file ../../emb_table_info.txt"
RATE = "--learning-rate 0.05"
DATA = "--processed-csv ../../kaggle_criteo_weekly.txt"
SERVER = "python embedding_server.py --master-ip 127.0.0.1"


def test_two_servers_and_any_ranks(artifact: Any, criteo: Path, losses_fall: Falls) -> None:
    """Wide & Deep at one trainer: the oracle is neither first nor last, servers share the tables around it."""
    artifact.place(criteo, sizes_at=("../../emb_table_info.txt",))
    world, trainer = "--world-size 4", TRAINER.format("trainer_wdn_main.py", 2, 0)
    commands = [
        f"{trainer} {world} --world-size-trainers 1 --dense-size 13 {RATE} --stop-iter 60",
        f"{SERVER} {world} --worker-id 3",
        f"{SERVER} {world} --worker-id 0",
        f"{ORACLE} {world} --worker-id 1 --world-size-trainers 1 --mini-batch-size 32 {DATA}",
    ]
    ended = artifact.type([artifact.ports(c) for c in commands])
    assert ended.codes == [0] * 4, ended.outputs
    assert "shard 1 of 2" in ended.outputs[1] and "shard 0 of 2" in ended.outputs[2]
    losses = artifact.losses()
    assert losses_fall(losses)
    artifact.assert_exact("kaggle_criteo_weekly.txt", losses)


def test_the_launchers_ranks_and_part_files(artifact: Any, criteo_parts: Path, losses_fall: Falls) -> None:
    """Deep & Cross in the original launcher's layout, data in part files, the oracle's iterations; then evaluated."""
    artifact.place(criteo_parts, sizes_at=("../../emb_table_info.txt",))
    world = "--world-size 4 --world-size-trainers 2"
    trainer = f"{TRAINER.format('trainer_dcn_main.py', '{}', '{}')} {world} {RATE}"
    commands = [
        f"{ORACLE} {world} --mini-batch-size 32 --stop-iter 40 --processed-csv ../.. --dataset-multi-num 3",
        f"{SERVER} --world-size 4 --worker-id 1",
        *(trainer.format(2 + rank, rank) for rank in range(2)),
    ]
    ended = artifact.type([artifact.ports(c) for c in commands])
    assert ended.codes == [0] * 4, ended.outputs
    assert "global batch 32: 16 examples at each of 2 trainers" in ended.outputs[0]
    losses = artifact.losses()
    assert len(losses) == 40 and losses_fall(losses)
    (run_dir,) = (artifact.home / "runs").iterdir()
    code, printed, told = run_warm(run_dir, "evaluate", ".", "--json", "--set", "data.testFraction=0.5")
    assert code == 0, told
    assert json.loads(printed)["examples"] == 300
    parts = tuple(str(artifact.home.parent / f"part_{i}.txt") for i in range(3))
    artifact.assert_exact(parts, losses)


def test_deepfm_and_the_row_of_its_first_order_weight(artifact: Any, criteo: Path) -> None:
    """DeepFM's first-order table goes through the cache: rows are a weight wider than --emb-size says."""
    artifact.place(criteo, sizes_at=("../../emb_table_info.txt",))
    world = "--world-size 3"
    commands = [
        f"{TRAINER.format('trainer_dfm_main.py', 1, 0)} {world} --world-size-trainers 1 --emb-size 8 --stop-iter 16",
        f"{SERVER} {world} --worker-id 2 --emb-size 8",
        f"{ORACLE} {world} --world-size-trainers 1 --mini-batch-size 32 --lookahead-value 1 {DATA}",
    ]
    ended = artifact.type([artifact.ports(c) for c in commands])
    assert ended.codes == [0] * 3, ended.outputs
    assert re.search(r"dim=9,", ended.outputs[1])
    artifact.assert_exact("kaggle_criteo_weekly.txt", artifact.losses())


def test_roles_that_disagree_end_at_once(artifact: Any, criteo: Path) -> None:
    """A server of another width is named, and nobody waits for a deadline."""
    artifact.place(criteo, sizes_at=("../../emb_table_info.txt",))
    world = "--world-size 3"
    commands = [
        f"{SERVER} {world} --worker-id 2 --emb-size 50",
        f"{TRAINER.format('trainer_main.py', 1, 0)} {world} --world-size-trainers 1 --stop-iter 5",
        f"{ORACLE} {world} --world-size-trainers 1 --mini-batch-size 32 {DATA}",
    ]
    ended = artifact.type([artifact.ports(c) for c in commands])
    assert ended.codes[0] == 78
    assert "--emb-size 50: the trainers say 48; give all the same" in ended.outputs[0]
    assert 0 not in ended.codes
