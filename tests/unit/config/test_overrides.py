"""`--set`: what a path names and what a value stands for; each mistake is one line that repeats the option."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.config.load import parse_job
from bagpipe.config.overrides import parse_override
from bagpipe.config.paths import shown
from bagpipe.errors import ConfigError

JOB = "spec:\n  data: {format: synthetic}\n  embedding: {tables: []}\n"

PATHS: list[tuple[str, tuple[str | int, ...]]] = [
    ("spec.batchSize=1", ("spec", "batchSize")),
    ("batchSize=1", ("spec", "batchSize")),
    (" batchSize =1", ("spec", "batchSize")),
    ("embedding.tables[0].name=1", ("spec", "embedding", "tables", 0, "name")),
    ("embedding.tables.0.name=1", ("spec", "embedding", "tables", 0, "name")),
    ('metadata.labels["a.b/c=d"]=1', ("metadata", "labels", "a.b/c=d")),
    ("metadata.labels['x']=1", ("metadata", "labels", "x")),
    ("model.args.a[0][1]=1", ("spec", "model", "args", "a", 0, 1)),
]


@pytest.mark.parametrize(("given_text", "path"), PATHS)
def test_paths(given_text: str, path: tuple[str | int, ...]) -> None:
    """Keys, indices with and without brackets, quoted keys, with and without `spec.`."""
    assert parse_override(given_text).path == path


VALUES: list[tuple[str, Any]] = [
    ("3", 3), ("1e-3", 1e-3), ("true", True), ("null", None), ("yes", "yes"), (" a ", "a"),
    ("a #2", "a #2"), ("a: b", "a: b"), ("*.tsv", "*.tsv"), ("&x", "&x"), ("!x", "!x"), ("%d", "%d"), ("@x", "@x"), ("- x", "- x"),
    ("a=b", "a=b"), ("~good.json", "~good.json"), ("'010'", "010"), ('""', ""), ('"a #2"', "a #2"),
    ("[1, a, {b: 2}]", [1, "a", {"b": 2}]), ("{a: [x]}", {"a": ["x"]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values(text: str, value: Any) -> None:
    """A bracket or a quote begins YAML; anything else is one scalar to its last character."""
    read = parse_override(f"x={text}").value
    assert (type(read), read) == (type(value), value)


MISTAKES = [
    (".=1", "'.=1' is no part of a path; expected keys and list indices"),
    ("a..b=1", "'..b=1' is no part of a path"),
    ("a.=1", "'.=1' is no part of a path"),
    ("[]=1", "'[]=1' is no part of a path"),
    ("[0]=1", "'[0]=1' is no part of a path"),
    ("a[-1]=1", "'[-1]=1' is no part of a path"),
    ("a[x]=1", "'[x]=1' is no part of a path"),
    ("a b=1", "' b=1' is no part of a path"),
    ("=1", "expected path=value, for instance"),
    ("", "expected path=value, for instance"),
    ("steps", "expected path=value, for instance"),
    ("steps=", "no value after =; write null for the default"),
    ("steps=[1", "not valid YAML"),
    ("steps=010", "010 is 10 to some YAML readers"),
    ("steps=.inf", ".inf is not a finite number"),
    ("steps=" + "9" * 10_000, "does not fit into 64 bits"),
    ("data.path=r\udcff", "U+DCFF is half a character or a byte that is not UTF-8; write text"),
    ("embedding.tables[0]=1", "spec.embedding.tables is an empty list; set it as a whole"),
    ("data.format.x=1", "spec.data.format is 'synthetic', which has no x; set spec.data.format as a whole"),
    ("\udcff=.", "U+DCFF is half a character or a byte that is not UTF-8; write text"),
    ("a[99999999999999999999]=1", "is no part of a path"),
]


@pytest.mark.parametrize(("override", "expected"), MISTAKES)
def test_mistakes(override: str, expected: str) -> None:
    """One line, which begins with the option as it was given."""
    with pytest.raises(ConfigError) as caught:
        parse_job(JOB, "job.yaml", [override])
    message = str(caught.value)
    assert message.startswith(f"--set {shown(override[:50])}")
    assert expected in message
    assert "\n" not in message
    assert len(message) < 300


WORDS = ["spec", "data", "path", "steps", "tables", "labels", "args", "null"]
PIECES = [*".[]=\"'{}:# \n\t-+*&!0123abz\0\udcff", *WORDS]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=3))
def test_any_override_is_taken_or_refused_in_one_line(overrides: list[str]) -> None:
    """Whatever stands after `--set` gives a job, or one line."""
    try:
        parse_job(JOB, "job.yaml", overrides)
        message = ""
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


def test_null_takes_the_default_back() -> None:
    """A setting of any type is its default after `--set X=null`, whether the job gives it or not."""
    text = """
spec:
  data: {path: a.csv, columns: {time: when, labels: [{name: y}], sparse: [{name: u}]}}
  batchSize: 7
"""
    plain = parse_job(text, "job.yaml").spec
    back = parse_job(text, "job.yaml", ["data.columns.time=null", "batchSize=null", "evaluation.every=null"]).spec
    assert plain.data.columns is not None
    assert back.data.columns is not None
    assert (plain.data.columns.time, back.data.columns.time) == ("when", "")
    assert (plain.batch_size, back.batch_size) == (7, JobSpec(data=DataConfig()).batch_size)
    assert back.evaluation == plain.evaluation


def test_null_is_for_no_element_of_a_list() -> None:
    """An element of a list has no default: one line says so."""
    with pytest.raises(ConfigError, match=r"an element of a list has no default; set the list as a whole"):
        parse_job("spec: {data: {path: [a, b]}}", "job.yaml", ["data.path[0]=null"])


def test_an_empty_default_is_named() -> None:
    """The remedy for a mistake in a setting whose default is empty says that word."""
    with pytest.raises(ConfigError, match=r"correct it or leave it out \(default empty; see"):
        parse_job("spec: {data: {path: a.csv, columns: {time: 3, labels: [{name: y}]}}}", "job.yaml")
