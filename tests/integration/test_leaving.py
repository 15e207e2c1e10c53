"""A user's loop that ends: as the job does, or before it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bagpipe.api import BagCache, init_cache
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import Job, TransportConfig
from bagpipe.embedding.server import run_server
from bagpipe.errors import BagpipeError, ConfigError, PeerLost
from bagpipe.local.ports import free_ports
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


def test_a_loop_that_says_its_length_ends_the_job(train: Callable[..., list[BaseException]], tmp_path: Path) -> None:
    """Whatever the job's own steps: everybody ends, and the model of exactly these batches is saved."""
    assert train(take(5), steps=5) == []
    newest = newest_complete(tmp_path / "checkpoints")
    assert newest is not None and open_checkpoint(newest).manifest.step == 5


def test_a_loop_that_leaves_early_is_named(train: Callable[..., list[BaseException]]) -> None:
    """Oracle and server end at once and say what to do; they do not wait for a deadline."""
    errors = train(take(5))
    assert len(errors) == 2 and all(isinstance(error, ConfigError) for error in errors)
    assert "trainer 0 left after 5 batches" in str(errors[0]) and "pass steps=5 to init_cache" in str(errors[1])


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
    """In the middle of a job of two, rank 1 fails before backward while rank 0 waits for its gradients: both end long
    before the deadline of a step, which is minutes.
    """
    begun = time.monotonic()
    ends = train(interrupted(3, ArithmeticError, rank=1), world_size=2)
    assert time.monotonic() - begun < 60
    assert sum(isinstance(end, ArithmeticError) for end in ends) == 1
    left = [end for end in ends if "trainer 1 left in the middle of batch 3" in str(end)]
    assert len(left) == 3, "the oracle, the server and trainer 0"


def test_a_batch_that_was_only_fetched_is_not_trained_on(train: Callable[..., list[BaseException]]) -> None:
    """A loop that breaks out of its last batch before it reads an embedding has trained on the batches before it."""

    def loop(cache: BagCache) -> None:
        take(4)(cache)
        cache.next_batch()

    errors = train(loop, steps=5)
    assert len(errors) == 2 and all("left after 4 batches" in str(error) for error in errors)
