"""A real API server keeps what the operator relies on; the fake one of the unit tests is held to the same claims."""

import asyncio

import api_conformance
import pytest

from bagpipe_operator.cluster import Cluster
from bagpipe_operator.connection import connect
from bagpipe_operator.metrics import Metrics

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.mark.parametrize("claim", api_conformance.CLAIMS, ids=lambda c: c.__name__)
def test_conformance(kube, claim):
    """What the operator relies on in an API server holds in this cluster's."""

    async def go() -> None:
        cluster = Cluster(connect(), Metrics())
        try:
            await claim(cluster, kube.namespace)
        finally:
            await cluster.close()

    asyncio.run(go())
