"""What must be shown, and whether it was: every target as a function of medians and of ratios within rounds."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    """By medians over all rounds; None: not measured."""
    within: float | None
    """By the median of comparisons within a round; None: not measured in one round, or not compared so."""
    hit: bool | None
    """By both: medians of some contenders may come from more, and calmer, rounds than those of others.

    None where nothing was measured, or only disturbed rounds have a time or CPU: those decide nothing.
    """
    disturbed: bool


class Comparison(Protocol):
    """Others beside ours."""

    def over_ours(self, names: tuple[str, ...], gbit: float | None, trainers: int = 2) -> float:
        """Step time of the fastest of those that were measured over ours.

        Raises:
            KeyError: none was.
        """
        ...

    def cpu_beyond_bound(self, gbit: float) -> float:
        """CPU ms a step of all roles, a trainer's share of it, beyond forward, backward and the dense all-reduce."""
        ...


class Medians:
    """Over all rounds: rows of the summary by key."""

    def __init__(self, rows: Mapping[Key, Mapping[str, Any]]) -> None:
        self.rows = rows
        self.disturbed = False
        """Whether a figure that others can disturb came from a row without one calm round."""

    def over_ours(self, names: tuple[str, ...], gbit: float | None, trainers: int = 2) -> float:
        found = [self.ms(name, gbit, trainers) for name in names if (name, gbit, trainers) in self.rows]
        if not found:
            raise KeyError(names)
        return min(found) / self.ms("ours", gbit, trainers)

    def cpu_beyond_bound(self, gbit: float) -> float:
        return self.trainer("ours", gbit, "cpu") - self.trainer("bound", gbit, "cpu")

    def ms(self, contender: str, gbit: float | None, trainers: int = 2) -> float:
        return self.trainer(contender, gbit, "ms", trainers)

    def trainer(self, contender: str, gbit: float | None, what: str, trainers: int = 2) -> float:
        row = self.rows[contender, gbit, trainers]
        if what in ("ms", "cpu") and row.get("disturbed"):
            self.disturbed = True
        return float(row[what])


@dataclass(frozen=True, slots=True)
class WithinRounds:
    """Within rounds: what was measured beside ours, by key."""

    ratios: Mapping[Key, Sequence[float]]
    """Step times over ours."""
    cpu_beyond: Mapping[Key, Sequence[float]]
    """Our CPU ms a step and trainer beyond theirs."""

    def over_ours(self, names: tuple[str, ...], gbit: float | None, trainers: int = 2) -> float:
        found = [self.ratios[name, gbit, trainers] for name in names if (name, gbit, trainers) in self.ratios]
        if not found:
            raise KeyError(names)
        return min(map(statistics.median, found))

    def cpu_beyond_bound(self, gbit: float) -> float:
        return statistics.median(self.cpu_beyond["bound", gbit, 2])


@dataclass(frozen=True, slots=True)
class Target:
    """What must be shown; exactly one of `compared` and `figure` says how it is found."""

    measure: str
    limit: float | Callable[[Medians], float]
    least: bool = True
    """Whether it is a lower limit."""
    compared: Callable[[Comparison], float] | None = None
    figure: Callable[[Medians], float] | None = None


def targets() -> Iterator[Target]:
    """All of them, in the order of the issue that set them."""
    three = (1.0, 0.5, 0.25)
    yield Target("step over the bound, 1 Gbit/s", 1.10, least=False, compared=over_bound(1.0))
    for gbit in (0.5, 0.25):
        yield Target(f"step over the bound, {gbit:g} Gbit/s", may_take(gbit), least=False, compared=over_bound(gbit))
    for gbit, limit in zip(three, (2.0, 3.2, 5.0), strict=True):
        yield Target(f"TorchRec's best as it runs / ours, {gbit:g} Gbit/s", limit, compared=times_ours(TORCHREC, gbit))
    for gbit, limit in zip(three, (1.4, 2.0, 2.8), strict=True):
        measure = f"TorchRec on a full-duplex wire (computed) / ours, {gbit:g} Gbit/s"
        yield Target(measure, limit, figure=full_duplex_times_ours(gbit))
    for name, label, limits in (
        ("rpc-unique", "unique-id parameter server", (1.3, 1.7, 2.2)),
        ("ddp-sparse", "DDP with sparse gradients", (1.3, 1.4, 1.6)),
    ):
        for gbit, limit in zip(three, limits, strict=True):
            yield Target(f"{label} / ours, {gbit:g} Gbit/s", limit, compared=times_ours((name,), gbit))
    yield Target("4 trainers, 0.25 Gbit/s: TorchRec / ours", 3.3, compared=times_ours(TORCHREC, 0.25, 4))
    yield Target("the same: parameter server / ours", 2.1, compared=times_ours(("rpc-unique",), 0.25, 4))
    for trainers, limit in ((2, 1.5), (4, 2.0)):
        measure = f"published policy / ours, 0.25 Gbit/s, {trainers} trainers"
        yield Target(measure, limit, compared=times_ours(("published",), 0.25, trainers))
    yield Target("unlimited: best peer / ours", 1.0, compared=times_ours(PEERS, None))
    measure = "bytes of rows on a trainer's link over the planner's own"
    yield Target(measure, 1.2, least=False, figure=bytes_over_plan)
    yield Target("CPU ms a step and trainer beyond the bound's, all roles", 12.0, least=False, compared=cpu_beyond)


