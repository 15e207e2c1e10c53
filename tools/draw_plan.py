"""Draw the worked example of `docs/plan.md`: a small job, planned by the reference planner, as pictures and a table.

    python tools/draw_plan.py          # writes docs/plan-*.svg and the table in docs/plan.md

Two trainers, a lookahead of 2, three cache slots for each trainer, six rows and six steps. Everything drawn is read off
the plans, so the pictures cannot say anything else than the code; a guard test fails if they are stale.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from bagpipe.oracle.plan.reference_planner import KINDS, ReferencePlanner
from bagpipe.plan import GroupPlan
from bagpipe.testing.plan_model import Stream

DOCS = Path(__file__).resolve().parents[1] / "docs"
LOOKAHEAD, CACHE_ROWS, TRAINERS = 2, 3, (0, 1)
BATCHES = [("AB", "ACF"), ("BD", "AD"), ("CF", "DE"), ("BE", "AE"), ("CA", "BA"), ("A", "D")]
"""The rows that each trainer looks up, by step."""
ROWS = sorted(set("".join(share for batch in BATCHES for share in batch)))
COLORS = dict(zip(ROWS, ("#a8d5ff", "#ffd8a8", "#b7ebb0", "#f5b5c8", "#d3c3f7", "#f3e38a"), strict=True))
OWNER_COLORS = ("#54aeff", "#fb8f44")
FETCHED, EVICTED = "+ ", " \N{MINUS SIGN}"
INK, QUIET, LINE = "#1b1f24", "#57606a", "#d0d7de"


@dataclass
class Stay:
    """A row in a slot of one trainer during one step."""

    row: str
    slot: int
    is_used: bool
    is_owner: bool
    is_fetched: bool
    is_evicted: bool


@dataclass
class Example:
    """Plans of the example, and where every row lay."""

    plans: list[tuple[GroupPlan, ...]]
    stays: list[tuple[list[Stay], ...]]
    """By step and trainer."""


def plan_example() -> Example:
    steps = [[[ROWS.index(row) for row in share] for share in batch] for batch in BATCHES]
    stream = Stream(len(ROWS), len(TRAINERS), LOOKAHEAD, steps, CACHE_ROWS)
    planner = stream.reference_planner()
    example = Example([], [])
    before: dict[int, dict[int, int]] = {}
    owner_before: dict[int, int] = {}
    for step, plans in enumerate(stream.plans(planner)):
        example.plans.append(plans)
        example.stays.append(
            tuple(_used(step, rank, plans[rank]) + _passing(step, rank, before, owner_before) for rank in TRAINERS)
        )
        before, owner_before = _copy(planner)
    return example


def _copy(planner: ReferencePlanner) -> tuple[dict[int, dict[int, int]], dict[int, int]]:
    return {row: dict(slots) for row, slots in planner.slots.items()}, dict(planner.owner)


def _used(step: int, rank: int, plan: GroupPlan) -> list[Stay]:
    owned, fetched, evicted = plan.owned().tolist(), plan.fetch_slots.tolist(), plan.evict_slots.tolist()
    return [
        Stay(row, slot, is_used=True, is_owner=at in owned, is_fetched=slot in fetched, is_evicted=slot in evicted)
        for at, (row, slot) in enumerate(zip(BATCHES[step][rank], plan.slots_K.tolist(), strict=True))
    ]


def _passing(step: int, rank: int, before: dict[int, dict[int, int]], owner: dict[int, int]) -> list[Stay]:
    """Rows that wait in a slot of this trainer for a later step."""
    now = {row for share in BATCHES[step] for row in share}
    waiting = [(ROWS[key], key, slots[rank]) for key, slots in before.items() if rank in slots]
    return [
        Stay(row, slot, is_used=False, is_owner=owner[key] == rank, is_fetched=False, is_evicted=False)
        for row, key, slot in waiting
        if row not in now
    ]


# Pictures.


class Picture:
    """An SVG of boxes, lines and words."""

    def __init__(self, width: int, height: int, title: str) -> None:
        style = (
            "text{font:14px sans-serif;fill:#1b1f24}.b{font-weight:600}.q{fill:#57606a;font-size:13px}"
            ".h{fill:none;stroke:#ffffff;stroke-width:5px}"
        )
        arrow = (
            '<marker id="h" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L10 5L0 10z" fill="{QUIET}"/></marker>'
        )
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
            f'<title id="title">{title}</title>',
            f"<style>{style}</style>",
            f"<defs>{arrow}</defs>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, *, fill: str, stroke: str = LINE, extra: str = "") -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="5" fill="{fill}" stroke="{stroke}" {extra}/>'
        )

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> None:
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{style}">{words}</text>')

    def text_on_line(self, x: float, y: float, words: str, style: str = "") -> None:
        """Words with a white margin, which is drawn first: not every viewer knows how to paint it behind them."""
        self.text(x, y, words, f"{style} h".strip())
        self.text(x, y, words, style)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, arrow: bool = False, dashed: bool = False) -> None:
        extra = ' marker-end="url(#h)"' * arrow + ' stroke-dasharray="5 4"' * dashed
        self.parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{QUIET}" stroke-width="1.5"{extra}/>')

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


LEFT, CELL, TOP = 110, 104, 44


def _columns(picture: Picture) -> None:
    for step in range(len(BATCHES)):
        picture.text(LEFT + CELL * step + CELL / 2, 26, f"step {step}", "b")


def draw_window() -> str:
    """The batches, and what is in view while a step is planned."""
    height = TOP + 2 * 44 + 20 + 4 * 30
    picture = Picture(LEFT + CELL * len(BATCHES) + 20, height, "The batches of six steps and the window of each")
    _columns(picture)
    for rank in TRAINERS:
        y = TOP + 44 * rank
        picture.text(LEFT - 14, y + 24, f"trainer {rank}", "b", "end")
        for step, batch in enumerate(BATCHES):
            for at, row in enumerate(batch[rank]):
                x = LEFT + CELL * step + 8 + 30 * at
                picture.box(x, y + 4, 27, 30, fill=COLORS[row])
                picture.text(x + 13.5, y + 24, row, "b")
    for step in range(4):
        y = TOP + 2 * 44 + 24 + 30 * step
        last = min(step + LOOKAHEAD, len(BATCHES) - 1)
        picture.box(LEFT + CELL * step + 3, y - 8, CELL - 6, 18, fill="#ddf4ff", stroke="#54aeff")
        picture.text(LEFT + CELL * step + CELL / 2, y + 6, "is planned", "q")
        width = CELL * (last - step) - 6
        picture.box(LEFT + CELL * (step + 1) + 3, y - 8, width, 18, fill="#f6f8fa", extra='stroke-dasharray="5 4"')
        picture.text(LEFT + CELL * (step + 1) + width / 2, y + 6, "in view", "q")
    return picture.svg()


def draw_slots(example: Example) -> str:
    """Which row lies in which slot of which trainer."""
    lane = 34 * CACHE_ROWS + 26
    width, height = LEFT + CELL * len(BATCHES) + 20, TOP + lane * len(TRAINERS) + 68
    picture = Picture(width, height, "The slots of both trainers over six steps")
    _columns(picture)
    for rank in TRAINERS:
        y = TOP + lane * rank
        picture.text(16, y + 34 * CACHE_ROWS / 2 + 5, f"trainer {rank}", "b", "start")
        for slot in range(CACHE_ROWS):
            picture.text(LEFT - 8, y + 34 * slot + 21, str(slot), "q", "end")
            picture.box(LEFT, y + 34 * slot, CELL * len(BATCHES), 32, fill="#ffffff")
        for step, stays in enumerate(example.stays):
            for stay in stays[rank]:
                _draw_stay(picture, LEFT + CELL * step, y + 34 * stay.slot, stay)
    y = height - 46
    picture.box(LEFT, y - 14, 24, 20, fill=COLORS["A"], stroke=INK, extra='stroke-width="1.5"')
    picture.text(LEFT + 30, y, "used in this step", "q", "start")
    picture.box(LEFT + 150, y - 14, 24, 20, fill=COLORS["A"], extra='fill-opacity="0.35" stroke-dasharray="4 3"')
    picture.text(LEFT + 180, y, "waits for a later step", "q", "start")
    words = f"{FETCHED}fetched before the step,{EVICTED} evicted after it, * owned by this trainer"
    picture.text(LEFT, y + 24, words, "q", "start")
    return picture.svg()


def _draw_stay(picture: Picture, x: float, y: float, stay: Stay) -> None:
    look = 'stroke-width="1.5"' if stay.is_used else 'fill-opacity="0.35" stroke-dasharray="4 3"'
    stroke = INK if stay.is_used else LINE
    picture.box(x + 3, y + 3, CELL - 6, 26, fill=COLORS[stay.row], stroke=stroke, extra=look)
    words = f"{FETCHED * stay.is_fetched}{stay.row}{'*' * stay.is_owner}{EVICTED * stay.is_evicted}"
    picture.text(x + CELL / 2, y + 21, words, "b" if stay.is_used else "q")


def draw_owners(example: Example) -> str:
    """Who owns each row in each step, who else uses it, and when no cache holds it."""
    width, height = LEFT + CELL * len(BATCHES) + 20, TOP + 36 * len(ROWS) + 44
    picture = Picture(width, height, "The owner of every row over six steps")
    _columns(picture)
    for at, row in enumerate(ROWS):
        y = TOP + 36 * at
        picture.text(LEFT - 14, y + 21, f"row {row}", "b", "end")
        picture.line(LEFT, y + 17, LEFT + CELL * len(BATCHES), y + 17)
        for step in range(len(BATCHES)):
            held = {rank: stay for rank in TRAINERS for stay in example.stays[step][rank] if stay.row == row}
            for owner in [rank for rank, stay in held.items() if stay.is_owner]:
                x, is_used = LEFT + CELL * step, held[owner].is_used
                extra = "" if is_used else 'fill-opacity="0.3" stroke-dasharray="4 3"'
                picture.box(x + 3, y + 3, CELL - 6, 28, fill="#ffffff")  # Hides the line behind a pale box.
                picture.box(x + 3, y + 3, CELL - 6, 28, fill=OWNER_COLORS[owner], extra=extra)
                others = "".join(f", {rank} too" for rank in held if rank != owner)
                picture.text(x + CELL / 2, y + 22, f"{owner}{others}" if is_used else "waits", "b" if is_used else "q")
    y = height - 22
    for rank in TRAINERS:
        picture.box(LEFT + 130 * rank, y - 14, 24, 20, fill=OWNER_COLORS[rank])
        picture.text(LEFT + 130 * rank + 30, y, f"trainer {rank} owns", "q", "start")
    picture.text(LEFT + 270, y, "a bare line: only the servers have the row", "q", "start")
    return picture.svg()


def messages(example: Example, step: int) -> list[tuple[str, str, str, str]]:
    """What travels because of one step: (from, to, what, when), in the order in which it happens."""
    plans, found = example.plans[step], []
    rows = [BATCHES[step][rank] for rank in TRAINERS]
    for rank, plan in enumerate(plans):
        keys = [ROWS[key] for key in plan.fetch_keys.tolist()]
        named = [f"{row} (record)" if at < plan.num_fetch_records else f"{row} (value)" for at, row in enumerate(keys)]
        if named:
            after = f", after the write-backs of step {plan.fetch_after}" if plan.fetch_after >= 0 else ""
            found.append(("servers", f"trainer {rank}", ", ".join(named), f"before the step{after}"))
    for rank, plan in enumerate(plans):
        for owner in TRAINERS:
            sent = [rows[rank][at] for at in plan.grad_send[owner].tolist()]
            if sent:
                found.append((f"trainer {rank}", f"trainer {owner}", f"gradient of {', '.join(sent)}", "in the step"))
    for kind in KINDS:
        for rank, plan in enumerate(plans):
            names = dict(zip(plan.slots_K.tolist(), rows[rank], strict=True))
            for receiver in TRAINERS:
                sent = [names[slot] for slot in getattr(plan.send, kind)[receiver].tolist()]
                when, what = kind.split("_")
                if sent:
                    words = f"{what[:-1]} of {', '.join(sent)}"
                    found.append((f"trainer {rank}", f"trainer {receiver}", words, f"after the update, {when}"))
    for rank, plan in enumerate(plans):
        if plan.evict_keys.size:
            words = ", ".join(f"{ROWS[key]} (record)" for key in plan.evict_keys.tolist())
            found.append((f"trainer {rank}", "servers", words, "after the update, written back"))
    return found


def draw_step(example: Example, step: int) -> str:
    """The messages of one step, from top to bottom."""
    sent = messages(example, step)
    places = {"trainer 0": 130, "trainer 1": 430, "servers": 730}
    height = 70 + 44 * len(sent) + 44
    picture = Picture(860, height, f"The messages of step {step}")
    for name, x in places.items():
        picture.box(x - 60, 12, 120, 30, fill="#dafbe1" if "trainer" in name else "#fff8c5")
        picture.text(x, 32, name, "b")
        picture.line(x, 42, x, height - 12)
    y, is_updated = 76, False
    for source, target, words, when in sent:
        if when.startswith("after the update") and not is_updated:
            is_updated = True
            for rank in TRAINERS:
                x = places[f"trainer {rank}"]
                picture.box(x - 70, y - 18, 140, 24, fill="#f6f8fa")
                picture.text(x, y - 1, "updates owned rows", "q")
            y += 44
        picture.line(places[source], y, places[target], y, arrow=True, dashed="deferred" in when)
        middle = (places[source] + places[target]) / 2
        picture.text_on_line(middle, y - 6, words)
        picture.text_on_line(middle, y + 15, when, "q")
        y += 44
    return picture.svg()


# The table.


def table(example: Example) -> str:
    """What each trainer does, step by step."""
    lines = [
        "| step | trainer | uses | fetches | sends gradients | then sends | evicts |",
        "|---|---|---|---|---|---|---|",
    ]
    for step, plans in enumerate(example.plans):
        sent = messages(example, step)
        for rank, plan in enumerate(plans):
            owned = plan.owned().tolist()
            uses = ", ".join(f"**{row}**" if at in owned else row for at, row in enumerate(BATCHES[step][rank]))
            after = f" after step {plan.fetch_after}" if plan.fetch_after >= 0 else ""
            fetched = ", ".join(ROWS[key] for key in plan.fetch_keys.tolist()) + after
            mine = [message for message in sent if message[0] == f"trainer {rank}" and message[1] != "servers"]
            gradients = "; ".join(f"{what[12:]} to {to[-1]}" for _, to, what, _ in mine if what.startswith("gradient"))
            values = "; ".join(
                f"{what.replace(' of', '')} to {to[-1]}, {when.split(', ')[1]}"
                for _, to, what, when in mine
                if not what.startswith("gradient")
            )
            evicted = ", ".join(ROWS[key] for key in plan.evict_keys.tolist())
            lines.append(f"| {step} | {rank} | {uses} | {fetched} | {gradients} | {values} | {evicted} |")
    return "\n".join(lines)


BEGIN, END = "<!-- table by tools/draw_plan.py -->", "<!-- end of table -->"


def files() -> dict[Path, str]:
    """Everything this program writes, by path."""
    example = plan_example()
    page = (DOCS / "plan.md").read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    return {
        DOCS / "plan-window.svg": draw_window(),
        DOCS / "plan-slots.svg": draw_slots(example),
        DOCS / "plan-owners.svg": draw_owners(example),
        DOCS / "plan-step.svg": draw_step(example, 0),
        DOCS / "plan.md": f"{before}{BEGIN}\n{table(example)}\n{END}{rest.split(END)[1]}",
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
