"""`embedding_server.py`: hold a share of the embedding tables. Any number of servers may be started."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bagpipe.config.document import Metadata, TransportConfig
from bagpipe.embedding.server import run_server
from bagpipe.errors import ConfigError
from bagpipe.local.role_process import stop_flag
from bagpipe.net.endpoints import bracketed
from bagpipe.net.interfaces import listening_address, resolved
from bagpipe.net.messages import Topology
from bagpipe.paper.flags import Parser, add_master, add_tables, check_worker_id, table_sizes

EMB_SIZE = 48


def parser() -> Parser:
    """The flags of `embedding_server.py`."""
    made = Parser("Hold the embedding tables; started several times, each holds a share.")
    made.add_argument(
        "--emb-size", type=int, default=EMB_SIZE, help="width of every table; must be what the trainers say"
    )
    made.add_argument("--worker-id", type=int, required=True, help="this role's number among all roles; any layout")
    made.add_argument("--world-size", type=int, required=True, help="oracle, trainers and embedding servers together")
    add_master(made)
    add_tables(made, "the oracle's")
    made.useless("--emb-prefix", "roles have no names here", takes_value=True)
    return made


def run(argv: Sequence[str]) -> None:
    """Serve until the job is over.

    Raises:
        ConfigError: the flags disagree with the oracle's or the trainers'.
        PeerLost: the oracle did not appear or was lost.
    """
    arguments = parser().parse_args(argv)
    check_worker_id(arguments.worker_id, arguments.world_size)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s:%(name)s:%(message)s")
    host, port = arguments.master_ip, arguments.master_port
    with stop_flag() as stop:
        run_server(
            oracle=f"tcp://{bracketed(resolved(host))}:{port}",
            bind=f"tcp://{bracketed(listening_address(host, port))}:0",
            advertise=None,
            shard=arguments.worker_id,
            by_worker_id=True,
            job=Metadata().name,
            attempt=0,
            data_dir=Path(),
            storage="memory",
            checkpoint_dir=None,
            transport=TransportConfig(),
            stop=stop,
            accept=_agreement(arguments),
        )


def _agreement(arguments: argparse.Namespace) -> Callable[[Topology], None]:
    """Refuses a job whose tables or size are not what this server was told."""
    sizes = table_sizes(arguments)

    def accept(topology: Topology) -> None:
        world = 1 + len(topology.servers) + len(topology.trainers)
        if world != arguments.world_size:
            raise ConfigError(
                f"--world-size {arguments.world_size}: the oracle counts {world} roles; give all the same"
            )
        found = tuple(t.num_embeddings for t in topology.layout.tables)
        # Caser's file of sizes names users and items; the items that are scored have a table of their own.
        if sizes is not None and sizes != found[: len(sizes)]:
            raise ConfigError(
                f"tables: {len(sizes)} were given here, the oracle has others ({found}); give all the same"
            )
        dim = topology.layout.tables[0].embedding_dim
        # A row of DeepFM holds its first-order weight too.
        told = dim - 1 if topology.spec.model.name == "deepfm" else dim
        if told != arguments.emb_size:
            raise ConfigError(f"--emb-size {arguments.emb_size}: the trainers say {told}; give all the same")

    return accept
