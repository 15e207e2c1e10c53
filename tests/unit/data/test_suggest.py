"""`bagpipe init`: a job for data that nobody described, which loads and whose guesses can be read."""

import datetime as dt
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.load import parse_job
from bagpipe.data.dataset import open_dataset
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import ConfigError, DataError

ROWS = 500


@pytest.fixture
def log(tmp_path: Path) -> pa.Table:
    """A log with one column of each kind."""
    rng = np.random.default_rng(2)
    return pa.table({
        "row_key": [f"{i:08x}-{i * 7:08x}" for i in range(ROWS)],
        "user_id": [f"u{i}" for i in rng.integers(0, 60, ROWS)],
        "item": [f"i{i}" for i in rng.integers(0, 40, ROWS)],
        "tags": ["|".join(rng.choice(list("abcdef"), 2)) for _ in range(ROWS)],
        "price": np.exp(rng.normal(3, 3, ROWS)).round(3),
        "country": [["de", "fr", None][i % 3] for i in range(ROWS)],
        "constant": ["x"] * ROWS,
        "nothing": pa.array([None] * ROWS, pa.string()),
        "when": 1_700_000_000 + np.arange(ROWS) * 60,
        "clicked": (rng.random(ROWS) < 0.3).astype(np.int64),
        "bought": (rng.random(ROWS) < 0.1).astype(np.int64),
    })  # fmt: skip


def opened(text: str, tmp_path: Path):
    spec = parse_job(text, "job.yaml").spec
    return spec, open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=tmp_path / "work")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_each_column_gets_a_use_and_the_job_can_be_read(kind, log, tmp_path):
    """Label, time, group, dense, sparse and ignored columns are told apart alike in every format."""
    import pyarrow.csv as csv

    path = tmp_path / f"log.{kind}"
    if kind == "csv":
        csv.write_csv(log, path, csv.WriteOptions(quoting_style="needed"))
    elif kind == "parquet":
        pq.write_table(log, path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in log.to_pylist()))
    found = suggest_job(str(path))
    spec, dataset = opened(found.text, tmp_path)
    columns = spec.data.columns
    assert columns is not None
    assert [c.name for c in columns.labels] == ["clicked"]
    assert (columns.time, columns.group, spec.data.split_by) == ("when", "user_id", "time")
    assert [(c.name, c.log1p, c.standardise) for c in columns.dense] == [("price", True, True)]
    assert [(c.name, c.separator) for c in columns.sparse] == [
        ("user_id", ""),
        ("item", ""),
        ("tags", "|"),
        ("country", ""),
    ]
    assert set(columns.ignore) == {"row_key", "constant", "nothing", "bought"}
    assert (dataset.num_train_examples, dataset.num_test_examples) == (450, 50)
    assert len(list(dataset.train_batches(64, epochs=1))) == 8
    for words in ("# 0 or 1, ", "another label", "always the same", "every row has a value of its own", "33% missing"):
        assert words in found.text


def test_rows_without_a_header_and_ratings_instead_of_labels(tmp_path):
    """Columns are called f0, f1, ...; a rating becomes a label by a rule, and the note says that this is a guess."""
    rng = np.random.default_rng(3)
    rows = [(u, i, r, 950_000_000 + t) for t, (u, i, r) in enumerate(
        zip(rng.integers(0, 50, 400), rng.integers(0, 90, 400), rng.integers(1, 6, 400), strict=True))]  # fmt: skip
    path = tmp_path / "ratings.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    found = suggest_job(str(path))
    spec, dataset = opened(found.text, tmp_path)
    columns = spec.data.columns
    assert columns is not None
    (label,) = columns.labels
    assert (label.name, label.rule, columns.time) == ("high_f2", "f2 >= 3", "f3")
    assert [c.name for c in columns.sparse] == ["f0", "f1"]
    assert any("which is a guess" in note for note in found.notes)
    labels = [y for b in dataset.train_batches(64, epochs=1) for y in b.labels_BL[:, 0].tolist()]
    assert labels == [float(r >= 3) for _, _, r, _ in rows[:360]]


