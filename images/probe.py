"""Lists what lies in an image, as JSON on standard output. It is read from standard input by the image's own Python:

docker run --rm -i --network none --entrypoint python3 IMAGE - < images/probe.py

It needs the standard library alone and changes nothing.
"""

import importlib.metadata
import json
import os
import platform
import re
import stat
import sys
from collections.abc import Iterator

COMPILERS = re.compile(
    r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|tcc|ld|as|make|cmake|nvcc|ptxas|rustc|cargo|go|javac)(-\d+)?$"
)
SECRETS = re.compile(
    r"(\.netrc|\.pypirc|pip\.conf|\.git|\.gitconfig|\.env|\.docker|\.kube|\.aws|\.ssh|id_(rsa|dsa|ecdsa|ed25519))$"
    r"|(\.key|\.p12|\.pfx)$"
)
NAMED_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|INDEX_URL", re.IGNORECASE)
NOT_OF_THE_IMAGE = ("/proc", "/sys", "/dev")
SCRATCH = ("/tmp", "/var/tmp", "/run/lock")  # noqa: S108  # names of the places that anybody may write to
INSTALLED = "/opt/bagpipe"


def main() -> None:
    """Print the facts about this image as one JSON object."""
    walked = list(walk("/"))
    files = [(path, mode) for path, mode in walked if stat.S_ISREG(mode)]
    facts = {
        "python": platform.python_version(),
        "user": [os.getuid(), os.getgid()],
        "distributions": distributions(),
        "debian": debian(),
        "machine": platform.machine(),
        "compilers": [
            path
            for path, _ in walked
            if COMPILERS.match(os.path.basename(path)) and os.access(path, os.X_OK) and not os.path.isdir(path)
        ],
        "tests": [
            path
            for path, mode in walked
            if path.startswith(INSTALLED) and stat.S_ISDIR(mode) and os.path.basename(path) == "tests"
        ],
        "secrets": [path for path, _ in walked if SECRETS.search(path)],
        "variables": sorted(name for name in os.environ if NAMED_SECRET.search(name)),
        "setuid": [path for path, mode in files if mode & (stat.S_ISUID | stat.S_ISGID)],
        "writable": [path for path, mode in walked if not stat.S_ISLNK(mode) and os.access(path, os.W_OK)],
        "bytes": sum(os.lstat(path).st_size for path, _ in files),
    }
    json.dump(facts, sys.stdout)


def walk(top: str) -> Iterator[tuple[str, int]]:
    """Every path and its mode, without what the kernel makes and what anybody may write to."""
    for folder, names, files in os.walk(top):
        names[:] = sorted(n for n in names if os.path.join(folder, n) not in NOT_OF_THE_IMAGE + SCRATCH)
        for name in (*names, *sorted(files)):
            path = os.path.join(folder, name)
            try:
                yield path, os.lstat(path).st_mode
            except OSError:  # of a process that has ended meanwhile
                continue


def distributions() -> list[dict[str, object]]:
    """Of each installed Python package: name, version, licence, and what it needs."""
    found = []
    for one in importlib.metadata.distributions():
        about = one.metadata
        found.append(
            {
                "name": about["Name"],
                "version": one.version,
                "license": about["License-Expression"] or about["License"] or "",
                "needs": [need for need in one.requires or () if "extra ==" not in need],
            }
        )
    return sorted(found, key=lambda entry: str(entry["name"]).lower())


def debian() -> list[dict[str, str]]:
    """Of each installed package of the distribution: name, version and architecture."""
    try:
        with open("/var/lib/dpkg/status", encoding="utf-8") as status:
            stanzas = status.read().split("\n\n")
    except OSError:
        return []
    found = []
    for stanza in stanzas:
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                {"name": fields["Package"], "version": fields["Version"], "architecture": fields["Architecture"]}
            )
    return sorted(found, key=lambda entry: entry["name"])


if __name__ == "__main__":
    main()
