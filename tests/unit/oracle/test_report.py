"""The figures of training begin and end with its steps, and the loss of the last one outlives the process."""

import errno
import json
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bagpipe.batch import Cursor
from bagpipe.errors import StorageError
from bagpipe.lowlevel.strict_json import encode
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import StepDone
from bagpipe.oracle.service.kept import Kept, ScoreFile, read_scores
from bagpipe.oracle.service.kept_names import LAST_LOSS
from bagpipe.oracle.service.ledger import Told, ToldStep
from bagpipe.oracle.service.phases import Ending, Figures, Start
from bagpipe.oracle.service.report import METRICS, Reporter, TrainingFigures, keep_loss, kept_loss
from bagpipe.oracle.sizing.auto import ResolvedSettings


def step(number: int, *, loss: float = 0.5, seconds: float = 0.1, world: int = 1) -> ToldStep:
    parts = [
        StepDone(rank=rank, step=number, loss=loss, num_examples=100, seconds=seconds, waits={"plan": 0.2})
        for rank in range(world)
    ]
    return ToldStep(number, tuple(Told(part, np.empty(0, np.float32)) for part in parts))


def test_examples_per_second_begin_with_the_first_steps_end_and_end_with_the_last() -> None:
    """Ten seconds of start-up before the first step and any time after the last one change nothing."""
    training = TrainingFigures(log_every=1, loss=None, total_steps=3)
    records = [training.add(step(n), 10.0 + 0.25 * n, hit_rate=1.0) for n in range(3)]
    assert training.figures().examples_per_second == 2 * 100 / 0.5
    assert [r["examples_per_second"] for r in records if r] == [1000.0, 400.0, 400.0]


def test_steps_that_are_heard_of_at_once_took_what_their_trainers_took() -> None:
    """An oracle that had no processor for a while told of 1,355,172 examples/s, of 300 examples."""
    training = TrainingFigures(log_every=4, loss=None, total_steps=4)
    for n in range(4):
        record = training.add(step(n, seconds=0.5, world=2), 20.0 + 1e-4 * n, hit_rate=1.0)
    assert record is not None and record["examples_per_second"] == 3 * 200 / 1.5
    assert training.figures().examples_per_second == 3 * 200 / 1.5


def test_one_single_step_has_the_rate_of_its_slowest_trainer() -> None:
    """There is no time between steps; its own duration counts."""
    training = TrainingFigures(log_every=5, loss=None, total_steps=1)
    record = training.add(step(0, seconds=0.5, world=2), 99.0, hit_rate=0.25)
    assert record is not None and record["examples_per_second"] == 400.0
    assert training.figures().examples_per_second == 400.0


def test_nothing_trained_has_no_rate() -> None:
    """A resumed run that finds nothing left says 0, and the loss it was told."""
    figures = TrainingFigures(log_every=1, loss=0.25).figures()
    assert (figures.examples_per_second, figures.loss, figures.waits) == (0.0, 0.25, {})


def test_waits_are_means_over_trainers_summed_over_all_steps() -> None:
    """Also of steps behind the last record."""
    training = TrainingFigures(log_every=10, loss=None)
    for n in range(3):
        training.add(step(n, world=2), float(n), hit_rate=1.0)
    assert training.figures().waits == pytest.approx({"plan": 0.6})


def test_a_loss_that_is_not_finite_leaves_as_null_with_a_word(tmp_path: Path) -> None:
    """In metrics.jsonl, report.json and the note beside the checkpoints, and is read back as it was."""
    reporter = Reporter(tmp_path, attempt=0, log_every=1)
    reporter.step(step(0, loss=math.nan), hit_rate=1.0)
    reporter.finish(encode({"loss": reporter.training.figures().loss}))
    reporter.close()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    for name in ("metrics.jsonl", "report.json"):
        record = json.loads((tmp_path / name).read_text(), parse_constant=refuse)
        assert record["loss"] is None and record["notFinite"] == {"loss": "NaN"}
    keep_loss(tmp_path, 8, math.nan)
    json.loads((tmp_path / LAST_LOSS).read_text(), parse_constant=refuse)
    assert math.isnan(kept_loss(tmp_path, 8) or 0.0)


