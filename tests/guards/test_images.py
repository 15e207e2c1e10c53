"""What images are built from and what lies in them, as far as it can be judged without building one.

`tests/e2e/test_images.py` looks into the images themselves.
"""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import image_contents  # noqa: E402
import lock_images  # noqa: E402

LOCKS = ("requirements/server.txt", "requirements/trainer.txt", "requirements/build.txt")
LOCKS += ("operator/requirements.txt", "operator/build.txt")
DOCKERFILES = ("Dockerfile.server", "Dockerfile.trainer", "images/operator/Dockerfile")
NAMES_OF = re.compile(r"^[A-Za-z0-9_.-]+")
GOOD: image_contents.Contents = {
    "python": "3.11.2",
    "machine": "x86_64",
    "user": [10001, 10001],
    "distributions": [
        {"name": "bagpipe-train", "version": "1.0", "license": "Apache-2.0", "needs": ["PyYAML >=6", "gone; x == '1'"]},
        {"name": "PyYAML", "version": "6.0.3", "license": "MIT", "needs": []},
    ],
    "debian": [{"name": "libc6", "version": "2.36-9+deb12u1", "architecture": "amd64"}],
    "compilers": [],
    "tests": [],
    "secrets": [],
    "variables": [],
    "setuid": [],
    "writable": [],
    "bytes": 1 << 20,
}


def requirements(path: str) -> dict[str, tuple[str, list[str]]]:
    """Of each package of a file: its version and hashes."""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: (version, hashes) for (name, _, version), *hashes in ((w[0].partition("=="), *w[1:]) for w in lines)}


@pytest.mark.parametrize("path", LOCKS)
def test_every_package_of_an_image_has_its_hash(path: str) -> None:
    """One version, that of requirements/constraints.txt, and a sha256 at the least, as `pip --require-hashes` wants."""
    pins = {}
    for line in lock_images.CONSTRAINTS.read_text().splitlines():
        name, _, version = line.partition("==")
        pins[lock_images.normal(name)] = version
    found = requirements(path)
    assert found and {name: version for name, (version, _) in found.items()} == {name: pins.get(name) for name in found}
    for name, (_, hashes) in found.items():
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name


@pytest.mark.parametrize("path", LOCKS)
def test_everything_that_is_named_is_locked(path: str) -> None:
    """What pyproject.toml asks for stands in the file; a new dependency without its hash would fail the next build."""
    roots = lock_images.wanted()[path]
    names = {lock_images.normal(NAMES_OF.match(root)[0]) for root in roots}
    assert names and names <= set(requirements(path))


@pytest.mark.parametrize("path", DOCKERFILES)
def test_no_image_takes_a_package_without_its_hash(path: str) -> None:
    """Every `pip install` of a build compares hashes, takes nothing from an index, or is the chosen build of torch."""
    calls = re.findall(
        r"pip install (.*?)(?: \\\n|$)", (ROOT / path).read_text().replace("pip uninstall", ""), re.MULTILINE
    )
    loose = [call for call in calls if "--require-hashes" not in call and "--no-index" not in call]
    assert len(calls) >= 3 and [call for call in loose if "TORCH_INDEX" not in call] == []
    assert len(loose) == (path == "Dockerfile.trainer")


def test_build_tools_are_those_that_the_packages_name() -> None:
    """Nothing is built by what `build-system` does not name."""
    for path in ("pyproject.toml", "operator/pyproject.toml"):
        needs = tomllib.loads((ROOT / path).read_text())["build-system"]["requires"]
        assert set(needs) <= set(lock_images.BUILDERS)


def test_an_sbom_names_every_package_once() -> None:
    """CycloneDX 1.5: Python, its packages, Debian's, with purls, and who needs whom among those that are there."""
    found = image_contents.sbom("registry/bagpipe-server:1.0", GOOD)
    purls = [one["purl"] for one in found["components"]]
    assert purls == [
        "pkg:generic/python@3.11.2",
        "pkg:pypi/bagpipe-train@1.0",
        "pkg:pypi/pyyaml@6.0.3",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=bookworm",
    ]
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert found["dependencies"][0] == {"ref": purls[1], "dependsOn": [purls[2]]}
    assert json.dumps(found) == json.dumps(image_contents.sbom("registry/bagpipe-server:1.0", copy.deepcopy(GOOD)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compilers", ["/usr/bin/gcc-12"]),
        ("tests", ["/opt/bagpipe/lib/python3.11/site-packages/numpy/tests"]),
        ("secrets", ["/etc/pip.conf"]),
        ("variables", ["PIP_INDEX_URL"]),
        ("writable", ["/opt/bagpipe/bin/bagpipe"]),
        ("user", [0, 0]),
        ("distributions", [{"name": "pip", "version": "24", "license": "", "needs": []}]),
    ],
)
def test_what_must_not_be_in_an_image_is_named(field: str, value: object) -> None:
    """An image as it should be has no fault; each of these is one."""
    assert image_contents.faults(GOOD) == []
    (wrong,) = image_contents.faults({**GOOD, field: value})  # type: ignore[typeddict-item]
    assert str(value[0] if isinstance(value[0], str) else value)[:9] in wrong or "install packages" in wrong


def test_the_probe_sees_what_is_there(tmp_path: Path) -> None:
    """It finds this interpreter's packages, and in a folder a compiler, a secret and what can be written to."""
    places = {"tool/x86_64-linux-gnu-gcc-12": 0o755, "etc/pip.conf": 0o644, "home/.ssh": None, "tool/gccgo.txt": 0o644}
    for name, mode in places.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if mode is None else (path.touch(), path.chmod(mode))
    code = (
        f"import runpy, json, os; p = runpy.run_path({str(image_contents.PROBE)!r});"
        f"w = list(p['walk']({str(tmp_path)!r}));"
        "print(json.dumps([[os.path.basename(x) for x, _ in w if p['COMPILERS'].match(os.path.basename(x))],"
        "sorted(os.path.basename(x) for x, _ in w if p['SECRETS'].search(x)), p['distributions']()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    compilers, secrets, distributions = json.loads(done.stdout)
    assert (compilers, secrets) == (["x86_64-linux-gnu-gcc-12"], [".ssh", "pip.conf"])
    assert {"numpy", "torch", "msgspec"} <= {one["name"] for one in distributions}
