"""Bad input ends in one clear line: file, line or field, and a remedy; exit 78, 65 or 75; nothing half-written.

The commands are real: first what is refused before any process starts, then what only the oracle can
know once it has read the data, then what breaks while a run is under way.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bagpipe.cli.main import run_command
from bagpipe.testing.command import Ended, bagpipe

pytestmark = pytest.mark.usefixtures("started_warm")

HEADER = "apiVersion: bagpipe.dev/v1alpha1\nkind: BagpipeJob\n"
SPEC = """
spec:
  model: {name: dlrm, bottomMlp: [4], overMlp: [4]}
  data: {path: train.txt, format: criteo-tsv, encoding: hash, hashSize: 100}
  embedding: {dim: 2}
  batchSize: 2
  cacheRows: 200
  runPolicy: {backoffLimit: 0}
  trainers: {device: cpu}
"""
LINE = "1\t" + "\t".join(str(n) for n in range(13)) + "\t" + "\t".join(f"{n:08x}" for n in range(26)) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good job and good data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(HEADER + SPEC)
    (tmp_path / "train.txt").write_text(LINE * 8)
    return tmp_path


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ── refused before anything starts ────────────────────────────────────────────────────────────────

JOBS: list[tuple[str, str, str, list[str]]] = [
    ("misspelt setting", SPEC.replace("batchSize", "batchsize"), "", ["job.yaml:", "spec.batchsize", "batchSize?"]),
    ("misspelt inside", SPEC.replace("hashSize", "hashSiz"), "", ["job.yaml:", "spec.data.hashSiz", "hashSize?"]),
    ("unknown setting", SPEC + "  frobnicate: 1\n", "", ["spec.frobnicate", "unknown setting", "one of"]),
    ("wrong type", SPEC.replace("batchSize: 2", "batchSize: many"), "", ["spec.batchSize", "an integer", "'many'"]),
    ("a list, not a mapping", "spec: [1, 2]\n", "", ["spec", "a mapping", "[1, 2]"]),
    ("negative size", SPEC.replace("batchSize: 2", "batchSize: -5"), "", ["spec.batchSize", ">= 1", "-5"]),
    ("negative table", SPEC.replace("hashSize: 100", "hashSize: -1"), "", ["spec.data.hashSize", ">= 1", "-1"]),
    (
        "no such choice",
        SPEC.replace("criteo-tsv", "criteo-csv"),
        "",
        ["spec.data.format", "criteo-tsv", "'criteo-csv'"],
    ),
    ("fewer examples than trainers in a batch", SPEC, "trainers.replicas=3", ["spec.batchSize", "3 trainers"]),
    ("setting without effect", SPEC, "data.minCount=5", ["--set", "spec.data.minCount", "no effect", "vocabulary"]),
    ("override of nothing", SPEC, "batchSize", ["--set batchSize", "path=value"]),
    ("override of the wrong type", SPEC, "batchSize=x", ["--set batchSize=x", "an integer"]),
    ("misspelt override", SPEC, "batchSise=4", ["--set batchSise=4", "batchSize?"]),
    ("no data", "spec: {}\n", "", ["job.yaml", "spec.data", "missing"]),
    ("duplicate setting", SPEC + "  batchSize: 4\n", "", ["job.yaml:", "batchSize", "twice"]),
    ("broken YAML", "spec: {data: [}\n", "", ["job.yaml:"]),
    ("endless wait", SPEC + "  transport: {stepSeconds: .inf}\n", "", ["job.yaml:", "stepSeconds", "not a finite"]),
    ("wait of years", SPEC, "transport.deadPeerSeconds=1e10", ["--set", "deadPeerSeconds", "<= 1000000"]),
    ("overflow", SPEC, "embedding.optimizer.lr=1e400", ["--set", "1e400", "beyond the range"]),
    ("65 bits", SPEC, "seed=9223372036854775808", ["--set", "does not fit into 64 bits"]),
    ("no port", SPEC, "oracle.port=99999", ["--set", "spec.oracle.port", "<= 65535", "99999"]),
    ("ports beyond the last", SPEC, "servers={port: 65535, replicas: 2}", ["spec.servers.port", "65535 to 65536"]),
    ("eight or ten", SPEC, "batchSize=010", ["--set", "010", "write 10"]),
    ("yes for true", SPEC + "  evaluate: yes\n", "", ["spec.evaluate", "true or false", "'yes'"]),
    ("alias of itself", "spec: &a {data: *a}\n", "", ["job.yaml:3", "spec.data", "alias"]),
    ("escape character", SPEC + "# \x1b[1m\n", "", ["job.yaml:12", "U+001B"]),
    ("path of nothing", SPEC, ".=1", ["--set .=1", "no part of a path"]),
    ("no value", SPEC, "batchSize=", ["--set batchSize=", "no value"]),
    ("variable", SPEC, "data.path=$HOME/x", ["spec.data.path", "$HOME", "not expanded", "shell"]),
]


@pytest.mark.parametrize(("job", "override", "words"), [case[1:] for case in JOBS], ids=[case[0] for case in JOBS])
def test_a_wrong_job_is_refused_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], job: str, override: str, words: list[str]
) -> None:
    """One line with file or option, field, what was expected and found; exit 78; no run directory."""
    (folder / "job.yaml").write_text(HEADER + job)
    before = tree(folder)
    code = run_command(["run", "job.yaml", *(["--set", override] if override else [])])
    line = Ended(code, "", capsys.readouterr().err).one_line()
    assert code == 78
    assert [w for w in words if w not in line] == [], line
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["none.yaml", "no such file"]),
        (b"", ["none.yaml", "empty"]),
        (b"\x00\x01\xff\xfe" * 64, ["none.yaml", "text"]),
    ],
    ids=["missing", "empty", "binary"],
)
@pytest.mark.parametrize("command", [["run"], ["plan"], ["data", "describe"]], ids=lambda c: c[0])
def test_a_job_file_that_is_none_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: bytes | None, words: list[str]
) -> None:
    """Missing, empty and binary job files are named by every command that takes one."""
    if content is not None:
        (folder / "none.yaml").write_bytes(content)
    code = run_command([*command, "none.yaml"])
    line = Ended(code, "", capsys.readouterr().err).one_line()
    assert code == 78
    assert [w for w in words if w not in line] == [], line


def test_a_used_run_directory_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh run never mixes its files with others'; the remedy is named."""
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("precious")
    code = run_command(["run", "job.yaml", "--run-dir", "out"])
    line = Ended(code, "", capsys.readouterr().err).one_line()
    assert code == 78
    assert "out" in line
    assert "--resume" in line
    assert tree(folder / "out") == {"thesis.tex"}


