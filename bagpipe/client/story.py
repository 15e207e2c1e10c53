"""Describes a job in one page: its phase, what happened to it, its pods, and how it ended.

Pure: from what the API server shows (the job, its events, its pods) to lines of text. What is not known is left out.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from bagpipe.client.known import known_status

Raw = Mapping[str, Any]

_ROLES = ("oracle", "server", "trainer")
_INDEX_LABELS = ("batch.kubernetes.io/job-completion-index", "apps.kubernetes.io/pod-index")
_FOR_TOOLS = ("Reconciling", "Stalled")
"""Conditions that say again what others say, for programs that know no job."""
_MESSAGE_LINES = 10
_KEPT_PODS, _KEPT_LINES = 8, 3


def tell(
    job: Raw,
    events: Iterable[Raw],
    pods: Iterable[Raw],
    now: dt.datetime,
    kept: Mapping[str, str] | None = None,
    unread: Iterable[str] = (),
) -> str:
    """The page.

    Args:
        now: what ages are counted to.
        kept: last lines of pods that are gone, by process, as `oracle-0.log`.
        unread: why something of the job is not here: the user may not see it.
    """
    status, odd = known_status(job)
    parts = [
        _head(job, status, now),
        _block("Progress", _progress(status)),
        _block("Time", _durations(status, now)),
        _block("Timeline", _timeline(job, status, events)),
        _block("Pods", _pods(pods)),
        _block("Last failure", _failure(status)),
        _block("Last lines of pods that are gone", _last_lines(status, kept or {})),
        _block("Conditions", _conditions(status, now)),
        _block("Not shown", [*unread, *odd]),
        _block("Result", [f"{key}: {value}" for key, value in (status.get("summary") or {}).items()]),
    ]
    return printable("\n\n".join(part for part in parts if part) + "\n")


def printable(text: str) -> str:
    """With signs that would steer a terminal written out: a process's termination message may contain anything."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _block(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _head(job: Raw, status: Raw, now: dt.datetime) -> str:
    meta = job["metadata"]
    phase, since = status.get("phase", "Pending"), _age(status.get("phaseTime"), now)
    words = [f"{meta['namespace']}/{meta['name']}: {phase}"]
    words += [f"for {since}"] if since else []
    words += [f"({status['reason']})"] if status.get("reason") else []
    head = " ".join(words)
    if "deletionTimestamp" in meta:
        kept = ", ".join(meta.get("finalizers") or ()) or "nothing"
        head += f"\n  was deleted at {meta['deletionTimestamp']}; what keeps it: {kept}"
    if not status:
        return head + "\n  no operator has looked at it: is one installed, of its operatorClass?"
    policy = (job.get("spec") or {}).get("runPolicy") or {}
    counts = []
    for key, name, limit in (
        ("restarts", "failures", "backoffLimit"),
        ("disruptions", "disruptions", "disruptionLimit"),
    ):
        allowed = f" of {policy[limit]}" if limit in policy else ""
        counts.append(f"{status.get(key, 0)}{allowed} for {name}")
    return head + f"\n  attempt {status.get('attempt', 0)}; new attempts: " + ", ".join(counts)


def _progress(status: Raw) -> list[str]:
    known = status.get("progress") or {}
    if not known:
        return []
    total = f" of {known['totalSteps']}" if "totalSteps" in known else ""
    words = [f"step {known['step']}{total}"] if "step" in known else []
    words += [f"loss {known['loss']:.4f}"] if "loss" in known else []
    words += [f"{known['examplesPerSecond']:,.0f} examples/s"] if "examplesPerSecond" in known else []
    words += [f"{_span(known['etaSeconds'])} to go"] if "etaSeconds" in known else []
    words += [f"checkpoint at step {known['lastCheckpoint']}"] if "lastCheckpoint" in known else []
    return [", ".join(words)]


def _durations(status: Raw, now: dt.datetime) -> list[str]:
    spent = dict(status.get("durations") or {})
    phase, since = status.get("phase"), _moment(status.get("phaseTime"))
    if phase not in (None, "Complete", "Failed") and since is not None:
        spent[phase] = spent.get(phase, 0) + max((now - since).total_seconds(), 0)
    return [", ".join(f"{name} {_span(seconds)}" for name, seconds in spent.items())] if spent else []


