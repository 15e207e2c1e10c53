"""`oracle_cacher.py`: makes a job of the original's flags, and runs its oracle."""

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bagpipe.checkpoint.places import JOB_FILE
from bagpipe.config.document import DataConfig, EmbeddingConfig, Job, JobSpec, ServerConfig, TrainerConfig
from bagpipe.config.load import dump_job
from bagpipe.config.paths import is_url
from bagpipe.config.rules import check_rules
from bagpipe.data.caserlines import FEATURES as CASER_FEATURES
from bagpipe.data.caserlines import looks_like_caser
from bagpipe.data.files import find_files
from bagpipe.data.formats import detect_format, open_raw
from bagpipe.data.prepared import read_info
from bagpipe.errors import ConfigError
from bagpipe.local.role_process import stop_flag
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.net.endpoints import bracketed
from bagpipe.net.interfaces import ROWS_INTERFACE, address_of, resolved
from bagpipe.oracle.service.main import run_oracle
from bagpipe.oracle.service.summary import write_summary
from bagpipe.oracle.sizing.auto import Widths
from bagpipe.paper.flags import (
    KAGGLE_TABLES,
    Parser,
    add_master,
    add_tables,
    check_worker_id,
    replicas,
    table_sizes,
)
from bagpipe.tables import Table

log = logging.getLogger(__name__)

_ALWAYS = (
    ("--prefetch", "rows are always fetched ahead", False),
    ("--cache", "trainers always keep a cache; for none give --lookahead-value 1", False),
    ("--dataset-multiprocessing", "--dataset-multi-num says how many threads read ahead", False),
    ("--cache-size", "the trainers' --cache-size holds", True),
    ("--cleanup-proportion", "rows are fetched and written back at the step that the plan gives, not in rounds", True),
    ("--ragged", "the data tells whether features have several lookups", False),
    ("--worker-addresses", "trainers and servers register by themselves", True),
    ("--oracle-prefix", "roles have no names here", True),
    ("--trainer-prefix", "roles have no names here", True),
    ("--additive-increase-param", "the planner counts what fits exactly", True),
    ("--multiplicative-decrease-param", "the planner counts what fits exactly", True),
    ("--device", "the oracle computes on no device", True),
    ("--test-mini-batch-size", "nothing is tested during training; see `bagpipe evaluate`", True),
)
_LEFTOVERS = (
    *("--arch-mlp-bot", "--data-size", "--num-batches", "--data-generation", "--data-set", "--raw-data-file"),
    *("--processed-data-file", "--data-randomize", "--data-trace-enable-padding", "--max-ind-range"),
    *("--data-sub-sample-rate", "--num-indices-per-lookup"),
)
_LEFTOVER_SWITCHES = ("--num-indices-per-lookup-fixed", "--memory-map")


def parser() -> Parser:
    """The flags of `oracle_cacher.py`."""
    made = Parser("Read the training data ahead and plan what every trainer keeps in its cache.")
    made.add_argument(
        "--processed-csv",
        required=True,
        help="data: a file, or a folder of part files; JSON lines, Criteo TSV, Parquet",
    )
    made.add_argument(
        "--dataset-multi-num",
        type=int,
        default=None,
        help="threads that read ahead; of a folder, its files part_0.txt up to this number. None: all files",
    )
    made.add_argument(
        "--mini-batch-size",
        type=int,
        default=1,
        help="examples of one step, of ALL trainers together (the global batch)",
    )
    made.add_argument("--lookahead-value", type=int, default=200, help="batches looked ahead; 1: no cache at all")
    made.add_argument(
        "--stop-iter", type=int, default=2000, help="most steps; the trainers' --stop-iter may end the job earlier"
    )
    made.add_argument("--worker-id", type=int, default=0, help="this role's number among all roles; any layout will do")
    made.add_argument("--world-size", type=int, required=True, help="oracle, trainers and embedding servers together")
    made.add_argument("--world-size-trainers", type=int, required=True, help="number of trainers")
    add_master(made)
    add_tables(made, "those of Criteo Kaggle, if the data has 26 features")
    made.add_argument("--log-file-path", type=Path, default=Path("oracle_cacher.log"), help="log file")
    made.add_argument("-v", "--verbose", action="store_true", help="log to the terminal too")
    made.add_argument("--seed", type=int, default=0, help="seed of rows and weights")
    made.add_argument(
        "--embedding-grad-reduction",
        choices=("mean", "sum"),
        default="mean",
        help="row gradients over trainers: mean, as for dense weights; sum, as the original did",
    )
    made.add_argument("--run-dir", type=Path, default=None, help="where model and records go; none: runs/ in artifact/")
    for flag, because, takes_value in _ALWAYS:
        made.useless(flag, because, takes_value=takes_value)
    for flag in _LEFTOVERS:
        made.useless(flag, "DLRM's own data loading is not used", takes_value=True)
    for flag in _LEFTOVER_SWITCHES:
        made.useless(flag, "DLRM's own data loading is not used", takes_value=False)
    return made


