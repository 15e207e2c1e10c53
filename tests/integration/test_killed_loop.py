"""A program with its own loop is killed: who notices, and how it goes on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.load import load_job
from bagpipe.embedding.server import run_server
from bagpipe.errors import BagpipeError, PeerLost
from bagpipe.local.ports import free_ports
from bagpipe.oracle.service.main import run_oracle

JOB = """
spec:
  data: {format: synthetic, synthetic: {examples: 4000, tableSizes: [300, 70]}}
  embedding: {dim: 4}
  batchSize: 20
  lookahead: 2
  checkpoint: {every: 5}
  transport: {deadPeerSeconds: 2}
"""
PROGRAM = """
import os, signal, time
from pathlib import Path
import torch
from bagpipe import init_cache

torch.manual_seed(0)
with init_cache(emb_size=4, cache_size=None, device="cpu", trainer_world_size=1, answer_seconds=100) as cache:
    net = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    cache.attach(net, optimizer)
    for batch in cache:
        logits = net(torch.cat(cache.get_emb(batch["sparse_vector"]), 1))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["target"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if RUN and cache.step >= 13:
            if any(Path(RUN).glob("checkpoints/step-*/manifest.json")):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)  # The checkpoint becomes whole between batches.
"""
"""Kills itself in the first batch from step 13 on by which a checkpoint is whole, between the dense update and that of
rows. It has time for that until the data ends. Not at all where RUN, the run directory, is empty."""


class Job:
    """A job whose oracle and server are started by hand, each time as for the first time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "job.yaml").write_text(JOB)
        self.folder, self.spec = folder, load_job(folder / "job.yaml")
        self.port = free_ports(1)[0]

    def run(self, program: Callable[[Mapping[str, str]], None]) -> list[BagpipeError]:
        """Oracle and server as threads beside the program; what they ended with: nothing, if they ended well."""
        ends: list[BagpipeError] = []
        roles = [threading.Thread(target=caught, args=(role, ends), daemon=True) for role in (self.oracle, self.server)]
        for role in roles:
            role.start()
        program({"MASTER_PORT": str(self.port), "MASTER_ADDR": "127.0.0.1"})
        for role in roles:
            role.join(timeout=600)
            assert not role.is_alive(), "oracle and server end by themselves"
        return ends

    def oracle(self) -> None:
        run_oracle(
            self.spec,
            bind=f"tcp://127.0.0.1:{self.port}",
            run_dir=self.folder,
            attempt=0,
            checkpoint=self.newest,
            stop=lambda: False,
        )

    def server(self) -> None:
        run_server(
            oracle=f"tcp://127.0.0.1:{self.port}",
            bind="tcp://127.0.0.1:0",
            advertise=None,
            shard=0,
            job="bagpipe",
            attempt=0,
            data_dir=self.folder / "servers" / "0",
            storage="file",
            checkpoint_dir=None,
            transport=self.spec.spec.transport,
            stop=lambda: False,
        )

    @property
    def newest(self) -> Path | None:
        return newest_complete(self.folder / "checkpoints")


def caught(role: Callable[[], None], ends: list[BagpipeError]) -> None:
    try:
        role()
    except BagpipeError as error:
        ends.append(error)


def test_it_is_noticed_and_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle and server name the program that vanished, by the silence of its connection and not by a deadline of the
    step; all three started again, with the same commands, end with the model of a program that was never killed,
    though the server's files hold rows of steps beyond the checkpoint.
    """

    def to_its_end(address: Mapping[str, str]) -> None:
        for name, value in address.items():
            monkeypatch.setenv(name, value)
        exec(PROGRAM, {"RUN": ""})

    def killed_in_a_batch(address: Mapping[str, str]) -> None:
        command = [sys.executable, "-c", f"RUN = {str(killed.folder)!r}{PROGRAM}"]
        assert subprocess.run(command, env=os.environ | address, check=False).returncode == -signal.SIGKILL

    whole, killed = Job(tmp_path / "whole"), Job(tmp_path / "killed")
    assert whole.run(to_its_end) == []
    ends = killed.run(killed_in_a_batch)
    assert len(ends) == 2 and all(isinstance(end, PeerLost) for end in ends)
    assert all("trainer 0 at tcp://127.0.0.1:" in str(end) and "has vanished" in str(end) for end in ends)
    assert killed.newest is not None and open_checkpoint(killed.newest).manifest.step < 200
    assert killed.run(to_its_end) == []
    assert whole.newest is not None and killed.newest is not None
    assert model_digest(killed.newest) == model_digest(whole.newest)