def verdicts(rows: Mapping[Key, Mapping[str, Any]], within: WithinRounds) -> list[Verdict]:
    """Every target and whether it was hit."""
    return [_judged(target, Medians(rows), within) for target in targets()]


def _judged(target: Target, medians: Medians, rounds: WithinRounds) -> Verdict:
    sign = ">=" if target.least else "<="
    try:
        limit = target.limit(medians) if callable(target.limit) else target.limit
        found = target.compared(medians) if target.compared else target.figure(medians) if target.figure else None
    except KeyError:
        wanted = "" if callable(target.limit) else f"{sign} {target.limit:.2f}"
        return Verdict(target.measure, wanted, None, None, None, disturbed=False)
    assert found is not None
    try:
        within = target.compared(rounds) if target.compared else None
    except KeyError:
        within = None
    judged = [value >= limit if target.least else value <= limit for value in (found, within) if value is not None]
    return Verdict(
        target.measure,
        f"{sign} {limit:.2f}",
        round(found, 3),
        None if within is None else round(within, 3),
        None if medians.disturbed else all(judged),
        medians.disturbed,
    )


def times_ours(names: tuple[str, ...], gbit: float | None, trainers: int = 2) -> Callable[[Comparison], float]:
    """Step time of the fastest of these over ours."""
    return lambda found: found.over_ours(names, gbit, trainers)


def over_bound(gbit: float) -> Callable[[Comparison], float]:
    """Our step time over the bound's."""
    return lambda found: 1 / found.over_ours(("bound",), gbit)


def may_take(gbit: float) -> Callable[[Medians], float]:
    """Over the bound's step time: a little more, or what the bytes that must move take with a little more."""
    return lambda m: max(1.15, 1.1 * must_move_ms(m, gbit) / m.ms("bound", gbit))


def milliseconds(size: float, gbit: float) -> float:
    """Of `size` bytes on a link."""
    return size * 8 / gbit / 1e6


def must_move_ms(m: Medians, gbit: float) -> float:
    """The busier direction of a trainer's link: dense gradients and what the plans list."""
    busier = max(
        m.trainer("bound", gbit, way) + m.trainer("ours", gbit, f"planned_{way}") for way in ("sent", "received")
    )
    return milliseconds(busier, gbit)


def full_duplex_times_ours(gbit: float) -> Callable[[Medians], float]:
    """The bound, and TorchRec's exposed all-to-alls with both directions flowing at once, over our step time."""

    def ratio(m: Medians) -> float:
        exposed = m.trainer("torchrec-table", gbit, "sent") - m.trainer("bound", gbit, "sent")
        return (m.ms("bound", gbit) + milliseconds(exposed, gbit)) / m.ms("ours", gbit)

    return ratio


def bytes_over_plan(m: Medians) -> float:
    """Both directions of a trainer's link, without the dense all-reduce, over the planned payload."""
    ways = ("sent", "received")
    moved = sum(m.trainer("ours", 1.0, way) - m.trainer("bound", 1.0, way) for way in ways)
    return moved / sum(m.trainer("ours", 1.0, f"planned_{way}") for way in ways)


def cpu_beyond(found: Comparison) -> float:
    """At the rate at which links matter least of those with a target."""
    return found.cpu_beyond_bound(1.0)