# ── what the oracle finds ─────────────────────────────────────────────────────────────────────────


def _cut(folder: Path) -> None:
    (folder / "train.txt").write_text(LINE * 3 + "1\t2\t3\n" + LINE * 4)


def _empty(folder: Path) -> None:
    (folder / "train.txt").write_text("")


def _gone(folder: Path) -> None:
    (folder / "train.txt").unlink()


def _binary(folder: Path) -> None:
    (folder / "train.txt").write_bytes(bytes(range(256)) * 16)


def _two(folder: Path) -> None:
    (folder / "train.txt").write_text(LINE * 2)


def _large_id(folder: Path) -> None:
    rows = [{"label": 1.0, "dense": [0.5], "sparse": [n]} for n in (1, 2, 7)]
    (folder / "train.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rating(folder: Path) -> None:
    rows = [{"label": label, "dense": [0.5], "sparse": [1]} for label in (1, 0.5, 4, 5)]
    (folder / "train.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _nothing(folder: Path) -> None:
    """The data is good."""


TABLES = "[{name: users, numEmbeddings: 5, embeddingDim: 4, featureNames: [C1]}]"
JSON_LINES = ["data={path: train.txt, format: criteo-json}", f"embedding={{tables: {TABLES}}}"]

DATA: list[tuple[str, Callable[[Path], None], list[str], int, list[str]]] = [
    ("malformed line", _cut, [], 65, ["train.txt:4:", "40 tab-separated fields", "onBadLine"]),
    ("empty file", _empty, [], 65, ["train.txt", "empty"]),
    ("missing file", _gone, [], 65, ["train.txt"]),
    ("binary file", _binary, [], 65, ["train.txt"]),
    ("id out of range", _large_id, JSON_LINES, 65, ["train.txt:3:", "id 7", "C1", "table users (5 rows)"]),
    (
        "cache smaller than one step",
        _nothing,
        ["cacheRows=20"],
        78,
        ["spec.cacheRows", "distinct rows", "raise cacheRows"],
    ),
    (
        "more trainers than examples",
        _two,
        ["trainers.replicas=3", "batchSize=16"],
        78,
        ["spec.trainers.replicas", "3 trainers", "2 training examples", "at most 2"],
    ),
    ("label outside", _rating, JSON_LINES, 65, ["data.path", "example 2", "'label' is 4", "loss bce", "squared-error"]),
    ("factors of labels", _nothing, ["model.taskWeights=[1, 2]"], 78, ["taskWeights", "2 factors", "1 labels"]),
    ("no whole batch", _nothing, ["data.dropLast=true", "batchSize=64"], 65, ["dropLast"]),
]


@pytest.mark.parametrize(("spoil", "overrides", "code", "words"), [c[1:] for c in DATA], ids=[c[0] for c in DATA])
def test_bad_data_ends_a_run_at_once(
    folder: Path, spoil: Callable[[Path], None], overrides: list[str], code: int, words: list[str]
) -> None:
    """One line that names file and line or the field; no second attempt; no directory left behind."""
    spoil(folder)
    before = tree(folder)
    options = [part for override in overrides for part in ("--set", override)]
    ended = bagpipe("run", "job.yaml", "--run-dir", "out", *options)
    line = ended.one_line()
    assert ended.code == code, ended
    assert [w for w in words if w not in line] == [], line
    assert tree(folder) == before


# ── what breaks while a run is under way ──────────────────────────────────────────────────────────


def test_a_bug_in_the_users_model_is_told_once(folder: Path) -> None:
    """One line with the user's own file and line and exit code 78, after one attempt; the traceback is in a log."""
    (folder / "their_model.py").write_text(
        "from torch import nn\nclass Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.w = nn.Linear(1, 1)\n    def forward(self, dense, sparse):\n        raise ValueError('boom')\n"
    )
    options = ["--set", "model={entrypoint: their_model:Model}", "--set", "runPolicy.backoffLimit=3"]
    ended = bagpipe("run", "job.yaml", "--run-dir", "out", *options)
    line = ended.one_line()
    assert ended.code == 78 and "starts again" not in ended.output
    assert line.startswith(f"error: {folder / 'their_model.py'}:7 (forward): ValueError: boom (traceback: ")
    log = line.partition("(traceback: ")[2].rstrip(")")
    assert "Traceback" in (folder / log).read_text()


def test_a_run_whose_reader_left_goes_on(folder: Path) -> None:
    """`bagpipe run ... | head -1`: the pipe is closed after the first line, and the run ends with its summary."""
    command = [sys.executable, "-m", "bagpipe", "run", "job.yaml", "--run-dir", "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None and run.stdout.readline()
        run.stdout.close()
        assert run.wait(100) == 0
    assert (folder / "out" / "summary.json").exists()


def test_a_port_in_use_is_named(folder: Path) -> None:
    """Somebody else listens on the port that the job asks for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = bagpipe("run", "job.yaml", "--run-dir", "out", "--set", f"oracle.port={port}")
    line = ended.one_line()
    assert ended.code == 78, ended
    assert f"127.0.0.1:{port}" in line
    assert "another port" in line
    assert not (folder / "out").exists()
