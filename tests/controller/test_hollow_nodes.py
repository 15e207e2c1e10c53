"""Pods of nodes without machines are, to the operator, pods that run."""

import importlib.util
from pathlib import Path

from bagpipe_operator import podstate
from bagpipe_operator.names import Role

TOOL = Path(__file__).parents[2] / "tools" / "hollow_nodes.py"


def test_a_hollow_pod_is_one_that_runs():
    """The status that a hollow node gives a pod is read as running and ready, with nothing in its way."""
    spec = importlib.util.spec_from_file_location("hollow_nodes", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    pod = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "bagpipe", "image": "i"}]}}
    read = podstate.parse({**pod, "status": tool.running(pod)}, Role.TRAINER, 0)
    assert (read.phase, read.ready, read.stuck, read.exit_code, read.restarts) == ("Running", True, "", None, 0)
