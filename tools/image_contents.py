"""Lists what the images contain and writes an SBOM of each (CycloneDX); ends with 1 if one contains what it must not.

python tools/image_contents.py bagpipe-server:VERSION ...     after `make images`
    --docker "docker"        the command that runs containers
    --sbom dist/sbom         the folder of the SBOMs

An SBOM names every Python package and every package of the distribution, with its version. It holds no time and no
random number: the same image has the same SBOM.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

PROBE = Path(__file__).parent.parent / "images" / "probe.py"
USER = [10001, 10001]
DEBIAN = "bookworm"


class Contents(TypedDict):
    """What `images/probe.py` says."""

    python: str
    machine: str
    user: list[int]
    distributions: list[dict[str, Any]]
    debian: list[dict[str, str]]
    compilers: list[str]
    tests: list[str]
    secrets: list[str]
    variables: list[str]
    setuid: list[str]
    writable: list[str]
    bytes: int


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if an image holds what it must not."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("images", nargs="+")
    made.add_argument("--docker", default="docker")
    made.add_argument("--sbom", type=Path)
    chosen = made.parse_args(arguments)
    found = False
    for image in chosen.images:
        contents = contents_of(image, chosen.docker.split())
        wrong = faults(contents)
        found = found or bool(wrong)
        print(f"{image}: {summary(contents)}")
        for line in wrong:
            print(f"  WRONG: {line}")
        if chosen.sbom:
            chosen.sbom.mkdir(parents=True, exist_ok=True)
            file = chosen.sbom / f"{re.sub(r'[^A-Za-z0-9.]+', '-', image)}.cdx.json"
            file.write_text(json.dumps(sbom(image, contents), indent=1) + "\n", encoding="utf-8")
            print(f"  {file}")
    return int(found)


def contents_of(image: str, docker: Sequence[str]) -> Contents:
    """Run the probe in a container of the image, as the image's own user and without a network.

    Raises:
        subprocess.CalledProcessError: it could not be run.
    """
    # Not read-only, as pods are: what its user could change if they were not is asked here.
    command = [*docker, "run", "--rm", "-i", "--network", "none", "--entrypoint", "python3", image, "-"]
    done = subprocess.run(command, input=PROBE.read_bytes(), stdout=subprocess.PIPE, check=True)
    contents: Contents = json.loads(done.stdout)
    return contents


def faults(contents: Contents) -> list[str]:
    """What must not be so; empty: nothing."""
    names = {str(one["name"]).lower() for one in contents["distributions"]}
    checks = {
        "a compiler or linker": contents["compilers"],
        "tests": contents["tests"],
        "a file that may hold a secret": contents["secrets"],
        "a variable that may hold a secret": contents["variables"],
        "a way to install packages": sorted(names & {"pip", "setuptools", "wheel"}),
        "what its user could change": contents["writable"],
    }
    wrong = [f"{what}: {', '.join(found[:5])} ({len(found)})" for what, found in checks.items() if found]
    if contents["user"] != USER:
        wrong.append(f"expected user and group {USER}, found {contents['user']}")
    return wrong


def summary(contents: Contents) -> str:
    """One line about an image."""
    packages = f"{len(contents['distributions'])} Python packages, {len(contents['debian'])} of Debian"
    return (
        f"{contents['bytes'] / 2**20:.0f} MiB, {packages}, user {contents['user'][0]}, "
        f"{len(contents['setuid'])} files of the base image that set a user"
    )


def sbom(image: str, contents: Contents) -> dict[str, Any]:
    """The image's software bill of materials, CycloneDX 1.5."""
    name, _, version = image.rpartition(":")
    python = [_python_component(one) for one in contents["distributions"]]
    debian = [_debian_component(one) for one in contents["debian"]]
    references = {_normal(one["name"]): _python_component(one)["bom-ref"] for one in contents["distributions"]}
    needs = [
        {
            "ref": references[_normal(one["name"])],
            "dependsOn": sorted({references[n] for need in one["needs"] if (n := _needed(need)) in references}),
        }
        for one in contents["distributions"]
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version, "bom-ref": image}},
        "components": [
            {
                "type": "application",
                "name": "python",
                "version": contents["python"],
                "bom-ref": "python",
                "purl": f"pkg:generic/python@{contents['python']}",
            },
            *python,
            *debian,
        ],
        "dependencies": needs,
    }


def _python_component(one: dict[str, Any]) -> dict[str, Any]:
    name, version = _normal(one["name"]), str(one["version"])
    purl = f"pkg:pypi/{name}@{quote(version, safe='')}"
    found: dict[str, Any] = {"type": "library", "name": name, "version": version, "bom-ref": purl, "purl": purl}
    # A licence's whole text stands in this field of some packages.
    if one["license"] and len(one["license"]) <= 100 and "\n" not in one["license"]:
        found["licenses"] = [{"license": {"name": one["license"]}}]
    return found


def _debian_component(one: dict[str, str]) -> dict[str, Any]:
    version = quote(one["version"], safe="")
    purl = f"pkg:deb/debian/{quote(one['name'], safe='')}@{version}?arch={one['architecture']}&distro={DEBIAN}"
    return {"type": "library", "name": one["name"], "version": one["version"], "bom-ref": purl, "purl": purl}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed(need: str) -> str:
    return _normal(re.split(r"[\s;<>=!~\[(]", need, maxsplit=1)[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