def test_known_formats_need_no_columns(criteo_file, tmp_path):
    """Criteo's text gets the settings that suit it."""
    found = suggest_job(str(criteo_file))
    data = parse_job(found.text, "job.yaml").spec.data
    assert (data.format, data.encoding, data.numeric_bins, data.columns) == (
        "criteo-tsv",
        "vocabulary",
        "log-squared",
        None,
    )


def test_a_label_that_cannot_be_guessed_is_asked_for(tmp_path):
    """The message says how to name it; a wrong name lists what there is."""
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"u{i % 9},i{i % 7}\n" for i in range(200)))
    with pytest.raises(ConfigError, match=r"no column looks like a label .*--label COLUMN \(user, item\)"):
        suggest_job(str(path))
    with pytest.raises(ConfigError, match=r"--label 'clicks' is no column of .*; it has user, item"):
        suggest_job(str(path), label="clicks")
    with pytest.raises(ConfigError, match=r"^label='itme' is no column of .*; did you mean 'item'\?$"):
        suggest_job(str(path), label="itme", python=True)


def test_a_second_column_that_looks_like_a_label_is_told(tmp_path: Path) -> None:
    """In a note and in the job, which says which label was chosen; columns are counted in grammar."""
    path = tmp_path / "log.csv"
    rows = "".join(f"u{i % 9},{i % 2},{i % 3 % 2},1\n" for i in range(200))
    path.write_text("user,bought,returned,constant\n" + rows)
    found = suggest_job(str(path))
    assert (
        "label: bought, which is a guess; --label names another; look like labels too: returned; what is not known "
        "before the prediction belongs under labels or ignore"
    ) in found.notes
    assert "        # look like labels too: returned; a second label is one more line here\n" in found.text
    assert "ignored: 1 column, see the comments" in found.notes
    parse_job(found.text, "job.yaml")


def test_any_two_words_look_like_a_label_too(tmp_path: Path) -> None:
    """`J` and `N` are no words that everybody knows, and may still be what is to be predicted, or tell it."""
    path = tmp_path / "log.csv"
    path.write_text("user,gift,returned\n" + "".join(f"u{i % 9},{i % 2},{'JN'[i % 5 > 2]}\n" for i in range(200)))
    found = suggest_job(str(path))
    assert "look like labels too: returned; " in found.notes[0] and found.notes[0].startswith("label: gift, which is")
    assert "        # look like labels too: returned; " in found.text


def test_messages_say_how_many_columns_they_do_not_list(tmp_path: Path) -> None:
    """Twelve names, and the number of the others."""
    path = tmp_path / "log.csv"
    path.write_text(",".join(f"c{i}" for i in range(20)) + "\n" + ",".join("1" * 20) + "\n")
    with pytest.raises(ConfigError, match=r"it has c0, .*, c11 and 8 more$"):
        suggest_job(str(path), label="nothing like it")