def test_an_oracle_that_takes_over_writes_no_record_twice(tmp_path: Path) -> None:
    """Records of its predecessor stand; those of an earlier attempt, which went further, are no reason to be silent."""
    for attempt, steps in ((0, [0, 1, 2, 3]), (1, [1, 2]), (1, [1, 2, 3, 4])):
        reporter = Reporter(tmp_path, attempt=attempt, log_every=1)
        reporter.begin_training(Start(0, Cursor(), None), 9, ResolvedSettings(1, (1,), ""))
        for number in steps:
            reporter.step(step(number, loss=float(number)), hit_rate=1.0)
        assert reporter.training.figures().loss == steps[-1]
        reporter.close()
    records = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [r["step"] for r in records if "step" in r] == [1, 2, 3, 4, 2, 3, 4, 5]


def test_an_attempt_with_nothing_left_to_train_knows_the_loss(tmp_path: Path) -> None:
    """It is found for the very step it belongs to, to the bit."""
    keep_loss(tmp_path, 1000, 0.1 + 0.2)
    assert kept_loss(tmp_path, 1000) == 0.1 + 0.2
    assert kept_loss(tmp_path, 999) is None


def test_no_note_is_no_error(tmp_path: Path) -> None:
    """None, half of one, one that cannot be written."""
    keep_loss(tmp_path / "elsewhere", 1, 0.5)
    keep_loss(tmp_path, 1, None)
    assert kept_loss(tmp_path, 1) is None
    (tmp_path / LAST_LOSS).write_text('{"step": 1')
    assert kept_loss(tmp_path, 1) is None


def test_a_full_disk_under_the_metrics_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, what it needs and what to do: no bug of ours, and closing it afterwards hides nothing."""
    reporter = Reporter(tmp_path, attempt=0, log_every=1)
    reporter.close()
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(reporter, "_file", full)
        told = r"metrics\.jsonl: cannot be written: No space left on device \(1 KiB needed, .* free\); free some space"
        with pytest.raises(StorageError, match=told):
            reporter.event("preparing")
        reporter.close()


def test_figures_are_kept_for_an_oracle_that_takes_over(tmp_path: Path) -> None:
    """Of its own attempt only; a loss that is not finite too."""
    Kept(tmp_path, 3).keep_figures(Figures(math.inf, 12.5, {"plan": 0.25}))
    assert Kept(tmp_path, 3).figures() == Figures(math.inf, 12.5, {"plan": 0.25})
    assert Kept(tmp_path, 4).figures() is None and Kept(tmp_path, 3).topology() is None


def test_scores_are_read_up_to_the_record_that_a_kill_cut_off(tmp_path: Path) -> None:
    """Every whole record, to the bit; an oracle that ends by itself leaves no file."""
    path = tmp_path / "scores"
    logits = [np.array([0.1, math.nan], np.float32), np.empty(0, np.float32), np.array([1e-30], np.float32)]
    with pytest.raises(KeyboardInterrupt), ScoreFile(path, {}) as scores:  # noqa: PT012
        for number, part in enumerate(logits):
            scores.append(7, number, part)
        raise KeyboardInterrupt
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = list(read_scores(path))
        assert [(s, r) for s, r, _ in found] == [(7, n) for n in range(len(found))]
        for (_, rank, got), expected in zip(found, logits, strict=False):
            assert got.tobytes() == expected.tobytes(), rank
    assert len(found) == 3
    assert list(read_scores(tmp_path / "none")) == []


def test_scores_survive_a_second_kill(tmp_path: Path) -> None:
    """What is appended after a record that a kill cut off is read again: the file begins anew with what is known."""
    path, part = tmp_path / "scores", np.array([0.5], np.float32)
    with pytest.raises(KeyboardInterrupt), ScoreFile(path, {}) as scores:  # noqa: PT012
        scores.append(7, 0, part)
        scores.append(7, 1, part)
        raise KeyboardInterrupt
    path.write_bytes(path.read_bytes()[:-3])
    known = {step: {rank: logits} for step, rank, logits in read_scores(path)}
    with pytest.raises(KeyboardInterrupt), ScoreFile(path, known) as scores:  # noqa: PT012
        scores.append(7, 1, part)
        scores.append(8, 0, part)
        raise KeyboardInterrupt
    assert [(step, rank) for step, rank, _ in read_scores(path)] == [(7, 0), (7, 1), (8, 0)]


def test_scores_that_cannot_be_kept_end_nothing(tmp_path: Path) -> None:
    """Neither a folder that is gone nor a full disk (here: a limit of a file's size) ends an evaluation."""
    part = np.zeros(64, np.float32)
    with ScoreFile(tmp_path / "gone" / "scores", {}) as scores:
        scores.append(0, 0, part)
    path = tmp_path / "scores"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(KeyboardInterrupt), ScoreFile(path, {}) as scores:  # noqa: PT012
            scores.append(0, 0, part)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
            scores.append(0, 1, part)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            scores.append(0, 2, part)
            raise KeyboardInterrupt
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(step, rank) for step, rank, _ in read_scores(path)] == [(0, 0)]


