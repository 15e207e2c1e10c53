"""What a job took from the operator's settings when it began: an upgrade of the operator changes no job that runs.

Images, their pull policy, the defaults of pods, the job's class and the GPU profile are resolved once, kept in the
job's status, and used by every later attempt. `runPolicy.imagePolicy: Latest` resolves them anew with each attempt,
never within one.

With them stands what the present attempt was made of: the job may have been suspended, changed and resumed again while
nobody looked, and what runs is then no longer what the job says.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from bagpipe_operator.api import Job, Status, camel
from bagpipe_operator.decision import Count, Restart
from bagpipe_operator.names import Reason, Role
from bagpipe_operator.observe import Observed
from bagpipe_operator.podcheck.classes import JobClass
from bagpipe_operator.podcheck.profiles import parse_profiles
from bagpipe_operator.pods import profile_name, profile_of
from bagpipe_operator.settings import Settings

_SETTINGS = ("server_image", "trainer_image", "image_pull_policy", "image_pull_secrets", "run_as_user", "job_defaults")


def pinned(job: Job, status: Status, settings: Settings) -> Status:
    """With pins for the present attempt, new ones where the run policy, another class or another profile asks for them.

    Raises:
        SpecError: there is no class or profile of the name that the job has; names those that there are.
    """
    pins = status.pinned
    stale = job.run_policy.image_policy == "Latest" and pins.get("attempt") != status.attempt
    other = _other_class(job, pins) or pins.get("gpuProfile") != profile_name(job, applied(settings, pins, job))
    if not pins or stale or other:
        pins = _resolved(job, status.attempt, settings)
    return replace(status, pinned={**pins, "made": {"attempt": status.attempt, "of": _digest(job)}})


def judge(job: Job, status: Status, observed: Observed) -> Restart | None:
    """A new attempt, if what the present one was made of was changed since; of an older release's, nobody knows."""
    made = status.pinned.get("made") or {}
    begun = observed.batch_job(job.name, Role.TRAINER, status.attempt) is not None
    if not begun or made.get("attempt") != status.attempt or not changed(job, status):
        return None
    message = "the job was changed while it was suspended: what runs is not what it says any more"
    return Restart(reason=Reason.EDITED, message=message, count=Count.NOTHING)


def changed(job: Job, status: Status) -> bool:
    """Whether the job says something else than when its last attempt was made; what is not known is no change."""
    made = status.pinned.get("made") or {}
    return "of" in made and made["of"] != _digest(job)


def _digest(job: Job) -> str:
    """Of all that can change only while a job is suspended; what says nothing says the same as nothing.

    Of the run policy that is the gang, which pods name, and the class, of which they are made. The queue is another
    Workload's business (`kueue.follows`).
    """
    sections = {key: _said(value) for key, value in job.spec.items() if key != "runPolicy"}
    chosen = {"gang": job.run_policy.gang, "jobClass": job.run_policy.job_class}
    sections["runPolicy"] = {key: value for key, value in chosen.items() if value} or None
    sections["trainers"] = {key: value for key, value in _said(job.section(Role.TRAINER)).items() if key != "replicas"}
    return hashlib.sha256(json.dumps(_said(sections), sort_keys=True).encode()).hexdigest()[:32]


def _said(value: Any) -> Any:
    """Without the fields that are left empty; below them null may say that something is taken away."""
    return {k: v for k, v in value.items() if v not in (None, {}, [])} if isinstance(value, Mapping) else value


def _resolved(job: Job, attempt: int, settings: Settings) -> dict[str, Any]:
    settings = settings.for_class(job.run_policy.job_class)
    taken = {camel(name): getattr(settings, name) for name in _SETTINGS}
    body = {camel(key): value for key, value in asdict(profile_of(job, settings)).items() if value}
    pins = {"attempt": attempt, "gpuProfile": profile_name(job, settings), "settings": taken, "profile": body}
    if (found := settings.job_class).name:
        pins["jobClass"] = {
            "asked": job.run_policy.job_class or "",
            "name": found.name,
            "gpuProfile": found.gpu_profile,
            "defaults": found.defaults,
        }
    plain: dict[str, Any] = json.loads(json.dumps(pins))  # Lists as the API server gives them back.
    return plain


def applied(settings: Settings, pins: Mapping[str, Any], job: Job) -> Settings:
    """The settings that this job goes by: those that it began with, or what it would begin with now.

    Limits are always the present ones.

    Raises:
        SpecError: it has not begun with its class, and there is no class of that name.
    """
    if not pins or _other_class(job, pins):
        return settings.for_class(job.run_policy.job_class)
    there = pins["settings"]  # Perhaps of an older release, which took fewer.
    taken = {name: there[camel(name)] for name in _SETTINGS if camel(name) in there}
    taken["image_pull_secrets"] = tuple(taken["image_pull_secrets"])
    profiles = {**settings.profiles, **parse_profiles({pins["gpuProfile"]: pins["profile"]})}
    return replace(settings, profiles=profiles, job_class=_class_of(settings, pins), **taken)


def _other_class(job: Job, pins: Mapping[str, Any]) -> bool:
    """Whether the job names another class than the one that it began with."""
    return bool((pins.get("jobClass") or {}).get("asked", "") != (job.run_policy.job_class or ""))


def _class_of(settings: Settings, pins: Mapping[str, Any]) -> JobClass:
    """The class as it was; it may be gone from the installation by now, and its limits with it."""
    then = pins.get("jobClass")
    if not then:
        return JobClass()
    name = then.get("name", "")
    now = settings.job_classes.get(name, JobClass())
    return JobClass(
        name=name, gpu_profile=then.get("gpuProfile", ""), defaults=then.get("defaults") or {}, limits=now.limits
    )
