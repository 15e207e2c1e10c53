"""The EC2 launchers: start machines, copy source and data, run, fetch logs, write the table, end the machines."""

import argparse
import dataclasses
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from bagpipe.ec2.machines import Machine, Machines
from bagpipe.ec2.remote import Door, Remote, Ssh
from bagpipe.ec2.settings import LaunchConfig, launch_config
from bagpipe.ec2.workloads import (
    TORCHREC,
    WORKLOADS,
    Commands,
    Workload,
    bagpipe_commands,
    torchrec_commands,
    warm_up_command,
)
from bagpipe.errors import BagpipeError, ConfigError
from bagpipe.experiment.measure import Timing
from bagpipe.experiment.session import Interrupted, signals_interrupt, write_tables
from bagpipe.experiment.table import Row, to_markdown
from bagpipe.paper import log_format

INTERRUPTED = 130
CPU_ROLES = ("oracle", "server")
OpenDoor = Callable[[LaunchConfig, Path], Door]
SOURCE = ("artifact", "bagpipe", "make", "Makefile", "pyproject.toml", "README.md", "LICENSE", "requirements")


def main(
    launch_cfg: Mapping[str, Any],
    argv: Sequence[str],
    *,
    torchrec: bool = False,
    door: OpenDoor | None = None,
) -> int:
    """A launcher's command line; returns the exit code. `door` replaces ssh."""
    arguments = _parser(torchrec=torchrec).parse_args(argv)
    try:
        config = launch_config(launch_cfg, arguments.set)
        works = (TORCHREC,) if torchrec else _chosen(arguments.models)
        works = tuple(_resized(work, arguments) for work in works)
        if arguments.dry_run:
            _show(config, works, torchrec=torchrec)
            return 0
        out = arguments.out or Path("runs") / f"ec2-{datetime.now():%Y%m%d-%H%M%S}"
        _prepare(out)
        return _launch(config, works, out, torchrec=torchrec, door=door or (lambda c, o: Ssh(c, o / "known_hosts")))
    except Interrupted as stopped:
        print(f"{stopped}; everything that was started is gone", file=sys.stderr)
        return INTERRUPTED
    except BagpipeError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return int(error.exit_code)


def exit_main(launch_cfg: Mapping[str, Any], *, torchrec: bool = False) -> NoReturn:
    """Run a launcher and exit with its code; the scripts in `artifact/` call this."""
    sys.exit(main(launch_cfg, sys.argv[1:], torchrec=torchrec))


def _parser(*, torchrec: bool) -> argparse.ArgumentParser:
    what = "the TorchRec baseline" if torchrec else "Bagpipe's models"
    made = argparse.ArgumentParser(description=f"Launch machines on EC2, run {what}, fetch the logs, terminate.")
    if not torchrec:
        made.add_argument("--models", default="dlrm", help=f"some of {','.join(WORKLOADS)}, or all (default: dlrm)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of launch_cfg")
    made.add_argument("--out", type=Path, default=None, help="where logs and tables go; default: runs/ec2-<time>")
    made.add_argument("--iterations", type=int, default=None, help="of each model (default: 500)")
    made.add_argument("--batch-size", type=int, default=None, help="of all trainers together (default: the model's)")
    made.add_argument("--cache-size", type=int, default=None, help="rows a trainer caches (default: the model's)")
    made.add_argument("--lookahead", type=int, default=None, help="batches looked ahead; 1: no cache (default: 200)")
    made.add_argument("--dry-run", action="store_true", help="show machines and commands, and do nothing")
    return made


def _chosen(models: str) -> tuple[Workload, ...]:
    names = tuple(WORKLOADS) if models == "all" else tuple(models.split(","))
    for name in names:
        if name not in WORKLOADS:
            raise ConfigError(f"--models: expected all, or some of {', '.join(WORKLOADS)}, found {name!r}")
    return tuple(WORKLOADS[name] for name in names)


def _resized(work: Workload, arguments: argparse.Namespace) -> Workload:
    given = {
        "iterations": arguments.iterations,
        "batch": arguments.batch_size,
        "cache": arguments.cache_size,
        "lookahead": arguments.lookahead,
    }
    return dataclasses.replace(work, **{name: value for name, value in given.items() if value is not None})


def _launch(config: LaunchConfig, works: Sequence[Workload], out: Path, *, torchrec: bool, door: OpenDoor) -> int:
    rows: list[Row] = []
    remote = Remote(door(config, out), out)
    with signals_interrupt():
        try:
            with Machines(config, _note) as cloud:
                try:
                    machines = cloud.launch(_wanted(config, torchrec=torchrec))
                    _set_up(remote, machines, config, works)
                    for number, work in enumerate(works, 1):
                        rows.append(_run(remote, machines, config, work, number, out, torchrec=torchrec))
                finally:
                    remote.close()
        finally:
            write_tables(rows, out, (_where(config),))
    print(to_markdown(rows, (_where(config),)), end="")
    print(f"logs and tables are in {out}; the machines are gone")
    return 0


def _wanted(config: LaunchConfig, *, torchrec: bool) -> dict[str, str]:
    roles = {} if torchrec else dict.fromkeys(CPU_ROLES, config.cpu_instance_type)
    return roles | {f"trainer-{rank}": config.instance_type for rank in range(config.instance_count)}


