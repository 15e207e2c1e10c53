"""Are the benchmark's links real: full-duplex at the stated rate, counted, refused otherwise, and gone afterwards?"""

import subprocess
from pathlib import Path

import pytest
from peers import links as module
from peers.links import Links, LinksError, missing_capability

REASON = missing_capability()
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(REASON is not None, reason=f"no links can be made here: {REASON}"),
]
GBIT = 0.2
DUPLEX = Path(module.__file__).with_name("duplex.py")


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines() if line}


def test_both_directions_flow_at_once_at_the_stated_rate_and_are_counted() -> None:
    """The links' own counters hold what the check sent both ways; afterwards no namespace is left."""
    before = _namespaces()
    with Links(["oracle", "trainer 0", "trainer 1"], GBIT) as links:
        assert len(_namespaces() - before) == 4
        found = links.check()
        assert [entry["between"] for entry in found] == [["oracle", "trainer 0"], ["oracle", "trainer 1"]]
        counted = links.counters()
    size = GBIT * 1e9 / 8 * module.CHECK_SECONDS
    # The oracle took part twice; headers come on top.
    for role, times in (("oracle", 2), ("trainer 0", 1), ("trainer 1", 1)):
        assert counted[role] == pytest.approx((times * size, times * size), rel=0.08)
    assert not _namespaces() - before


def test_half_of_the_stated_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are set for half of what the check then expects."""
    set_limit = Links._limit
    monkeypatch.setattr(Links, "_limit", lambda self, *where: set_limit(self, *where[:2], GBIT / 2))
    with Links(["a", "b"], GBIT) as links, pytest.raises(LinksError, match="nothing is measured on such links"):
        links.check()


def test_a_failure_leaves_nothing_behind() -> None:
    """An error inside the block, or while links are made, removes every namespace."""
    before = _namespaces()
    with pytest.raises(RuntimeError, match="inside"), Links(["a", "b"], None):
        raise RuntimeError("inside")
    with pytest.raises(LinksError, match="tc -n"), Links(["a"], gbit=0.0):
        pass
    assert not _namespaces() - before