def test_what_an_attempt_came_to_is_kept_until_it_is_over(tmp_path: Path) -> None:
    """For a process that takes over while the roles leave, with those that have left; then nothing is left over."""
    kept, ending = Kept(tmp_path, 3), Ending(30, stopped=False, report='{"loss": null}\n')
    assert kept.ending() is None
    kept.keep_figures(Figures(0.5, 1.0, {}))
    for left in ([], [1], [0, 1]):
        kept.keep_ending(ending, left)
        assert Kept(tmp_path, 3).ending() == (ending, frozenset(left)) and Kept(tmp_path, 4).ending() is None
    kept.forget()
    assert list(tmp_path.iterdir()) == []


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[:-1],
    "a page of zeroes": lambda whole: bytes(len(whole)),
    "one bit": lambda whole: whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
    "longer": lambda whole: whole + b" ",
    "of something else": lambda whole: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_kept_and_damaged_is_not_taken_for_missing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A successor would tell the roles otherwise than its predecessor, or end with a bug: the run goes back (75)."""
    kept = Kept(tmp_path, 3)
    validation = Validation(step=5, figures={"auc": 0.5})
    written: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "trained-3.json": (lambda: kept.keep_figures(Figures(0.5, 1.0, {})), kept.figures),
        "validations-3.json": (lambda: kept.keep_validations([validation]), kept.validations),
        "leaving-3.json": (lambda: kept.keep_ending(Ending(30, stopped=False, report="{}"), [1]), kept.ending),
    }
    for name, (write, read) in written.items():
        assert read() is None
        write()
        assert read() is not None
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(StorageError, match=rf"{name}: damaged since .*goes back to its newest checkpoint") as told:
            read()
        assert told.value.exit_code == 75
        path.unlink()
        path.mkdir()
        with pytest.raises(StorageError, match=rf"{name}: cannot be read: Is a directory"):
            read()


@pytest.mark.parametrize(("number", "code", "does"), [(errno.EIO, 75, "goes back to"), (errno.EMFILE, 78, "ulimit -n")])
def test_what_is_kept_and_cannot_be_read_is_for_good_of_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, does: str
) -> None:
    def refused(_: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StorageError, match=rf"trained-3.json: cannot be read: .*; .*{does}") as told:
        Kept(tmp_path, 3).figures()
    assert told.value.exit_code == code


def test_scores_are_read_up_to_the_first_that_is_damaged(tmp_path: Path) -> None:
    """Whatever bit a disk has turned: no wrong figure comes of it, and no error but evaluating again."""
    path = tmp_path / "scores"
    parts = [np.array([0.5, 2.0], np.float32), np.array([0.25], np.float32)]
    with pytest.raises(KeyboardInterrupt), ScoreFile(path, {}) as scores:  # noqa: PT012
        for rank, part in enumerate(parts):
            scores.append(7, rank, part)
        raise KeyboardInterrupt
    whole = path.read_bytes()
    for at in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        found = [(step, rank, logits.tolist()) for step, rank, logits in read_scores(path)]
        assert found == [(7, 0, [0.5, 2.0])][: len(found)], at
    path.write_bytes(whole + bytes(4096))
    assert len(list(read_scores(path))) == 2
