"""The built-in click logs are lists of columns: spelled out they give the same examples to the bit."""

import datetime as dt
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from bagpipe.config import column_rules
from bagpipe.config.columns import LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.config.load import parse_job
from bagpipe.data.column_cells import label_cells, sparse_cells
from bagpipe.data.column_values import Problems
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.presets import AVAZU_COLUMNS, Preset, preset_columns
from bagpipe.data.raw import BIN_OFFSET
from bagpipe.data.suggest import preset_job
from bagpipe.errors import ConfigError, DataError
from bagpipe.standalone import column_settings
from bagpipe.standalone.readers import files_of, tables_of, types_of

ROWS = 200


def avazu_lines() -> list[str]:
    rng = random.Random(4)
    lines = [",".join(AVAZU_COLUMNS)]
    for number in range(ROWS):
        hour = f"1410{rng.randrange(10, 32)}{rng.randrange(24):02d}"
        values = [rng.choice(["", f"{rng.randrange(9):08x}", "more than eight", "äö"]) for _ in AVAZU_COLUMNS[3:]]
        lines.append(",".join([str(number), str(rng.randrange(2)), hour, *values]))
    return lines


@pytest.fixture
def logs(tmp_path: Path, criteo_lines: Callable[[int], list[str]]) -> dict[Preset, Path]:
    """A log of each format, with missing and negative values."""
    found: dict[Preset, Path] = {"criteo-tsv": tmp_path / "criteo.txt", "avazu-csv": tmp_path / "avazu.csv"}
    found["criteo-tsv"].write_text("\n".join(criteo_lines(ROWS)) + "\n")
    found["avazu-csv"].write_text("\n".join(avazu_lines()) + "\n")
    return found


def opened(data: DataConfig, folder: Path) -> Dataset:
    return open_dataset(data, EmbeddingConfig(dim=4), seed=1, work_dir=folder / "work")


def batches(dataset: Dataset) -> list[Any]:
    return [*dataset.train_batches(32, epochs=2), *dataset.test_batches(32)]


@pytest.mark.parametrize("preset", ["criteo-tsv", "avazu-csv"])
@pytest.mark.parametrize(
    "how",
    [
        {"encoding": "hash", "hash_size": 50},
        {"encoding": "vocabulary", "min_count": 2, "oov": 3, "shuffle": "always"},
        {"encoding": "vocabulary", "numeric_bins": "log-squared"},
    ],
)
def test_a_format_and_its_columns_give_the_same_batches(
    preset: Preset, how: dict[str, Any], logs: dict[Preset, Path], tmp_path: Path
) -> None:
    """Labels, dense values, keys and tables of every batch, by hash and by vocabulary, with bins and without."""
    if preset == "avazu-csv" and "numeric_bins" in how:
        how = {"encoding": "vocabulary"}
    named = DataConfig(path=str(logs[preset]), format=preset, test_fraction=0.1, **how)
    spelled = msgspec.structs.replace(
        named,
        format="tsv" if preset == "criteo-tsv" else "csv",
        numeric_bins="none",
        columns=preset_columns(preset, bins=named.numeric_bins != "none"),
    )
    first, second = opened(named, tmp_path), opened(spelled, tmp_path)
    assert first.layout == second.layout
    pairs = list(zip(batches(first), batches(second), strict=True))
    assert len(pairs) > 10
    for one, other in pairs:
        np.testing.assert_array_equal(one.labels_BL, other.labels_BL)
        np.testing.assert_array_equal(one.dense_BF.view(np.uint32), other.dense_BF.view(np.uint32))
        np.testing.assert_array_equal(one.sparse[0].keys_N, other.sparse[0].keys_N)


@pytest.mark.parametrize("preset", ["criteo-tsv", "avazu-csv"])
def test_init_spells_a_preset_out(preset: Preset, logs: dict[Preset, Path], tmp_path: Path) -> None:
    """The job that `bagpipe init --preset` writes has just these columns, and can be read."""
    spec = parse_job(preset_job(str(logs[preset]), preset).text, "job.yaml").spec
    assert spec.data.columns == preset_columns(preset, bins=preset == "criteo-tsv")
    assert opened(spec.data, tmp_path).num_test_examples == ROWS // 10


def test_bins_are_those_of_one_number_at_a_time() -> None:
    """Of small and large whole numbers, negative ones and none; a fraction has no bin."""
    numbers = [*range(-5, 3000), *(10**k + d for k in range(4, 16) for d in (-1, 0, 1)), -(10**12)]
    table = pa.table({"x": pa.array([None, *numbers, 2.5], pa.float64())})
    problems = Problems(np.zeros(len(numbers) + 2, np.bool_))
    found = sparse_cells(table, SparseColumn("x", bins="log-squared"), "bin", problems).codes.tolist()
    assert found[0] == 0
    assert found[1:-1] == [BIN_OFFSET + (x if x <= 2 else 3 + math.floor(math.log(x) ** 2)) for x in numbers]
    assert problems.bad.tolist() == [False] * (len(numbers) + 1) + [True]
    assert problems.words == "column x: expected a whole number, found 2.5"