def test_what_init_says_of_a_label_of_words_can_be_used(tmp_path):
    """The command is quoted for a shell, and the label it proposes for a column of words is a valid one."""
    path = tmp_path / "my clicks #1.csv"
    path.write_text("bought,item\n" + "".join(f"{['today', 'later', 'never'][i % 3]},i{i % 7}\n" for i in range(200)))
    with pytest.raises(ConfigError) as guess:
        suggest_job(str(path))
    command = re.search(r"bagpipe init .* --label", str(guess.value))
    assert command is not None
    assert shlex.split(command[0]) == ["bagpipe", "init", str(path), "--label"]
    with pytest.raises(ConfigError, match="expected numbers for a label") as words:
        suggest_job(str(path), label="bought")
    label = str(words.value)[str(words.value).index("{") :]
    job = {"data": {"path": str(path), "columns": {"labels": ["LABEL"], "sparse": [{"name": "item"}]}}}
    text = json.dumps({"apiVersion": "bagpipe.dev/v1alpha1", "kind": "BagpipeJob", "spec": job})
    columns = parse_job(text.replace('"LABEL"', label), "job.yaml").spec.data.columns
    assert columns.labels[0].name == "bought"


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("True", "False"), ("click", "view"), ("ja", "nein")])
def test_a_label_of_two_words_gets_its_rule(yes: str, no: str, tmp_path: Path) -> None:
    """Guessed by the column's name or given by `--label`: the job has the rule, and its labels are right."""
    path = tmp_path / "log.csv"
    path.write_text("bought,item\n" + "".join(f"{yes if i % 3 else no},i{i % 7}\n" for i in range(200)))
    for label in (None, "bought"):
        spec, dataset = opened(suggest_job(str(path), label=label).text, tmp_path)
        assert [(one.name, one.rule) for one in spec.data.columns.labels] == [
            ("bought", f"bought == '{yes}' else '{no}'")
        ]
        labels = [y for batch in dataset.train_batches(64, epochs=1) for y in batch.labels_BL[:, 0].tolist()]
        assert labels == [float(i % 3 > 0) for i in range(180)]


def test_answers_of_which_some_are_missing_are_a_label(tmp_path: Path) -> None:
    """Rows without one, or with R's `NA`, are told and skipped; they are no label of 0."""
    path = tmp_path / "log.csv"
    answers = {5: "", 6: "NA", 150: "NA"}
    lines = [f"{answers.get(i, 'yes' if i % 3 else 'no')},i{i % 7}\n" for i in range(203)]
    path.write_text("click,item\n" + "".join(lines))
    found = suggest_job(str(path))
    spec, dataset = opened(found.text, tmp_path)
    assert [one.rule for one in spec.data.columns.labels] == ["click == 'yes' else 'no'"]
    assert "label: 3 of 203 rows have none and are skipped, as all rows that cannot be read (onBadLine)" in found.notes
    labels = [y for batch in dataset.train_batches(64, epochs=1) for y in batch.labels_BL[:, 0].tolist()]
    assert labels == [float(i % 3 > 0) for i in range(203) if i not in answers][:180]
    assert dataset.report.bad_lines == 3


def test_a_label_of_two_unknown_words_is_the_rarer_one(tmp_path: Path) -> None:
    """Where `--label` names the column; which word is 1 is a guess, and told."""
    path = tmp_path / "log.csv"
    path.write_text("bought,item\n" + "".join(f"{'today' if i % 3 else 'never'},i{i % 7}\n" for i in range(200)))
    found = suggest_job(str(path), label="bought")
    spec, _ = opened(found.text, tmp_path)
    assert [one.rule for one in spec.data.columns.labels] == ["bought == 'never' else 'today'"]
    assert "label: 1 where bought is 'never', the rarer of two words, which is a guess" in found.notes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["1"], "click is the same in every row, which teaches nothing"),
        (
            ["True", "TRUE", "False", "false"],
            "click holds 'False', 'false', 'TRUE', 'True' where two words are expected: write 1 and 0",
        ),
        ([*"010101010101", "maybe"], "most values of click are numbers, but 'maybe' is none"),
    ],
)
def test_no_rating_is_taken_for_a_label_where_a_column_has_a_labels_name(
    words: list[str], told: str, tmp_path: Path
) -> None:
    """What is wrong with that column is told, and the label asked for."""
    path = tmp_path / "log.csv"
    path.write_text("click,item\n" + "".join(f"{words[i % len(words)]},{i % 6}\n" for i in range(310)))
    with pytest.raises(ConfigError) as caught:
        suggest_job(str(path))
    assert told in str(caught.value)


