"""What every peer's process does alike: read its setting, meet the others, train a stream, note each step's time.

python -m peers.contenders.NAME DIRECTORY ROLE NUMBER
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bagpipe.models.dlrm import DLRM
from bagpipe.tables import Table, TableLayout
from peers import workload
from peers.contender import METRICS
from peers.setting import Setting

DEADLINE = timedelta(seconds=120)
GROUP_PORT, RPC_PORT = 29_501, 29_502


@dataclass(frozen=True, slots=True)
class Slice:
    """One trainer's part of one step, as tensors."""

    step: int
    dense_BF: torch.Tensor
    rows_TB: torch.Tensor
    keys_BT: torch.Tensor
    labels_B1: torch.Tensor


@dataclass(frozen=True, slots=True)
class Pooled:
    """What DLRM asks for: every feature's pooled row, `[B, T, D]`."""

    pooled_BTD: torch.Tensor

    def stacked(self) -> torch.Tensor:
        return self.pooled_BTD


class Worker:
    """This process's place: its role and number, the setting, everybody's address."""

    def __init__(self, directory: Path, role: str, number: int) -> None:
        found = json.loads((directory / "setting.json").read_text())
        self.setting = Setting.from_json(found["setting"])
        self.addresses: dict[str, str] = found["addresses"]
        self.directory, self.role, self.number = directory, role, number
        torch.set_num_threads(1)
        torch.manual_seed(self.setting.seed)

    @property
    def world(self) -> int:
        return self.setting.trainers

    def join_trainers(self) -> None:
        """The trainers' process group (gloo)."""
        where = f"tcp://{self.addresses['trainer 0']}:{GROUP_PORT}"
        dist.init_process_group("gloo", where, rank=self.number, world_size=self.world, timeout=DEADLINE)

    def dense_model(self) -> nn.Module:
        """The same dense arithmetic for every contender: ours."""
        layout = TableLayout.of(
            Table(name=f"C{i}", num_embeddings=n, embedding_dim=self.setting.dim, feature_names=(f"C{i}",))
            for i, n in enumerate(workload.TABLE_ROWS, 1)
        )
        return DLRM(layout, workload.NUM_DENSE, 1, workload.BOTTOM_MLP, workload.OVER_MLP)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """DDP over the trainers; its index tables are constants and need no broadcast."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False)

    @cached_property
    def slices(self) -> list[Slice]:
        """This trainer's part of every step; made before training, so that nobody pays for reading data."""
        made = []
        for step in range(self.setting.last_step + 2):
            part = workload.global_batch(self.setting, step).part(self.number, self.world)
            tensors = (part.dense_BF, part.rows_TB, part.keys(), part.labels_B1)
            made.append(Slice(step, *map(torch.from_numpy, tensors)))
        return made

    def train(self, run_step: Callable[[Slice], None]) -> None:
        """Every step once; notes when each began or ended, by the clock that all processes share."""
        slices = self.slices
        if self.world > 1:
            dist.barrier()
        with (self.directory / f"{METRICS}.{self.number}").open("w") as notes:
            notes.write(json.dumps({"step": 0, "at": time.monotonic()}) + "\n")
            for part in slices:
                run_step(part)
                notes.write(json.dumps({"step": part.step + 1, "at": time.monotonic()}) + "\n")
                notes.flush()


def main(run: Callable[[Worker], None]) -> None:
    """Entry of a contender's module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="with setting.json")
    parser.add_argument("role")
    parser.add_argument("number", type=int, help="of this process among those of its role")
    asked = parser.parse_args()
    run(Worker(asked.directory, asked.role, asked.number))