def test_parts_of_times_are_texts_of_digits() -> None:
    """Of timestamps and of text in a stated form; a missing time has no part, and other text is refused."""
    table = pa.table({"t": ["14102109", "14102600", None, "yesterday"]})
    form = "%y%m%d%H"
    for part, expected in (("hour", ["09", "00", None]), ("weekday", ["1", "6", None])):
        problems = Problems(np.zeros(4, np.bool_))
        column = SparseColumn("t", part=part, time_format=form)  # type: ignore[arg-type]  # one of the two
        codes = sparse_cells(table, column, "token", problems).codes.tolist()
        texts = [code.to_bytes(8, "big").rstrip(b"\0").decode() if code else None for code in codes[:3]]
        assert texts == expected
        assert (problems.first_row, problems.words) == (
            3,
            "column t: expected a time like %y%m%d%H, found 'yesterday'",
        )


@pytest.mark.parametrize(("form", "unit"), [("unix", 1), ("unix-ms", 10**3), ("unix-us", 10**6), ("unix-ns", 10**9)])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
def test_parts_of_times_that_are_numbers(form: str, unit: int, kind: pa.DataType) -> None:
    """Python's own calendar tells hour and day of the week, also before 1970 and at the last moment of an hour."""
    seconds = [0, 3_599, 1_414_310_400, 1_767_225_599, -1, -86_400 * 400]
    table = pa.table({"t": pa.array([s * unit for s in seconds]).cast(kind, safe=False)})
    dates = [dt.datetime.fromtimestamp(s, dt.UTC) for s in seconds]
    for part, expected in (("hour", [f"{d:%H}" for d in dates]), ("weekday", [str(d.weekday()) for d in dates])):
        problems = Problems(np.zeros(len(seconds), np.bool_))
        column = SparseColumn("t", part=part, time_format=form)  # type: ignore[arg-type]  # one of the two
        codes = sparse_cells(table, column, "token", problems).codes.tolist()
        assert [code.to_bytes(8, "big").rstrip(b"\0").decode() for code in codes] == expected
        assert not problems.bad.any()


@pytest.mark.parametrize(
    ("cells", "form", "words"),
    [
        (pa.array(["now"]), "unix", "column t: expected a number, as timeFormat is unix, found 'now'"),
        (pa.array([10**18]), "unix", "column t: expected a number, as timeFormat is unix, found 1000000000000000000"),
        (
            pa.array([dt.datetime(2026, 1, 1)]),
            "unix-ms",
            "column t: expected a number, as timeFormat is unix-ms, found",
        ),
        (
            pa.array([1_414_310_400]),
            "",
            "column t: expected a time in ISO 8601 (for numbers, set timeFormat: unix, unix-ms, unix-us or unix-ns)",
        ),
    ],
)
def test_what_is_no_such_time_is_refused(cells: pa.Array, form: str, words: str) -> None:
    problems = Problems(np.zeros(1, np.bool_))
    codes = sparse_cells(pa.table({"t": cells}), SparseColumn("t", part="hour", time_format=form), "token", problems)
    assert codes.codes.tolist() == [0] and problems.words.startswith(words)


def test_a_day_that_no_month_has_is_no_time() -> None:
    """Arrow makes 31.02. the second of March; in ISO 8601 such a day was refused already."""
    there = {"01.03.2024": 4, "29.02.2024": 3, "31.12.2023": 6, "01.12.2023": 4, "04.07.2023": 1}
    for form, change in (("%d.%m.%Y", str), ("%d.%m.%Y %H:%M %z", "{} 23:30 +0000".format)):
        column = SparseColumn("t", part="weekday", time_format=form)
        problems = Problems(np.zeros(len(there) + 1, np.bool_))
        codes = sparse_cells(pa.table({"t": [*map(change, there), None]}), column, "token", problems).codes.tolist()
        assert [code.to_bytes(8, "big")[:1] for code in codes[:-1]] == [str(day).encode() for day in there.values()]
        assert codes[-1] == 0 and not problems.bad.any()
        for cell in ("30.02.2024", "31.04.2024", "29.02.2023", "31.11.2023"):
            problems = Problems(np.zeros(2, np.bool_))
            sparse_cells(pa.table({"t": [change("01.03.2024"), change(cell)]}), column, "token", problems)
            assert problems.bad.tolist() == [False, True], cell


