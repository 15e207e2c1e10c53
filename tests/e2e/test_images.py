"""What lies in the images of this cluster, and that its API server lets nothing more than restricted pods in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bagpipe

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
POD = """
apiVersion: v1
kind: Pod
metadata: {name: loose}
spec:
  containers:
    - {name: main, image: bagpipe-standin:4, securityContext: {privileged: true}}
"""


@pytest.mark.parametrize("role", ["server", "trainer", "operator"])
def test_an_image_holds_what_it_should(role: str, tmp_path: Path) -> None:
    """No compiler, no tests, no secret, no pip, nothing that its user could change; an SBOM names every package."""
    builder = os.environ.get("BUILDER") or "docker"
    docker = builder if Path(builder).name == "docker" else f"{builder} docker"
    command = [sys.executable, str(ROOT / "tools" / "image_contents.py"), f"bagpipe-{role}:{bagpipe.__version__}"]
    command += ["--docker", docker, "--sbom", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.cdx.json"))) == 1


def test_a_pod_that_is_not_restricted_is_refused(kube) -> None:
    """In the namespaces in which the tests here run jobs: the profile is enforced, not only named."""
    done = subprocess.run(
        ["kubectl", "--namespace", kube.namespace, "create", "-f", "-"],
        input=POD,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and 'violates PodSecurity "restricted' in done.stderr, done.stderr
