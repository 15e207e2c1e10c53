"""Draws an experiment: bars of milliseconds per iteration, as SVG, without a plotting library."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bagpipe.experiment.suite import TITLES
from bagpipe.experiment.table import SYSTEMS, Row, ordered

_COLORS = {"cached": "#1f6f8b", "uncached": "#c9a227", "torchrec": "#8c4a5b"}
_BAR, _GAP, _HEIGHT, _LEFT, _TOP, _BOTTOM = 26, 30, 260, 56, 40, 40


def to_svg(rows: Sequence[Row]) -> str:
    """Groups of bars, one group a model; whiskers are one standard deviation. Rows without a timing have no bar."""
    shown = [(r, r.timing) for r in ordered(rows) if r.timing is not None]
    top = max((t.mean_ms + (t.deviation_ms or 0.0) for _, t in shown), default=1.0) or 1.0
    parts: list[str] = []
    x, model = float(_LEFT), ""
    for row, timing in shown:
        if row.model != model:
            x += _GAP if model else _GAP / 2
            model = row.model
            count = sum(r.model == model for r, _ in shown)
            parts.append(_text(x + count * _BAR / 2, _TOP + _HEIGHT + 18, TITLES.get(model, model)))
        y = _y(timing.mean_ms, top)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{_BAR - 4}" height="{_TOP + _HEIGHT - y:.1f}" '
            f'fill="{_COLORS[row.system]}"/>'
        )
        parts.append(_text(x + _BAR / 2 - 2, _y(timing.mean_ms + (timing.deviation_ms or 0.0), top) - 4,
                           f"{timing.mean_ms:.0f}", 9))  # fmt: skip
        if timing.deviation_ms:
            high, low = (_y(timing.mean_ms + s * timing.deviation_ms, top) for s in (1, -1))
            middle = x + _BAR / 2 - 2
            parts.append(f'<path d="M{middle:.1f} {high:.1f}V{min(low, _TOP + _HEIGHT):.1f}" stroke="#222"/>')
        x += _BAR
    width, height = max(x + _GAP / 2, 360.0), _TOP + _HEIGHT + _BOTTOM
    frame = [
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" width="{width:.0f}" height="{height}">',
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
        f'<path d="M{_LEFT} {_TOP}V{_TOP + _HEIGHT}H{width:.0f}" fill="none" stroke="#222"/>',
        *(_tick(top * share, top) for share in (0.25, 0.5, 0.75, 1.0)),
        _text(_LEFT, _TOP - 24, "ms per iteration", 12),
    ]
    systems = [s for s in SYSTEMS if any(r.system == s for r, _ in shown)]
    for number, system in enumerate(systems):
        left = _LEFT + 110 + number * 84
        frame.append(f'<rect x="{left}" y="{_TOP - 33}" width="10" height="10" fill="{_COLORS[system]}"/>')
        frame.append(_text(left + 42, _TOP - 24, SYSTEMS[system], 11))
    return "\n".join([*frame, *parts, "</svg>"]) + "\n"


def _y(ms: float, top: float) -> float:
    return _TOP + _HEIGHT * (1.0 - max(ms, 0.0) / top)


def _tick(ms: float, top: float) -> str:
    y = _y(ms, top)
    return f'<path d="M{_LEFT - 4} {y:.1f}H{_LEFT}" stroke="#222"/>' + _text(_LEFT - 24, y + 4, f"{ms:.0f}", 10)


def _text(x: float, y: float, words: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="middle">{escape(words)}</text>'
