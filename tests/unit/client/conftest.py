"""Clients whose cluster is a script."""

import json
from types import SimpleNamespace

import pytest
from fake_client import Answer, FakeClock, raw

from bagpipe.client.jobs import BagpipeClient


@pytest.fixture
def client():
    """A client whose cluster is a script: `views` and `pods` are consumed one a call, the last one stays."""
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors, made._clock = "ns", RuntimeError, FakeClock()
    views, pods, logs = [raw()], [[]], {}

    def take(items):
        return items.pop(0) if len(items) > 1 else items[0]

    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: take(views))
    made._core = SimpleNamespace(
        list_namespaced_pod=lambda *a, **k: SimpleNamespace(data=json.dumps({"items": take(pods)})),
        read_namespaced_pod_log=lambda name, namespace, **k: logs[name],
    )
    return made, views, pods, logs


@pytest.fixture
def odd():
    """A client of a cluster in which one running job is all that there is."""
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors, made._clock = "ns", Answer, FakeClock()
    job = {**raw("Running"), "metadata": {"name": "j", "namespace": "ns", "uid": "u"}}
    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: job)
    empty = SimpleNamespace(data='{"items": []}')
    made._core = SimpleNamespace(list_namespaced_pod=lambda *a, **k: empty, list_namespaced_event=lambda *a, **k: empty)
    return made
