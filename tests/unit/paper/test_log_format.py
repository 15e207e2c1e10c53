"""What does the parser make of a trainer's log: ours, the original's, older ones, TorchRec's?"""

import statistics
from datetime import datetime
from pathlib import Path

import pytest

from bagpipe.errors import ConfigError, DataError
from bagpipe.paper.breakdown import breakdown_svg
from bagpipe.paper.log_format import log_name, parse_lines, read_log, timing
from bagpipe.paper.log_parser import run


def original(number: int, parts: tuple[float, float, float, float]) -> list[str]:
    """An iteration as the original wrote it: no time of the whole."""
    following, forward, backward, optimizer = parts
    return [
        "INFO:root:prefetch queue size 3",
        f"INFO:root:Iter cleanup {number}",
        f"INFO:root:Current Iter {number}",
        f"INFO:root:Loss 0.{number + 1}",
        "INFO:root:Sync Now Shape torch.Size([12, 48])",
        f"INFO:root:Next Batch Time {following}ms",
        "INFO:root:Get Emb Time 0.5ms",
        f"INFO:root:Forward Time {forward}ms",
        f"INFO:root:Backward Time {backward}ms",
        f"INFO:root:Dense Optim Time {optimizer}ms",
    ]


TIMES = [(100.0, 2.0, 3.0, 1.0), (4.0, 2.0, 3.0, 1.0), (6.0, 2.0, 3.0, 1.0), (5.0, 2.5, 3.0, 1.0)]


def test_an_original_log_is_the_sum_of_its_parts() -> None:
    """Mean and sample deviation of the four parts' sums, the warm-up left out; closing averages are no iterations."""
    lines = [line for number, parts in enumerate(TIMES) for line in original(number, parts)]
    lines += ["INFO:root:Average Forward time: 9.9ms", "INFO:root:Total Time of 4 iterations: 123.0ms"]
    log = parse_lines(lines)
    found = timing(log, warm_up=1)
    assert (found.iterations, found.warm_up) == (3, 1)
    assert found.mean_ms == pytest.approx(statistics.fmean([10.0, 12.0, 11.5]))
    assert found.deviation_ms == pytest.approx(statistics.stdev([10.0, 12.0, 11.5]))
    assert found.parts["Next Batch Time"] == pytest.approx(5.0) and found.parts["Get Emb Time"] == pytest.approx(0.5)
    assert log.losses == [0.1, 0.2, 0.3, 0.4]
    assert "the first 1 excluded as warm-up" in str(found)


def test_an_explicit_iteration_time_wins() -> None:
    """Our own line is the whole, whatever the parts add up to."""
    found = timing(parse_lines([*original(0, TIMES[1]), "INFO:root:Iteration Time: 77.5ms"]))
    assert found.mean_ms == 77.5 and found.warm_up == 0


def test_older_logs_and_torchrecs() -> None:
    """`Total end to end time(ms)` is an iteration; TorchRec's log states an average and nothing to deviate from."""
    older = timing(
        parse_lines(["INFO:root:Total end to end time(ms) 12.0", "INFO:root:Total end to end time(ms) 14.0"])
    )
    assert older.mean_ms == 14.0 and older.warm_up == 1
    line = "For a total of 2000 iterations, torchrec takes on average 250.5 ms with batch size of 2048"
    torchrec = timing(parse_lines([line]))
    assert (torchrec.mean_ms, torchrec.deviation_ms, torchrec.iterations) == (250.5, None, 2000)
    assert "no standard deviation" in str(torchrec)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """A missing file and one without iterations are named."""
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "absent.log")
    (tmp_path / "other.log").write_text("INFO:root:Rpc init\n")
    with pytest.raises(DataError, match="expected a trainer's log"):
        read_log(tmp_path / "other.log")


def test_a_picture_replaces_no_file_unless_it_is_allowed_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one that was named nor one beside the log, whose name nobody gave."""
    log = tmp_path / "worker.log"
    log.write_text("\n".join(line for number, parts in enumerate(TIMES) for line in original(number, parts)))
    for name, option in (("mine.svg", ["--plot", str(tmp_path / "mine.svg")]), ("worker.log.svg", ["--plot"])):
        picture = tmp_path / name
        picture.write_text("theirs")
        with pytest.raises(ConfigError, match=f"{name}: exists already; .* or allow --overwrite$"):
            run([str(log), *option])
        assert picture.read_text() == "theirs"
        run([str(log), *option, "--overwrite"])
        assert picture.read_text().startswith("<svg") and f"plot: {picture}" in capsys.readouterr().out


def test_names() -> None:
    """As the paper describes them."""
    at = datetime(2023, 10, 19, 9, 5)
    assert log_name(3, "run_dlrm", "bagpipe", at) == "training_worker_3_09:05_October_19_2023_run_dlrm_bagpipe.log"


def test_the_breakdown_draws_every_part() -> None:
    """One bar for each part and for what is inside; a part begins where the one before ends."""
    lines = [line for number, parts in enumerate(TIMES) for line in original(number, parts)]
    drawn = breakdown_svg(timing(parse_lines(lines), warm_up=1), "a <log>")
    for name in ("Next Batch", "Forward", "Backward", "Dense Optim", "Get Emb"):
        assert name in drawn
    assert "a &lt;log&gt;" in drawn and drawn.count("<rect") == 1 + 5
