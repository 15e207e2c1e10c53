"""What the operator measures of itself. No label names a job: their number has no bound."""

import datetime as dt
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bagpipe_operator import __version__, times
from bagpipe_operator.heads import Head


class Metrics:
    """One registry for one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.leader = Gauge(
            "bagpipe_operator_leader", "1 while this replica holds the lease that is the label.", ["lease"], registry=to
        )
        self.jobs = Gauge("bagpipe_jobs", "Jobs by namespace and phase.", ["namespace", "phase"], registry=to)
        self.ended = Counter(
            "bagpipe_jobs_ended_total",
            "Jobs that ended, by result and reason.",
            ["namespace", "result", "reason"],
            registry=to,
        )
        self.restarts = Counter(
            "bagpipe_job_restarts_total", "New attempts, by reason.", ["namespace", "reason"], registry=to
        )
        self.oldest = Gauge(
            "bagpipe_oldest_job_seconds",
            "Seconds since the job that has been longest in this phase came into it.",
            ["namespace", "phase"],
            registry=to,
        )
        self.phase_seconds = Histogram(
            "bagpipe_job_phase_seconds",
            "Seconds that jobs which have ended spent in each phase.",
            ["phase"],
            buckets=(1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400, 604_800),
            registry=to,
        )
        self.build = Gauge("bagpipe_operator_build_info", "1; the version is a label.", ["version"], registry=to)
        self.build.labels(__version__).set(1)
        self.queue = Gauge("bagpipe_operator_queue_depth", "Jobs that wait to be reconciled.", registry=to)
        self.reconcile_seconds = Histogram(
            "bagpipe_operator_reconcile_seconds", "Time of one reconcile.", ["result"], registry=to
        )
        self.internal_errors = Counter(
            "bagpipe_operator_internal_errors_total",
            "Faults of the operator about single jobs, by exception.",
            ["exception"],
            registry=to,
        )
        self.api_requests = Counter(
            "bagpipe_operator_api_requests_total", "Requests to the API server.", ["method", "code"], registry=to
        )
        self.denied = Counter(
            "bagpipe_operator_denied_requests_total",
            "Requests that no role of the operator allows, by the verb and the resource that a role must have.",
            ["verb", "resource"],
            registry=to,
        )
        self.loop_lag = Gauge(
            "bagpipe_operator_loop_lag_seconds", "How late the event loop's last tick was.", registry=to
        )

    def count(self, jobs: Iterable[Head], now: dt.datetime) -> None:
        """Set the gauges of all jobs: how many there are in each phase, and for how long the oldest has been in it."""
        self.jobs.clear()
        self.oldest.clear()
        ages: dict[tuple[str, str], float] = {}
        for head in jobs:
            key = (head.namespace, head.phase)
            self.jobs.labels(*key).inc()
            since = times.parse(head.since)
            if since is not None and key[1] not in ("Complete", "Failed"):
                ages[key] = max(ages.get(key, 0.0), (now - since).total_seconds())
        for key, seconds in ages.items():
            self.oldest.labels(*key).set(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
