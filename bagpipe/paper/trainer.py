"""The main function of all six `trainer_*_main.py`: flags, `init_cache`, a model, plain DDP, the loop, the log.

It is what a user of the Python API would write. Times are measured on the host's clock. On a GPU the host only starts
the work, so a part's time is exact only with `--precise-times`, which waits for the device after each part and so costs
speed.
"""

import argparse
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from bagpipe.api import BagCache, BatchDict, init_cache
from bagpipe.errors import ConfigError, PeerLost
from bagpipe.models.base import build_model
from bagpipe.models.layers import step_setter
from bagpipe.models.loss import loss_of
from bagpipe.net.endpoints import bracketed
from bagpipe.net.interfaces import resolved
from bagpipe.paper.flags import DENSE_PORT, Parser, add_master, add_tables, check_worker_id, replicas, table_sizes
from bagpipe.paper.kinds import Kind
from bagpipe.paper.log_writer import Clock, WorkerLogger
from bagpipe.trainer.dense_update import DenseUpdate
from bagpipe.trainer.reduction import dense_reduction, wrap_dense

JOIN_SECONDS = 600.0
"""Longest wait for the other trainers' process groups."""


def parser(kind: Kind) -> Parser:
    """The flags of one trainer."""
    made = Parser(f"Train {kind.title}: one of several trainers.")
    made.add_argument("--emb-size", type=int, default=kind.emb_size, help="width of an embedding")
    made.add_argument("--lookahead-value", type=int, default=200, help="as the oracle's, which holds")
    made.add_argument("--device", default="cpu", help="cpu or cuda:k")
    made.add_argument("--cache-size", type=int, required=True, help="rows this trainer may hold; never exceeded")
    made.add_argument("--worker-id", type=int, required=True, help="this role's number among all roles; any layout")
    made.add_argument("--world-size", type=int, required=True, help="oracle, trainers and embedding servers together")
    made.add_argument("--dist-worker-id", type=int, required=True, help="this trainer's rank among the trainers")
    made.add_argument("--world-size-trainers", type=int, required=True, help="number of trainers")
    made.add_argument("--dist-master-ip", required=True, help="host of trainer 0")
    made.add_argument("--master-port-ccom", type=int, default=DENSE_PORT, help="port at trainer 0 for dense gradients")
    made.add_argument("--dist-backend", choices=("gloo", "nccl"), default="gloo", help="what reduces dense gradients")
    made.add_argument("--logging-prefix", default="test", help="part of the log file's name")
    made.add_argument("--stop-iter", type=int, default=1000, help="iterations; the oracle's --stop-iter may be fewer")
    made.add_argument("--learning-rate", type=float, default=0.01, help="of rows and, but for Caser, dense weights")
    made.add_argument("--log-dir", type=Path, default=Path(), help="folder of the log file")
    made.add_argument("--precise-times", action="store_true", help="GPU: wait for the device after each timed part")
    add_master(made)
    add_tables(made, "the oracle's")
    made.useless(
        "--cleanup-batch-proportion",
        "rows are fetched and written back at the step that the plan gives, not in rounds",
        takes_value=True,
    )
    made.useless("--s3", "logs stay on this machine; the launcher collects them", takes_value=False)
    kind.add_flags(made)
    return made


def run(argv: Sequence[str], kind: Kind) -> None:
    """Train to the end: parse the flags, train, write the log file, and save the model.

    Raises:
        ConfigError: flags that are wrong or disagree with the other roles'.
        PeerLost: another role did not appear or was lost.
    """
    arguments = parser(kind).parse_args(argv)
    replicas(arguments.world_size, arguments.world_size_trainers)
    check_worker_id(arguments.worker_id, arguments.world_size)
    name = arguments.logging_prefix
    log = WorkerLogger.open(arguments.log_dir, arguments.dist_worker_id, name, kind.log_kind, datetime.now())
    log.say(arguments)
    os.environ["MASTER_ADDR"] = resolved(arguments.master_ip)
    os.environ["MASTER_PORT"] = str(arguments.master_port)
    sizes = table_sizes(arguments)
    cache = init_cache(
        lookahead_value=arguments.lookahead_value,
        emb_size=kind.row_width(arguments.emb_size),
        ln_emb=kind.tables(sizes) if sizes else (),
        cache_size=arguments.cache_size,
        emb_optim=torch.optim.SGD,
        emb_optim_params={"lr": arguments.learning_rate},
        device=_device(arguments.device),
        worker_id=arguments.worker_id,
        world_size=arguments.world_size,
        training_worker_id=arguments.dist_worker_id,
        trainer_world_size=arguments.world_size_trainers,
        steps=arguments.stop_iter,
        model=kind.model(arguments),
        dense_optimizer=kind.dense(arguments),
        answer_seconds=JOIN_SECONDS,
    )
    log.say("Rpc init")
    with cache, _process_group(arguments) as group:
        _Training(cache, kind, arguments, group, log).run()
    if arguments.dist_worker_id == 0:
        log.say(f"Model saved in {cache.topology.checkpoint_dir}")
        print(f"model: {cache.topology.checkpoint_dir}")
    print(f"log: {log.path}")
    log.close()