def _set_up(remote: Remote, machines: Sequence[Machine], config: LaunchConfig, works: Sequence[Workload]) -> None:
    """Source and environment on every machine; each data set read once where it is used."""
    _note(f"waiting for {len(machines)} machines to answer")
    remote.until_ready(machines, config.ready_seconds)
    source = source_archive()
    for machine in machines:
        remote.put(machine, source, "bagpipe.tar.gz")
    _note("setting up")
    started = [remote.start(m, config.setup, f"{m.name}-setup") for m in machines]
    remote.finish(started, config.setup_seconds, "setup")
    readers = [m for m in machines if m.name == "oracle"] or list(machines)
    _note("reading the data once (the first read of a new disk is slow)")
    commands = sorted({warm_up_command(work, config) for work in works})
    for command in commands:
        remote.finish([remote.start(m, command, f"{m.name}-warm-up") for m in readers], config.setup_seconds, "warm-up")


def _run(
    remote: Remote,
    machines: Sequence[Machine],
    config: LaunchConfig,
    work: Workload,
    number: int,
    out: Path,
    *,
    torchrec: bool,
) -> Row:
    """One model, from start to its parsed log."""
    named = {m.name: m for m in machines}
    trainers = [m for m in machines if m.name.startswith("trainer-")]
    addresses = [remote.address(m) for m in trainers]
    if torchrec:
        commands = torchrec_commands(work, config, trainers=addresses, number=number)
    else:
        oracle = remote.address(named["oracle"])
        commands = bagpipe_commands(work, config, oracle=oracle, trainers=addresses, number=number)
    _note(f"running {work.model}: {work.iterations} iterations of {work.batch} examples on {len(trainers)} trainers")
    try:
        _start_and_wait(remote, named, trainers, commands, f"{work.model}-{number}", config)
    except BaseException:
        with suppress(BagpipeError):  # the logs tell why it failed; if they cannot be fetched, that error still counts
            _fetch(remote, trainers, commands, out)
        raise
    return _measured(work, _fetch(remote, trainers, commands, out), len(trainers), torchrec=torchrec)


def _fetch(remote: Remote, trainers: Sequence[Machine], commands: Commands, out: Path) -> list[Path]:
    return [path for machine in trainers for path in remote.fetch(machine, commands.logs, out)]


def _start_and_wait(
    remote: Remote,
    named: Mapping[str, Machine],
    trainers: Sequence[Machine],
    commands: Commands,
    log: str,
    config: LaunchConfig,
) -> None:
    pairs = [("oracle", commands.oracle), ("server", commands.server)]
    helpers = [remote.start(named[role], c, f"{log}-{role}") for role, c in pairs if c is not None]
    ranks = [
        remote.start(m, command, f"{log}-{m.name}") for m, command in zip(trainers, commands.trainers, strict=True)
    ]
    remote.finish([*ranks, *helpers], config.run_seconds, log)


def _measured(work: Workload, logs: Sequence[Path], trainers: int, *, torchrec: bool) -> Row:
    """The slowest trainer's time: an iteration is over when all have finished it."""
    system = "torchrec" if torchrec else "uncached" if work.lookahead == 1 else "cached"
    timings = [log_format.timing(log_format.read_log(path), log_format.WARM_UP) for path in logs]
    slowest = max(timings, key=lambda t: t.mean_ms, default=None)
    if slowest is None:
        return Row(work.model, system, work.batch, trainers, None, "no trainer left a log")
    found = Timing(slowest.mean_ms, slowest.deviation_ms, None, slowest.iterations, slowest.warm_up)
    return Row(work.model, system, work.batch, trainers, found)


def _where(config: LaunchConfig) -> str:
    return f"{config.instance_count} x {config.instance_type} in {config.az}, {config.method}"


def _show(config: LaunchConfig, works: Sequence[Workload], *, torchrec: bool) -> None:
    for name, kind in _wanted(config, torchrec=torchrec).items():
        print(f"{name}: {kind}, {config.method}, {config.az}")
    trainers = [f"TRAINER-{rank}" for rank in range(config.instance_count)]
    for number, work in enumerate(works, 1):
        if torchrec:
            commands = torchrec_commands(work, config, trainers=trainers, number=number)
        else:
            commands = bagpipe_commands(work, config, oracle="ORACLE", trainers=trainers, number=number)
        print(f"\n{work.model}:\n  {warm_up_command(work, config)}")
        for command in (commands.oracle, commands.server, *commands.trainers):
            if command is not None:
                print(f"  {command}")


def _prepare(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ConfigError(f"--out {out}: not empty; choose another directory")


def source_archive() -> bytes:
    """This source tree as a tar.gz: the files that git knows, or, without git, the folders that are needed."""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCE]
    listed = subprocess.run(git, capture_output=True, check=False)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:
        names = [str(p.relative_to(root)) for part in SOURCE for p in (root / part).rglob("*") if p.is_file()]
        names += [name for name in SOURCE if (root / name).is_file()]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in sorted(set(names)):
            if (root / name).is_file():
                tar.add(root / name, arcname=name)
    return archive.getvalue()


def _note(message: str) -> None:
    print(message, flush=True)
