"""Random schedules: whatever happens in whatever order, a job ends well or with a named reason, and leaves nothing.

`make e2e-schedules SEEDS=50` runs as many as it is told; `make e2e` runs the first two.
"""

import json
import os
import random
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

FIRST = int(os.environ.get("BAGPIPE_E2E_FIRST_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("BAGPIPE_E2E_SEEDS", "2")))
STEPS = 100
KINDS = "pods,jobs,statefulsets,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims"
CHILDREN = (
    "service/j-oracle",
    "service/j-servers",
    "configmap/j-config",
    "statefulset/j-servers",
    "networkpolicy/j-peers",
)


class Schedule:
    """What may happen to a job, in an order that its seed decides."""

    def __init__(self, kube, operators, machines, seed):
        self.kube, self.operators, self.machines = kube, operators, machines
        self.dice = random.Random(seed)
        self.story = []

    def run(self):
        happenings = [
            self.pod_deleted,
            self.pod_deleted,
            self.process_killed,
            self.process_killed,
            self.child_deleted,
            self.suspended,
            self.scaled,
            self.leader_killed,
            self.operator_away,
            self.quota,
            self.drained,
            self.api_server_away,
            self.node_stopped,
        ]
        for _ in range(self.dice.randint(3, 6)):
            time.sleep(self.dice.uniform(0.2, 5))
            if self.ended():
                return
            happening = self.dice.choice(happenings)
            self.story.append(happening.__name__)
            happening()

    def ended(self):
        return self.kube.status("j").get("phase") in ("Complete", "Failed")

    def _pod(self):
        pods = self.kube.running("j")
        return self.dice.choice(sorted(pods, key=lambda p: p["metadata"]["name"])) if pods else None

    def pod_deleted(self):
        if pod := self._pod():
            force = ["--grace-period=0", "--force"] if self.dice.random() < 0.3 else []
            self.kube.run("delete", "pod", pod["metadata"]["name"], "--wait=false", *force, check=False)

    def process_killed(self):
        if pod := self._pod():
            try:
                self.machines.kill_container(pod)
            except (AssertionError, KeyError):
                self.story.append("(it had gone)")

    def child_deleted(self):
        self.kube.run("delete", self.dice.choice(CHILDREN), "--wait=false", "--ignore-not-found")

    def _patch(self, spec):
        self.kube.run("patch", "bpj", "j", "--type=merge", "-p", spec, check=False)  # It may have ended meanwhile.

    def suspended(self):
        self._patch('{"spec":{"runPolicy":{"suspend":true}}}')
        time.sleep(self.dice.uniform(0, 8))
        self._patch('{"spec":{"runPolicy":{"suspend":false}}}')

    def scaled(self):
        self._patch(json.dumps({"spec": {"trainers": {"replicas": self.dice.randint(1, 3)}}}))

    def leader_killed(self):
        if name := self.operators.leader():
            options = ["--grace-period=0", "--force"]
            self.kube.run("delete", "pod", name, *options, namespace=self.operators.namespace, check=False)

    def operator_away(self):
        with self.operators.down():
            time.sleep(self.dice.uniform(0, 5))
            self.pod_deleted()

    def quota(self):
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
        self.kube.apply({**quota, "spec": {"hard": {"pods": "2"}}})
        self.pod_deleted()
        time.sleep(self.dice.uniform(1, 6))
        self.kube.run("delete", "resourcequota", "small")

    def drained(self):
        if pod := self._pod():
            node = pod["spec"]["nodeName"]
            options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=40s"]
            self.kube.run("drain", node, *options, "--pod-selector=bagpipe.dev/job=j", check=False)
            self.kube.run("uncordon", node)

    def api_server_away(self):
        self.machines.stop_api_server()
        time.sleep(self.dice.uniform(1, 8))
        self.machines.start_api_server()
        self.kube.until("the API server answers", lambda: self.kube.get("bpj", "j"), 120)

    def node_stopped(self):
        if pod := self._pod():
            node = pod["spec"]["nodeName"]
            self.machines.stop_node(node)
            time.sleep(self.dice.uniform(1, 40))
            self.machines.start_node(node)


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule(kube, job, operators, machines, two_nodes, watched, seed):
    """A job ends Complete with all its steps or Failed with a reason, never with two pods for a rank."""
    policy = {"backoffLimit": 20, "nodeLostSeconds": 5, "startupDeadlineSeconds": 600}
    kube.apply(job("j", steps=STEPS, runPolicy=policy))
    watched("j")
    schedule = Schedule(kube, operators, machines, seed)
    schedule.run()
    try:
        kube.until("it has ended", schedule.ended, 600)
        status = kube.status("j")
        print(f"seed {seed}: {status['phase']} after {schedule.story}, attempt {status.get('attempt', 0)}")
        if status["phase"] == "Complete":
            unread = "its result is not known" in kube.condition("j", "Complete")["message"]
            assert status.get("summary", {}).get("modelDigest") == (None if unread else f"steps-{STEPS}")
            assert not unread or "operator_away" in schedule.story, "a result is unread only if nobody was there"
        else:
            assert kube.condition("j", "Failed")["reason"] in ("BackoffLimitExceeded", "StartupDeadlineExceeded")
        kube.run("delete", "bpj", "j", "--wait=true", "--timeout=60s")
        kube.until("nothing is left", lambda: not kube.get(KINDS)["items"], 90)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {schedule.story}: {error}") from error
