"""A user's loop that ends: as the job does, or before it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bagpipe.api import BagCache, init_cache
from bagpipe.batch import Cursor
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import Job, TransportConfig
from bagpipe.embedding.server import run_server
from bagpipe.errors import BagpipeError, ConfigError, PeerLost, Stopped
from bagpipe.local.ports import free_ports
from bagpipe.net.messages import Wait
from bagpipe.net.register import Impatience, _Signs
from bagpipe.oracle.service.main import run_oracle

INTERRUPTIONS = (ArithmeticError, KeyboardInterrupt)
"""What ends a loop here."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[BaseException]]:
    """Oracle and server as threads beside `loop`, which gets the cache; what they died of."""

    def run(loop: Callable[[BagCache], Any], *, world_size: int = 1, **more: Any) -> list[BaseException]:
        port = free_ports(1)[0]
        monkeypatch.setenv("MASTER_PORT", str(port))
        spec = {"data": {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": [50, 7]}}, "batchSize": 20}
        spec |= {"embedding": {"dim": 4}, "steps": 20, "trainers": {"replicas": world_size}}
        job = msgspec.convert({"spec": spec}, Job)
        errors: list[BaseException] = []

        def caught(role: Callable[[], None]) -> None:
            try:
                role()
            except (BagpipeError, *INTERRUPTIONS) as error:
                errors.append(error)

        def oracle() -> None:
            run_oracle(
                job,
                bind=f"tcp://127.0.0.1:{port}",
                run_dir=tmp_path,
                attempt=0,
                checkpoint=None,
                stop=lambda: False,
            )

        def server() -> None:
            run_server(
                oracle=f"tcp://127.0.0.1:{port}",
                bind="tcp://127.0.0.1:0",
                advertise=None,
                shard=0,
                job="bagpipe",
                attempt=0,
                data_dir=tmp_path,
                storage="memory",
                checkpoint_dir=None,
                transport=TransportConfig(),
                stop=lambda: False,
            )

        threads = [threading.Thread(target=caught, args=(role,), daemon=True) for role in (oracle, server)]
        for thread in threads:
            thread.start()
        optimizer = {"emb_optim": torch.optim.SGD, "emb_optim_params": {"lr": 0.1}}

        def trainer(rank: int) -> None:
            settings = {"trainer_world_size": world_size, "training_worker_id": rank} | optimizer | more
            with init_cache(emb_size=4, cache_size=60, device="cpu", **settings) as cache:
                loop(cache)

        for rank in range(1, world_size):
            threads.append(threading.Thread(target=caught, args=(lambda rank=rank: trainer(rank),), daemon=True))
            threads[-1].start()
        try:
            trainer(0)
        except (BagpipeError, *INTERRUPTIONS) as error:
            errors.append(error)
        for thread in threads:
            thread.join()
        return errors

    return run


def take(count: int) -> Callable[[BagCache], None]:
    def loop(cache: BagCache) -> None:
        for _ in range(count):
            batch = cache.next_batch()
            torch.cat(cache.get_emb(batch["sparse_vector"])).sum().backward()

    return loop


def test_a_users_loop_gets_aligned_batches(train: Callable[..., list[BaseException]]) -> None:
    """Features and labels start at a 64-byte boundary wherever the plan lay: matrix products round by alignment."""
    where: list[int] = []

    def loop(cache: BagCache) -> None:
        for _ in range(20):
            batch = cache.next_batch()
            where.extend(batch[name].data_ptr() % 64 for name in ("dense_x", "target"))
            torch.cat(cache.get_emb(batch["sparse_vector"])).sum().backward()

    assert train(loop, steps=20) == []
    assert len(where) == 40 and set(where) == {0}


def test_a_loop_that_says_its_length_ends_the_job(
    train: Callable[..., list[BaseException]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the job's own steps: everybody ends, and the model of exactly these batches is saved."""
    assert train(take(5), steps=5) == []
    assert "no embedding was trained" not in caplog.text
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None and open_checkpoint(newest).manifest.step == 5


def test_a_second_loop_over_a_job_is_refused_in_words(
    train: Callable[..., list[BaseException]], caplog: pytest.LogCaptureFixture
) -> None:
    """A loop around the loop, for epochs, trains nothing more: it was an error about the table of a step. And a loop in
    which nothing was computed says so.
    """
    count, ends = 0, 0

    def loop(cache: BagCache) -> None:
        nonlocal count, ends
        for _epoch in range(2):
            for _batch in cache:
                count += 1
            with pytest.raises(StopIteration, match="no more batches"):
                cache.next_batch()
            ends += 1

    (error,) = train(loop, steps=5)
    assert isinstance(error, ConfigError) and (count, ends) == (5, 1)
    assert re.search(r"at their end, after step 5: one loop goes through all of its epochs \(epochs: 1\)", str(error))
    assert "trainer 0: in none of its 5 batches a row had a gradient, so no embedding was trained" in caplog.text


def test_a_loop_that_leaves_early_leaves_its_model(train: Callable[..., list[BaseException]], tmp_path: Path) -> None:
    """Oracle and server end at once, without a deadline; the checkpoint is that of the batches that were trained on,
    and what goes on from it begins with the next one.
    """
    (error,) = train(take(5))
    assert isinstance(error, Stopped)
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None
    manifest = open_checkpoint(newest).manifest
    assert (manifest.step, manifest.cursor) == (5, Cursor(0, 100))


def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose oracle was not started says which two commands start the others."""
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    with pytest.raises(
        PeerLost, match=r"the oracle does not answer at .*start `bagpipe oracle .* and `bagpipe server "
    ):
        init_cache(emb_size=4, device="cpu", trainer_world_size=1, answer_seconds=3)


def test_a_server_that_is_missing_is_named() -> None:
    """Once the oracle has its data, its servers may take as long as it had to answer, and not ten minutes."""
    signs = _Signs("trainer 0", Anybody(), Impatience(8.0, "start it"), since=0.0)
    signs.heard(Wait(), now=7.0)
    signs.check(now=100.0)  # The oracle reads its data.
    signs.heard(Wait(missing="server 0, server 1"), now=100.0)
    signs.heard(Wait(missing="server 1"), now=104.0)
    signs.check(now=107.9)
    with pytest.raises(PeerLost, match="server 1 did not register with the oracle at here within 8 s; start it"):
        signs.check(now=108.0)


class Anybody:
    """A connection to nowhere."""

    endpoint = "here"


def interrupted(after: int, error: type[BaseException], rank: int = 0) -> Callable[[BagCache], None]:
    """A loop of one trainer that fails in the batch after so many, before backward; the others go on."""

    def loop(cache: BagCache) -> None:
        take(after)(cache)
        batch = cache.next_batch()
        embeddings = torch.cat(cache.get_emb(batch["sparse_vector"]))
        if cache._members.rank == rank:
            raise error("the loss is not a number")
        embeddings.sum().backward()
        take(20)(cache)

    return loop


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_a_loop_that_fails_in_its_last_batch_has_no_success(
    train: Callable[..., list[BaseException]], tmp_path: Path, error: type[BaseException]
) -> None:
    """Nothing of the batch is applied or reported, and no checkpoint is written, though all that was missing was
    backward: the others end at once and say whose loop failed, where, of what.
    """
    ends = train(interrupted(4, error), steps=5)
    (own,) = (end for end in ends if isinstance(end, error))
    assert str(own) == "the loss is not a number"
    others = [end for end in ends if end is not own]
    assert len(others) == 2 and all(isinstance(end, PeerLost) for end in others)
    told = f"trainer 0 left in the middle of batch 4 ({error.__name__}: the loss is not a number)"
    assert all(told in str(end) for end in others)
    assert newest_complete(tmp_path / "checkpoints") is None


def test_a_trainer_whose_loop_fails_waits_for_nobody(train: Callable[..., list[BaseException]]) -> None:
    """In the middle of a job of two, rank 1 fails before backward while rank 0 waits for its gradients: everybody ends
    because it left, and nobody because a deadline of minutes is over.
    """
    ends = train(interrupted(3, ArithmeticError, rank=1), world_size=2)
    assert sum(isinstance(end, ArithmeticError) for end in ends) == 1
    left = [end for end in ends if "trainer 1 left in the middle of batch 3" in str(end)]
    assert len(left) == 3, "the oracle, the server and trainer 0"


def test_a_batch_that_was_only_fetched_is_not_trained_on(
    train: Callable[..., list[BaseException]], tmp_path: Path
) -> None:
    """A loop that breaks out of its last batch before it reads an embedding has trained on the batches before it."""

    def loop(cache: BagCache) -> None:
        take(4)(cache)
        cache.next_batch()

    train(loop, steps=5)
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None and open_checkpoint(newest).manifest.step == 4


def test_the_end_of_the_interpreter_closes(tmp_path: Path) -> None:
    """A program that never closes its cache ends every role within seconds, and its model is there; one that ends by an
    exception saves nothing of the batch that it was in.
    """
    for number, (end, code, steps) in enumerate([("", 0, 3), ("raise ValueError", 1, None)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "job.yaml").write_text(
            "spec: {data: {format: synthetic, synthetic: {examples: 400, tableSizes: [50, 7]}}, batchSize: 20}"
        )
        port = free_ports(1)[0]
        roles = ["--job", str(folder / "job.yaml"), "--run-dir", str(folder)]
        oracle = [sys.executable, "-m", "bagpipe", "oracle", "--bind", f"tcp://127.0.0.1:{port}", *roles]
        server = [
            sys.executable,
            "-m",
            "bagpipe",
            "server",
            "--oracle",
            f"tcp://127.0.0.1:{port}",
            "--shard",
            "0",
            *roles,
        ]
        program = PROGRAM.format(end=end)
        environment = os.environ | {"MASTER_PORT": str(port)}
        with (
            subprocess.Popen(oracle, stderr=subprocess.DEVNULL) as first,
            subprocess.Popen(server, stderr=subprocess.DEVNULL) as second,
        ):
            done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
            first.wait(120)
            second.wait(120)
        assert done.returncode == code
        newest = newest_complete(folder / "checkpoints")
        assert (newest and open_checkpoint(newest).manifest.step) == steps


PROGRAM = """
import torch
from bagpipe import init_cache
cache = init_cache(emb_size=16, device="cpu", trainer_world_size=1, answer_seconds=100)
for _ in range(3):
    batch = cache.next_batch()
    torch.cat(cache.get_emb(batch["sparse_vector"])).sum().backward()
{end}
"""
