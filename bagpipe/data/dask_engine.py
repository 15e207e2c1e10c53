"""Tasks on a Dask cluster: one that is there already, or some processes of this machine.

Dask carries bytes to `run_packed` and back. A program that can connect to a scheduler can run code on its workers,
so the cluster that is started here listens on the loopback interface, and only while it is used.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from bagpipe.data.tasks import run_packed
from bagpipe.errors import ConfigError, PeerLost

SCHEDULER_SECONDS = 30.0
"""How long a scheduler may take to answer."""
WORKERS_SECONDS = 120.0
"""How long there may be no worker."""
LOOK_SECONDS = 2.0


@contextmanager
def dask_engine(scheduler: str | None, workers: int | None) -> Iterator["DaskEngine"]:
    """A cluster's engine.

    Args:
        scheduler: address of a cluster that is there; None: one is started here and ended at the end.
        workers: processes of the one that is started; None: one for each core.

    Raises:
        ConfigError: Dask is not installed.
        PeerLost: the scheduler does not answer.
    """
    try:
        import dask
        import distributed as library
    except ImportError as error:
        raise ConfigError(
            f"--engine dask: the package {error.name} is not installed; pip install 'bagpipe-train[dask]'"
        ) from None
    distributed: Any = library  # much of it has no types
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it has to say is raised
    settings = {"distributed.comm.timeouts.connect": f"{SCHEDULER_SECONDS}s", "distributed.comm.retry.count": 0}
    with dask.config.set(settings), ExitStack() as stack:
        address = scheduler
        if address is None:
            cluster = stack.enter_context(_own_cluster(distributed, workers))
            address = cluster.scheduler_address
        try:
            client = stack.enter_context(distributed.Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False))
        except OSError:
            raise PeerLost(
                f"scheduler {address}: no answer within {SCHEDULER_SECONDS:.0f} s; check the address of --scheduler, "
                "and that `dask scheduler` runs there"
            ) from None
        yield DaskEngine(distributed, client, address)


@contextmanager
def _own_cluster(distributed: Any, workers: int | None) -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # any free port: the scheduler always has one for HTTP
        memory_limit=0,  # what a task holds does not grow with the data, and Dask would end it for its page cache
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@dataclass(slots=True)
class DaskEngine:
    """A connected client, as `bagpipe.data.spread` needs it."""

    distributed: Any
    client: Any
    address: str

    def map(self, messages: Sequence[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
        futures = [self.client.submit(run_packed, message, pure=False) for message in messages]
        try:
            for future in futures:
                yield self._result(future, lambda: done(sum(f.status == "finished" for f in futures)))
        finally:
            for future in futures:
                future.release()

    def _result(self, future: Any, tell: Callable[[], None]) -> bytes:
        """Wait as long as the task takes, while there is somebody to do it."""
        since = monotonic()
        while not future.done():
            try:
                with self.client.as_current():
                    self.distributed.wait(future, timeout=LOOK_SECONDS)
            except self.distributed.TimeoutError:
                tell()
            if future.done():
                break
            since = monotonic() if self._workers() else since
            if monotonic() - since > WORKERS_SECONDS:
                raise PeerLost(
                    f"scheduler {self.address}: no worker for {WORKERS_SECONDS:.0f} s; start some with `dask worker "
                    f"{self.address}`; the same command goes on where this one stopped"
                )
        tell()
        return self._outcome(future)

    def _workers(self) -> int:
        if self.client.status != "running":  # it may find the scheduler again, but that forgets what it was asked
            raise self._lost(ConnectionError())
        try:
            return len(self.client.nthreads())
        except (OSError, RuntimeError, self.distributed.TimeoutError) as error:
            raise self._lost(error) from None

    def _outcome(self, future: Any) -> bytes:
        try:
            error = future.exception(timeout=SCHEDULER_SECONDS) if future.status == "error" else None
            if error is None:
                return bytes(future.result(timeout=SCHEDULER_SECONDS))
        except (OSError, self.distributed.CancelledError, self.distributed.TimeoutError) as lost:
            raise self._lost(lost) from None
        if isinstance(error, ModuleNotFoundError):
            raise ConfigError(
                f"scheduler {self.address}: its workers lack the module {error.name}; install the same bagpipe-train "
                "for all of them"
            )
        if isinstance(error, self.distributed.KilledWorker):
            raise PeerLost(f"scheduler {self.address}: a task ended several workers ({error}); see their logs")
        raise error

    def _lost(self, error: BaseException) -> PeerLost:
        return PeerLost(
            f"scheduler {self.address}: lost ({type(error).__name__}); start it again, and the same command goes on "
            "where this one stopped"
        )
