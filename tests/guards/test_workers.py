"""How tests are dealt out to workers (`tests/conftest.py`), shown on a small suite of its own that two workers run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PROLOGUE = """
import json, os, time, pytest

def spend(request, seconds):
    begun = time.monotonic()
    time.sleep(seconds)
    line = [request.node.name, os.environ.get("PYTEST_XDIST_WORKER", ""), begun, time.monotonic()]
    with open("diary", "a") as file:
        file.write(json.dumps(line) + "\\n")
"""
SUITE = {
    "unit/test_quick.py": "@pytest.mark.parametrize('n', range(12))\n"
    "def test_quick(request, n): spend(request, 0.05)\n",
    "unit/test_last.py": "@pytest.mark.last\ndef test_last(request): spend(request, 0)\n",
    "unit/test_timed.py": "@pytest.mark.alone\ndef test_timed(request): spend(request, 0.5)\n",
    "numerics/test_exact.py": "def test_exact(request): spend(request, 0)\n",
    "integration/test_run.py": "@pytest.fixture(scope='module')\ndef run(request): return 1\n"
    "@pytest.mark.parametrize('n', range(4))\ndef test_run(request, run, n): spend(request, 0.02)\n",
}
Diary = list[tuple[str, str, float, float]]


def diary(folder: Path, *workers: str) -> Diary:
    """Run the suite; name, worker, beginning and end of each test, by their beginning."""
    for name, text in SUITE.items():
        file = folder / "tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PROLOGUE + text)
    shutil.copy(CONFTEST, folder / "tests" / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone: a\n  last: b\n")
    command = [sys.executable, "-m", "pytest", "-q", *workers, "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "diary").read_text().splitlines()]
    assert len(lines) == 19
    return sorted(map(tuple, lines), key=lambda line: line[2])


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> Diary:
    return diary(tmp_path_factory.mktemp("dealt"), "-n", "2")


def test_a_timed_test_has_the_machine_to_itself(dealt: Diary) -> None:
    """While a test marked `alone` runs, no other worker runs one; otherwise two workers are busy."""
    (timed,) = [line for line in dealt if line[0] == "test_timed"]
    assert [name for name, _, begun, ended in dealt if begun < timed[3] and ended > timed[2]] == ["test_timed"]
    assert len({worker for _, worker, _, _ in dealt}) == 2


def test_who_shares_a_module_fixture_stays_on_one_worker(dealt: Diary) -> None:
    """It is made once, however many workers there are."""
    assert len({worker for name, worker, _, _ in dealt if name.startswith("test_run")}) == 1


def test_the_longest_come_first_and_the_last_last(tmp_path: Path) -> None:
    """Integration, then numerics, then the rest in its order; tests that look back on all others come at the end."""
    names = [line[0].partition("[")[0] for line in diary(tmp_path)]
    assert list(dict.fromkeys(names)) == ["test_run", "test_exact", "test_quick", "test_timed", "test_last"]