def run(argv: Sequence[str], home: Path) -> None:
    """Plan one job to its end; `home` is the folder `artifact/`.

    Raises:
        ConfigError, DataError: the flags or the data are wrong.
        PeerLost: a role did not appear or was lost.
    """
    arguments = parser().parse_args(argv)
    job = job_of(arguments)
    _log(arguments)
    run_dir = arguments.run_dir or home / "runs" / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{arguments.master_port}"
    run_dir = run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    # With its job in it, `bagpipe evaluate` and other commands accept the folder as that of any run.
    write_whole(run_dir / JOB_FILE, dump_job(job).encode())
    each = job.spec.batch_size / job.spec.trainers.replicas
    print(f"global batch {job.spec.batch_size}: {each:g} examples at each of {job.spec.trainers.replicas} trainers")
    with stop_flag() as stop:
        run_oracle(
            job,
            bind=f"tcp://{bracketed(_address(arguments.master_ip))}:{arguments.master_port}",
            run_dir=run_dir,
            attempt=0,
            checkpoint=None,
            stop=stop,
            widths=widths_of(job.spec.embedding.tables),
        )
    write_summary(run_dir / "summary.json", job, run_dir, job.spec.checkpoint.folder(run_dir))
    print(f"done: {run_dir}")


def job_of(arguments: argparse.Namespace) -> Job:
    """The job that the flags describe.

    Raises:
        ConfigError, DataError: as `run`.
    """
    check_worker_id(arguments.worker_id, arguments.world_size)
    trainers = arguments.world_size_trainers
    if arguments.mini_batch_size % max(trainers, 1):
        raise ConfigError(
            f"--mini-batch-size {arguments.mini_batch_size} is the global batch, which {trainers} trainers share "
            "equally; give a multiple of their number"
        )
    data, tables = describe_data(arguments)
    spec = JobSpec(
        data=data,
        embedding=EmbeddingConfig(tables=tables, gradient_reduction=arguments.embedding_grad_reduction),
        batch_size=arguments.mini_batch_size,
        steps=arguments.stop_iter,
        lookahead=0 if arguments.lookahead_value <= 1 else arguments.lookahead_value,
        seed=arguments.seed,
        log_every=1,
        servers=ServerConfig(replicas=replicas(arguments.world_size, trainers), storage="memory"),
        trainers=TrainerConfig(replicas=trainers),
    )
    job = Job(spec=spec)
    check_rules(job, lambda dotted: "oracle_cacher.py")
    return job


def data_path(arguments: argparse.Namespace) -> str | tuple[str, ...]:
    """The file, or the folder's part files: the first so many, or all; a folder without any is read whole."""
    path: str = arguments.processed_csv
    if not is_url(path):
        # The checkpoint names its data, and is evaluated from another folder.
        path = os.path.abspath(path)
    if not os.path.isdir(path):
        return path
    if arguments.dataset_multi_num:
        return tuple(os.path.join(path, f"part_{i}.txt") for i in range(arguments.dataset_multi_num))
    # Beside the parts may lie the file of table sizes, which is no data.
    return os.path.join(path, "part_*.txt") if os.path.exists(os.path.join(path, "part_0.txt")) else path


def describe_data(arguments: argparse.Namespace) -> tuple[DataConfig, tuple[Table, ...]]:
    """The data, and a table for each of its features.

    A table's width here is a placeholder that only distinguishes tables of different widths: the trainers give the
    real one.

    Raises:
        ConfigError: not as many sizes as tables.
        DataError: there is no data.
    """
    data = DataConfig(path=data_path(arguments), readers=arguments.dataset_multi_num or 0)
    files = find_files(data.path)
    found = detect_format(files, data.format)
    sizes = table_sizes(arguments)
    if found == "criteo-json" and looks_like_caser(files[0]):
        data = msgspec.structs.replace(data, format="caser-json")
        return data, _caser_tables(files[0].name, sizes)
    if found == "parquet":
        info = read_info(files[0])
        names = info.feature_names
        sizes = sizes or tuple(t.num_embeddings for t in info.tables)
    else:
        names = tuple(f.name for f in open_raw(data, found, files, 0).schema.features)
    if sizes is None and len(names) == len(KAGGLE_TABLES):
        sizes = KAGGLE_TABLES
    if sizes is None or len(sizes) != len(names):
        raise _wrong_sizes(files[0].name, len(names), sizes)
    return data, tuple(Table(n, s, 1, (n,)) for n, s in zip(names, sizes, strict=True))


def _caser_tables(name: str, sizes: tuple[int, ...] | None) -> tuple[Table, ...]:
    """Users and items as the file of sizes has them, and the items that are scored (`bagpipe.models.caser`)."""
    if sizes is None or len(sizes) != 2:
        raise _wrong_sizes(name, 2, sizes)
    users, items = sizes
    user, history, candidates = CASER_FEATURES
    return (
        Table("users", users, 1, (user,)),
        Table("items", items, 1, (history,), "none"),
        Table("candidates", items, 3, (candidates,), "none"),
    )


def _wrong_sizes(name: str, tables: int, sizes: tuple[int, ...] | None) -> ConfigError:
    given = "none was" if sizes is None else f"{len(sizes)} were"
    return ConfigError(
        f"{name} needs the sizes of {tables} tables, but {given} given; "
        "give one for each with --emb-info-file or --ln-emb"
    )


def widths_of(tables: Sequence[Table]) -> Widths:
    """From the trainers' width to each table's: a candidate of Caser has weights twice as wide, and a bias."""
    return lambda dim: [dim if table.embedding_dim == 1 else 2 * dim + 1 for table in tables]


def _address(master_ip: str) -> str:
    interface = os.environ.get(ROWS_INTERFACE)
    return address_of(interface) if interface else resolved(master_ip)


def _log(arguments: argparse.Namespace) -> None:
    handlers: list[logging.Handler] = [logging.FileHandler(arguments.log_file_path, mode="w", encoding="utf-8")]
    if arguments.verbose:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    log.info(arguments)
