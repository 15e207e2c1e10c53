"""Makes machines on EC2, with a security group, and removes both afterwards.

Everything has the tag `bagpipe-run`, given in the call that makes it, and is found by that tag when it is removed, even
if the answer of the call was lost. If this process is killed, the machines shut down by themselves after `max_hours`,
and an instance that shuts down is terminated.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from bagpipe.ec2.settings import LaunchConfig
from bagpipe.errors import BagpipeError, ConfigError, ExitCode
from bagpipe.experiment.session import Note, signals_wait
from bagpipe.lowlevel.clock import SYSTEM_CLOCK, Clock

TAG = "bagpipe-run"
POLL_SECONDS = 5.0
TERMINATE_SECONDS = 600.0
LIVE = ["pending", "running", "stopping", "stopped"]


class CloudError(BagpipeError):
    """EC2 refused or cannot be reached; carries its answer."""

    exit_code = ExitCode.TRANSIENT


@dataclass(frozen=True, slots=True)
class Machine:
    """One running instance."""

    name: str
    """oracle, server, trainer-0, ..."""
    id: str
    private_ip: str
    public_ip: str


class Machines:
    """A context: on leaving it, whatever was launched in it is terminated."""

    def __init__(self, config: LaunchConfig, note: Note, ec2: Any = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Nothing is made yet.

        Args:
            ec2: a boto3 client; none: made with the ordinary credentials.
            clock: waits between two requests to EC2.

        Raises:
            ConfigError: boto3 is not installed.
        """
        self._config, self._note = config, note
        self._ec2 = ec2 or _client(config)
        self.run_id = f"{config.name}-{uuid.uuid4().hex[:10]}"
        self._group = config.security_group
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with signals_wait(self._note):
            # A call that was cut off may have made a machine that EC2 lists only a moment later.
            self._terminate(looks=1 if error is None else 2)

    # ── making ───────────────────────────────────────────────────────────────────────────────────

    def launch(self, wanted: dict[str, str]) -> list[Machine]:
        """Instances by name and type, running; in the order of `wanted`.

        Raises:
            CloudError: EC2 refused (quota, capacity, a wrong name), or they did not start in time.
        """
        if not self._group:
            self._group = self._told(self._make_group)
        ids = {}
        for name, kind in wanted.items():
            self._note(f"launching {name}: {kind}, {self._config.method}")
            ids[name] = self._told(partial(self._run, name, kind))
        found = self._until_running(list(ids.values()))
        return [Machine(name, i, found[i]["PrivateIpAddress"], _public(found[i])) for name, i in ids.items()]

    def _make_group(self) -> str:
        """Port 22 from one address; everything between the machines themselves; nothing else."""
        answer = self._ec2.create_security_group(
            GroupName=self.run_id,
            Description="Bagpipe experiment: ssh from its owner, all ports among its machines",
            TagSpecifications=self._tags("security-group", self._config.name),
        )
        group = str(answer["GroupId"])
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": self._config.ssh_cidr}]}
        inside = {"IpProtocol": "tcp", "FromPort": 1024, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": group}]}
        self._ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, inside])
        return group

    def _run(self, name: str, kind: str) -> str:
        config = self._config
        placement = {"AvailabilityZone": config.az, **({"GroupName": config.GroupName} if config.GroupName else {})}
        options: dict[str, Any] = {}
        if config.method == "spot":
            price = {"MaxPrice": config.spot_price} if config.spot_price else {}
            spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", **price}
            options["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
        if config.iam_role:
            options["IamInstanceProfile"] = {"Name": config.iam_role}
        if config.volume_gb:
            disk = {"VolumeSize": config.volume_gb, "VolumeType": "gp3", "DeleteOnTermination": True}
            options["BlockDeviceMappings"] = [{"DeviceName": self._root_device(), "Ebs": disk}]
        answer = self._ec2.run_instances(
            ImageId=config.ami_id,
            InstanceType=kind,
            MinCount=1,
            MaxCount=1,
            KeyName=config.key_name,
            SecurityGroupIds=[self._group],
            Placement=placement,
            # A retry of a call whose answer was lost gives the same machine, not another one.
            ClientToken=f"{self.run_id}-{name}"[-64:],
            InstanceInitiatedShutdownBehavior="terminate",
            UserData=f"#!/bin/sh\nshutdown -h +{max(1, round(config.max_hours * 60))}\n",
            MetadataOptions={"HttpTokens": "required"},
            TagSpecifications=[
                *self._tags("instance", f"{config.name}-{name}"),
                *self._tags("volume", f"{config.name}-{name}"),
            ],
            **options,
        )
        return str(answer["Instances"][0]["InstanceId"])

    def _root_device(self) -> str:
        images = self._ec2.describe_images(ImageIds=[self._config.ami_id])["Images"]
        return str(images[0].get("RootDeviceName", "/dev/sda1"))

    def _tags(self, kind: str, name: str) -> list[dict[str, Any]]:
        tags = [{"Key": "Name", "Value": name}, {"Key": TAG, "Value": self.run_id}]
        return [{"ResourceType": kind, "Tags": tags}]

    def _until_running(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        end = self._clock.now() + self._config.ready_seconds
        while True:
            found = {i["InstanceId"]: i for i in self._told(self._instances)}
            states = {i: found[i]["State"]["Name"] if i in found else "not yet known" for i in ids}
            if all(state == "running" for state in states.values()):
                return found
            lost = {i: s for i, s in states.items() if s in ("shutting-down", "terminated", "stopped")}
            if lost or self._clock.now() >= end:
                raise CloudError(
                    f"expected {len(ids)} running instances within {self._config.ready_seconds:g} s, found {states}; "
                    "look at quota and capacity of the region"
                )
            self._clock.pause(POLL_SECONDS)

    # ── taking away ──────────────────────────────────────────────────────────────────────────────

    def _terminate(self, looks: int) -> None:
        """Terminate by tag until `looks` times in a row nothing is left, then delete the group.

        Raises:
            CloudError: names what may be left, and that it ends by itself.
        """
        end = self._clock.now() + TERMINATE_SECONDS
        trouble, clear = "they do not end", 0
        while True:
            try:
                left = self._told(partial(self._instances, [*LIVE, "shutting-down"]))
                doomed = [i["InstanceId"] for i in left if i["State"]["Name"] != "shutting-down"]
                if doomed:
                    self._note(f"terminating {len(doomed)} instances")
                    self._told(partial(self._ec2.terminate_instances, InstanceIds=doomed))
                clear = 0 if left else clear + 1
                if clear >= looks:
                    self._told(self._delete_groups)
                    return
            except CloudError as error:
                trouble = str(error)
            if self._clock.now() >= end:
                raise CloudError(
                    f"tag {TAG}={self.run_id} in {self._config.region}: instances or a security group may be left "
                    f"({trouble}); terminate them by hand, or instances end by themselves "
                    f"{self._config.max_hours:g} hours after their start"
                )
            self._clock.pause(POLL_SECONDS)

    def _delete_groups(self) -> None:
        found = self._ec2.describe_security_groups(Filters=[{"Name": f"tag:{TAG}", "Values": [self.run_id]}])
        for group in found["SecurityGroups"]:
            self._ec2.delete_security_group(GroupId=group["GroupId"])

    def _instances(self, states: list[str] | None = None) -> list[dict[str, Any]]:
        filters = [{"Name": f"tag:{TAG}", "Values": [self.run_id]}]
        if states:
            filters.append({"Name": "instance-state-name", "Values": states})
        pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]

    def _told(self, call: Callable[[], Any]) -> Any:
        """Turn EC2's errors into ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except ClientError as error:
            raise CloudError(f"EC2 in {self._config.region}: {error.response['Error'].get('Message', error)}") from None
        except BotoCoreError as error:
            raise CloudError(f"EC2 in {self._config.region}: {error}") from None


def _public(instance: dict[str, Any]) -> str:
    return str(instance.get("PublicIpAddress") or instance["PrivateIpAddress"])


def _client(config: LaunchConfig) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("the EC2 launcher needs boto3: pip install 'bagpipe-train[ec2]'") from None
    retries = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 5, "mode": "standard"})
    return boto3.client("ec2", region_name=config.region, config=retries)
