"""Do the benchmark's tables follow from its records: medians, disturbed rounds, targets hit and missed?"""

import json
from pathlib import Path
from typing import Any

import pytest
from peers.links import LinksError, burst_bytes, judge, neighbours
from peers.measure import Snapshot
from peers.measure import summarize as measured
from peers.registry import CONTENDERS
from peers.report import markdown
from peers.setting import Setting
from peers.summary import summarize, within_rounds
from peers.sweep import SWEEPS, busier_mb, lines_of, settings_of
from peers.targets import WithinRounds, verdicts

MACHINE = {
    "cpu": "A CPU", "cores": 2, "memory_gib": 24, "kernel": "6.1", "python": "3.11", "torch": "2", "torchrec": "1",
}  # fmt: skip

NOTHING = WithinRounds({}, {})
"""Nothing was measured in one round."""


def _record(contender: str, ms: float, *, gbit: float | None = 1.0, others: float = 0.0, sent: int = 2_000_000) -> Any:
    moved = {"sent": sent, "received": sent}
    record = {
        "setting": Setting(contender, gbit).to_json(),
        "ms": ms,
        "others_cores": others,
        "cpu_ms": {"trainer 0": ms / 2, "trainer 1": ms / 2},
        "bytes": {"trainer 0": moved, "trainer 1": moved},
        "machine": MACHINE,
        "time": 0,
    }
    if contender == "ours":
        record |= {"planned": {"sent": 1_000_000, "received": 1_000_000}, "waits_ms": {"fetch": 1.5}}
    return record


def test_medians_leave_disturbed_rounds_out() -> None:
    """Median, least and most are those of the calm rounds; a round beside another busy core is only counted."""
    rows = summarize([_record("ours", 100), _record("ours", 120), _record("ours", 110), _record("ours", 900, others=1)])
    row = rows["ours", 1.0, 2]
    assert (row["ms"], row["least_ms"], row["most_ms"]) == (110, 100, 120)
    assert (row["rounds"], row["left_out"], row["disturbed"]) == (3, 1, False)


def test_ratios_are_of_neighbours_in_one_round() -> None:
    """The nearest undisturbed step of ours on the same links, and none of another hour."""
    records = [
        _record("bound", 90) | {"time": 0},
        _record("ours", 100) | {"time": 30},
        _record("rpc-unique", 150) | {"time": 200},
        _record("ours", 400, gbit=0.25) | {"time": 210},
        _record("rpc-unique", 300, others=1) | {"time": 220},
        _record("bound", 120) | {"time": 5000},
        _record("ours", 200) | {"time": 5030},
        _record("published", 500) | {"time": 9000},
    ]
    assert within_rounds(records).ratios == {("bound", 1.0, 2): [0.9, 0.6], ("rpc-unique", 1.0, 2): [1.5]}


def test_without_a_calm_round_the_least_disturbed_one_is_shown_and_marked() -> None:
    """Its time stands in the table with a `~`."""
    records = [_record("ours", 300, others=0.9), _record("ours", 200, others=0.4)]
    rows = summarize(records)
    assert (rows["ours", 1.0, 2]["ms"], rows["ours", 1.0, 2]["disturbed"]) == (200, True)
    assert "| ~200 |" in markdown(rows, verdicts(rows, NOTHING), records)


def test_disturbed_times_decide_no_target_but_bytes_do() -> None:
    """A target of time is undecided without a calm round; bytes do not depend on what else the machine does."""
    records = [_record("bound", 100), _record("ours", 300, others=0.9, sent=3_100_000)]
    rows = summarize(records)
    found = {v.measure: v for v in verdicts(rows, NOTHING)}
    over = found["step over the bound, 1 Gbit/s"]
    assert (over.found, over.hit, over.disturbed) == (3.0, None, True)
    assert "| ~3.00 |  | undecided: disturbed |" in markdown(rows, verdicts(rows, NOTHING), records)
    assert found["bytes of rows on a trainer's link over the planner's own"].hit


def test_targets_are_hit_missed_or_not_measured() -> None:
    """Each verdict is the ratio computed by hand from the records' times and bytes; a rate without records has none."""
    records = [
        _record("bound", 100),
        _record("ours", 108, sent=3_100_000),
        _record("torchrec-table", 300, sent=12_000_000),
        _record("torchrec-row", 400),
        _record("rpc-unique", 130),
    ]
    found = {v.measure: v for v in verdicts(summarize(records), NOTHING)}
    over = found["step over the bound, 1 Gbit/s"]
    assert (over.found, over.hit) == (1.08, True)
    best = found["TorchRec's best as it runs / ours, 1 Gbit/s"]
    assert (best.found, best.hit) == (pytest.approx(300 / 108, abs=1e-3), True)
    # 10 MB beyond the bound's at 1 Gbit/s: 80 ms more than the bound.
    duplex = found["TorchRec on a full-duplex wire (computed) / ours, 1 Gbit/s"]
    assert (duplex.found, duplex.hit) == (pytest.approx(180 / 108, abs=1e-3), True)
    server = found["unique-id parameter server / ours, 1 Gbit/s"]
    assert (server.found, server.hit) == (pytest.approx(130 / 108, abs=1e-3), False)
    assert found["step over the bound, 0.5 Gbit/s"].hit is None
    moved = found["bytes of rows on a trainer's link over the planner's own"]
    assert (moved.found, moved.hit) == (pytest.approx(1.1), True)


