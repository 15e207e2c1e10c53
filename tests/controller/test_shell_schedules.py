"""Every order of events, stale pictures, and a kill between any two writes lead a job to the same end."""

import copy
import datetime as dt
import random

import pytest
from fake_api import FakeApi
from fake_controllers import FakeControllers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import Rig, job

from bagpipe_operator import names, patches
from bagpipe_operator.policies import teardown

THEIRS = {"metadata": {"name": "shop", "labels": {"app": "shop"}}, "data": {"setting": "theirs"}}
ROUND = dt.timedelta(seconds=30)
POLICY = {"startupDeadlineSeconds": 300_000_000, "backoffLimit": 50}


class Killed(BaseException):
    """The process ends here: nothing of it runs any more."""


class Life:
    """One job on one cluster, and the operator processes that come and go."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.controllers = FakeControllers(self.api)
        self.theirs = self.api.put("ConfigMap", THEIRS)
        self.writes, self.kill_at = 0, -1
        self.crashes = 0
        self.rig = self._start()
        self.rig.submit(
            job(runPolicy=POLICY, servers={"replicas": 2}, trainers={"replicas": 2}, transport={"security": "curve"})
        )

    def _start(self) -> Rig:
        rig = Rig(self.api)
        dead = False

        def die(method: str, url: str) -> None:
            nonlocal dead
            self.writes += 1
            dead = dead or self.writes == self.kill_at
            if dead:
                raise Killed

        rig.cluster.before_write = die
        return rig

    def reconcile(self) -> None:
        """One job, once; if the process is killed meanwhile, another one starts with what the API server has."""

        async def go() -> None:
            if self.rig.queue.depth:
                await self.rig.shell._attempt(await self.rig.queue.get())

        try:
            self.rig.go(go())
        except Killed:
            self.rig.close()
            self.rig = self._start()
            self.deliver(None)

    def deliver(self, count: int | None, without: str = "") -> None:
        async def go() -> None:
            self.rig.deliver(count, without)

        self.rig.go(go())

    def others(self, kind: str) -> None:
        """All watches but one tell what they know."""
        self.deliver(None, kind)

    def act(self, number: int) -> None:
        """One of the things that may happen in the cluster."""
        if acts := self.controllers.acts():
            acts[number % len(acts)]()
        self.check()

    def crash(self, role: str) -> None:
        if self.crashes < 3:
            self.crashes += 1
            self.controllers.crash(role)

    def suspend(self, held: bool) -> None:
        raw = copy.deepcopy(self.api.objects[names.KIND, "ns", "j"])
        raw["spec"]["runPolicy"]["suspend"] = held
        self.api.put(names.KIND, raw)

    def sweep(self, how: str) -> None:
        """A policy of the cluster deletes the batch Jobs that have ended.

        Garbage collection takes their pods: first (`Foreground`, as a Job's own TTL does) or afterwards (`Background`).
        """
        for key, raw in list(self.controllers.of("Job")):
            conditions = (raw.get("status") or {}).get("conditions") or ()
            if {c["type"] for c in conditions} & {"Complete", "Failed"}:
                self.api.delete(key, {"propagationPolicy": how})

    def train(self) -> None:
        """Trainers and oracle end well, if all of one attempt's pods run."""
        self.controllers.train()

    def check(self) -> None:
        """Never two processes for one rank, and never a hand on what is not ours."""
        for role, label in (("trainer", names.LABEL_COMPLETION_INDEX), ("oracle", names.LABEL_COMPLETION_INDEX)):
            ranks = [p["metadata"]["labels"][label] for p in self.controllers.living(role)]
            assert len(ranks) == len(set(ranks)), f"two living pods for one rank of the {role}"
        assert self.api.objects["ConfigMap", "ns", "shop"] == self.theirs

    def to_the_end(self) -> None:
        """From here on everything gets its turn: the job must end Complete, and then nothing is written any more."""
        for _ in range(400):
            self.deliver(None)
            self.api.now += ROUND
            self._look_again()
            self.reconcile()
            acts = self.controllers.acts()
            for act in acts:
                act()
                self.check()
            if self.ended() and not acts:
                break
            if not acts:
                self.controllers.train()
        assert self.ended(), self.rig.status()
        self._settle()

    def _look_again(self) -> None:
        async def go() -> None:
            self.rig.queue.add(("ns", "j"))

        self.rig.go(go())

    def _settle(self) -> None:
        for _ in range(5):
            self.deliver(None)
            self._look_again()
            self.reconcile()
            for act in self.controllers.acts():
                act()
        before = self.writes
        for _ in range(3):
            self.deliver(None)
            self._look_again()
            self.reconcile()
        assert self.writes == before, "a settled job is written to"

    def ended(self) -> bool:
        return self.rig.condition("Complete").get("status") == "True"

    def end(self) -> dict:
        """What every schedule must come to."""
        summary = self.rig.status()["summary"]
        left = [f"{kind}/{name}" for kind, _, name in self.api.objects if kind in ("Job", "Pod", "StatefulSet")]
        attempts = {name.rpartition("-")[2] for name in left if name.startswith("Job/")}
        uid = self.api.objects[names.KIND, "ns", "j"]["metadata"]["uid"]
        owned = all(
            raw["metadata"]["ownerReferences"][0]["uid"] == uid
            for (kind, _, name), raw in self.api.objects.items()
            if kind not in (names.KIND, "Pod", "Event") and name != "shop"
        )
        return {
            "summary": summary,
            "attempts": len(attempts),
            "sets": [name for name in left if name.startswith("StatefulSet/")],
            "living": sum(len(self.controllers.living(role)) for role in ("trainer", "oracle", "server")),
            "owned": owned,
        }


END = {"summary": {"modelDigest": "d"}, "attempts": 1, "sets": [], "living": 0, "owned": True}


def until_it_runs(life: Life, without: str = "") -> None:
    for _ in range(12):
        life.deliver(None, without)
        life.reconcile()
        for act in life.controllers.acts():
            act()
            life.check()


def a_crash(life: Life) -> None:
    life.crash("trainer")


def a_suspension(life: Life) -> None:
    life.suspend(True)
    until_it_runs(life)
    assert life.controllers.pods() == []
    life.suspend(False)


def a_lost_server(life: Life) -> None:
    life.crash("server")


HAPPENINGS = [a_crash, a_suspension, a_lost_server]


def writes_of(happening) -> int:
    life = Life()
    until_it_runs(life)
    happening(life)
    life.to_the_end()
    life.rig.close()
    return life.writes


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_a_kill_before_each_write(happening):
    """Killed before any one of its writes over a whole life in which something happens, a job has the same end."""
    writes = writes_of(happening)
    assert writes > 30
    for kill_at in range(1, writes + 1):
        life = Life()
        life.kill_at = kill_at
        until_it_runs(life)
        happening(life)
        life.to_the_end()
        assert life.end() == END, kill_at
        assert life.rig.status().get("restarts", 0) + life.rig.status().get("disruptions", 0) <= 1, kill_at
        life.rig.close()


KINDS = (names.KIND, "Pod", "Job", "StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget")


@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_watch_that_stands_still(kind, happening):
    """From any moment on the watch of one kind tells nothing for long while the others do; the end is the same."""
    for moment in range(0, 8, 2):
        life = Life()
        for _ in range(moment):
            life.deliver(None)
            life.reconcile()
            for act in life.controllers.acts():
                act()
                life.check()
        until_it_runs(life, without=kind)
        if life.rig.status().get("phase") == "Running":
            happening(life)
        until_it_runs(life, without=kind)
        life.suspend(False)
        life.to_the_end()
        assert life.end() == END, moment
        life.rig.close()


HOW = ("Foreground", "Background")
STEP = st.one_of(
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("others"), st.sampled_from(KINDS)),
    st.tuples(st.just("act"), st.integers(0, 50)),
    st.tuples(st.just("reconcile"), st.none()),
    st.tuples(st.just("crash"), st.sampled_from(["trainer", "oracle", "server"])),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("sweep"), st.sampled_from(HOW)),
    st.tuples(st.just("train"), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, max_size=60), st.integers(1, 80))
