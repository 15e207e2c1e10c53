"""Draws where an iteration's time goes: one bar, its parts, and below what is inside them. Pure."""

from collections.abc import Iterator
from html import escape

from bagpipe.paper.log_format import INSIDE, PARTS, Breakdown

_COLOURS = {
    "Next Batch Time": "#4c72b0",
    "Forward Time": "#55a868",
    "Backward Time": "#c44e52",
    "Dense Optim Time": "#8172b2",
}
_REST = "#999999"
_WIDTH, _LEFT, _ROW = 760, 150, 30


def breakdown_svg(timing: Breakdown, title: str) -> str:
    """The breakdown of an average iteration as an SVG document."""
    shown = [(name, timing.parts[name]) for name in PARTS if name in timing.parts]
    rest = timing.mean_ms - sum(ms for _, ms in shown)
    if rest > timing.mean_ms / 1000:
        shown.append(("Other", rest))
    rows = [*_parts(shown), *_inside(timing)]
    longest = max((begin + ms for _, begin, ms, _ in rows), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - 110) / longest
    height = 60 + _ROW * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        '     font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="10" y="42">{escape(_headline(timing))}</text>',
    ]
    for number, (name, begin, ms, colour) in enumerate(rows):
        y = 54 + _ROW * number
        x, width = _LEFT + begin * scale, max(ms * scale, 1.0)
        lines += [
            f'<text x="10" y="{y + 16}">{escape(name)}</text>',
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="22" fill="{colour}"/>',
            f'<text x="{x + width + 6:.1f}" y="{y + 16}">{ms:.2f} ms</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _headline(timing: Breakdown) -> str:
    spread = "" if timing.deviation_ms is None else f" (standard deviation {timing.deviation_ms:.2f})"
    return f"{timing.mean_ms:.2f} ms{spread}, {timing.iterations} iterations after {timing.warm_up} of warm-up"


def _parts(shown: list[tuple[str, float]]) -> Iterator[tuple[str, float, float, str]]:
    """(name, begin, milliseconds, colour): each part begins where the one before ends."""
    begin = 0.0
    for name, ms in shown:
        yield name.removesuffix(" Time"), begin, ms, _COLOURS.get(name, _REST)
        begin += ms


def _inside(timing: Breakdown) -> Iterator[tuple[str, float, float, str]]:
    """What is inside a part, from that part's beginning on."""
    begins: dict[str, float] = {}
    begin = 0.0
    for name in PARTS:
        begins[name] = begin
        begin += timing.parts.get(name, 0.0)
    for name, part in INSIDE.items():
        if name in timing.parts:
            yield f"· {name.removesuffix(' Time')}", begins[part], timing.parts[name], _COLOURS[part] + "80"
            begins[part] += timing.parts[name]