def test_names_and_figures_can_be_read(tmp_path: Path) -> None:
    """Letters of any language stand as they are, signs that nobody sees as escapes, and of lists values are counted."""
    names = ["größe", "商品", "😀", 'a"b\\c', "no\u00a0break"]
    path = tmp_path / "größe.csv"
    rows = "".join(
        f"{i % 2},{i % 9 + 0.5},i{i % 8},j{i % 8},k{i % 5},l{i % 6},{i % 6}|{i % 7}|{i % 3}\n" for i in range(300)
    )
    titles = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names]
    path.write_text(",".join(["click", *titles, "tags"]) + "\n" + rows)
    text = suggest_job(str(path)).text
    columns = opened(text, tmp_path)[0].data.columns
    assert columns is not None
    assert [one.name for one in columns.dense] == names[:1]
    assert [one.name for one in columns.sparse] == [*names[1:], "tags"]
    assert all(
        part in text for part in ('name: "größe"', 'name: "商品"', 'name: "😀"', '"no\\u00a0break"', "größe.csv")
    )
    assert 'separator: "|", maxLength: 50}  # 7 different values, several values' in text


def test_a_sign_within_urls_cuts_nothing(tmp_path: Path) -> None:
    """A URL may hold any sign; URLs one behind another are cut."""
    path = tmp_path / "log.csv"
    lines = [f"{i % 2},https://a.de/?q={i % 20};x=2|3,http://a/{i % 9}|http://b/{i % 4}\n" for i in range(200)]
    path.write_text("click,page,pages\n" + "".join(lines))
    spec, _ = opened(suggest_job(str(path)).text, tmp_path)
    separators = {one.name: one.separator for one in spec.data.columns.sparse}
    assert separators == {"page": "", "pages": "|"}


