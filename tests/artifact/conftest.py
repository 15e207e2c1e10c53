"""A copy of `artifact/` in a folder of its own, its data beside it, and its commands as processes."""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import DataConfig, SyntheticConfig
from bagpipe.data.paper_formats import write_paper_format
from bagpipe.local.ports import free_ports
from bagpipe.paper.flags import KAGGLE_TABLES
from bagpipe.paper.log_format import read_log
from bagpipe.testing.again import reference_of
from bagpipe.testing.compare import checkpoint_differences
from bagpipe.testing.warm_commands import run_warm

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"embedding_server.py": "EmbServer", "oracle_cacher.py": "OracleCacher"}
"""Where the seed document types a command; everything else in `examples`."""


@dataclass
class Ended:
    """A job's processes after their end."""

    outputs: list[str]
    codes: list[int]


@dataclass
class Artifact:
    """`artifact/` copied to `home`; the data lies where the commands' paths lead."""

    home: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    dense_port: int = field(default_factory=lambda: free_ports(1)[0])
    nodes: dict[str, str] = field(default_factory=dict)
    """Network namespaces by address, where the roles are on machines of their own."""

    @property
    def examples(self) -> Path:
        return self.home / "examples"

    def place(self, folder: Path, *, sizes_at: Sequence[str]) -> None:
        """Put a prepared folder's data at `../../` of a role's folder, and its sizes at the places given."""
        for file in folder.iterdir():
            if file.name != "emb_table_info.txt":
                shutil.copy(file, self.home.parent / file.name)
        for place in sizes_at:
            shutil.copy(folder / "emb_table_info.txt", self.examples / place)

    def type(self, commands: Sequence[str]) -> Ended:
        """Type every command, in its folder, at once; wait until all have ended by themselves."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self._started(command)) for command in commands]
            try:
                outputs = [p.communicate()[0] for p in processes]
            finally:
                for process in processes:
                    process.kill()
            return Ended(outputs, [p.returncode for p in processes])

    def scaled(self, command: str, **flags: object) -> str:
        """The command for this machine: its addresses and interfaces, no GPU, smaller numbers.

        A flag that the command has gets another value, one that it lacks is added.
        """
        command = command.replace("cuda:0", "cpu")
        if not self.nodes:
            command = re.sub(r"\b10\.10\.1\.\d\b", "127.0.0.1", command)
            command = re.sub(r"IFNAME=\S+", "IFNAME=lo", command)
        for name, value in flags.items():
            flag = "--" + name.replace("_", "-")
            command, known = re.subn(rf"({flag}[ =])(\"[^\"]*\"|\S+)", rf"\g<1>{value}", command)
            if not known:
                command += f" {flag} {value}"
        return command

    def ports(self, command: str) -> str:
        """On one machine a free port instead of 18000 and 9988, so that jobs may run side by side."""
        if self.nodes:
            return command
        dense = f" --master-port-ccom {self.dense_port}" if "trainer_" in command else ""
        return f"{command} --master-port {self.port}{dense}"

    @property
    def checkpoint(self) -> Path:
        """The model that the only run has saved."""
        (run,) = (self.home / "runs").iterdir()
        newest = newest_complete(run / "checkpoints")
        assert newest is not None, "no model was saved"
        return newest

    def losses(self) -> list[float]:
        """Of each iteration, the mean over the trainers' logs."""
        logs = [read_log(path).losses for path in sorted(self.examples.glob("training_worker_*.log"))]
        assert logs and len({len(log) for log in logs}) == 1
        return [sum(values) / len(values) for values in zip(*logs, strict=True)]

    def assert_exact(self, data: str | tuple[str, ...], losses: Sequence[float], **changes: object) -> None:
        """Losses, rows and dense weights are those of training without a cache, bit for bit."""
        where = data if isinstance(data, tuple) else str(self.home.parent / data)
        expected = reference_of(self.checkpoint, data_path=where, work_dir=self.home, **changes)
        assert checkpoint_differences(self.checkpoint, losses, expected) == []

    def _started(self, command: str) -> "subprocess.Popen[str]":
        words = shlex.split(command)
        at = words.index("python")
        settings = dict(word.split("=", 1) for word in words[:at])
        folder = self.home / FOLDERS.get(words[at + 1], "examples")
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
        return subprocess.Popen(
            [*self._machine(command), sys.executable, *words[at + 1 :]],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _machine(self, command: str) -> list[str]:
        """Trainers 0 and 1 are on node0 and node1, everybody else on node2, as in the document."""
        if not self.nodes:
            return []
        rank = re.search(r"--dist-worker-id (\d)", command)
        address = {"0": "10.10.1.2", "1": "10.10.1.3"}[rank[1]] if rank else "10.10.1.1"
        return ["ip", "netns", "exec", self.nodes[address]]


def falls(losses: Sequence[float]) -> bool:
    """The last quarter is below the first."""
    quarter = max(1, len(losses) // 4)
    return sum(losses[-quarter:]) < sum(losses[:quarter])


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    home = tmp_path / "bagpipe" / "artifact"
    shutil.copytree(ROOT / "artifact", home, ignore=shutil.ignore_patterns("runs", "__pycache__", "*.log"))
    return Artifact(home)


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """The document's three nodes as network namespaces on one switch: namespace by address."""
    prefix = f"bpart{os.getpid()}"
    nodes = {f"10.10.1.{number}": f"{prefix}-{number}" for number in (2, 3, 1)}
    made = [f"{prefix}-hub", *nodes.values()]

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine makes no network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")

    if shutil.which("ip") is None:
        pytest.skip("this machine makes no network namespaces: it has no ip command")
    try:
        for name in made:
            ip("netns", "add", name)
        ip("-n", made[0], "link", "add", "switch", "type", "bridge")
        ip("-n", made[0], "link", "set", "switch", "up")
        for address, name in nodes.items():
            port = f"to{address[-1]}"
            ip("link", "add", "enp94s0f0", "netns", name, "type", "veth", "peer", "name", port, "netns", made[0])
            ip("-n", made[0], "link", "set", port, "master", "switch", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "enp94s0f0")
            for interface in ("enp94s0f0", "lo"):
                ip("-n", name, "link", "set", interface, "up")
        yield nodes
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture(scope="session")
def losses_fall() -> Callable[[Sequence[float]], bool]:
    return falls


@pytest.fixture(scope="session")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kaggle_criteo_weekly.txt with ids all over the 26 full-size tables."""
    out = tmp_path_factory.mktemp("kaggle") / "data"
    synthetic = SyntheticConfig(examples=2000, table_sizes=KAGGLE_TABLES)
    write_paper_format(DataConfig(format="synthetic", synthetic=synthetic), "kaggle-json", out)
    return out


@pytest.fixture(scope="session")
def criteo_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in Criteo's format; rare values are clicked more often."""
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    draw = random.Random(1)
    with path.open("w") as file:
        for _ in range(600):
            numbers = [int(draw.expovariate(0.1)) for _ in range(13)]
            values = [int(draw.paretovariate(0.7)) % (10 + 3 * table) for table in range(26)]
            label = int(draw.random() < (0.15 if values[0] < 3 else 0.6))
            file.write("\t".join([str(label), *map(str, numbers), *(f"{value:08x}" for value in values)]) + "\n")
    return path


@pytest.fixture(scope="session")
def fgcnn(criteo_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """parsed_train.txt and emb_table_info.txt, by `bagpipe data prepare`."""
    return prepared(criteo_log, tmp_path_factory.mktemp("fgcnn") / "data", "fgcnn-json")


@pytest.fixture(scope="session")
def criteo(criteo_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kaggle_criteo_weekly.txt and emb_table_info.txt, by `bagpipe data prepare`."""
    return prepared(criteo_log, tmp_path_factory.mktemp("criteo") / "data", "kaggle-json")


@pytest.fixture(scope="session")
def criteo_parts(criteo_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in three part files."""
    return prepared(criteo_log, tmp_path_factory.mktemp("parts") / "data", "kaggle-json", "--parts", "3")


@pytest.fixture(scope="session")
def caser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """parsed_caser.txt and emb_table_info.txt, from ratings in MovieLens' format: users go round in circles."""
    folder = tmp_path_factory.mktemp("caser")
    draw = random.Random(2)
    lines = []
    for user in range(40):
        item = draw.randrange(60)
        for second in range(20):
            item = (item + 1 + (draw.random() < 0.2)) % 60
            lines.append(f"{user}\t{item}\t{draw.randrange(1, 6)}\t{1000 + second}")
    (folder / "ratings.tsv").write_text("\n".join(lines) + "\n")
    return prepared(folder / "ratings.tsv", folder / "data", "caser-json")


def prepared(raw: Path, out: Path, kind: str, *more: str) -> Path:
    code, _, told = run_warm(raw.parent, "data", "prepare", str(raw), str(out), "--format", kind, *more)
    assert code == 0, told
    return out
