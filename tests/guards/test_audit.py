"""`make audit` succeeds only where advisories were read about every package: silence is no good news."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import audit  # noqa: E402

CLEAR = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3)"}
UNKNOWN = "NOT AUDITED: no advisories could be read about {} packages, so nothing is known of them ({}); run it where"


@pytest.mark.parametrize(
    ("told", "complained", "code", "last"),
    [
        ([CLEAR], "", 0, "0 of 1 packages have known vulnerabilities; advisories were read about all of them"),
        ([CLEAR, BAD], "", 1, "1 of 2 packages have known vulnerabilities; advisories were read about all of them"),
        ([SKIPPED], "", 75, UNKNOWN.format("1 of 1", f"c: {SKIPPED['skip_reason']}")),
        ([CLEAR, SKIPPED], "", 75, UNKNOWN.format("1 of 2", f"c: {SKIPPED['skip_reason']}")),
        ([BAD, SKIPPED], "", 1, "1 of 1 packages have known vulnerabilities; NOT AUDITED: no advisories could be read"),
        (None, "no connection", 75, UNKNOWN.format("1 of 1", "x==1: no connection")),
    ],
    ids=["all clear", "a vulnerability", "nothing could be asked", "one could not be asked", "both", "no answer"],
)
def test_what_is_known_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    told: list[dict[str, object]] | None,
    complained: str,
    code: int,
    last: str,
) -> None:
    """pip-audit ends with 0 here each time, as it does where it could not ask; the code is ours."""
    program, answer = tmp_path / "pip-audit", tmp_path / "answer"
    answer.write_text("" if told is None else json.dumps({"dependencies": told, "fixes": []}))
    program.write_text(f"#!/bin/sh\ncat {answer}\necho '{complained}' >&2\n")
    os.chmod(program, 0o755)
    assert audit.main(["--pip-audit", str(program), "x==1"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(last)
    assert lines[:-1] == (["b 2: PYSEC-1, PYSEC-2"] if code == 1 else [])
