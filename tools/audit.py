"""Asks for known vulnerabilities of the pinned packages, by pip-audit, and says in one line what is known.

python tools/audit.py --pip-audit .venv/.audit/bin/pip-audit requirements/server.txt torch==2.13.0

Each argument is a file of hashed requirements, or one requirement. The exit code is

    0    advisories about every package were read, and there is none
    1    there is at least one; each is a line
    75   no advisory is known, but of some packages, or all, none could be read: this says nothing about those

pip-audit itself ends with 0 and `No known vulnerabilities found` where it could not ask about a single package.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOUND, UNKNOWN = 1, 75


@dataclass(slots=True)
class Known:
    """What was learned of some packages, each as `name version`."""

    clear: set[str] = field(default_factory=set)
    """Their advisories were read, and there is none."""
    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    """The names of their advisories."""
    unasked: dict[str, str] = field(default_factory=dict)
    """Why there is no answer, by package, or by the argument of which nothing was learned."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pip-audit", default="pip-audit", help="the program")
    made.add_argument("what", nargs="+", help="a file of hashed requirements, or a requirement")
    chosen = made.parse_args(arguments)
    known = Known()
    for what in chosen.what:
        ask(chosen.pip_audit, what, known)
    lines, code = verdict(known)
    print("\n".join(lines))
    return code


def ask(program: str, what: str, known: Known) -> None:
    """Add what pip-audit says of a file's packages, or of one requirement."""
    with tempfile.TemporaryDirectory(prefix="bagpipe-audit-") as folder:
        if Path(what).is_file():
            given = ["--require-hashes", "-r", what]
        else:
            file = Path(folder) / "requirements.txt"
            file.write_text(f"{what}\n", encoding="utf-8")
            given = ["--no-deps", "-r", str(file)]
        command = [program, "--disable-pip", "--progress-spinner", "off", "--format", "json", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        known.unasked[what] = said[-1].strip() if said else f"pip-audit ended with {done.returncode} and said nothing"
        return
    for one in dependencies:
        name = f"{one['name']} {one.get('version', '')}".strip()
        if "skip_reason" in one:
            known.unasked[name] = one["skip_reason"]
        elif one["vulns"]:
            known.vulnerable[name] = [vulnerability["id"] for vulnerability in one["vulns"]]
        else:
            known.clear.add(name)


def verdict(known: Known) -> tuple[list[str], int]:
    """The lines to print, the last of which says what is known, and the exit code."""
    lines = [f"{name}: {', '.join(names)}" for name, names in sorted(known.vulnerable.items())]
    asked = len(known.clear) + len(known.vulnerable)
    heading = f"{len(known.vulnerable)} of {asked} packages have known vulnerabilities"
    if known.unasked:
        name, reason = min(known.unasked.items())
        count = f"{len(known.unasked)} of {asked + len(known.unasked)} packages"
        unknown = (
            f"NOT AUDITED: no advisories could be read about {count}, so nothing is known of them ({name}: {reason})"
        )
        remedy = "run it where the advisories of the package index can be reached"
        lines.append(f"{heading}; {unknown}; {remedy}" if known.vulnerable else f"{unknown}; {remedy}")
    else:
        lines.append(f"{heading}; advisories were read about all of them")
    return lines, FOUND if known.vulnerable else UNKNOWN if known.unasked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
