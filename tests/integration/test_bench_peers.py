"""Does the benchmark against peers measure real processes on real links: steps, CPU, bytes; and says who died?

Small steps of the real workload. TorchRec lives in the benchmark's own environment and takes no part here.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from peers.contender import Peer
from peers.links import Links, missing_capability
from peers.measure import MeasurementError, measure
from peers.registry import CONTENDERS
from peers.setting import Setting

REASON = missing_capability()
needs_links = pytest.mark.skipif(REASON is not None, reason=f"no links can be made here: {REASON}")


DENSE_BYTES = 4 * 494_449
"""The workload's dense weights, sent once a step as gradients by each of two trainers."""


@needs_links
@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bound", "ours", "rpc-unique", "published"])
def test_a_contender_is_measured(name: str, tmp_path: Path) -> None:
    """Two trainers at 1 Gbit/s; dense gradients alone are about 2 MB a step and trainer, rows come on top."""
    contender = CONTENDERS[name]
    setting = Setting(name, 1.0, batch=128, lookahead=6, warmup=8, steps=30)
    with Links(contender.roles(setting), setting.gbit) as links:
        record = measure(contender, setting, links, tmp_path)
    assert record["ms"] > 0
    assert set(record["cpu_ms"]) == set(contender.roles(setting))
    assert all(ms > 0 for role, ms in record["cpu_ms"].items() if role.startswith("trainer"))
    for rank in range(2):
        sent = record["bytes"][f"trainer {rank}"]["sent"]
        # Counters are read at moments, not at the ends of steps: a step at either end may be cut.
        assert 0.9 * DENSE_BYTES < sent < (1.12 * DENSE_BYTES if name == "bound" else 2 * DENSE_BYTES)
    if name == "ours":
        assert set(record["waits_ms"]) >= {"fetch", "plan"}
        assert record["planned"]["sent"] > 0


@needs_links
def test_a_contender_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    """A wrong number of rows in the cache is refused by the oracle."""
    setting = Setting("ours", None, batch=64, lookahead=4, warmup=2, steps=2, cache_rows=1)
    uncached = CONTENDERS["ours-uncached"]
    with (
        Links(uncached.roles(setting), None) as links,
        pytest.raises(MeasurementError, match=r"ended after 0 steps: (?s:.*)cacheRows"),
    ):
        measure(uncached, setting, links, tmp_path)


def test_every_peer_is_a_program() -> None:
    """What a peer's processes run is there."""
    peers = [c for c in CONTENDERS.values() if isinstance(c, Peer)]
    assert len(peers) == 8
    for peer in peers:
        command = peer.command(Setting(peer.name, None), "trainer 1", {}, Path("somewhere"))
        assert command[3:] == ["somewhere", "trainer", "1"]
        assert find_spec(command[2]) is not None
