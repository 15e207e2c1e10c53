"""No document and no argument makes a command show a traceback: one line and an exit code, whatever comes.

Documents are drawn from the schema, then spoiled in places; arguments from what options take and from what they do
not. `BAGPIPE_FUZZ_EXAMPLES` asks for more than a test run has time for.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec.inspect as inspection
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe.cli.main import run_command
from bagpipe.config import yaml_writer
from bagpipe.config.document import Job

EXAMPLES = int(os.environ.get("BAGPIPE_FUZZ_EXAMPLES", "60"))
KEPT = {HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large}
quick = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(KEPT))

ODD = ["", "a #2", "a\nb", "\udcff", "ü", "x" * 300]
NAMES = [
    "x",
    "~",
    "~/x",
    "~x",
    "100%",
    "*.tsv",
    "../..",
    "/",
    "/dev/null",
    "/proc/self/mem",
    "s3:/x",
    "no://x",
    "$HOME",
    "-",
    "null",
    "1e400",
    "a:b",
]
TEXTS = st.sampled_from([*ODD, *NAMES])
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    TEXTS,
    st.builds(list),
    st.builds(dict),
    st.builds(lambda: [[]]),
    st.builds(lambda: {"a": {"b": 1}}),
)
KINDS = {field.encode_name: field.type for field in inspection.type_info(Job).fields}  # type: ignore[attr-defined]


def fitting(kind: inspection.Type) -> st.SearchStrategy[Any]:
    """Values that the schema takes; numbers are small, so that a plan of them is too."""
    match kind:
        case inspection.Metadata(type=inner):
            return fitting(inner)
        case inspection.IntType(ge=least, le=greatest):
            return st.integers(least or 0, min((least or 0) + 40, greatest or 40))
        case inspection.FloatType(ge=least, le=greatest, lt=below):
            return st.floats(least or 0, min(greatest or below or 1.0, 1.0), exclude_max=below is not None)
        case inspection.BoolType():
            return st.booleans()
        case inspection.NoneType():
            return st.none()
        case inspection.LiteralType(values=values):
            return st.sampled_from(sorted(values, key=str))
        case inspection.StrType():
            return TEXTS
        case inspection.UnionType(types=types):
            return st.one_of([fitting(one) for one in types])
        case inspection.VarTupleType(item_type=inner):
            return st.lists(fitting(inner), max_size=2)
        case inspection.DictType():
            return st.dictionaries(st.sampled_from(["a", "name", "x y"]), JUNK, max_size=2)
        case inspection.StructType(fields=fields):
            return st.fixed_dictionaries({}, optional={field.encode_name: fitting(field.type) for field in fields})
    return JUNK


SECTIONS = st.sampled_from(
    ["model", "data", "embedding", "optimizer", "checkpoint", "transport", "runPolicy", "trainers", "servers"]
)
SMALL = {
    "batchSize": 4,
    "steps": 2,
    "data": {"format": "synthetic", "synthetic": {"examples": 16, "tableSizes": [3, 5]}},
}


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A job that could be; often with one section drawn, sometimes with something spoiled."""
    spec: dict[str, Any] = json.loads(json.dumps(SMALL))
    fields = {f.encode_name: f.type for f in KINDS["spec"].fields}
    for name in draw(st.sets(SECTIONS, max_size=2)):
        section = draw(fitting(fields[name]))
        spec[name] = {**spec[name], **section} if name in spec else section
    document: dict[str, Any] = {"apiVersion": "bagpipe.dev/v1alpha1", "kind": "BagpipeJob", "spec": spec}
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        spoil(draw, document)
    return document


