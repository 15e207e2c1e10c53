"""`helm test`: does the installed operator give a held job its status, within a minute?"""

import asyncio
import secrets
import sys

from bagpipe_operator import names
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.connection import connect
from bagpipe_operator.metrics import Metrics

_DEADLINE = 60.0


async def smoke(namespace: str) -> str:
    """The phase of a job that was made for this; deleted afterwards."""
    cluster = Cluster(connect(), Metrics())
    name = f"smoke-{secrets.token_hex(4)}"
    spec = {"data": {"format": "synthetic"}, "runPolicy": {"suspend": True}}
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    made = await cluster.create(names.KIND, namespace, body)
    try:
        async with asyncio.timeout(_DEADLINE):
            while True:
                job = await cluster.get(path(names.KIND, namespace, name))
                if phase := (job.get("status") or {}).get("phase"):
                    return str(phase)
                await asyncio.sleep(0.5)
    finally:
        await cluster.delete(names.KIND, namespace, name, made["metadata"]["uid"])
        await cluster.close()


if __name__ == "__main__":
    found = asyncio.run(smoke(sys.argv[1]))
    print(f"a held job became {found}")
    sys.exit(0 if found == "Suspended" else 1)
