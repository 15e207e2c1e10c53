"""What runs on which machine: the paper's command lines for six models, and for the TorchRec baseline."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from bagpipe.ec2.settings import LaunchConfig

ARTIFACT = "bagpipe/artifact"
BASELINE_PORT = 29500


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One model's run; sizes are those of the paper's launcher."""

    model: str
    trainer: str
    """Script in `artifact/examples`."""
    data: str
    """File in `data_dir`."""
    flags: tuple[str, ...] = ()
    """The trainer's own."""
    table_info: str = ""
    """File of table sizes in `data_dir`."""
    emb_size: int | None = None
    batch: int = 16384
    """Of all trainers together."""
    cache: int = 15_000_000
    lookahead: int = 200
    iterations: int = 500


_KAGGLE = "kaggle_criteo_weekly.txt"
WORKLOADS = {
    w.model: w
    for w in (
        Workload(
            model="dlrm",
            trainer="trainer_main.py",
            data=_KAGGLE,
            flags=("--arch-mlp-bot", "13-512-256-64-48", "--arch-mlp-top", "1024-1024-1024-256-128-1"),
        ),
        Workload(model="wdl", trainer="trainer_wdn_main.py", data=_KAGGLE),
        Workload(model="dcn", trainer="trainer_dcn_main.py", data=_KAGGLE),
        Workload(model="deepfm", trainer="trainer_dfm_main.py", data=_KAGGLE),
        Workload(
            model="fgcnn",
            trainer="trainer_fgcnn_main.py",
            data="parsed_train.txt",
            table_info="emb_table_info.txt",
            flags=("--filter-range", "2-5"),
            batch=8192,
            cache=8_000_000,
        ),
        Workload(
            model="caser",
            trainer="trainer_caser_main.py",
            data="parsed_caser.txt",
            table_info="emb_table_info_h.txt",
            emb_size=50,
            batch=512,
            cache=500_000,
        ),
    )
}
TORCHREC = Workload(
    model="dlrm",
    trainer="train.py",
    data=_KAGGLE,
    flags=("--arch-mlp-bot", "13-512-256-64-48", "--arch-mlp-top", "1024-1024-1024-256-128-1"),
)


@dataclass(frozen=True, slots=True)
class Commands:
    """Shell commands of one run; oracle and server are absent for the baseline."""

    oracle: str | None
    server: str | None
    trainers: tuple[str, ...]
    logs: str
    """Glob of the trainers' log files on their machines."""


def log_prefix(work: Workload, config: LaunchConfig, number: int) -> str:
    """As the paper's launcher names its logs."""
    return f"run_{work.model}_{config.instance_count}_num_machines_{work.batch}_run_{number}"


def bagpipe_commands(
    work: Workload, config: LaunchConfig, *, oracle: str, trainers: Sequence[str], number: int
) -> Commands:
    """The oracle's, the server's and each trainer's command; `oracle` and `trainers` are addresses."""
    world = ["--world-size", str(len(trainers) + 2), "--master-ip", oracle]
    info = ["--emb-info-file", f"{config.data_dir}/{work.table_info}"] if work.table_info else []
    lookahead = ["--lookahead-value", str(work.lookahead)]
    stop = ["--stop-iter", str(work.iterations)]
    oracle_flags = [
        *("--prefetch", "--cache", "--dataset-multiprocessing", "--worker-id", "0", *world, *lookahead, *stop),
        *("--mini-batch-size", str(work.batch), "--world-size-trainers", str(len(trainers))),
        *("--processed-csv", f"{config.data_dir}/{work.data}", "--cache-size", str(work.cache), *info),
    ]
    size = ["--emb-size", str(work.emb_size)] if work.emb_size else []
    server_flags = ["--worker-id", "1", *world, *info, *size]
    lines = [
        [
            *("--worker-id", str(rank + 2), *world, *lookahead, *stop, "--cache-size", str(work.cache)),
            *("--dist-worker-id", str(rank), "--world-size-trainers", str(len(trainers))),
            *("--dist-master-ip", trainers[0], "--device", config.device, "--dist-backend", config.dist_backend),
            *("--logging-prefix", log_prefix(work, config, number), *work.flags, *info),
        ]
        for rank in range(len(trainers))
    ]
    return Commands(
        oracle=_script(config, "OracleCacher", "oracle_cacher.py", oracle_flags),
        server=_script(config, "EmbServer", "embedding_server.py", server_flags),
        trainers=tuple(_script(config, "examples", work.trainer, flags) for flags in lines),
        logs=f"{ARTIFACT}/examples/training_worker_*{log_prefix(work, config, number)}*",
    )


def torchrec_commands(work: Workload, config: LaunchConfig, *, trainers: Sequence[str], number: int) -> Commands:
    """One process a machine, started by torchrun; its batch size is a machine's share (16,384 / 8 = 2,048)."""
    info = ["--emb-info-file", f"{config.data_dir}/{work.table_info}"] if work.table_info else []
    flags = [
        *("--batch-size", str(work.batch // len(trainers)), "--iter", str(work.iterations)),
        *("--dataset", f"{config.data_dir}/{work.data}", "--device", config.device.partition(":")[0]),
        *("--backend", config.dist_backend, "--logging-prefix", log_prefix(work, config, number), *work.flags),
        *info,
    ]
    lines = []
    for rank in range(len(trainers)):
        torchrun = ["-m", "torch.distributed.run", "--nnodes", str(len(trainers)), "--nproc-per-node", "1"]
        torchrun += ["--node-rank", str(rank), "--master-addr", trainers[0], "--master-port", str(BASELINE_PORT)]
        lines.append(_script(config, "torchrec_baseline", "train.py", flags, before=torchrun))
    return Commands(None, None, tuple(lines), f"{ARTIFACT}/torchrec_baseline/training_worker_*")


def warm_up_command(work: Workload, config: LaunchConfig) -> str:
    """Read the data once: the first read of a disk made from an image is slow."""
    return f"wc -l {_quoted(f'{config.data_dir}/{work.data}')}"


def _script(config: LaunchConfig, folder: str, script: str, flags: Sequence[str], before: Sequence[str] = ()) -> str:
    names = ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if config.interface else ()
    environment = [f"{name}={config.interface}" for name in names]
    words = [*environment, config.python, *before, script, *flags]
    return f"cd {ARTIFACT}/{folder} && {' '.join(_quoted(word) for word in words)}"


def _quoted(word: str) -> str:
    """Quoted for the shell, but for a leading `$HOME`, which is the machine's."""
    home = "$HOME/"
    return '"$HOME"/' + shlex.quote(word.removeprefix(home)) if word.startswith(home) else shlex.quote(word)