@pytest.mark.parametrize(
    ("columns", "place"),
    [
        ('sparse: [{name: t, part: hour, timeFormat: "%H:%M %Z"}]', r"columns\.sparse\[0\]\.timeFormat"),
        ('sparse: [{name: c}], time: t, timeFormat: "%H:%M %Z"', r"columns\.timeFormat"),
    ],
)
def test_a_form_with_names_of_zones_is_refused(columns: str, place: str) -> None:
    """Arrow passes over the name: 10:00 PST was 10:00 UTC. A per cent sign before a Z is none."""
    job = "apiVersion: bagpipe.dev/v1alpha1\nkind: BagpipeJob\nspec:\n  data:\n    path: log.csv\n    columns: "
    with pytest.raises(ConfigError, match=rf"{place}: '%H:%M %Z': %Z: names of zones are not read; write the name"):
        parse_job(f"{job}{{labels: [{{name: y}}], {columns}}}", "job.yaml")
    parse_job(f"{job}{{labels: [{{name: y}}], {columns.replace('%Z', '%%Z')}}}", "job.yaml")


def test_the_last_nanosecond_of_an_hour() -> None:
    table = pa.table({"t": [3_600 * 10**9 * 400_000 - 1]})
    column = SparseColumn("t", part="hour", time_format="unix-ns")
    codes = sparse_cells(table, column, "token", Problems(np.zeros(1, np.bool_))).codes.tolist()
    assert codes[0].to_bytes(8, "big").rstrip(b"\0") == b"15"  # Hour 400,000 since 1970 is 16 o'clock.


def test_a_moment_has_one_hour_in_whatever_zone_a_column_has_it() -> None:
    """23:30 of a Sunday in UTC: Monday in Berlin and Kolkata, whose hours are others."""
    moment = dt.datetime(2024, 3, 31, 23, 30, tzinfo=dt.UTC)
    zones = ("UTC", "Europe/Berlin", "Asia/Kolkata", "-07:00")
    forms = [pa.array([moment, None], pa.timestamp(unit, zone)) for zone in zones for unit in ("s", "ns")]
    forms += [pa.array(["2024-04-01T05:00:00+05:30", None]), pa.array([moment.replace(tzinfo=None), None])]
    for cells in forms:
        for part, expected in (("hour", b"23"), ("weekday", b"6")):
            column = SparseColumn("t", part=part)  # type: ignore[arg-type]  # one of the two
            problems = Problems(np.zeros(2, np.bool_))
            codes = sparse_cells(pa.table({"t": cells}), column, "token", problems).codes.tolist()
            assert (codes[0].to_bytes(8, "big").rstrip(b"\0"), codes[1]) == (expected, 0), cells.type
            assert not problems.bad.any()


def test_narrow_floats_are_compared_as_their_column_holds_them() -> None:
    """0.7 of 32 or 16 bits is not 0.7 of 64, and a rule or a boundary of 0.7 means that cell all the same."""
    rules = {
        "x >= 0.7": [0, 1, 1],
        "x > 0.7": [0, 0, 1],
        "x == 0.7": [0, 1, 0],
        "x < 0.7": [1, 0, 0],
        "x == '0.7'": [0, 1, 0],
    }
    for kind in (np.float16, np.float32, np.float64):
        table = pa.table({"x": np.array([0.6, 0.7, 0.8], kind), "two": np.array([0.1, 0.7, 0.1], kind)})
        problems = Problems(np.zeros(3, np.bool_))
        for rule, expected in rules.items():
            assert label_cells(table, LabelColumn("y", rule=rule), problems).tolist() == expected, (kind, rule)
        both = LabelColumn("y", rule="two == 0.7 else 0.1")
        assert label_cells(table, both, problems).tolist() == [0, 1, 0]
        places = sparse_cells(table, SparseColumn("x", boundaries=(0.7, 0.8, 1e9)), "interval", problems).codes
        assert places.tolist() == [1, 2, 3] and not problems.bad.any()


def test_exports_know_the_same_times() -> None:
    assert column_rules.UNIX_TIMES == column_settings.UNIX_TIMES


def test_names_for_files_without_a_line_of_them(tmp_path: Path) -> None:
    """A header that is there all the same is no row; a line of another width is refused by its number."""
    job = """spec: {{data: {{path: {}, encoding: vocabulary, columns: {{
        header: [y, user, item], labels: [{{name: y}}], sparse: [{{name: user}}, {{name: item}}]}}}}}}"""
    rows = [f"{i % 2},u{i % 3},i{i % 4}" for i in range(12)]
    for name, lines in (("bare", rows), ("named", ["y,user,item", *rows]), ("one", rows)):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        (batch,) = opened(parse_job(job.format(path), "job").spec.data, tmp_path).train_batches(99, epochs=1)
        assert batch.labels_BL[:, 0].tolist() == [i % 2 for i in range(12)]
        names = ["y", "user", "item"]
        (file,) = files_of(str(path))
        alone = pa.concat_tables(tables_of(file, names, types_of(file, names), names)).to_pydict()
        assert [",".join(cells) for cells in zip(*alone.values(), strict=True)] == rows, "an export reads the same"
    (tmp_path / "wide").write_text("\n".join([*rows[:5], f"{rows[5]},more"]) + "\n")
    with pytest.raises(DataError, match=r"wide: row 6 \(line 6\): expected 3 fields, found 4"):
        opened(parse_job(job.format(tmp_path / "wide"), "job").spec.data, tmp_path)
