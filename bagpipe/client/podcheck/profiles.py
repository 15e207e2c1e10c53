"""GPU profiles: what a trainer needs on each family of nodes. An installation may add to or replace these.

The selector is GPU feature discovery's product label where the product has one name, its compute capability otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .shapes import SpecError, camel, check_types, describe


def _gpu(description: str, suffix: str, selector: Mapping[str, str], memory: str = "8Gi") -> dict[str, Any]:
    return {
        "description": description,
        "imageSuffix": suffix,
        "gpus": 1,
        "nodeSelector": selector,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "shmSize": memory,
    }


def _product(name: str) -> dict[str, str]:
    return {"nvidia.com/gpu.product": name}


def _capability(major: int, minor: int) -> dict[str, str]:
    return {"nvidia.com/gpu.compute.major": str(major), "nvidia.com/gpu.compute.minor": str(minor)}


_V100 = "V100 (AWS p3, p3dn). The last wheels that support sm_70 are torch 2.14's cu126 build; no bfloat16."
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"description": "No GPU."},
    "v100": {**_gpu(_V100, "-cu126", _product("Tesla-V100-SXM2-16GB")), "env": {"NCCL_SOCKET_IFNAME": "eth0"}},
    "t4": _gpu("T4 (AWS g4dn), sm_75.", "-cu126", _product("Tesla-T4")),
    "a10g": _gpu("A10G (AWS g5), sm_86.", "-cu130", _product("NVIDIA-A10G")),
    "l4": _gpu("L4 (AWS g6), sm_89.", "-cu130", _product("NVIDIA-L4")),
    "a100": _gpu("A100 of either memory size (AWS p4d, p4de), sm_80.", "-cu130", _capability(8, 0), "16Gi"),
    "h100": _gpu("H100 (AWS p5), sm_90.", "-cu130", _capability(9, 0), "16Gi"),
}
"""Those that come with the operator, by name, as a values file would write them."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What trainers get when `trainers.gpuProfile` names this profile."""

    description: str = ""
    image: str | None = None
    """Trainer image of this profile; none: the default trainer image."""
    image_suffix: str = ""
    """Appended to the default trainer image's tag where `image` is not given."""
    gpus: int = 0
    """`nvidia.com/gpu` of each trainer."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    runtime_class_name: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    shm_size: str | None = None


def load_profiles() -> dict[str, Profile]:
    """The GPU profiles that come with the operator, by name."""
    return parse_profiles(PROFILES)


def parse_profiles(raw: Mapping[str, Any], where: str = "profiles") -> dict[str, Profile]:
    """GPU profiles by name, from an installation's settings.

    Args:
        where: their path.

    Raises:
        SpecError: a profile has an unknown key, or a value of another type.
    """
    by_key = {camel(f.name): f.name for f in fields(Profile)}
    result = {}
    for name, body in raw.items():
        if not isinstance(body, Mapping):
            raise SpecError(f"{where}.{name}: expected a map, found {describe(body)}")
        unknown = sorted(set(body) - set(by_key))
        if unknown:
            raise SpecError(f"{where}.{name}: unknown key {unknown[0]!r}; known: {', '.join(sorted(by_key))}")
        values: dict[str, Any] = {
            by_key[key]: tuple(value) if isinstance(value, list) else value for key, value in body.items()
        }
        check_types(Profile, values, f"{where}.{name}")
        result[name] = Profile(**values)
    return result
