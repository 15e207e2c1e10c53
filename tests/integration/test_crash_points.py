"""Killed at numbered points, a run ends with the same model; `make sweep-crashes` tries all of them."""

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from bagpipe.testing.crash_run import Killing, count_points, preload, run_and_kill

preload()
folder = Path(sys.argv[1])
counted = count_points(folder / "count")
told = []
for role, point, number, then in json.loads(sys.argv[2]):
    killing = Killing(role, number, point, of_that_name=True, then=then, then_number=3)
    told.append(asdict(run_and_kill(folder / f"run-{len(told)}", killing, counted.digest)))
print(json.dumps({"points": {role: len(names) for role, names in counted.points.items()}, "told": told}))
"""
CHOSEN = [
    ("server 0", "draft of .json", 1, ""),
    ("server 1", "count of new rows", 6, "server 1"),
    ("server 0", "StoreMark", 21, "oracle"),
    ("oracle", "SendPlan", 26, ""),
    ("oracle", "SliceScored", 2, ""),
    ("oracle", "NoteLeft", 2, ""),
    ("trainer 1", "UPDATE_ROWS", 16, ""),
]
"""Who dies before which point, and who dies at its third point from then on: its successor, or another role."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, which forks: this one has threads."""
    folder = tmp_path_factory.mktemp("crashes")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps(CHOSEN)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_role_has_points(swept: dict[str, Any]) -> None:
    """Oracle, servers and trainers pass hundreds of numbered points in a run of thirty steps."""
    assert set(swept["points"]) == {"oracle", "server 0", "server 1", "trainer 0", "trainer 1"}
    assert min(swept["points"].values()) > 100


@pytest.mark.parametrize("number", range(len(CHOSEN)), ids=[f"{role} {point}" for role, point, *_ in CHOSEN])
def test_killed_there_the_model_is_the_same(swept: dict[str, Any], number: int) -> None:
    """The digest is that of an undisturbed run, and only the death of a trainer uses an attempt."""
    told = swept["told"][number]
    assert told["reached"], told
    assert told["same_digest"], told
    assert told["attempts"] == (2 if told["killing"]["role"].startswith("trainer") else 1), told