class _Training:
    """Model, optimizer and the loop over batches."""

    def __init__(
        self,
        cache: BagCache,
        kind: Kind,
        arguments: argparse.Namespace,
        group: dist.ProcessGroup | None,
        log: WorkerLogger,
    ) -> None:
        topology = cache.topology
        spec = topology.spec
        kind.check(arguments, topology.num_dense)
        self.cache, self.log, self.device = cache, log, torch.device(arguments.device)
        self.rank = arguments.dist_worker_id
        model = build_model(spec.model, topology.layout, topology.num_dense, topology.num_labels, spec.seed)
        self.model = model.to(self.device)
        self.dense = DenseUpdate(spec.optimizer, self.model)
        cache.attach(self.model, self.dense.optimizer)
        self.parallel = wrap_dense(self.model, group)
        self.loss, self.set_step = loss_of(self.model, spec.model), step_setter(self.model, spec.seed)
        self.clock = Clock(self.device if arguments.precise_times else None)
        self.batches = iter(cache)

    def run(self) -> None:
        number = 0
        while (batch := self._next(number)) is not None:
            self._step(batch, number)
            number += 1
        self.log.end(number)

    def _next(self, number: int) -> BatchDict | None:
        """The next batch; the rows of the one before are updated meanwhile."""
        self.clock.start()
        batch = next(self.batches, None)
        self.clock.mark("Next Batch Time")
        if batch is not None:
            self.log.begin(number, self.cache)
        return batch

    def _step(self, batch: BatchDict, number: int) -> None:
        labels = batch["target"].to(self.device)
        dense = batch["dense_x"].to(self.device)
        self.set_step(number, self.cache.first_example)
        self.clock.mark("Next Batch Time")
        embeddings = self.cache.embeddings()
        self.clock.mark("Get Emb Time")
        with dense_reduction(self.rank, number):
            loss = self.loss(self.parallel(dense, embeddings), labels)
            self.clock.mark("Forward Time")
            torch.autograd.backward(loss * self.cache.slice_weight)
        self.clock.mark("Backward Time")
        self.dense.apply(number)
        told = float(loss.detach())
        self.clock.mark("Dense Optim Time")
        self.cache.report_loss(told)
        self.log.iteration(number, told, self.clock)


@contextmanager
def _process_group(arguments: argparse.Namespace) -> Iterator[dist.ProcessGroup | None]:
    """The trainers' group for dense gradients, formed at trainer 0; None for a single trainer."""
    if arguments.world_size_trainers == 1:
        yield None
        return
    host = resolved(arguments.dist_master_ip)
    if ipaddress.ip_address(host).is_loopback:
        # gloo otherwise listens on whatever address the host's name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            arguments.dist_backend,
            init_method=f"tcp://{bracketed(host)}:{arguments.master_port_ccom}",
            world_size=arguments.world_size_trainers,
            rank=arguments.dist_worker_id,
            timeout=timedelta(seconds=JOIN_SECONDS),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PeerLost(
            f"trainer {arguments.dist_worker_id}: the trainers' {arguments.dist_backend} group did not form at "
            f"{host}:{arguments.master_port_ccom}: {reason}; look at the other trainers, or at GLOO_SOCKET_IFNAME"
        ) from None
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def _device(name: str) -> str:
    """The device's name, checked; a CUDA device becomes the current one.

    Raises:
        ConfigError: this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: expected cpu or cuda:k") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs; use --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return name
