"""What a job took from the operator's settings when it began: an upgrade of the operator changes no job that runs.

Images, their pull policy, the defaults of pods and the GPU profile are resolved once, kept in the job's status, and
used by every later attempt. `runPolicy.imagePolicy: Latest` resolves them anew with each attempt, never within one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from bagpipe_operator import defaults
from bagpipe_operator.api import Job, Status, camel
from bagpipe_operator.names import Role
from bagpipe_operator.pods import profile_of
from bagpipe_operator.settings import Settings, parse_profiles

_SETTINGS = ("server_image", "trainer_image", "image_pull_policy", "image_pull_secrets", "run_as_user", "job_defaults")


def pinned(job: Job, status: Status, settings: Settings) -> Status:
    """With pins for the present attempt, new ones where the run policy or another profile asks for them."""
    pins, profile = status.pinned, job.section(Role.TRAINER).get("gpuProfile") or defaults.GPU_PROFILE
    stale = job.run_policy.image_policy == "Latest" and pins.get("attempt") != status.attempt
    if pins and not stale and pins.get("gpuProfile") == profile:
        return status
    return replace(status, pinned=_resolved(job, status.attempt, profile, settings))


def _resolved(job: Job, attempt: int, profile: str, settings: Settings) -> dict[str, Any]:
    taken = {camel(name): getattr(settings, name) for name in _SETTINGS}
    body = {camel(key): value for key, value in asdict(profile_of(job, settings)).items() if value}
    pins = {"attempt": attempt, "gpuProfile": profile, "settings": taken, "profile": body}
    plain: dict[str, Any] = json.loads(json.dumps(pins))  # Lists as the API server gives them back.
    return plain


def applied(settings: Settings, pins: Mapping[str, Any]) -> Settings:
    """The settings that this job goes by."""
    if not pins:
        return settings
    there = pins["settings"]  # Perhaps of an older release, which took fewer.
    taken = {name: there[camel(name)] for name in _SETTINGS if camel(name) in there}
    taken["image_pull_secrets"] = tuple(taken["image_pull_secrets"])
    profiles = {**settings.profiles, **parse_profiles({pins["gpuProfile"]: pins["profile"]})}
    return replace(settings, profiles=profiles, **taken)
