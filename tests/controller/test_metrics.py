"""What the operator says about all jobs together."""

import datetime as dt

from rig import Rig, job

from bagpipe_operator import __version__, names
from bagpipe_operator.heads import Head
from bagpipe_operator.metrics import Metrics

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def made(phase, minutes, namespace="ml"):
    since = (NOW - dt.timedelta(minutes=minutes)).isoformat()
    status = {"phase": phase, "phaseTime": since}
    return Head.of({"metadata": {"namespace": namespace, "name": "j"}, "status": status})


def values(metrics):
    lines = (line.rpartition(" ") for line in metrics.render().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_jobs_and_the_oldest_by_phase():
    """How many jobs are in each phase, and since when the oldest; a job that has ended grows no older."""
    metrics = Metrics()
    metrics.count([made("Starting", 1), made("Starting", 20), made("Complete", 90), made("Queued", 5, "web")], NOW)
    found = values(metrics)
    assert found['bagpipe_jobs{namespace="ml",phase="Starting"}'] == 2
    assert found['bagpipe_oldest_job_seconds{namespace="ml",phase="Starting"}'] == 1200
    assert found['bagpipe_oldest_job_seconds{namespace="web",phase="Queued"}'] == 300
    assert not [name for name in found if "oldest" in name and "Complete" in name]
    metrics.count([], NOW)
    assert not [name for name in values(metrics) if name.startswith(("bagpipe_jobs{", "bagpipe_oldest"))]


def test_a_job_that_nobody_has_looked_at_counts_from_its_creation():
    """Without a status a job is Pending since it was made."""
    metrics = Metrics()
    meta = {"namespace": "ml", "name": "j", "creationTimestamp": "2026-01-01T11:59:00Z"}
    metrics.count([Head.of({"metadata": meta})], NOW)
    assert values(metrics)['bagpipe_oldest_job_seconds{namespace="ml",phase="Pending"}'] == 60


def test_the_version_is_told():
    """A metric tells the operator's version."""
    assert values(Metrics())[f'bagpipe_operator_build_info{{version="{__version__}"}}'] == 1


def test_durations_of_jobs_that_ended():
    """When a job ends, the time that it spent in each phase is counted once."""
    rig = Rig()
    try:
        rig.submit(job(runPolicy={"startupDeadlineSeconds": 100}))
        rig.settle()
        rig.api.now += dt.timedelta(seconds=100)
        rig.again()
        rig.again()
        assert rig.status()["phase"] == "Failed"
        assert values(rig.metrics)['bagpipe_job_phase_seconds_sum{phase="Starting"}'] == 100
        assert values(rig.metrics)['bagpipe_job_phase_seconds_count{phase="Starting"}'] == 1
    finally:
        rig.close()


def test_a_restart_is_counted_with_its_own_reason(rig):
    """Not with that of the last failure, which a restart that somebody asked for leaves as it is."""
    rig.submit(job(trainers={"replicas": 1}))
    rig.settle()
    raw = rig.api.objects[names.KIND, "ns", "j"]
    rig.api.put(names.KIND, {**raw, "status": {**raw["status"], "lastFailure": {"reason": "Crashed"}}})
    raw = rig.api.objects[names.KIND, "ns", "j"]
    rig.api.put(names.KIND, {**raw, "spec": {**raw["spec"], "trainers": {"replicas": 2}}})
    rig.settle()
    assert rig.status()["attempt"] == 1 and rig.status()["lastFailure"] == {"reason": "Crashed"}
    counted = {name for name in values(rig.metrics) if name.startswith("bagpipe_job_restarts_total{")}
    assert counted == {'bagpipe_job_restarts_total{namespace="ns",reason="Scaled"}'}
