"""`launch_cfg`: the machines to launch, and how to reach them. The paper's fields, and a few more."""

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bagpipe.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """Every field of `launch_cfg`; `""` means none."""

    name: str = "bagpipe-six-models"
    """Tag `Name` of everything that is made."""
    key_name: str = ""
    """EC2's name of your key pair."""
    key_path: str = ""
    """Where its private half lies here."""
    region: str = "us-west-2"
    az: str = ""
    """Availability zone; all machines are in one, or traffic between them is slow and costs extra."""
    method: str = "onDemand"
    """`onDemand` or `spot`."""
    spot_price: str = ""
    """Highest price of a machine in USD an hour; none: up to the on-demand price."""
    GroupName: str = ""
    """A placement group that exists."""
    ami_id: str = ""
    """Image with a GPU driver and Python, and the data if `data_dir` is in it."""
    ssh_username: str = "ubuntu"
    iam_role: str = ""
    """Instance profile, for machines that read data from S3."""
    security_group: str = ""
    """A group that exists; none: one is made (ssh from `ssh_cidr`, ports between its own machines) and deleted."""
    ssh_cidr: str = ""
    """Who may reach port 22 of the group that is made: your own address, such as 203.0.113.7/32."""
    instance_type: str = "p3.2xlarge"
    """The trainers'; p3 (V100) is what the paper had, g5.8xlarge what can still be rented."""
    instance_count: int = 8
    """Number of trainers."""
    cpu_instance_type: str = "c5.18xlarge"
    """The oracle's and the embedding server's."""
    volume_gb: int = 0
    """Size of the root disk in GB; 0: the image's."""
    max_hours: float = 6.0
    """Machines shut down and are gone after so many hours, whatever became of the launcher."""
    setup: str = "mkdir -p bagpipe && tar xzf bagpipe.tar.gz -C bagpipe && cd bagpipe && make install"
    """Run once on each machine, where `bagpipe.tar.gz` (this source tree) has been put."""
    python: str = "$HOME/bagpipe/.venv/bin/python"
    """Python on the machines."""
    data_dir: str = "$HOME/data"
    """Folder of the data sets on the oracle's machine."""
    device: str = "cuda:0"
    dist_backend: str = "nccl"
    interface: str = ""
    """Network interface for `TP_SOCKET_IFNAME` and `GLOO_SOCKET_IFNAME`."""
    ready_seconds: float = 900.0
    """Longest wait in seconds until a machine runs and answers."""
    setup_seconds: float = 1800.0
    """Longest time in seconds for `setup`, and for reading the data once."""
    run_seconds: float = 7200.0
    """Longest time in seconds for one model."""


BOUNDS: dict[str, tuple[float, float]] = {
    "instance_count": (1, 1000),
    "volume_gb": (0, 16_384),
    "max_hours": (0.1, 720.0),
    "ready_seconds": (1.0, 86_400.0),
    "setup_seconds": (1.0, 86_400.0),
    "run_seconds": (1.0, 2_592_000.0),
    "spot_price": (0.0001, 1000.0),
}
"""Least and greatest value of every number, in the unit of its field: what costs money for longer is a typing error."""


def launch_config(given: Mapping[str, Any], overrides: Sequence[str] = ()) -> LaunchConfig:
    """`launch_cfg` and `--set field=value`, checked.

    Raises:
        ConfigError: names the field and the remedy.
    """
    kinds: dict[str, Callable[[Any], Any]] = {
        field.name: type(field.default) for field in dataclasses.fields(LaunchConfig)
    }
    values = dict(given)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected field=value, such as --set region=eu-central-1")
        values[name] = text
    for name, value in values.items():
        if name not in kinds:
            raise ConfigError(f"launch_cfg: {name}: unknown field; expected one of {', '.join(kinds)}")
        try:
            values[name] = kinds[name](value)
        except (TypeError, ValueError):
            raise ConfigError(f"launch_cfg: {name}: expected a number, found {value!r}; correct it") from None
    config = LaunchConfig(**values)
    _check(config)
    return config


def _check_number(name: str, value: float | str, least: float, greatest: float) -> None:
    """A number within its bounds; `nan` is within none. An empty string gives none."""
    if value == "":
        return
    try:
        within = least <= float(value) <= greatest
    except ValueError:
        within = False
    if not within:
        raise ConfigError(f"launch_cfg: {name}: expected a number from {least:g} to {greatest:g}, found {value!r}")


def _check(config: LaunchConfig) -> None:
    for name in ("key_name", "key_path", "region", "az", "ami_id"):
        if not getattr(config, name):
            raise ConfigError(f"launch_cfg: {name}: missing; fill it in with your AWS set-up (docs/experiments.md)")
    if config.method not in ("onDemand", "spot"):
        raise ConfigError(f"launch_cfg: method: expected onDemand or spot, found {config.method!r}")
    if config.spot_price and config.method != "spot":
        raise ConfigError("launch_cfg: spot_price: has no effect with method onDemand; remove it")
    for name, (least, greatest) in BOUNDS.items():
        _check_number(name, getattr(config, name), least, greatest)
    if config.security_group:
        if config.ssh_cidr:
            raise ConfigError("launch_cfg: ssh_cidr: has no effect with a security_group of your own; remove it")
        return
    try:
        network = ipaddress.ip_network(config.ssh_cidr)
    except ValueError:
        raise ConfigError(
            f"launch_cfg: ssh_cidr: expected your own address, such as 203.0.113.7/32, found {config.ssh_cidr!r}; "
            "or name a security_group of yours"
        ) from None
    if network.prefixlen == 0:
        raise ConfigError(f"launch_cfg: ssh_cidr: {config.ssh_cidr} lets everybody in; give your own address")