def test_every_order_of_events(steps, kill_at):
    """Events that come late and one by one, crashes, suspensions and a kill at any write: the same end."""
    life = Life()
    life.kill_at = kill_at
    try:
        for what, argument in steps:
            getattr(life, what)(*(() if argument is None else (argument,)))
        life.suspend(False)
        life.to_the_end()
        assert life.end() == END
    finally:
        life.rig.close()


@pytest.mark.parametrize("how", HOW)
def test_ended_jobs_are_deleted_at_every_moment(how):
    """A policy that deletes ended batch Jobs at once takes neither the result nor an attempt."""
    for moment in range(16):
        life = Life()
        until_it_runs(life)
        life.train()
        for number in range(moment):
            life.deliver(None) if number % 3 == 0 else life.act(0) if number % 3 == 1 else life.reconcile()
            life.sweep(how)
        life.to_the_end()
        status = life.rig.status()
        assert life.end() in (END, END | {"attempts": 0}), moment
        assert status["attempt"] == 0 and not status.get("disruptions"), moment
        life.rig.close()


CHILDREN = ("ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job")


def without_labels(raw):
    raw["metadata"]["labels"] = {}


def with_other_words(raw):
    said = {"Job": {"suspend": True}, "StatefulSet": {"replicas": 0}}.get(raw["kind"])
    raw["data" if raw["kind"] == "ConfigMap" else "spec"] = {**raw["spec"], **said} if said else {}


