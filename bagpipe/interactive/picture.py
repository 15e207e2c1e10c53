"""Draws the curves of a run, loss and examples per second over the steps, as SVG, without a plotting library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.lowlevel.strict_json import number

_WIDTH, _HEIGHT, _LEFT, _TOP, _APART = 420, 180, 64, 36, 70
CURVES = {"loss": "loss", "examples_per_second": "examples/s"}


class Picture:
    """An SVG. A notebook shows it where it is the value of a cell; `save` writes it."""

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def __repr__(self) -> str:
        return f"Picture({len(self.svg)} bytes of SVG; show it in a notebook, or .save('curves.svg'))"

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the file; returns its path.

        Raises:
            StorageError: it cannot be written.
        """
        where = Path(path)
        write_whole(where, self.svg.encode())
        return where


def curves(records: Sequence[Mapping[str, Any]], title: str) -> Picture:
    """One frame for each of `CURVES`, side by side. Values that are not finite are left out."""
    width = len(CURVES) * (_WIDTH + _LEFT + _APART // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" width="{width}" height="{_HEIGHT + 90}">',
        f'<rect width="{width}" height="{_HEIGHT + 90}" fill="#fff"/>',
        _text(_LEFT, 18, title, 13, "start"),
    ]
    for place, (name, words) in enumerate(CURVES.items()):
        points = [(float(r["step"]), value) for r in records if (value := number(r, name)) is not None]
        finite = [(x, y) for x, y in points if abs(y) < float("inf")]
        parts += _frame(_LEFT + place * (_WIDTH + _APART), words, finite)
    return Picture("\n".join([*parts, "</svg>"]) + "\n")


def _frame(left: int, words: str, points: Sequence[tuple[float, float]]) -> list[str]:
    top, bottom, right = _TOP, _TOP + _HEIGHT, left + _WIDTH - 40
    parts = [
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#222"/>',
        _text(left, top - 6, words, 11, "start"),
        _text((left + right) / 2, bottom + 34, "step", 11),
    ]
    if not points:
        return [*parts, _text((left + right) / 2, (top + bottom) / 2, "no record", 11)]
    (x0, x1), (y0, y1) = (_range([p[axis] for p in points]) for axis in (0, 1))
    across, up = (right - left) / (x1 - x0), _HEIGHT / (y1 - y0)
    line = " ".join(f"{left + (x - x0) * across:.1f},{bottom - (y - y0) * up:.1f}" for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f6f8b" stroke-width="1.5"/>')
    for share in (0.0, 0.5, 1.0):
        parts.append(_text(left - 6, bottom - share * _HEIGHT + 4, _short(y0 + share * (y1 - y0)), 10, "end"))
        parts.append(_text(left + share * (right - left), bottom + 16, _short(x0 + share * (x1 - x0)), 10))
    return parts


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _text(x: float, y: float, words: str, size: int, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
