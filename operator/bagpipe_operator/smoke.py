"""`helm test`: does the installed operator give a held job its status, within a minute?

    python3 -m bagpipe_operator.smoke NAMESPACE [CLASS]

The namespace is one that the operator serves, and the class that of its jobs.
"""

import argparse
import asyncio
import secrets
import sys

from bagpipe_operator import names
from bagpipe_operator.cluster import Cluster, path
from bagpipe_operator.connection import connect
from bagpipe_operator.metrics import Metrics

_DEADLINE = 60.0


async def smoke(namespace: str, operator_class: str) -> str:
    """The phase of a job that was made for this; deleted afterwards.

    Raises:
        TimeoutError: nobody gave it a status.
    """
    cluster = Cluster(connect(), Metrics())
    name = f"smoke-{secrets.token_hex(4)}"
    policy = {"suspend": True, **({"operatorClass": operator_class} if operator_class else {})}
    spec = {"data": {"format": "synthetic"}, "runPolicy": policy}
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


def main(namespace: str, operator_class: str = "") -> int:
    """Say what became of the job; returns the exit code."""
    try:
        found = asyncio.run(smoke(namespace, operator_class))
    except TimeoutError:
        whose = f" of class {operator_class}" if operator_class else ""
        print(f"no operator gave a held job{whose} in {namespace} a status within {_DEADLINE:g} s; look at its log")
        return 1
    print(f"a held job became {found}")
    return 0 if found == "Suspended" else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("namespace", help="of the job that is made for this")
    parser.add_argument("operator_class", metavar="CLASS", nargs="?", default="", help="that of the operator's jobs")
    sys.exit(main(**vars(parser.parse_args())))
