"""Settings of a job beside its pods' that no cluster can do anything with: relative paths, empty claims, odd names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from .quantity import parse
from .reserved import CONTAINER
from .shapes import describe
from .values import is_subdomain

Raw = Mapping[str, Any]
MOST_BYTES = 1024 * 1024
_NAMES = ("runPolicy.queueName", "runPolicy.workloadPriorityClass")
_CLAIMS = ("checkpoint.volumeClaim", "servers.volumeClaim")
_ON_A_VOLUME = "write a folder on a volume of all pods"


def faults(spec: Raw, oracles: Sequence[Raw]) -> Iterator[str]:
    """One line for each, the first that matters first.

    Args:
        oracles: settings of the oracle's pod, which alone reads the data, in layers.
    """
    yield from _paths(spec, oracles)
    yield from _size(spec)
    for path in _CLAIMS:
        claim = _at(spec, path)
        if not isinstance(claim, Mapping):
            continue
        if claim.get("size") is not None and (parse(claim["size"]) or 0) <= 0:
            yield f"spec.{path}.size: expected an amount such as 10Gi, found {describe(claim['size'])}"
        if claim.get("storageClassName") and not is_subdomain(claim["storageClassName"]):
            yield _odd_name(f"{path}.storageClassName", claim["storageClassName"])
    for path in _NAMES:
        name = _at(spec, path)
        if name and not is_subdomain(name):
            yield _odd_name(path, name)


def _size(spec: Raw) -> Iterator[str]:
    """The roles read the job in a ConfigMap; the API server may take a job that is larger than one may be."""
    if len(str(spec)) < MOST_BYTES // 4:
        return
    text = yaml.safe_dump({"spec": {key: value for key, value in spec.items() if key != "runPolicy"}})
    if (size := len(text.encode())) > MOST_BYTES:
        yield (
            f"spec: {size:,} bytes of YAML, and the ConfigMap in which the job's processes read it holds {MOST_BYTES:,}"
            "; leave out what has its default, or read fewer columns"
        )


def _odd_name(path: str, name: str) -> str:
    return f"spec.{path}: no object has this name: {name[:60]!r}; use lower-case letters, digits, '-' and '.'"


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _paths(spec: Raw, oracles: Sequence[Raw]) -> Iterator[str]:
    """A pod works in a folder of its own, which is empty, unless its settings say otherwise."""
    for name in ("checkpoint.path", "initFrom.run"):
        if isinstance(path := _at(spec, name), str) and _is_url(path):
            yield f"spec.{name}: {path[:60]!r} is a URL, at which only data can be; {_ON_A_VOLUME}"
    checkpoint = _at(spec, "checkpoint.path")
    if isinstance(checkpoint, str) and checkpoint and _is_relative(checkpoint):
        yield f"spec.checkpoint.path: {_words(checkpoint, '/checkpoints')}"
    if _at(spec, "data.format") == "synthetic" or any(_has_folder(layer) for layer in oracles):
        return
    for name in ("path", "train", "validation", "test"):
        named = _at(spec, f"data.{name}")
        for path in named if isinstance(named, list | tuple) else (named,):
            if isinstance(path, str) and path and _is_relative(path):
                yield f"spec.data.{name}: {_words(path, '/data/train.csv')}, or a URL"
    run = _at(spec, "initFrom.run")
    if isinstance(run, str) and run and _is_relative(run):
        yield f"spec.initFrom.run: {_words(run, '/checkpoints')}"


def _words(path: str, example: str) -> str:
    return (
        f"{path[:60]!r} is relative, and a pod works in an empty folder; write the path on a volume, such as {example}"
    )


def _is_relative(path: str) -> bool:
    return not path.startswith("/") and not _is_url(path)


def _is_url(path: str) -> bool:
    return "://" in path


def _has_folder(section: Raw) -> bool:
    """Whether the pod's image, its working folder or an init container may have put something where it works."""
    pod = _at(section, "podTemplate.spec") or {}
    main: Raw = next((c for c in pod.get("containers") or () if c.get("name") == CONTAINER), {})
    own = (section.get("image"), main.get("image"), main.get("workingDir"))
    return any(own) or bool(section.get("initContainers") or pod.get("initContainers"))
