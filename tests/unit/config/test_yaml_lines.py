"""One YAML reader: what each scalar means, what is refused with its line, and that every reading is bounded."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config import yaml_writer
from bagpipe.config.yaml_lines import MAX_BYTES, parse, read_text
from bagpipe.errors import ConfigError

SCALARS: list[tuple[str, Any]] = [
    ("1e-3", 1e-3), ("1E5", 1e5), ("-2.5e+1", -25.0), (".5", 0.5), ("1.", 1.0), ("+12", 12), ("0", 0), ("-0", 0), ("0x1F", 31),
    ("0o17", 15), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
    ("yes", "yes"), ("on", "on"), ("off", "off"), ("n", "n"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("12:30", "12:30"),
    ("1e", "1e"), ("0b1", "0b1"), ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None), ("nan", "nan"), ("inf", "inf"),
    ("'010'", "010"), ('"1e-3"', "1e-3"), ("!!str 12", "12"), ("=", "="),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_what_a_scalar_means(text: str, value: Any) -> None:
    """YAML 1.2's core schema: numbers, booleans and nulls; everything else is a string."""
    read = parse(f"a: {text}\n", "x").value["a"]
    assert (type(read), read) == (type(value), value)


REFUSED = [
    ("octal or ten", "a: 010", "x:1: a: 010 is 10 to some YAML readers and an octal number to others; write 10"),
    ("infinite", "a:\n  b: .inf", "x:2: a.b: .inf is not a finite number"),
    ("no number", "a: [1, .NaN]", "x:1: a[1]: .NaN is not a finite number"),
    ("overflowing", "a: 1e400", "x:1: a: 1e400 is beyond the range"),
    ("65 bits", "a: 9223372036854775808", "x:1: a: 9223372036854775808 does not fit into 64 bits"),
    ("many digits", "a: " + "9" * 9000, "x:1: a: 9999999999999999999999999999999999999... does not fit"),
    ("twice", "a: 1\nb: 2\na: 3", "x:3: a: given twice (first on line 1); remove one of them"),
    ("twice inside", "s:\n  a: 1\n  'a': 2", "x:3: s.a: given twice (first on line 2)"),
    ("itself", "a: &a [*a]", "x:1: a[0]: an alias stands inside what it refers to"),
    ("itself, deeper", "s:\n  m: {args: &a {x: [*a]}}", "x:2: s.m.args.x[0]: an alias stands inside"),
    ("nested lists", "[" * 5000, "x:1: not valid YAML: more than 64 levels of nesting"),
    ("nested blocks", "- " * 5000, "x:1: not valid YAML: more than 64 levels of nesting"),
    (
        "nested aliases",
        "\n".join(["a0: &a0 [1]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)]),
        "x:1: a63[0][0]",
    ),
    ("two documents", "a: 1\n---\nb: 2", "x: holds 2 documents (on lines 1 and 3); put each into a file of its own"),
    ("escape character", "a: 1\n# \x1b[1mbold", "x:2: not a text file: YAML has no character U+001B; remove it"),
    ("NUL by escape", 'a: "\\0"', "x:1: a: a string holds a NUL character"),
    ("half a character", 'a: "\\ud83d"', "x:1: a: U+D83D is half a character"),
    ("list as key", "? [1]\n: 2", "x:1: the job: a key is a word; a list or a mapping cannot be one"),
    ("a tag", "a: !!binary aGk=", "x:1: a: the tag tag:yaml.org,2002:binary is not accepted; remove it"),
    ("merge of a word", "a: {<<: 3}", "x:1: a: << takes a mapping or a list of mappings"),
    ("unknown alias", "a: *b", "x:1: not valid YAML: found undefined alias 'b'"),
    ("tab", "a:\n\tb: 1", "x:2: not valid YAML: found character '\\t'"),
]


@pytest.mark.parametrize(("text", "expected"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_refused(text: str, expected: str) -> None:
    """Each is one line with source, line and place."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_aliases_are_bounded() -> None:
    """A few hundred bytes that stand for a billion values are refused after ten thousand."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match=r"^x:\d+: .*: aliases add more than 10,000 values; write fewer$"):
        parse("\n".join(levels), "x")


def test_aliases_and_merges_are_values_of_their_own() -> None:
    """Anchors save typing; what they make is a tree, so that changing one place changes no other."""
    read = parse("base: &b {x: [1], y: 2}\nuse: {<<: *b, y: 3}\nmany: {<<: [{y: 4}, *b]}\n", "x").value
    assert read["use"] == {"x": [1], "y": 3}
    assert read["many"] == {"x": [1], "y": 4}
    read["use"]["x"].append(5)
    assert read["base"]["x"] == read["many"]["x"] == [1]


def test_lines_are_kept_for_every_place() -> None:
    """A place is named by its own line, or by that of the nearest thing around it."""
    document = parse("a: 1\nb:\n  - x: 1\n    y: 2\n  - 3\n", "f.yaml")
    assert document.where(("b", 0, "y")) == "f.yaml:4"
    assert document.where(("b", 1)) == "f.yaml:5"
    assert document.where(("b", 7, "z")) == "f.yaml:2"
    assert document.where(("c",)) == "f.yaml:1"


ENCODINGS = [
    (b"\xef\xbb\xbfa: \xc3\xa4\r\nb: 2\r\n", {"a": "ä", "b": 2}),
    (b"---\na: 1\n...\n---\n---\n", {"a": 1}),
    (b'{"a": "\\ud83d\\ude00", "b": [1.5, null, true]}', {"a": "😀", "b": [1.5, None, True]}),
    (b'{\n\t"a": "1\\t2",\n\t"b": [\n\t\t1\t]\n}\n', {"a": "1\t2", "b": [1]}),
]


@pytest.mark.parametrize(
    ("content", "value"), ENCODINGS, ids=["BOM and CRLF", "empty documents", "JSON", "JSON with tabs"]
)
def test_texts_that_are_read(tmp_path: Path, content: bytes, value: Any) -> None:
    """A byte order mark, Windows' line ends, empty documents and JSON are no obstacle."""
    (tmp_path / "f").write_bytes(content)
    assert parse(read_text(tmp_path / "f"), "f").value == value


FILES = [
    (b"a: 1\nb: \xff\n", r"f:2: not a text file \(byte 8 is not UTF-8\)"),
    (b"\xff\xfea\0:\0", "the text is UTF-16; save it as UTF-8"),
    (b"#" * (MAX_BYTES + 1), "more than 1,572,864 bytes; expected a job file .*, not data"),
]


@pytest.mark.parametrize(("content", "expected"), FILES, ids=["bytes", "UTF-16", "large"])
def test_files_that_are_not_read(tmp_path: Path, content: bytes, expected: str) -> None:
    """Other encodings and data files are named as what they are."""
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        read_text(tmp_path / "f")


def test_a_pipe_is_read_where_somebody_writes_and_never_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer is refused at once, and what a writer has put into one is a job."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"pipe\.yaml: a pipe to which nobody writes; expected a job file"):
        read_text(pipe)
    reading, writing = os.pipe()
    os.write(writing, b"spec: {}")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}")) == "spec: {}"
    os.close(reading)


def test_an_endless_file_ends(tmp_path: Path) -> None:
    """A device without end is refused after its first bytes."""
    with pytest.raises(ConfigError, match="more than"):
        read_text(Path("/dev/zero"))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMERIC = st.from_regex(r"[-+]?0?[0-9.]{1,4}([eE:_][-+]?[0-9]{1,2})?", fullmatch=True)
WORDS = st.sampled_from(
    ["yes", "No", "on", "y", "null", "~", "true", "<<", "=", "2024-01-01", ".inf", ".NaN", "0x1F", "0o17"]
)
STRINGS = TEXTS | NUMERIC | WORDS
SIMPLE = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SIMPLE | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES)
def test_what_json_says_is_read_alike(value: Any) -> None:
    """JSON is YAML: whatever a program writes as ASCII JSON is read back equal, types included."""
    read = parse(json.dumps({"v": value}), "x").value["v"]
    assert json.dumps(read) == json.dumps(value)


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_is_read_alike(value: Any) -> None:
    """What we write, as the job of a run directory, is read back equal by us and by readers of YAML 1.1."""
    text = yaml_writer.dump({"v": value})
    assert json.dumps(parse(text, "x").value["v"]) == json.dumps(value)
    assert json.dumps(yaml.safe_load(text)["v"]) == json.dumps(value)


def test_nothing_is_written_as_an_alias() -> None:
    """One object in two places is written twice: not every reader takes aliases."""
    shared = {"x": 1}
    assert "&" not in yaml_writer.dump({"a": shared, "b": shared})


@settings(deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(list("ab:-[]{}&*!|>'\"%@`,?#\n \t0123.e~<=")), max_size=60).map("".join)
)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    """No text makes the reader raise anything but one line, or return what JSON cannot carry."""
    try:
        value, refusal = parse(text, "x").value, "x:"
    except ConfigError as error:
        value, refusal = None, str(error)
    assert refusal.startswith("x:")
    assert len(refusal.splitlines()) == 1
    json.dumps(value, allow_nan=False)
