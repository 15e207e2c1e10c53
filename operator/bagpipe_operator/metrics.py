"""What the operator measures of itself. No label names a job: their number has no bound."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry for one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self.leader = Gauge("bagpipe_operator_leader", "1 while this replica holds the lease.", registry=to)
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
        self.loop_lag = Gauge(
            "bagpipe_operator_loop_lag_seconds", "How late the event loop's last tick was.", registry=to
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)