def spoil(draw: st.DrawFn, document: dict[str, Any]) -> None:
    """Put something else somewhere."""
    place = document
    while True:
        key = draw(st.sampled_from([*place, "new"]))
        inner = place.get(key)
        if not isinstance(inner, dict) or not inner or draw(st.booleans()):
            place[key] = draw(JUNK)
            return
        place = inner


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A job file: a document as YAML or JSON, sometimes with characters put in or bytes flipped."""
    document = draw(documents())
    try:
        content = yaml_writer.dump(document).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = json.dumps(document).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(content)))
        piece = draw(
            st.sampled_from(
                [b"\0", b"\x1b", b"&a ", b"*a", b"\t", b"---\n", b"[", b"}", b"\xff", b": ", b"'", b"!!x ", b"<<: 3\n"]
            )
        )
        content = content[:at] + piece + content[at:]
    return content


SET_PATHS = (
    "steps spec.seed data.path model.args.x embedding.tables[0].name a..b . [ batchSize transport.deadlineSeconds"
)
SET_VALUES = "1 null .inf 1e400 010 [1 {a:b} ~x \udcff 99999999999999999999 '"
SETS = st.lists(
    st.builds(
        "{}={}".format,
        st.sampled_from(["", "metadata.labels['a']", *SET_PATHS.split()]),
        st.sampled_from(["", "x #1", "{a: b}", *SET_VALUES.split()]),
    ),
    max_size=2,
)


def check(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """It ends with a code of ours, and on failure with exactly one line."""
    capfd.readouterr()
    code = run_command(arguments)
    said = capfd.readouterr().err
    assert "Traceback" not in said, (arguments, said)
    assert "a bug in Bagpipe" not in said, (arguments, said)
    assert code in (0, 65, 75, 78), (arguments, code, said)
    if code and arguments not in ([], ["job"]):  # these show the help
        lines = [line for line in said.splitlines() if not re.match(r"\r|planning with", line)]
        assert len(lines) == 1 and lines[0].startswith("error: "), (arguments, said)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a little of everything, and no cluster."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("1\t2\n")
    (tmp_path / "good.yaml").write_text(yaml_writer.dump({"spec": SMALL}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return tmp_path


@quick
@given(
    content=texts(),
    sets=SETS,
    command=st.sampled_from(
        [["run", "--check"], ["plan", "--steps", "1", "--lookahead", "2"], ["data", "describe"], ["job", "submit"]]
    ),
)
def test_any_job_file(
    folder: Path, capfd: pytest.CaptureFixture[str], content: bytes, sets: list[str], command: list[str]
) -> None:
    """Documents from the schema and beside it, with overrides from the grammar and beside it."""
    (folder / "job.yaml").write_bytes(content)
    check([*command, "job.yaml", *(part for one in sets for part in ("--set", one))], capfd)


PLACES = "good.yaml folder text.txt nope text.txt/x - -- /dev/null ~x --help 1 -1 nan 1e400 99999999999"
OPTIONS = (
    "--set steps=1 --run-dir --check --json --overwrite --format parquet --parts --steps --gbit --trainers --models "
    "dlrm --variants --local --scale small --write-jobs --torchrec-log --namespace --tail --index"
)
WORDS = st.sampled_from([*ODD, *PLACES.split(), *OPTIONS.split()])
HARMLESS = [
    command.split()
    for command in (
        "run --check",
        "plan good.yaml --steps 1 --lookahead 1",
        "data describe",
        "data prepare",
        "evaluate",
        "export",
        "checkpoint ls",
        "checkpoint show",
        "checkpoint verify",
        "job submit",
        "job get",
        "job logs",
        "job scale",
        "job",
        "experiment six-models --write-jobs jobs",
        "server --job good.yaml --run-dir folder --shard 7",
        "version",
        "",
    )
]


@quick
@given(command=st.sampled_from(HARMLESS), words=st.lists(WORDS, max_size=4))
def test_any_arguments(folder: Path, capfd: pytest.CaptureFixture[str], command: list[str], words: list[str]) -> None:
    """Options with values that they take and that they do not, missing values, names of everything and nothing."""
    check([*command, *words], capfd)
