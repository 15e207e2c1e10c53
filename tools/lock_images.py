"""Writes the hashed requirements that images are built from, one file for each image and one for what builds them.

python tools/lock_images.py                  writes all, from both pyproject.toml and requirements/constraints.txt
python tools/lock_images.py --torch INDEX    prints those of the torch build that an index offers

pip itself finds the files, for each kind of machine that images are built for, and tells their hashes. torch is left
out of the trainer's: which build of it (CPU, CUDA) an image gets is chosen where it is built (Dockerfile.trainer).
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
PYTHON = "3.11"
"""Of the images."""
MACHINES = {
    "x86_64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "aarch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
}
BUILDERS = ("setuptools>=77", "hatchling>=1.26", "wheel")
"""What `build-system` of both packages names."""
OWN_INDEX = re.compile(r"torch$|triton|nvidia-|cuda-")
"""Packages that come from the index of the chosen torch build."""

Locked = dict[str, tuple[str, set[str]]]
"""Of each package: its version, and the hashes of its files."""


def main(arguments: Sequence[str]) -> int:
    """Returns 0."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--torch", metavar="INDEX", help="print the requirements of this index's build, and write nothing"
    )
    chosen = made.parse_args(arguments)
    if chosen.torch:
        command = f"python tools/lock_images.py --torch {chosen.torch}"
        found = {
            name: entry for name, entry in locked([torch_pin()], index=chosen.torch).items() if OWN_INDEX.match(name)
        }
        print(text_of(found, command), end="")
        return 0
    for path, roots in wanted().items():
        (ROOT / path).write_text(text_of(locked(roots), "python tools/lock_images.py"), encoding="utf-8")
        print(path, flush=True)
    return 0


def wanted() -> Mapping[str, list[str]]:
    """The file of each image, and what it needs at the least."""
    library = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    operator = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())["project"]["dependencies"]
    return {
        "requirements/server.txt": library,
        "requirements/trainer.txt": [*library, *needs_of_torch()],
        "requirements/build.txt": list(BUILDERS),
        "operator/requirements.txt": operator,
        "operator/build.txt": list(BUILDERS),
        "tests/e2e/store/requirements.txt": ["moto[s3]", "flask", "flask-cors"],
    }


def needs_of_torch() -> list[str]:
    """The packages that every build of torch needs, from the one that is installed here."""
    return [
        need.partition(";")[0].strip()
        for need in importlib.metadata.requires("torch") or ()
        if "extra ==" not in need and not OWN_INDEX.match(need) and not _only_for_newer(need)
    ]


def _only_for_newer(need: str) -> bool:
    return bool(re.search(r'python_version >= "3\.1[2-9]"', need))


def torch_pin() -> str:
    """The line of the constraints that names torch."""
    return next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def locked(roots: Iterable[str], *, index: str | None = None) -> Locked:
    """What pip would install for these, on any of the machines.

    Raises:
        subprocess.CalledProcessError: pip found no way; it has said why.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for platforms in MACHINES.values():
        for entry in _report(list(roots), platforms, index):
            hashes = entry["download_info"]["archive_info"]["hashes"]
            found[normal(entry["metadata"]["name"])][entry["metadata"]["version"]].add(hashes["sha256"])
    several = {name: sorted(versions) for name, versions in found.items() if len(versions) > 1}
    if several:
        raise SystemExit(f"error: expected one version of each package, found {several}; name it in {CONSTRAINTS.name}")
    return {name: next(iter(versions.items())) for name, versions in found.items()}


def _report(roots: Sequence[str], platforms: Sequence[str], index: str | None) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "--target", folder, "--only-binary=:all:", "--python-version", PYTHON]
        command += [word for platform in platforms for word in ("--platform", platform)]
        command += ["--index-url", index] if index else ["--constraint", str(CONSTRAINTS)]
        subprocess.run([*command, *roots], check=True, stdout=sys.stderr)
        installed: list[dict[str, Any]] = json.loads(report.read_text())["install"]
        return installed


def normal(name: str) -> str:
    """A package's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def text_of(packages: Locked, command: str) -> str:
    """The requirements file."""
    lines = [f"# Written by `{command}`. For Python {PYTHON} on {' and '.join(MACHINES)}."]
    for name, (version, hashes) in sorted(packages.items()):
        lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{one}" for one in sorted(hashes))]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
