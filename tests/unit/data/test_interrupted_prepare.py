"""A preparation that is killed goes on where it was, and what it writes in the end is the same to the byte."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bagpipe.cli.data import _Progress
from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig
from bagpipe.data import column_files, files, prepared_parts
from bagpipe.data.output import going_on
from bagpipe.data.prepare import prepare
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.lease import Lease, Owner


class Killed(BaseException):
    """Nobody catches this, as nobody catches a kill."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 32 examples that begin and end in the middle of blocks."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 16)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 32)
    monkeypatch.setattr(files.text_blocks, "__defaults__", (2000,))
    monkeypatch.setattr(column_files, "BLOCK_BYTES", 700)


def own_columns(folder: Path) -> DataConfig:
    """A CSV with bad rows here and there, split by time into three parts, with a vocabulary and means."""
    rng = random.Random(2)
    lines = ["y,item,price,when"]
    for row in range(200):
        lines.append(f"{rng.randrange(2)},i{rng.randrange(30)},{rng.randrange(50)},{rng.randrange(10**6)}")
        if row % 37 == 20:
            lines.append("1,i1")
    path = folder / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    columns = ColumnsConfig(
        labels=(LabelColumn("y"),),
        dense=(DenseColumn("price", standardise=True),),
        sparse=(SparseColumn("item"),),
        time="when",
    )
    return DataConfig(
        path=str(path), columns=columns, split_by="time", test=0.2, validation=0.2, on_bad_line="skip", oov=2
    )


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(params=[("criteo", 0), ("hashed", 2), ("own columns", 0), ("own columns", 2)], ids=str)
def data(request: pytest.FixtureRequest, criteo_file: Path, tmp_path: Path) -> DataConfig:
    """And how many threads read it."""
    kind, readers = request.param
    if kind == "own columns":
        return msgspec.structs.replace(own_columns(tmp_path), readers=readers)
    encoding: Any = "hash" if kind == "hashed" else "vocabulary"
    return DataConfig(path=str(criteo_file), encoding=encoding, test_fraction=0.1, readers=readers)


def stopping(at: int, told: list[tuple[str, float]]) -> Callable[[str, float], None]:
    def tell(stage: str, done: float) -> None:
        told.append((stage, done))
        if len(told) == at:
            raise Killed

    return tell


def test_killed_anywhere_it_goes_on_and_writes_the_same_bytes(data: DataConfig, tmp_path: Path) -> None:
    """At every moment that progress is told of: what was learned is not learned again, whole parts are not written
    again, and neither the bytes nor the count of bad lines tell of it.
    """
    told: list[tuple[str, float]] = []
    whole = prepare(data, tmp_path / "whole", progress=stopping(0, told))
    expected = content(whole.folder)
    assert len(expected) == 7
    learning = [stage for stage, _ in told].index("writing Parquet")
    for at in range(1, len(told) + 1):
        out = tmp_path / f"out-{at}"
        with pytest.raises(Killed):
            prepare(data, out, progress=stopping(at, []))
        assert not out.exists()
        again: list[tuple[str, float]] = []
        done = prepare(data, out, progress=stopping(0, again))
        written = 16 * (at - learning)
        assert done.begun_at == max(0, (written - 1) // 32 * 32)
        assert ("building the vocabulary" in [stage for stage, _ in again]) <= (at <= learning)
        assert content(out) == expected
        assert (done.examples, done.info) == (whole.examples, whole.info)
    assert not list(tmp_path.glob(".*"))


def killed_process(data: DataConfig, out: Path, at: int) -> None:
    told = 0

    def tell(stage: str, done: float) -> None:
        nonlocal told
        told += 1
        if told == at:
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(data, out, progress=tell)


def test_a_process_that_is_killed_again_and_again_comes_to_its_end(tmp_path: Path) -> None:
    """SIGKILL after every few row groups, each time in a new process: each gets further."""
    data, out = own_columns(tmp_path), tmp_path / "out"
    expected = content(prepare(data, tmp_path / "whole").folder)
    context = multiprocessing.get_context("fork")
    codes = []
    while not out.exists():
        process = context.Process(target=killed_process, args=(data, out, 7))
        process.start()
        process.join()
        codes.append(process.exitcode)
        assert len(codes) < 20
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL}
    assert len(codes) > 2
    assert content(out) == expected


def test_other_data_or_settings_begin_anew(tmp_path: Path) -> None:
    """A draft of other content is removed, not continued."""
    data, out = own_columns(tmp_path), tmp_path / "out"
    with pytest.raises(Killed):
        prepare(data, out, progress=stopping(9, []))
    assert len(list(tmp_path.glob(".out.*.draft"))) == 1
    path = tmp_path / "log.csv"
    path.write_text(path.read_text().replace("i1,", "i2,"))
    done = prepare(own_columns(tmp_path), out)
    assert done.begun_at == 0
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_draft_is_not_trusted(tmp_path: Path) -> None:
    """Half a state, half a part, a vocabulary that is another: all is made again, and right."""
    data = own_columns(tmp_path)
    expected = content(prepare(data, tmp_path / "whole").folder)
    for name in ("state", "part-00000.parquet", "learned/vocabulary.arrow"):
        out = tmp_path / "out"
        with pytest.raises(Killed):
            prepare(data, out, progress=stopping(9, []))
        (draft,) = tmp_path.glob(".out.*.draft")
        half = (draft / name).read_bytes()
        (draft / name).write_bytes(half[: len(half) // 2])
        done = prepare(data, out, overwrite=True)
        assert (done.begun_at, content(out)) == (0, expected)
        for part in out.iterdir():
            part.unlink()
        out.rmdir()


def test_an_error_leaves_no_draft(tmp_path: Path) -> None:
    """Trying again would meet the same row, so nothing waits for it."""
    path = tmp_path / "log.csv"
    path.write_text("y,item\n" + "".join(f"{i % 2},i{i % 9}\n" for i in range(90)) + "maybe,i1\n")
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("item"),))
    with pytest.raises(DataError, match="row 91: column y"):
        prepare(DataConfig(path=str(path), columns=columns), tmp_path / "out")
    assert os.listdir(tmp_path) == ["log.csv"]


def test_two_do_not_write_one_output(tmp_path: Path) -> None:
    """The second is refused by the first one's name, whatever it would write."""
    data, out = own_columns(tmp_path), tmp_path / "out"
    words = r"out: .* is in use by bagpipe data prepare \(host .*, pid "
    with going_on(out, "0123456789abcdef", overwrite=False), pytest.raises(ConfigError, match=words):
        prepare(data, out)
    assert out.is_dir()
    us = Owner("somebody", "here", 1, "", "")
    with Lease.take(out, "out", us):
        pass


def test_progress_tells_how_long_it_will_take() -> None:
    """By the pace of this stage in this process, which may have begun in the middle."""
    now = [100.0]
    progress = _Progress(lambda: now[0])
    assert progress.line("counting", 0.0) == "counting"
    now[0] = 110.0
    assert progress.line("counting", 0.25) == "counting:  25%, 30 s left"
    assert progress.line("writing", 0.5) == "writing:  50%"
    now[0] = 170.0
    assert progress.line("writing", 0.6) == "writing:  60%, 4 min left"
    now[0] = 110.0 + 3600.0
    assert progress.line("writing", 0.7) == "writing:  70%, 1.5 h left"
    assert progress.line("writing", 1.0) == "writing: 100%"
