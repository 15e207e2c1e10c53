"""What must be shown, and whether it was: every target as a function of the medians."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Key = tuple[str, float | None, int]
"""Contender, Gbit/s, trainers."""
TORCHREC = ("torchrec-table", "torchrec-row", "torchrec-pipeline")
PEERS = (*TORCHREC, "rpc-unique", "rpc-all", "ddp-sparse", "published")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of targets."""

    measure: str
    target: str
    found: float | None
    """None: not measured."""
    hit: bool | None
    """None as well where a time or CPU comes from disturbed rounds only: those decide nothing."""
    disturbed: bool


class Medians:
    """Rows of the summary by key."""

    def __init__(self, rows: Mapping[Key, Mapping[str, Any]]) -> None:
        self.rows = rows
        self.disturbed = False
        """Whether a figure that others can disturb came from a row without one calm round."""

    def ms(self, contender: str, gbit: float | None, trainers: int = 2) -> float:
        return self.trainer(contender, gbit, "ms", trainers)

    def best(self, names: tuple[str, ...], gbit: float | None, trainers: int = 2) -> float:
        """The fastest of those that were measured."""
        found = [self.ms(name, gbit, trainers) for name in names if (name, gbit, trainers) in self.rows]
        if not found:
            raise KeyError(names)
        return min(found)

    def trainer(self, contender: str, gbit: float | None, what: str, trainers: int = 2) -> float:
        row = self._row(contender, gbit, trainers)
        if what in ("ms", "cpu") and row.get("disturbed"):
            self.disturbed = True
        return float(row[what])

    def _row(self, contender: str, gbit: float | None, trainers: int) -> Mapping[str, Any]:
        key = (contender, gbit, trainers)
        return self.rows[key]


def milliseconds(size: float, gbit: float) -> float:
    """Of `size` bytes on a link."""
    return size * 8 / gbit / 1e6


def verdicts(rows: Mapping[Key, Mapping[str, Any]]) -> list[Verdict]:
    """Every target, in the order of the issue that set them."""
    found: list[Verdict] = []

    def at_most(measure: str, limit: float | Callable[[Medians], float], value: Callable[[Medians], float]) -> None:
        _judge(measure, limit, value, least=False)

    def at_least(measure: str, limit: float, value: Callable[[Medians], float]) -> None:
        _judge(measure, limit, value, least=True)

    def _judge(
        measure: str, limit: float | Callable[[Medians], float], value: Callable[[Medians], float], *, least: bool
    ) -> None:
        medians, sign = Medians(rows), ">=" if least else "<="
        try:
            wanted = limit(medians) if callable(limit) else limit
            ratio = value(medians)
        except KeyError:
            target = "" if callable(limit) else f"{sign} {limit:.2f}"
            found.append(Verdict(measure, target, None, None, disturbed=False))
            return
        hit = None if medians.disturbed else ratio >= wanted if least else ratio <= wanted
        found.append(Verdict(measure, f"{sign} {wanted:.2f}", round(ratio, 3), hit, medians.disturbed))

    at_most("step over the bound, 1 Gbit/s", 1.10, lambda m: m.ms("ours", 1.0) / m.ms("bound", 1.0))
    for gbit in (0.5, 0.25):
        at_most(
            f"step over the bound, {gbit:g} Gbit/s",
            lambda m, g=gbit: max(1.15, 1.1 * must_move_ms(m, g) / m.ms("bound", g)),
            lambda m, g=gbit: m.ms("ours", g) / m.ms("bound", g),
        )
    three = (1.0, 0.5, 0.25)
    for gbit, limit in zip(three, (2.0, 3.2, 5.0), strict=True):
        at_least(
            f"TorchRec's best as it runs / ours, {gbit:g} Gbit/s",
            limit,
            lambda m, g=gbit: m.best(TORCHREC, g) / m.ms("ours", g),
        )
    for gbit, limit in zip(three, (1.4, 2.0, 2.8), strict=True):
        at_least(
            f"TorchRec on a full-duplex wire (computed) / ours, {gbit:g} Gbit/s",
            limit,
            lambda m, g=gbit: full_duplex_ms(m, g) / m.ms("ours", g),
        )
    for name, label, limits in (
        ("rpc-unique", "unique-id parameter server", (1.3, 1.7, 2.2)),
        ("ddp-sparse", "DDP with sparse gradients", (1.3, 1.4, 1.6)),
    ):
        for gbit, limit in zip(three, limits, strict=True):
            at_least(f"{label} / ours, {gbit:g} Gbit/s", limit, lambda m, g=gbit, n=name: m.ms(n, g) / m.ms("ours", g))
    at_least(
        "4 trainers, 0.25 Gbit/s: TorchRec / ours", 3.3, lambda m: m.best(TORCHREC, 0.25, 4) / m.ms("ours", 0.25, 4)
    )
    at_least("the same: parameter server / ours", 2.1, lambda m: m.ms("rpc-unique", 0.25, 4) / m.ms("ours", 0.25, 4))
    for trainers, limit in ((2, 1.5), (4, 2.0)):
        at_least(
            f"published policy / ours, 0.25 Gbit/s, {trainers} trainers",
            limit,
            lambda m, t=trainers: m.ms("published", 0.25, t) / m.ms("ours", 0.25, t),
        )
    at_least("unlimited: best peer / ours", 1.0, lambda m: m.best(PEERS, None) / m.ms("ours", None))
    at_most("bytes of rows on a trainer's link over the planner's own", 1.2, bytes_over_plan)
    at_most("CPU ms a step and trainer beyond the bound's, all roles", 12.0, cpu_beyond)
    return found


def must_move_ms(m: Medians, gbit: float) -> float:
    """The busier direction of a trainer's link: dense gradients and what the plans list."""
    busier = max(
        m.trainer("bound", gbit, way) + m.trainer("ours", gbit, f"planned_{way}") for way in ("sent", "received")
    )
    return milliseconds(busier, gbit)


def full_duplex_ms(m: Medians, gbit: float) -> float:
    """The bound, and TorchRec's exposed all-to-alls with both directions flowing at once."""
    exposed = m.trainer("torchrec-table", gbit, "sent") - m.trainer("bound", gbit, "sent")
    return m.ms("bound", gbit) + milliseconds(exposed, gbit)


def bytes_over_plan(m: Medians) -> float:
    """Both directions of a trainer's link, without the dense all-reduce, over the planned payload."""
    ways = ("sent", "received")
    moved = sum(m.trainer("ours", 1.0, way) - m.trainer("bound", 1.0, way) for way in ways)
    return moved / sum(m.trainer("ours", 1.0, f"planned_{way}") for way in ways)


def cpu_beyond(m: Medians) -> float:
    """CPU of all roles, a trainer's share of it, beyond forward, backward and the dense all-reduce."""
    return m.trainer("ours", 1.0, "cpu") - m.trainer("bound", 1.0, "cpu")
