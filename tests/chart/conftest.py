"""Where these tests find helm: on the PATH, or packed in the cluster kit beside the checkout (`../shared/cluster`)."""

import lzma
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2].parent / "shared" / "cluster" / "bin" / "k8s.xz"
"""One program with many names: it is helm when it is called by that name."""


@pytest.fixture(scope="session", autouse=True)
def helm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Path of helm, which is on the PATH while these tests run; without any they are skipped and say so."""
    found = shutil.which("helm")
    if found:
        yield found
        return
    if not KIT.exists():
        pytest.skip(f"no chart test runs: helm is neither on the PATH nor in {KIT}; install helm 3")
    folder = tmp_path_factory.mktemp("helm")
    with lzma.open(KIT) as packed, (folder / "helm").open("wb") as program:
        shutil.copyfileobj(packed, program, 1 << 20)
    (folder / "helm").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield str(folder / "helm")
