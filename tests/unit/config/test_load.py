"""Reading job files: every mistake is one line that names file and line, field, what was found, and a remedy."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import RunPolicy
from bagpipe.config.load import dump_job, load_job, parse_job
from bagpipe.config.overrides import parse_override
from bagpipe.errors import ConfigError, ExitCode

SMALLEST = "spec:\n  data: {format: synthetic}\n"
TABLE = "{name: a, numEmbeddings: 3, embeddingDim: 4, featureNames: [x]}"


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_job(text, "job.yaml", overrides)
    assert caught.value.exit_code == ExitCode.BAD_CONFIG
    message = str(caught.value)
    assert "\n" not in message
    return message


MISTAKES = [
    ("misspelt key", SMALLEST + "  batchSise: 8\n", "job.yaml:3: spec.batchSise: unknown setting; did you mean batchSize?"),
    ("wrong case", SMALLEST + "  batchsize: 8\n", "job.yaml:3: spec.batchsize: unknown setting; did you mean batchSize?"),
    ("snake case", SMALLEST + "  batch_size: 8\n", "job.yaml:3: spec.batch_size: unknown setting; did you mean batchSize?"),
    ("after another mistake", SMALLEST + "  steps: many\n  batchSise: 8\n", "job.yaml:4: spec.batchSise: unknown setting; did you mean batchSize?"),
    ("below another mistake", "spec:\n  seed: x\n  data: {format: csv}\n  embedding: {tables: [{nme: a}]}\n", "job.yaml:4: spec.embedding.tables[0].nme: unknown setting; did you mean name?"),
    ("nested", "spec:\n  data:\n    format: synthetic\n    pth: x\n", "job.yaml:4: spec.data.pth: unknown setting; did you mean path?"),
    ("in a list", SMALLEST + "  embedding:\n    tables:\n    - {nam: a}\n", "job.yaml:5: spec.embedding.tables[0].nam: unknown setting; did you mean name?"),
    ("far from all", SMALLEST + "  runPolicy: {zzz: 1}\n", "job.yaml:3: spec.runPolicy.zzz: unknown setting; expected one of activeDeadlineSeconds, "),
    ("at the top", "data: {}\n" + SMALLEST, "job.yaml:1: data: unknown setting; did you mean metadata?"),
    ("a level too high", "batchSize: 8\n" + SMALLEST, "job.yaml:1: batchSize: unknown setting; did you mean spec.batchSize?"),
    ("in the wrong section", SMALLEST + "  checkpoint: {testFraction: 0.1}\n", "job.yaml:3: spec.checkpoint.testFraction: unknown setting; did you mean spec.data.testFraction?"),
    ("a bare name", "spec: {data: {columns: {labels: [click]}}}\n", "job.yaml:1: spec.data.columns.labels[0]: expected a mapping, found 'click'; write {name: click}"),
    ("another word", SMALLEST + "  trainers: {device: gpu}\n", "job.yaml:3: spec.trainers.device: expected auto | cpu | cuda, found 'gpu'; did you mean cuda?"),
    ("wrong type", SMALLEST + "  batchSize: many\n", "job.yaml:3: spec.batchSize: expected an integer, found 'many'; correct it or leave it out (default 2048; see docs/settings.md)"),
    ("negative", SMALLEST + "  batchSize: -8\n", "job.yaml:3: spec.batchSize: expected an integer >= 1, found -8; "),
    ("not a bool", SMALLEST + "  evaluate: 3\n", "job.yaml:3: spec.evaluate: expected true or false, found 3; "),
    ("no value", SMALLEST + "  batchSize:\n", "job.yaml:3: spec.batchSize: expected an integer, found nothing; "),
    ("wrong choice", SMALLEST + "  optimizer: {name: adm}\n", "job.yaml:3: spec.optimizer.name: expected adagrad | adam | adamw | sgd, found 'adm'; did you mean adam?"),
    ("number or word", SMALLEST + "  lookahead: often\n", "job.yaml:3: spec.lookahead: expected an integer or auto, found 'often'; "),
    ("table size", SMALLEST + f"  embedding: {{tables: [{TABLE.replace('3', '-3')}]}}\n", "job.yaml:3: spec.embedding.tables[0].numEmbeddings: expected an integer >= 1, found -3; "),
    ("missing", "spec: {}\n", "job.yaml:1: spec.data: missing; "),
    ("missing in a list", SMALLEST + "  embedding:\n    tables:\n    - name: a\n", "job.yaml:5: spec.embedding.tables[0].numEmbeddings: missing; "),
    ("duplicate key", SMALLEST + "  seed: 1\n  seed: 2\n", "job.yaml:4: spec.seed: given twice (first on line 3); remove one of them"),
    ("another kind", "kind: Deployment\nspec: {}\n", "job.yaml:1: kind: expected BagpipeJob, found 'Deployment'; is this a job file?"),
    ("another version", "apiVersion: v2\n" + SMALLEST, "job.yaml:1: apiVersion: expected bagpipe.dev/v1alpha1, found 'v2'; "),
    ("empty", "# nothing\n", "job.yaml: empty; expected a job (apiVersion: bagpipe.dev/v1alpha1, kind: BagpipeJob, spec: ...)"),
    ("a list", "- a\n", "job.yaml: expected a mapping with apiVersion, kind, metadata and spec, found a list"),
    ("a word", "hello", "job.yaml: expected a mapping with apiVersion, kind, metadata and spec, found 'hello'"),
    ("not YAML", "spec: [1\n", "job.yaml:2: not valid YAML: "),
    ("two documents", SMALLEST + "---\n" + SMALLEST, "job.yaml: holds 2 documents (on lines 1 and 4); put each into "),
    ("a tag", "spec: !!python/object:os.system {}\n", "job.yaml:1: spec: the tag tag:yaml.org,2002:python/object:os.system is not accepted"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes_in_the_file(text: str, expected: str) -> None:
    """A mistake in the file is named by file, line, field, what was found, and what to do."""
    assert error_of(text).startswith(expected)


OVERRIDES = [
    ("spec.batchSize=-8", "--set spec.batchSize=-8: spec.batchSize: expected an integer >= 1, found -8; "),
    ("batchSise=8", "--set batchSise=8: spec.batchSise: unknown setting; did you mean batchSize?"),
    ("checkpoint.volumeClaim.size=5GB", "--set checkpoint.volumeClaim.size=5GB: spec.checkpoint.volumeClaim.size: expected a quantity such as 2, 0.5, 500m or 4Gi, found '5GB'; "),
    ("model.filterRange=2:5", "--set model.filterRange=2:5: spec.model.filterRange: expected two digits with a dash between them, such as 2-5, "),
    ("batchSize", "--set batchSize: expected path=value, "),
    ("=3", "--set =3: expected path=value, "),
    ("batchSize=[1", "--set batchSize=[1:1: not valid YAML: "),
    ("batchSize.x=3", "job.yaml:1: spec.batchSize: "),
    ("embedding.tables[2].name=a", "--set embedding.tables[2].name=a: spec.embedding.tables is a list of 1; use an index from 0 to 0"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "expected"), OVERRIDES)
def test_mistakes_in_an_override(override: str, expected: str) -> None:
    """A mistake in `--set` is named by that override, not by a line of the file."""
    message = error_of(SMALLEST + f"  embedding: {{tables: [{TABLE}]}}\n", override)
    assert message.startswith(expected.replace("job.yaml:1", "--set batchSize.x=3"))


def test_overrides_reach_every_place() -> None:
    """Nested keys, lists by index, YAML values, without `spec.`; the last of two wins."""
    job = parse_job(
        SMALLEST,
        "job.yaml",
        [
            "spec.batchSize=8",
            "batchSize=16",
            "embedding.optimizer.lr=1e-3",
            f"embedding.tables=[{TABLE}]",
            "embedding.tables[0].embeddingDim=5",
            "spec.embedding.tables.0.featureNames=[x, y]",
            "metadata.name=other",
        ],
    )
    table = job.spec.embedding.tables[0]
    assert (job.spec.batch_size, job.spec.embedding.optimizer.lr, job.metadata.name) == (16, 1e-3, "other")
    assert (table.embedding_dim, table.feature_names) == (5, ("x", "y"))


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1E5", 1e5), ("-2.5e+1", -25.0), ("3", 3), ("1.5", 1.5)])
def test_numbers_are_numbers(text: str, value: float) -> None:
    """Scientific notation needs no dot: YAML 1.1 alone would read 1e-3 as a word."""
    assert parse_override(f"x={text}").value == value


@settings(deadline=None)
@given(
    batch=st.integers(1, 10**6),
    lookahead=st.integers(0, 10**4) | st.just("auto"),
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(1e-12, 1e6),
    tables=st.integers(0, 3),
)
def test_a_dumped_job_reads_back_equal(batch: int, lookahead: int | str, seed: int, lr: float, tables: int) -> None:
    """What is written to the run directory is the job that ran, to the last bit of every number."""
    rows = [TABLE.replace("name: a", f"name: t{i}").replace("[x]", f"[f{i}]") for i in range(tables)]
    job = parse_job(
        SMALLEST,
        "job.yaml",
        [f"batchSize={batch}", f"lookahead={lookahead}", f"seed={seed}", f"embedding.optimizer.lr={lr!r}", f"embedding.tables=[{', '.join(rows)}]"],
    )  # fmt: skip
    assert parse_job(dump_job(job), "dumped") == job


def test_defaults_are_dumped() -> None:
    """The resolved job shows every setting that has a value, so that a later default cannot change what it meant."""
    job = parse_job(SMALLEST, "job.yaml")
    dumped = msgspec.yaml.decode(dump_job(job).encode())
    assert dumped["spec"]["batchSize"] == 2048
    assert dumped["spec"]["runPolicy"]["backoffLimit"] == RunPolicy().backoff_limit
    valued = {f.encode_name for f in msgspec.structs.fields(job.spec) if getattr(job.spec, f.name) is not None}
    assert set(dumped["spec"]) == valued
    assert "null" not in dump_job(job)


FILES = [
    ("binary", b"\x93NUMPY\x00\x01", ":1: not a text file (byte 0 is not UTF-8)"),
    ("NUL", b"spec:\0", ":1: not a text file: YAML has no character U+0000; remove it"),
    ("empty", b"", ": empty; expected a job"),
]


@pytest.mark.parametrize(("content", "expected"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_files_that_are_no_job(tmp_path: Path, content: bytes, expected: str) -> None:
    """A binary or empty file is named as what it is."""
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}{expected}")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    """A path that leads to no file says so, with a file to try."""
    with pytest.raises(ConfigError, match=r"nope\.yaml: no such file; give the path of a job file"):
        load_job(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; expected a job file"):
        load_job(tmp_path)
