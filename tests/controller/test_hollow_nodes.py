"""Pods of nodes without machines are, to the operator, pods that run."""

import importlib.util
from pathlib import Path

import pytest

from bagpipe_operator import podstate, records
from bagpipe_operator.names import Role

TOOL = Path(__file__).parents[2] / "tools" / "hollow_nodes.py"


POD = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "bagpipe", "image": "i"}]}}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("hollow_nodes", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hollow_pod_is_one_that_runs(tool):
    """The status that a hollow node gives a pod is read as running and ready, with nothing in its way."""
    read = podstate.parse({**POD, "status": tool.running(POD)}, Role.TRAINER, 0)
    assert (read.phase, read.ready, read.stuck, read.exit_code, read.restarts) == ("Running", True, "", None, 0)


def test_a_hollow_pod_ends_well(tool):
    """The status of an oracle that ended is read as such, with its result."""
    read = podstate.parse({**POD, "status": tool.ended(tool.running(POD))}, Role.ORACLE, 0)
    assert (read.phase, read.ready, read.stuck, read.exit_code) == ("Succeeded", False, "", 0)
    assert records.parse(read.result) == {"steps": tool.STEPS}