@pytest.mark.parametrize("change", [without_labels, with_other_words], ids=lambda f: f.__name__)
def test_children_that_were_changed_by_hand(change):
    """All children of a running job lose their labels, or say something else: they are put right, no attempt ends."""
    life = Life()
    until_it_runs(life)
    mine = {key: copy.deepcopy(raw) for key, raw in life.api.objects.items() if key[0] in CHILDREN and key[2] != "shop"}
    for key, raw in mine.items():
        changed = copy.deepcopy(raw)
        change(changed)
        life.api.put(key[0], changed)
    for _ in range(len(mine)):
        life.deliver(None)
        life.reconcile()
    assert (life.rig.status()["phase"], life.rig.status()["attempt"]) == ("Running", 0)
    for key, raw in mine.items():
        now = life.api.objects[key]
        assert all(now["metadata"]["labels"][name] == value for name, value in raw["metadata"]["labels"].items()), key
        assert (now.get("spec"), now.get("data")) == (raw.get("spec"), raw.get("data")), key
    life.to_the_end()
    assert life.end() == END
    life.rig.close()


@pytest.mark.parametrize("moment", [2, 8])
def test_a_clock_that_is_set_back(moment):
    """An hour earlier all at once, at any moment of a life with a crash: the job ends as soon as it would have."""
    life = Life()
    for step in range(12):
        if step == moment:
            life.api.now -= dt.timedelta(hours=1)
        if step == 7:
            life.crash("trainer")
        life.deliver(None)
        life.reconcile()
        for act in life.controllers.acts():
            act()
            life.check()
    before = life.api.now
    life.to_the_end()
    assert life.end() == END and life.api.now - before <= 5 * ROUND
    assert all(0 <= seconds <= 120 for seconds in life.rig.status()["durations"].values())
    life.rig.close()


def no_waiting(monkeypatch):
    """A new attempt that does not wait for the older one."""
    gone = teardown.Ending(trainers_gone=True, all_gone=True)
    monkeypatch.setattr(teardown, "stop", lambda *_: gone)


def no_comparing(monkeypatch):
    """A status that is written whether it differs or not."""
    monkeypatch.setattr(patches, "merge", lambda old, new: dict(new))


@pytest.mark.parametrize("broken", [no_waiting, no_comparing], ids=lambda f: f.__doc__)
def test_the_schedules_bite(monkeypatch, broken):
    """With a rule taken out some schedule comes to another end."""
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        _play(seeds=15)


def _play(seeds):
    for seed in range(seeds):
        dice, life = random.Random(seed), Life()
        try:
            for _ in range(60):
                life.deliver(dice.randint(1, 4))
                life.reconcile()
                life.act(dice.randint(0, 50))
                if dice.random() < 0.1:
                    life.crash("trainer")
            life.to_the_end()
        finally:
            life.rig.close()