def _timeline(job: Raw, status: Raw, events: Iterable[Raw]) -> list[str]:
    """Events, which Kubernetes forgets after an hour, and what the status itself remembers."""
    told = [(e.get("lastTimestamp") or e.get("eventTime") or "", f"{e.get('reason')}: {_line(e)}") for e in events]
    said = " ".join(text for _, text in told)
    remembered = [(job["metadata"].get("creationTimestamp", ""), "made")]
    remembered += [(status["startTime"], "all pods ran for the first time")] if "startTime" in status else []
    for c in status.get("conditions") or ():
        told_already = c["type"] in _FOR_TOOLS or (c.get("message") or c["reason"]) in said
        if c["status"] == "True" and not told_already:
            remembered.append((c["lastTransitionTime"], f"{c['type']}: {_line(c)}"))
    return [
        f"{when}  {text}"
        for when, text in sorted(dict.fromkeys([*remembered, *told]), key=lambda entry: entry[0])
        if when
    ]


def _line(raw: Raw) -> str:
    return " ".join((raw.get("message") or raw.get("reason") or "").split())


def _pods(pods: Iterable[Raw]) -> list[str]:
    ours = sorted(
        (p for p in pods if _role(p) in _ROLES), key=lambda p: (_ROLES.index(_role(p)), index_of(p), _name(p))
    )
    return [_pod(p) for p in ours]


def _pod(pod: Raw) -> str:
    status, attempt = pod.get("status") or {}, pod["metadata"]["labels"].get("bagpipe.dev/attempt", "?")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    phase = status.get("phase", "?") + (", ready" if ready else "")
    words = [f"{_role(pod)} {index_of(pod)}", f"attempt {attempt}", phase]
    words += ["is being deleted"] if "deletionTimestamp" in pod["metadata"] else []
    words += [f"on {node}"] if (node := (pod.get("spec") or {}).get("nodeName")) else []
    return "  ".join((*words, _name(pod), *_trouble(status)))


def _name(pod: Raw) -> str:
    return str(pod["metadata"]["name"])


def _trouble(status: Raw) -> list[str]:
    """How its container ended, or what it waits for."""
    main: Raw = next((c for c in status.get("containerStatuses") or () if c.get("name") == "bagpipe"), {})
    ended = ((main.get("state") or {}).get("terminated")) or ((main.get("lastState") or {}).get("terminated")) or {}
    waiting = (main.get("state") or {}).get("waiting") or {}
    words = [f"restarted {main['restartCount']} times"] if main.get("restartCount") else []
    words += [f"exited with {ended['exitCode']}"] if ended.get("exitCode") else []
    words += [str(waiting["reason"])] if waiting.get("reason") else []
    return [f"({', '.join(words)})"] if words else []


def _role(pod: Raw) -> str:
    return str((pod["metadata"].get("labels") or {}).get("bagpipe.dev/role", ""))


def index_of(pod: Raw) -> int:
    """Shard or rank of a pod's process, by the labels that Kubernetes gives it; 0 where it has none."""
    labels = pod["metadata"].get("labels") or {}
    return int(next((labels[key] for key in _INDEX_LABELS if str(labels.get(key)).isdecimal()), 0))


def _failure(status: Raw) -> list[str]:
    known = status.get("lastFailure") or {}
    if not known:
        return []
    lines = [f"attempt {known.get('attempt', 0)}, {known.get('time', '')}: {known.get('reason')}: {_line(known)}"]
    words = str(known.get("lastWords", "")).splitlines()
    return lines + [f"| {line}" for line in words[-_MESSAGE_LINES:]]


def _last_lines(status: Raw, kept: Mapping[str, str]) -> list[str]:
    """A few lines of a few processes; `bagpipe job logs` has the rest."""
    lines = [message] if (message := (status.get("logs") or {}).get("message")) else []
    for key in sorted(kept)[:_KEPT_PODS]:
        lines += [f"{key.removesuffix('.log')}:", *(f"| {line}" for line in kept[key].splitlines()[-_KEPT_LINES:])]
    more = len(kept) - _KEPT_PODS
    return [*lines, f"and {more} more; `bagpipe job logs` prints each"] if more > 0 else lines


def _conditions(status: Raw, now: dt.datetime) -> list[str]:
    return [
        f"{c['type']} {c['status'].lower()} for {_age(c['lastTransitionTime'], now) or '?'} ({c['reason']}): {_line(c)}"
        for c in status.get("conditions") or ()
        if c["type"] not in _FOR_TOOLS
    ]


def _moment(text: object) -> dt.datetime | None:
    try:
        when = dt.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when.replace(tzinfo=dt.UTC) if when is not None and when.tzinfo is None else when


def _age(text: object, now: dt.datetime) -> str:
    when = _moment(text)
    return _span((now - when).total_seconds()) if when else ""


def _span(seconds: float) -> str:
    """A duration in its two largest units that are not zero."""
    left, words = max(int(seconds), 0), []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if left >= size:
            words.append(f"{left // size} {unit}")
            left %= size
    return " ".join([*words, f"{left} s"][:2])