def test_a_target_is_hit_by_medians_and_within_rounds() -> None:
    """Ours was measured in two calm hours more than its peer: the medians flatter it, the one shared round does not."""
    shared = [_record("ours", 110) | {"time": 0}, _record("rpc-unique", 140) | {"time": 60}]
    calm = [_record("ours", 100) | {"time": time} for time in (9000, 18000)]
    records = [*shared, *calm]
    found = {v.measure: v for v in verdicts(summarize(records), within_rounds(records))}
    server = found["unique-id parameter server / ours, 1 Gbit/s"]
    assert within_rounds(records).cpu_beyond == {("rpc-unique", 1.0, 2): [-15.0]}
    assert (server.found, server.within, server.hit) == (1.4, pytest.approx(1.273, abs=1e-3), False)


def test_counters_become_figures_of_one_step() -> None:
    """CPU time and bytes are differences of two snapshots over the steps between them; `ms` is the median step."""
    first = Snapshot(10, 5.0, {"trainer 0": 1.0}, 2.0, {"trainer 0": (1000, 0)})
    last = Snapshot(20, 7.0, {"trainer 0": 2.0}, 3.5, {"trainer 0": (6000, 500)})
    record = measured(Setting("ours", 1.0), [0.1, 0.3, 0.2], first, last)
    assert (record["ms"], record["cpu_ms"]) == (200.0, {"trainer 0": 100.0})
    assert record["bytes"] == {"trainer 0": {"sent": 500, "received": 50}}
    assert record["others_cores"] == 0.25


def test_links_that_are_not_what_they_claim_are_refused() -> None:
    """A direction 15 % below or 5 % above its stated rate is an error; an unlimited link is never refused."""
    judge("a and b", [0.95, 0.96], 1.0)
    judge("a and b", [3.0, 9.0], None)
    with pytest.raises(LinksError, match=r"expected 1 Gbit/s in both directions at once .* found 0.950 and 0.480"):
        judge("a and b", [0.95, 0.48], 1.0)
    with pytest.raises(LinksError, match=r"found 0\.950 and 1\.200"):
        judge("a and b", [0.95, 1.2], 1.0)


def test_every_role_takes_part_in_a_check() -> None:
    """Roles are paired; with an odd number, the first one takes part twice; one alone has no check."""
    assert neighbours(["a", "b", "c", "d"]) == [("a", "b"), ("c", "d")]
    assert neighbours(["a", "b", "c"]) == [("a", "b"), ("a", "c")]
    assert neighbours(["a"]) == []


def test_a_bucket_holds_the_largest_packets_and_little_more() -> None:
    """At least 128 KiB, and on fast links 2 ms of the rate."""
    assert burst_bytes(0.25) == 131_072
    assert burst_bytes(10.0) == 2_500_000


def test_a_sweep_varies_one_setting_and_compares_with_lines_that_stand() -> None:
    """Only `ours` varies; contenders that the setting does not touch are measured once and drawn as level lines."""
    points = settings_of("lookahead", 0.25, 10)
    assert [p.lookahead for p in points if p.contender == "ours"] == list(SWEEPS["lookahead"][1])
    assert sum(p.contender == "bound" for p in points) == 1
    assert [p.contender for p in points].count("ours-auto") == 1
    dims = settings_of("dim", 0.25, 10)
    assert sorted({p.dim for p in dims if p.contender == "bound"}) == [16, 48, 128]
    assert "ours-auto" not in {p.contender for p in dims}
    records = [_record("bound", 100), _record("ours", 150), _record("ours-auto", 140)]
    lines = lines_of("lookahead", records)
    every = SWEEPS["lookahead"][1]
    assert lines == {
        "bound": [(v, 100) for v in every],
        "ours": [(100, 150)],
        "ours-auto": [(v, 140) for v in every],
    }
    assert lines_of("lookahead", records, busier_mb)["ours"] == [(100, 2.0)]


def test_a_step_lasts_from_the_last_trainers_end_to_the_next(tmp_path: Path) -> None:
    """The slowest trainer ends a step, and a line that was cut off is ignored."""
    for rank, ends in enumerate(((0.0, 1.0, 2.5), (0.1, 1.2, 2.0))):
        lines = "".join(json.dumps({"step": step, "at": at}) + "\n" for step, at in enumerate(ends))
        (tmp_path / f"metrics.jsonl.{rank}").write_text(lines + '{"step": 3, "a')
    found = CONTENDERS["bound"].step_seconds(Setting("bound", 1.0), tmp_path)
    assert found == pytest.approx([1.1, 1.3])
