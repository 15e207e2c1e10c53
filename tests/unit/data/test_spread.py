"""Data that tasks prepare is the same to the byte, in whatever processes they run and however it is cut."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import ends_in

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, SyntheticConfig
from bagpipe.data import column_files, files, prepared_parts, stretches, tasks, vocabulary
from bagpipe.data.files import find_files
from bagpipe.data.formats import open_raw
from bagpipe.data.prepare import prepare
from bagpipe.data.stretches import StretchSource, cut_into_stretches
from bagpipe.data.tasks import run_packed
from bagpipe.errors import BagpipeError, ConfigError, DataError


class Killed(BaseException):
    """Nobody catches this, as nobody catches a kill."""


class Shuffled:
    """Runs all tasks in an order of its own, each twice, and gives the answers in that of the tasks."""

    def __init__(self, seed: int = 0, killed_after: int | None = None) -> None:
        self.rng, self.left = random.Random(seed), killed_after

    def map(self, messages: Sequence[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
        answers: dict[int, Any] = {}
        order = [*range(len(messages))] * 2
        self.rng.shuffle(order)
        for count, number in enumerate(order):
            try:
                answers[number] = run_packed(messages[number])
            except BagpipeError as error:
                answers[number] = error
            done(count // 2)
        for number in range(len(messages)):
            if isinstance(answers[number], Exception):
                raise answers[number]
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise Killed
            yield answers[number]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 32 examples that begin and end in the middle of blocks, stretches of a few of these."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 16)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 32)
    monkeypatch.setattr(files.text_blocks, "__defaults__", (600,))
    monkeypatch.setattr(column_files, "BLOCK_BYTES", 300)
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 1500)
    monkeypatch.setattr(vocabulary, "HELD_VALUES", 1280)


COLUMNS = ColumnsConfig(
    labels=(LabelColumn("y"),),
    dense=(
        DenseColumn("price", standardise=True),
        DenseColumn("item", count="number", standardise=True),
        DenseColumn("share", column="user", count="log-share"),
    ),
    sparse=(SparseColumn("item"), SparseColumn("other", table="item")),
    time="when",
    group="user",
)


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "y": rng.randrange(2),
            "item": f"i{int(rng.random() ** 3 * 60)}" if rng.random() < 0.9 else None,
            "other": f"i{rng.randrange(60)}",
            "price": rng.random() * 50 if rng.random() < 0.9 else None,
            "when": rng.randrange(10**6),
            "user": rng.randrange(40),
        }
        for _ in range(count)
    ]


def csv_folder(folder: Path) -> None:
    """Several files, one of them large, one empty; with rows that have too few fields."""
    for number, count in enumerate((40, 150, 0, 30, 5)):
        lines = ["y,item,other,price,when,user"] if count else []
        for place, row in enumerate(rows(number, count)):
            lines.append(",".join("" if value is None else str(value) for value in row.values()))
            if place % 37 == 20:
                lines.append("1,i1")
        (folder / f"{number}.csv").write_text("\n".join(lines) + "\n" * bool(lines))


def parquet_folder(folder: Path) -> None:
    """Files of one and of many row groups."""
    for number, (count, group) in enumerate(((60, 60), (150, 11), (30, 7))):
        pq.write_table(pa.Table.from_pylist(rows(number, count)), folder / f"{number}.parquet", row_group_size=group)


def jsonl_folder(folder: Path) -> None:
    for number in range(4):
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(number, 50)))


@pytest.fixture
def make(
    tmp_path: Path, criteo_lines: Callable[..., list[str]], ragged_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], DataConfig]:
    def made(name: str) -> DataConfig:
        folder = tmp_path / "data"
        folder.mkdir()
        kind, _, split = name.partition(" by ")
        if kind == "synthetic":
            monkeypatch.setattr(prepared_parts, "ROW_GROUP", 1000)  # its blocks are of 4,096 examples
            monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 2000)
            return DataConfig(format="synthetic", synthetic=SyntheticConfig(examples=9000, table_sizes=(20, 30)))
        if kind == "ids":
            (folder / "a.json").write_bytes(ragged_file.read_bytes())
            (folder / "b.json").write_bytes(ragged_file.read_bytes())
            return DataConfig(path=str(folder))
        if kind.startswith("criteo"):
            for number in range(3):
                (folder / f"{number}.txt").write_text("\n".join(criteo_lines(70, number)) + "\n")
            encoding: Any = kind.removeprefix("criteo ")
            return DataConfig(path=str(folder), encoding=encoding, test_fraction=0.3, min_count=2)
        {"csv": csv_folder, "parquet": parquet_folder, "jsonl": jsonl_folder}[kind](folder)
        data = DataConfig(path=str(folder), columns=COLUMNS, on_bad_line="skip", oov=2)
        if split == "nothing":
            return data
        return msgspec.structs.replace(data, split_by=split, test=0.2, validation=0.15)

    return made


ALL = [
    *(f"{kind} by {split}" for kind in ("csv", "parquet") for split in ("nothing", "order", "time", "group")),
    *("jsonl by time", "criteo hash", "criteo vocabulary", "ids", "synthetic"),
]


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ALL)
def test_tasks_write_the_bytes_of_one_process(name, make, tmp_path):
    """For every kind of data, split and encoding; in stretches, in any order, and with every task done twice."""
    data = make(name)
    whole = prepare(data, tmp_path / "whole")
    spread = prepare(data, tmp_path / "spread", engine=Shuffled())
    assert content(spread.folder) == content(whole.folder)
    assert (spread.examples, spread.info) == (whole.examples, whole.info)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["csv by time", "parquet by order"])
def test_killed_anywhere_it_goes_on_with_tasks_or_alone(name, make, tmp_path):
    """After some number of answers; the next process is an engine's or works alone, and writes the same bytes; what was
    learned and whole parts are not made again.
    """
    data = make(name)
    expected = content(prepare(data, tmp_path / "whole").folder)
    for at in range(0, 1000, 9):
        out = tmp_path / f"out-{at}"
        try:
            prepare(data, out, engine=Shuffled(at, killed_after=at))
            break
        except Killed:
            pass
        told: list[str] = []
        engine = Shuffled() if at % 2 else None
        done = prepare(data, out, engine=engine, progress=lambda stage, share: told.append(stage))
        assert content(out) == expected
        assert done.begun_at == 0 or "building the vocabulary" not in told
    assert done.begun_at > 0
    assert at >= 15
    assert not list(tmp_path.glob(".*"))


def test_one_process_is_killed_and_an_engine_goes_on(make, tmp_path):
    """The other way round."""
    data = make("csv by time")
    expected = content(prepare(data, tmp_path / "whole").folder)
    with pytest.raises(Killed):
        prepare(data, tmp_path / "out", progress=ends_in("writing Parquet", 7, Killed))
    done = prepare(data, tmp_path / "out", engine=Shuffled())
    assert done.begun_at > 0
    assert content(done.folder) == expected


def test_the_pieces_of_all_stretches_are_those_of_the_whole(make):
    """A large Parquet file is cut at its row groups, small files are taken together, nothing twice."""
    data = make("parquet by nothing")
    found = find_files(data.path)
    raw = open_raw(data, "columns", found, 0)
    cut = cut_into_stretches(raw, found)
    assert len(cut) > 3
    assert any(stretch.begin for stretch in cut)
    wanted = [(piece.file, piece.first_row) for piece in raw.pieces(0)[1]]
    pieces = [p for stretch in cut for p in StretchSource(raw, stretch).pieces(0)[1]]
    assert [(piece.file, piece.first_row) for piece in pieces] == wanted
    assert [raw.parse(piece).codes_N.tolist() for piece in pieces] == [
        raw.parse(piece).codes_N.tolist() for piece in raw.pieces(0)[1]
    ]


def test_small_files_are_read_together(make, monkeypatch):
    """And the number of stretches is bounded."""
    data = make("csv by nothing")
    found = find_files(data.path)
    raw = open_raw(data, "columns", found, 0)
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 1 << 20)
    assert [len(stretch.files) for stretch in cut_into_stretches(raw, found)] == [5]
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 0)
    monkeypatch.setattr(stretches, "MOST_STRETCHES", 2)
    assert len(cut_into_stretches(raw, found)) <= 4


def test_the_first_error_of_the_data_is_told(make, tmp_path):
    """Not the one that some worker met first."""
    data = make("csv by order")
    for number in (1, 4):
        path = tmp_path / "data" / f"{number}.csv"
        path.write_text(path.read_text() + "maybe,i1,i2,3,4,5\n")
    data = msgspec.structs.replace(data, on_bad_line="fail")
    with pytest.raises(DataError) as alone:
        prepare(data, tmp_path / "out")
    for seed in range(3):
        with pytest.raises(DataError) as spread:
            prepare(data, tmp_path / "out", engine=Shuffled(seed))
        assert str(spread.value) == str(alone.value)
    assert not list(tmp_path.glob("*out*"))


def test_workers_of_other_versions_are_refused(make, tmp_path, monkeypatch):
    """They would write other bytes."""
    data = make("criteo hash")
    send = tasks.packed

    def sent(task: Any) -> bytes:
        with monkeypatch.context() as patched:
            patched.setattr(tasks, "VERSIONS", {**tasks.VERSIONS, "pyarrow": "1.0"})
            return send(task)

    monkeypatch.setattr("bagpipe.data.spread.packed", sent)
    with pytest.raises(ConfigError, match=r"pyarrow is .* for a worker on host .* and 1.0 here.*install the same"):
        prepare(data, tmp_path / "out", engine=Shuffled())


def test_workers_that_do_not_see_the_output_are_refused(make, tmp_path):
    """By the name of the folder."""

    class Elsewhere(Shuffled):
        def map(self, messages: Sequence[bytes], done: Callable[[int], None]) -> Iterator[bytes]:
            for folder in tmp_path.glob(".out.*.draft/work"):
                shutil.rmtree(folder)
            return super().map(messages, done)

    data = make("criteo hash")
    with pytest.raises(ConfigError, match=r"not seen by a worker on host .* that all workers share"):
        prepare(data, tmp_path / "out", engine=Elsewhere())
