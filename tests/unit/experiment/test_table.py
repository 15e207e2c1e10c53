"""From a run's records to the table and the picture."""

import csv
import io
import json
import statistics
import xml.etree.ElementTree as ET

import pytest

from bagpipe.errors import DataError
from bagpipe.experiment.measure import Timing, timing, torchrec_timing
from bagpipe.experiment.plot import to_svg
from bagpipe.experiment.table import Row, to_csv, to_json, to_markdown


def records(times, first=1):
    return [
        json.dumps({"time": t, "step": first + i, "loss": 0.5, "cache_hit_rate": 0.75}) for i, t in enumerate(times)
    ]


def test_mean_and_deviation_are_those_of_the_steps_after_the_warm_up():
    """The first steps do not count, and the figures are the textbook's."""
    times = [0.0, 10.0, 11.0, 11.2, 11.5, 11.9]
    found = timing(records(times), skip=3)
    expected = [200.0, 300.0, 400.0]
    assert found.mean_ms == pytest.approx(statistics.mean(expected))
    assert found.deviation_ms == pytest.approx(statistics.stdev(expected))
    assert found.median_ms == pytest.approx(300.0)
    assert (found.steps, found.skipped, found.hit_rate, found.loss) == (3, 3, 0.75, 0.5)


def test_a_log_with_other_lines_is_read():
    """On a cluster the records stand among lines for people; a half line at the end is passed over."""
    noise = ["2026-01-01 oracle INFO started", '{"time": 0.5, "event": "training"}']
    lines = [noise[0], *records([1.0, 2.0]), noise[1], *records([4.0], first=3), '{"time": 9, "st']
    assert timing(lines, skip=0).mean_ms == pytest.approx(1500.0)


def test_a_restart_is_no_iteration():
    """The pause between two attempts is not counted as a step."""
    lines = records([0.0, 1.0, 2.0]) + records([60.0, 61.0, 62.0], first=2)
    assert timing(lines, skip=0).mean_ms == pytest.approx(1000.0)


def test_records_of_several_steps_weigh_as_many():
    """With a record every ten steps the mean is still that of a step."""
    lines = [json.dumps({"time": t, "step": s}) for t, s in ((0.0, 10), (1.0, 20), (4.0, 30))]
    assert timing(lines, skip=10).mean_ms == pytest.approx(200.0)


def test_too_few_steps_are_an_error():
    """A run that ended within its warm-up has no time of an iteration."""
    with pytest.raises(DataError, match="after step 10, found 2 steps"):
        timing(records([0.0, 1.0]), skip=10)


def test_the_baselines_log_is_read_at_its_end():
    """The last line of its form counts; a log without it is an error."""
    line = "For a total of {} iterations, torchrec takes on average {} ms with batch size of 2048\n"
    log = line.format(5, 99.0) + "noise\n" + line.format(100, 12.5) + "standard deviation: 1.25 ms\n"
    found = torchrec_timing(log)
    assert (found.steps, found.mean_ms, found.deviation_ms) == (100, 12.5, 1.25)
    with pytest.raises(DataError, match="found none"):
        torchrec_timing("nothing")


def some_rows():
    def row(model, system, mean):
        return Row(model, system, 1024, 2, Timing(mean, mean / 10, mean, 50, 10, 0.5, 0.25))

    failed = Row("caser", "cached", 512, 2, None, "failed: out of <memory>")
    return [row("dlrm", "torchrec", 30.0), row("dlrm", "cached", 10.0), row("dlrm", "uncached", 25.0), failed]


def test_the_table_says_how_much_faster():
    """Markdown, CSV and JSON have the same rows in the same order, with ratios and failures."""
    text = to_markdown(some_rows(), ["links of 1 Gbit/s"])
    assert text.startswith("links of 1 Gbit/s\n\n| model |")
    assert "| DLRM | no cache | 25.0 | 2.5 | 2.50 |  | 0.250000 | 50 (after 10) |" in text
    assert "| Caser | Bagpipe | failed: out of <memory> |" in text
    listed = list(csv.DictReader(io.StringIO(to_csv(some_rows()))))
    kept = json.loads(to_json(some_rows(), []))["rows"]
    assert [r["system"] for r in listed] == [r["system"] for r in kept] == ["cached", "uncached", "torchrec", "cached"]
    assert [r["times_bagpipe"] for r in kept] == [None, 2.5, 3.0, None]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_picture_is_to_scale():
    """Well-formed SVG whose bars are proportional to the means; a failed run has none."""
    root = ET.fromstring(to_svg(some_rows()))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("width") == "22"]
    heights = [float(b.get("height")) for b in bars]
    assert len(heights) == 3
    assert heights[1] / heights[0] == pytest.approx(2.5, rel=0.01)
    assert heights[2] / heights[0] == pytest.approx(3.0, rel=0.01)


def test_an_empty_experiment_has_an_empty_table():
    """Interrupted before the first job ended: table and picture are there and well-formed."""
    assert to_markdown([], []).count("\n") == 2
    ET.fromstring(to_svg([]))
