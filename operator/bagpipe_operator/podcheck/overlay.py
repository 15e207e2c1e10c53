"""Laying a user's pod template over ours, as a strategic merge does it: by name where things have names.

Maps merge key by key; lists whose items all bear a merge key (`name`, `mountPath`, ...) merge item by
item; every other list and scalar is replaced; `null` removes. A variable and a volume have one source each: another
one takes its place, as both together would be refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
_ONE_SOURCE = frozenset({"env", "volumes"})
_APPEND = frozenset({"tolerations", "topologySpreadConstraints", "envFrom"})


def overlay(base: Any, patch: Any, key: str = "") -> Any:
    """`patch` over `base`; neither is changed."""
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        merged = {k: v for k, v in base.items() if not (k in patch and patch[k] is None)}
        for k, v in patch.items():
            if v is not None:
                merged[k] = overlay(merged[k], v, k) if k in merged else v
        return merged
    if isinstance(base, list | tuple) and isinstance(patch, list | tuple):
        return _lists(base, patch, key)
    return patch


def _lists(base: Sequence[Any], patch: Sequence[Any], key: str) -> list[Any]:
    if key in _APPEND:
        return [*base, *(item for item in patch if item not in base)]
    merge_key = _MERGE_KEYS.get(key)
    if merge_key is None or not all(_is_named(item, merge_key) for item in (*base, *patch)):
        return list(patch)
    merged = {_name(item, merge_key): item for item in base}
    for item in patch:
        name = _name(item, merge_key)
        merged[name] = _laid(merged[name], item, key) if name in merged else item
    return list(merged.values())


def _laid(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> Any:
    """One named thing over another of its name."""
    if key in _ONE_SOURCE and len(new) > 1:
        old = {k: v for k, v in old.items() if k in new}
    return overlay(old, new)


def _name(item: Mapping[str, Any], merge_key: str) -> Any:
    """A port may be open to two protocols."""
    if merge_key == "containerPort":
        return item[merge_key], str(item.get("protocol") or "TCP")
    return item[merge_key]


def merge_name(item: Any, key: str) -> Any:
    """By what an item of the list `key` is known; None: such items have no names, or this one has none."""
    merge_key = _MERGE_KEYS.get(key)
    return _name(item, merge_key) if merge_key and _is_named(item, merge_key) else None


def _is_named(item: Any, merge_key: str) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get(merge_key), str | int)
