"""Draw the rooms of `bagpipe/`, floor by floor, with every import between two rooms as an arrow, and count them.

    python tools/draw_rooms.py                     # the working tree: docs/rooms.svg
    python tools/draw_rooms.py --commit 75347ce    # the tree of a commit: docs/rooms-75347ce.svg

A room is a module or package directly in `bagpipe/`. It stands one floor above the highest room that it imports. Where
rooms import each other in a circle, no order has all arrows run down: the arrows that run up then are drawn in red.
"""

import argparse
import ast
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bagpipe", "operator/bagpipe_operator")
READ_IMPORTS = """
import grimp, json
graph = grimp.build_graph("bagpipe", exclude_type_checking_imports=True)
print(json.dumps([[a, b] for a in sorted(graph.modules) for b in sorted(graph.find_modules_directly_imported_by(a))]))
"""

Arrow = tuple[str, str]


@dataclass
class House:
    """The rooms of one tree."""

    floors: dict[str, int]
    arrows: list[Arrow]
    function_lengths: list[int]

    @property
    def upward(self) -> list[Arrow]:
        return [(a, b) for a, b in self.arrows if self.floors[a] <= self.floors[b]]

    def summary(self) -> str:
        return (
            f"{len(self.floors)} rooms on {max(self.floors.values()) + 1} floors, {len(self.arrows)} arrows, "
            f"{len(self.upward)} of them upwards; functions: median {statistics.median(self.function_lengths):.0f} "
            f"lines, longest {max(self.function_lengths)}"
        )


def house(tree: Path) -> House:
    imports = subprocess.run(
        [sys.executable, "-c", READ_IMPORTS], cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, check=True
    )
    found = {(_room(a), _room(b)) for a, b in json.loads(imports.stdout)}
    arrows = sorted((a, b) for a, b in found if a and b and a != b)
    rooms = {p.stem for p in (tree / "bagpipe").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    return House(_floors(sorted(rooms - {"__init__"}), arrows), arrows, _function_lengths(tree))


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _floors(rooms: list[str], arrows: list[Arrow]) -> dict[str, int]:
    """Floors along the imports, over an order that few arrows contradict (Eades, Lin and Smyth's heuristic)."""
    order = _order(rooms, arrows)
    place = {room: at for at, room in enumerate(order)}
    floors: dict[str, int] = {}
    for room in reversed(order):
        below = [floors[b] for a, b in arrows if a == room and place[b] > place[a]]
        floors[room] = 1 + max(below, default=-1)
    return floors


def _order(rooms: list[str], arrows: list[Arrow]) -> list[str]:
    left, top, bottom = set(rooms), [], []
    while left:
        inside = [(a, b) for a, b in arrows if a in left and b in left]
        importers, imported = {a for a, _ in inside}, {b for _, b in inside}
        sinks, sources = sorted(left - importers), sorted(left - imported)
        if sinks:
            bottom[:0] = sinks
            left -= set(sinks)
        elif sources:
            top += sources
            left -= set(sources)
        else:
            degree = {room: sum((a == room) - (b == room) for a, b in inside) for room in left}
            room = max(sorted(left), key=lambda name: degree[name])
            top.append(room)
            left.remove(room)
    return top + bottom


def _function_lengths(tree: Path) -> list[int]:
    files = [file for package in PACKAGES for file in sorted((tree / package).rglob("*.py"))]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


WIDTH, FLOOR, ROOM = 1180, 76, 28


def draw(built: House, title: str) -> str:
    top = max(built.floors.values())
    height = (top + 1) * FLOOR + 56
    at: dict[str, tuple[float, float]] = {}
    for floor in range(top + 1):
        here = sorted(room for room, number in built.floors.items() if number == floor)
        for index, room in enumerate(here):
            at[room] = (WIDTH * (index + 0.5 + 0.06 * (-1) ** floor) / len(here), 44 + (top - floor) * FLOOR)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        f'<title id="title">{title}: {built.summary()}</title>',
        "<style>text{font:13px sans-serif;fill:#1b1f24;text-anchor:middle}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{WIDTH / 2}" y="20">{title}: {built.summary()}</text>',
    ]
    upward = set(built.upward)
    for arrow in sorted(built.arrows, key=lambda pair: pair in upward):
        (x1, y1), (x2, y2) = at[arrow[0]], at[arrow[1]]
        look = 'stroke="#cf222e" stroke-width="1.6"' if arrow in upward else 'stroke="#b6bfc9" stroke-width="0.8"'
        parts.append(f'<line x1="{x1:.0f}" y1="{y1 + ROOM / 2:.0f}" x2="{x2:.0f}" y2="{y2 + ROOM / 2:.0f}" {look}/>')
    for room, (x, y) in sorted(at.items()):
        width = 8 * len(room) + 16
        parts.append(
            f'<rect x="{x - width / 2:.0f}" y="{y}" width="{width}" height="{ROOM}" rx="6" fill="#ddf4ff" '
            f'stroke="#54aeff"/><text x="{x:.0f}" y="{y + 18}">{room}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="draw the tree of this commit instead of the working tree")
    commit = parser.parse_args().commit
    if not commit:
        built, name, title = house(ROOT), "rooms.svg", "Rooms"
    else:
        archive = subprocess.run(["git", "archive", commit, *PACKAGES], cwd=ROOT, capture_output=True, check=True)
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
            built, name, title = house(Path(folder)), f"rooms-{commit}.svg", f"Rooms at {commit}"
    (ROOT / "docs" / name).write_text(draw(built, title), encoding="utf-8")
    print(f"{title}: {built.summary()}")
    for above, below in built.upward:
        print(f"  upwards: {above} imports {below}")


if __name__ == "__main__":
    main()
