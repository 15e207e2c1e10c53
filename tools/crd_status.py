"""What the operator writes into a BagpipeJob's status, as a schema: for `generate_crd.py`.

The same fields as `bagpipe_operator/api.py: Status`; `tests/contract` compares.
"""

from typing import Any

Schema = dict[str, Any]

TIME: Schema = {"type": "string", "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 99_999_999}
"""A number that only grows. Names of objects hold the attempt's, with at most nine digits (`observe.py`)."""
COUNTS: Schema = {
    "type": "object",
    "properties": {
        name: {"type": "integer"} for name in ("desired", "ready", "active", "succeeded", "failed", "restarts")
    },
}
CONDITION: Schema = {
    "type": "object",
    "required": ["type", "status", "reason", "lastTransitionTime"],
    "properties": {
        "type": {"type": "string"},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string"},
        "message": {"type": "string"},
        "lastTransitionTime": TIME,
        "observedGeneration": {"type": "integer", "format": "int64"},
    },
}
PROGRESS = {
    "step": ("integer", "Last finished step."),
    "totalSteps": ("integer", "Steps in all, where known."),
    "loss": ("number", "Mean loss of the last step reported."),
    "examplesPerSecond": ("number", "Examples a second, all trainers together."),
    "cacheHitRate": ("number", "Share of lookups that found their row in the cache."),
    "etaSeconds": ("number", "Seconds to go, at this speed."),
    "lastCheckpoint": ("integer", "Step of the newest complete checkpoint."),
}
FAILURE: Schema = {
    "time": TIME,
    "attempt": {"type": "integer"},
    "reason": {"type": "string"},
    "message": {"type": "string"},
    "role": {"type": "string"},
    "index": {"type": "integer"},
    "pod": {"type": "string"},
    "node": {"type": "string"},
    "exitCode": {"type": "integer"},
    "lastWords": {
        "type": "string",
        "description": "The last 1,024 characters of the process's termination message, which is the end of its log.",
    },
}
PROPERTIES: Schema = {
    "observedGeneration": {
        "type": "integer",
        "format": "int64",
        "description": "Generation of the spec this status is about.",
    },
    "phase": {"type": "string", "description": "One word for people, derived from the conditions."},
    "reason": {
        "type": "string",
        "description": "Why the phase is what it is: the reason of the condition behind it.",
    },
    "phaseTime": {**TIME, "description": "When the phase became what it is."},
    "durations": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "description": "Seconds spent in each phase before the present one.",
    },
    "readyPods": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "Pods that are ready, of those wanted, by role.",
    },
    "attempt": {
        **COUNT,
        "description": "Number of the present attempt; every child bears it as a label.",
    },
    "restarts": {**COUNT, "description": "Failures so far; `backoffLimit` bounds them."},
    "disruptions": {**COUNT, "description": "Preemptions, drains, lost nodes and deletions so far."},
    "shortAttempts": {
        **COUNT,
        "description": "Attempts in a row that ended early; the back-off grows with them.",
    },
    "startTime": {**TIME, "description": "When all pods ran for the first time."},
    "startingSince": {**TIME, "description": "Start of the present wait for all pods."},
    "attemptTime": {**TIME, "description": "When the present attempt was decided."},
    "runningSince": {**TIME, "description": "Start of the present stretch of active time."},
    "activeSeconds": {"type": "integer", "description": "Active time of earlier stretches."},
    "completionTime": {**TIME, "description": "When the job ended."},
    "pinned": {
        "type": "object",
        "description": "Images and GPU profile that the job took from the operator's settings when it began.",
        "x-kubernetes-preserve-unknown-fields": True,
    },
    "serverPods": {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "description": "UIDs of the pods that hold this attempt's rows, and their restarts until all pods ran.",
    },
    "replicaStatuses": {
        "type": "object",
        "additionalProperties": COUNTS,
        "description": "Pods of the present attempt, by role.",
    },
    "trainerReplicas": {
        "type": "integer",
        "description": "Trainers that run or have ended well; for the scale subresource.",
    },
    "selector": {
        "type": "string",
        "description": "Label selector of the trainers' pods; for the scale subresource.",
    },
    "progress": {
        "type": "object",
        "description": "From the oracle's log, every few seconds.",
        "properties": {k: {"type": t, "description": d} for k, (t, d) in PROGRESS.items()},
    },
    "summary": {
        "type": "object",
        "description": "The run's result: what `bagpipe run` leaves in summary.json.",
        "x-kubernetes-preserve-unknown-fields": True,
    },
    "lastFailure": {
        "type": "object",
        "description": "Why the last attempt that failed did.",
        "properties": FAILURE,
    },
    "logs": {
        "type": "object",
        "description": "The last lines of the pods that the job's failure ended: where they are, or why they are not.",
        "properties": {"configMap": {"type": "string"}, "message": {"type": "string"}},
    },
    "conditions": {
        "type": "array",
        "description": "By type; docs/operator.md has what each means.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": CONDITION,
    },
}


def status() -> Schema:
    """The schema of the whole status."""
    return {"type": "object", "description": "Written by the operator.", "properties": PROPERTIES}


def columns() -> list[Schema]:
    """What `kubectl get` shows."""

    def column(name: str, kind: str, path: str, priority: int = 0) -> Schema:
        return {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}

    return [
        column("Phase", "string", ".status.phase"),
        column("Reason", "string", ".status.reason"),
        column("Since", "date", ".status.phaseTime"),
        column("Servers", "string", ".status.readyPods.servers"),
        column("Trainers", "string", ".status.readyPods.trainers"),
        column("Step", "integer", ".status.progress.step"),
        column("Restarts", "integer", ".status.restarts"),
        column("Age", "date", ".metadata.creationTimestamp"),
        column("Attempt", "integer", ".status.attempt", 1),
        column("Of", "integer", ".status.progress.totalSteps", 1),
        column("Examples/s", "number", ".status.progress.examplesPerSecond", 1),
        column("HitRate", "number", ".status.progress.cacheHitRate", 1),
        column("ETA", "number", ".status.progress.etaSeconds", 1),
        column("Failure", "string", ".status.lastFailure.reason", 1),
    ]
