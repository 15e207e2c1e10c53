"""A user's loop that ends: as the job does, or before it."""

import threading
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
from bagpipe.errors import BagpipeError, ConfigError
from bagpipe.local.ports import free_ports
from bagpipe.oracle.service.main import run_oracle


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[BaseException]]:
    """Oracle and server as threads beside `loop`, which gets the cache; what they died of."""

    def run(loop: Callable[[BagCache], Any], **more: Any) -> list[BaseException]:
        port = free_ports(1)[0]
        monkeypatch.setenv("MASTER_PORT", str(port))
        spec = {"data": {"format": "synthetic", "synthetic": {"examples": 400, "tableSizes": [50, 7]}}, "batchSize": 20}
        job = msgspec.convert({"spec": spec | {"embedding": {"dim": 4}, "steps": 20}}, Job)
        errors: list[BaseException] = []

        def caught(role: Callable[[], None]) -> None:
            try:
                role()
            except BagpipeError as error:
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
        with init_cache(emb_size=4, cache_size=60, device="cpu", trainer_world_size=1, **optimizer, **more) as cache:
            loop(cache)
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
