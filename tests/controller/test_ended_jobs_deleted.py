"""A policy of the cluster may delete batch Jobs as soon as they have ended: what they had come to still counts."""

import datetime as dt
from collections.abc import Iterator

import pytest
from fake_controllers import FakeControllers
from rig import Rig, job

from bagpipe_operator.names import Reason

TWO = {"servers": {"replicas": 2}, "trainers": {"replicas": 2}}


class Running:
    """A job of five pods that run, and what happens to its batch Jobs while the operator's watches are late."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.controllers = FakeControllers(self.rig.api)
        self.rig.submit(job(**TWO))
        while self._acts() or self.rig.status().get("phase") != "Running":
            self.rig.again()

    def _acts(self) -> int:
        acts = self.controllers.acts()
        for act in acts:
            act()
        return len(acts)

    def jobs_end(self, *delete: str) -> None:
        """All batch Jobs whose pods have ended end too; those of the roles in `delete` are gone at once, with them."""
        while self._acts():
            pass
        api = self.rig.api
        for key, raw in list(self.controllers.of("Job")):
            if key[2] in {f"j-{role}-0" for role in delete} and raw.get("status"):
                for pod in self.controllers.pods(raw):
                    api.remove(("Pod", "ns", pod["metadata"]["name"]))
                api.remove(key)

    def goes_on(self) -> None:
        """Everything has its turn for some minutes, so that nothing is backed off any more."""
        for _ in range(6):
            self.rig.api.now += dt.timedelta(minutes=1)
            self.rig.again()
            self._acts()

    def batch_jobs(self) -> list[str]:
        return [key[2] for key, _ in self.controllers.of("Job")]


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.rig.close()


def test_jobs_that_end_well_and_are_gone_at_once_make_the_job_complete(running):
    assert running.controllers.train()
    running.jobs_end("trainers", "oracle")
    running.rig.again()
    status = running.rig.status()
    assert status["phase"] == "Complete" and status["attempt"] == 0 and not status.get("disruptions")
    assert status["summary"] == {"modelDigest": "d"}
    assert running.batch_jobs() == []


def test_the_trainers_job_goes_while_the_oracle_still_works(running):
    """It is not made again, which would train a second time beside the first attempt's oracle."""
    for pod in running.controllers.living("trainer"):
        running.controllers.state(pod, "Succeeded", 0)()
    running.jobs_end("trainers")
    running.rig.again().again()
    assert running.batch_jobs() == ["j-oracle-0"]
    assert running.rig.status()["phase"] == "Running"
    (oracle,) = running.controllers.living("oracle")
    running.controllers.state(oracle, "Succeeded", 0, '{"modelDigest": "d"}')()
    running.rig.again()
    running.jobs_end("oracle")
    running.rig.again()
    assert running.rig.status()["phase"] == "Complete" and running.rig.status()["attempt"] == 0


def test_an_ended_job_that_waits_for_its_pods_is_not_a_deleted_one(running):
    """A Job's own TTL deletes it in the foreground: it says that it goes until its pods are gone."""
    for pod in running.controllers.living("trainer"):
        running.controllers.state(pod, "Succeeded", 0)()
    running.jobs_end()
    running.rig.api.delete(("Job", "ns", "j-trainers-0"), {"propagationPolicy": "Foreground"})
    running.rig.again()
    status = running.rig.status()
    assert (status["phase"], status["attempt"]) == ("Running", 0) and not status.get("disruptions")
    running.jobs_end()
    assert running.batch_jobs() == ["j-oracle-0"]
    (oracle,) = running.controllers.living("oracle")
    running.controllers.state(oracle, "Succeeded", 0, '{"modelDigest": "d"}')()
    running.goes_on()
    assert (running.rig.status()["phase"], running.rig.status()["attempt"]) == ("Complete", 0)


def test_a_mistake_in_the_job_is_not_tried_again_because_its_job_is_gone(running):
    api = running.rig.api
    (oracle,) = running.controllers.living("oracle")
    (raw,) = (raw for key, raw in running.controllers.of("Job") if key[2] == "j-oracle-0")
    message = "Container bagpipe for pod ns/j-oracle-0-x failed with exit code 78 matching FailJob rule at index 0"
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    api.put("Job", {**raw, "status": {"conditions": [failed]}})
    api.remove(("Pod", "ns", oracle["metadata"]["name"]))
    api.remove(("Job", "ns", "j-oracle-0"))
    running.rig.again()
    status = running.rig.status()
    assert status["phase"] == "Failed" and running.rig.condition("Failed")["reason"] == Reason.BAD_CONFIG
    assert status["attempt"] == 0


def test_no_attempt_begins_beside_a_pod_that_outlives_its_deleted_job(running):
    """The first trainer crashed, the Job failed and was deleted, and the second trainer's process has not ended."""
    running.controllers.crash("trainer")
    (raw,) = (raw for key, raw in running.controllers.of("Job") if key[2] == "j-trainers-0")
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too many"}
    running.rig.api.put("Job", {**raw, "status": {"conditions": [failed]}})
    running.rig.api.remove(("Job", "ns", "j-trainers-0"))
    (second,) = running.controllers.living("trainer")
    running.controllers.slow.add(second["metadata"]["name"])
    running.goes_on()
    assert running.rig.status()["attempt"] == 1 and running.batch_jobs() == []
    running.controllers.slow.clear()
    running.goes_on()
    assert running.batch_jobs() == ["j-oracle-1", "j-trainers-1"]


def test_a_job_deleted_before_it_has_ended_is_a_disruption(running):
    running.rig.api.remove(("Job", "ns", "j-trainers-0"))
    running.rig.again()
    assert running.rig.status()["disruptions"] == 1


def test_nothing_is_kept_of_a_job_that_has_ended(running):
    key = ("ns", "j")
    (oracle,) = running.controllers.living("oracle")
    assert running.controllers.train()
    running.controllers.state(oracle, "Running")()
    running.jobs_end("trainers")
    running.rig.again()
    assert [raw["kind"] for raw in running.rig.store.ended(key)] == ["Pod", "Pod", "Job"]
    running.controllers.state(oracle, "Succeeded", 0)()
    running.jobs_end("oracle")
    running.rig.again()
    assert running.rig.status()["phase"] == "Complete" and running.rig.store.ended(key) == []
    for name in running.batch_jobs():
        running.rig.api.remove(("Job", "ns", name))
    running.rig.again()
    assert running.rig.store.ended(key) == []


def test_only_the_newest_attempt_is_remembered(running):
    store = running.rig.store
    (raw,) = (raw for key, raw in running.controllers.of("Job") if key[2] == "j-trainers-0")
    for attempt in (1, 3, 2):
        meta = {**raw["metadata"], "name": f"j-trainers-{attempt}", "resourceVersion": str(1000 + attempt)}
        ended = {"conditions": [{"type": "Failed", "status": "True"}]}
        store.remove({**raw, "kind": "Job", "metadata": meta, "status": ended})
    assert [raw["metadata"]["name"] for raw in store.ended(("ns", "j"))] == ["j-trainers-3"]