@pytest.mark.parametrize("form", ["[%d/%b/%Y:%H:%M:%S %z]", "%a, %d %b %Y %H:%M:%S %z"])
def test_times_of_logs_are_times_and_no_lists(form: str, tmp_path: Path) -> None:
    """A web server's and a mail's, whose brackets, blanks and commas part nothing."""
    path = tmp_path / "log.tsv"
    begin = dt.datetime(2024, 3, 31, 6, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    times = [(begin + dt.timedelta(minutes=i)).strftime(form) for i in range(200)]
    path.write_text("click\titem\tat\n" + "".join(f"{i % 2}\ti{i % 7}\t{at}\n" for i, at in enumerate(times)))
    spec, dataset = opened(suggest_job(str(path)).text, tmp_path)
    columns = spec.data.columns
    assert (columns.time, columns.time_format, spec.data.split_by) == ("at", form, "time")
    assert dataset.num_train_examples == 180


def test_times_with_the_zone_by_its_name_are_times(tmp_path: Path) -> None:
    """BigQuery exports `2024-01-01 00:12:22 UTC`; the latest rows are for tests."""
    path = tmp_path / "log.csv"
    times = [f"2024-01-{1 + i * 7 % 28:02} 00:{i // 60:02}:{i % 60:02}{'.25' if i % 2 else ''} UTC" for i in range(200)]
    path.write_text("click,item,at\n" + "".join(f"{i % 2},i{i % 7},{at}\n" for i, at in enumerate(times)))
    spec, dataset = opened(suggest_job(str(path)).text, tmp_path)
    assert (spec.data.columns.time, spec.data.split_by) == ("at", "time")
    assert dataset.num_train_examples == 180


def test_files_in_folders_below_are_named_by_a_pattern_where_another_file_lies_beside_them(tmp_path: Path) -> None:
    """The file that is left out is told."""
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        text = "item,click\n" + "".join(f"i{i % 9},{i % 2}\n" for i in range(90))
        (tmp_path / f"day={day}" / "part.csv").write_text(text)
    (tmp_path / "notes.txt").write_text("what the days are\n")
    found = suggest_job(str(tmp_path))
    spec, dataset = opened(found.text, tmp_path / "work")
    assert spec.data.path == f"{tmp_path}/**/*.csv"
    assert dataset.num_train_examples == 162
    assert any(note.startswith("left out: notes.txt") for note in found.notes)


def test_files_of_one_kind_are_named_by_a_pattern_or_one_by_one(tmp_path, monkeypatch):
    """A pattern where it names exactly these, also in a folder whose name has characters of patterns; else a list."""
    folder = tmp_path / "logs [1]"
    folder.mkdir()
    for number in range(3):
        (folder / f"part-{number}.csv").write_text("item,click\n" + "".join(f"i{i % 9},{i % 2}\n" for i in range(90)))
    assert parse_job(suggest_job(str(folder)).text, "job.yaml").spec.data.path == str(folder)
    (folder / "names.tsv").write_text("item\tname\ni1\tone\n")
    found = suggest_job(str(folder))
    spec, dataset = opened(found.text, tmp_path)
    assert spec.data.path == f"{tmp_path}/logs [[]1]/*.csv"
    assert dataset.num_train_examples == 243
    assert "left out: names.tsv (tsv with 2 columns); name a file or a pattern to take others" in found.notes
    (folder / "items.csv").write_text("item,name\ni1,one\n")
    monkeypatch.chdir(tmp_path)
    found = suggest_job("logs [1]")
    assert parse_job(found.text, "job.yaml").spec.data.path == tuple(f"logs [1]/part-{n}.csv" for n in range(3))


def test_a_folder_of_nothing_to_read_is_refused_by_its_first_file(tmp_path):
    """The file and what is wrong with it are named."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(DataError, match=r"a.png: binary data"):
        suggest_job(str(tmp_path))


def test_a_column_without_a_value_in_the_first_file_has_the_type_of_a_later_one(tmp_path: Path) -> None:
    """pandas writes it as Arrow's null: what `init` takes for text or a number is read as that, in all files."""
    folder = tmp_path / "parts"
    folder.mkdir()
    base = {"click": [0, 1] * 50, "item": [f"i{i % 7}" for i in range(100)]}
    none = pa.nulls(100)
    pq.write_table(pa.table(base | {"city": none, "tags": none, "age": none}), folder / "part-0.parquet")
    values = {"city": [f"c{i % 3}" for i in range(100)], "tags": [[f"t{i % 4}"] for i in range(100)]}
    pq.write_table(pa.table(base | values | {"age": [0.5 * i for i in range(100)]}), folder / "part-1.parquet")
    spec, dataset = opened(suggest_job(str(folder)).text, tmp_path)
    assert {c.name for c in spec.data.columns.sparse} == {"item", "city", "tags"}
    (batch,) = dataset.train_batches(200, epochs=1)
    assert batch.num_examples == 180
    assert {t.name: t.num_embeddings for t in dataset.layout.tables}["city"] == 1 + 3 + 1  # shared row, values, missing


def test_lists_in_lists_to_any_depth_are_left_out(tmp_path: Path) -> None:
    """Two thousand deep: it was a bug of the library, as Python's stack is not that deep."""
    lines = [json.dumps({"user": f"u{i % 9}", "clicked": i % 2}) for i in range(200)]
    lines[3] = lines[3][:-1] + f', "deep": {"[" * 2000}{"]" * 2000}}}'
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert '- "deep"  # lists of lists' in suggest_job(str(tmp_path / "log.jsonl")).text


def test_malformed_rows_are_told_and_skipped(tmp_path: Path) -> None:
    """The job runs as it is, so it skips what cannot be read, and init says that there is something."""
    lines = [f"i{i % 7},{i % 2}" if i != 40 else "i1,1,1" for i in range(300)]
    (tmp_path / "log.csv").write_text("\n".join(["item,click", *lines]))
    suggestion = suggest_job(str(tmp_path / "log.csv"))
    assert "    onBadLine: skip  # some rows are malformed" in suggestion.text
    assert any("row 41 (line 42): expected 2 fields, found 3; such rows" in note for note in suggestion.notes)
    assert opened(suggestion.text, tmp_path)[0].data.on_bad_line == "skip"
