"""The EC2 launcher from end to end: EC2 is moto's server on loopback, the roles are real, only ssh is replaced.

A machine is a directory, and its commands run there.
"""

import dataclasses
import json
import os
import re
import signal
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bagpipe.ec2 import launcher, machines
from bagpipe.ec2.launcher import main

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-west-2"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


class Directories:
    """The door of a machine that is a directory here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def argv(self, machine, command):
        home = self.root / machine.name
        home.mkdir(parents=True, exist_ok=True)
        return ["env", f"HOME={home}", "bash", "-c", f"cd {home} && {command}"]

    def address(self, machine):
        return "127.0.0.1"


@pytest.fixture(scope="module")
def account():
    """EC2 and a client of it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("ec2", region_name=REGION, endpoint_url=address, **credentials)
    client.create_key_pair(KeyName="me")
    yield address, client
    server.stop()


@pytest.fixture
def ec2(account, monkeypatch):
    """An empty account, reached as any boto3 program reaches it."""
    for name, value in {
        "AWS_ENDPOINT_URL": account[0], "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machines, "POLL_SECONDS", 0.05)
    return account[1]


@pytest.fixture
def launch(ec2, tmp_path):
    """Runs the launcher on two trainers; returns its exit code."""
    cfg = {
        "name": "test", "key_name": "me", "key_path": "unused.pem", "region": REGION, "az": "us-west-2a",
        "ami_id": "ami-03cf127a", "ssh_cidr": "203.0.113.7/32", "instance_type": "p3.2xlarge", "instance_count": 2,
        "device": "cpu", "dist_backend": "gloo", "python": sys.executable, "data_dir": str(tmp_path / "data"),
        "setup": "mkdir -p bagpipe && tar xzf bagpipe.tar.gz -C bagpipe",
    }  # fmt: skip

    def run(*argv: str, torchrec: bool = False, **more) -> int:
        argv = ("--out", str(tmp_path / "out"), *argv)
        door = Directories(tmp_path / "machines")
        return main({**cfg, **more}, argv, torchrec=torchrec, door=lambda config, logs: door)

    return run


def all_instances(ec2) -> list[dict]:
    return [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]


def nothing_left(ec2) -> bool:
    alive = [i for i in all_instances(ec2) if i["State"]["Name"] not in ("terminated", "shutting-down")]
    groups = [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]]
    return alive == [] and groups == ["default"]


def write_data(folder: Path) -> None:
    folder.mkdir()
    lines = (
        {"label": float(n % 3 == 0), "dense": [n % 7 / 7] * 13, "sparse": [(n * (t + 1)) % 3 for t in range(26)]}
        for n in range(64)
    )
    (folder / "kaggle_criteo_weekly.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_from_nothing_to_a_table_and_back_to_nothing(launch, ec2, tmp_path, capsys, monkeypatch):
    """Machines are launched and tagged, the six-models' DLRM is trained by the paper's scripts, logs come back and are
    parsed, the machines and their security group are gone.
    """
    write_data(tmp_path / "data")
    seen = {}
    terminate = machines.Machines._terminate

    def look_first(self, looks):
        seen["group"] = ec2.describe_security_groups(Filters=[{"Name": "tag:bagpipe-run", "Values": [self.run_id]}])
        seen["instances"] = [i for i in all_instances(ec2) if i["State"]["Name"] == "running"]
        terminate(self, looks)

    monkeypatch.setattr(machines.Machines, "_terminate", look_first)
    code = launch("--iterations", "16", "--batch-size", "32", "--cache-size", "5000", "--lookahead", "10")
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    assert nothing_left(ec2)
    names = {t["Value"] for i in seen["instances"] for t in i["Tags"] if t["Key"] == "Name"}
    assert names == {"test-oracle", "test-server", "test-trainer-0", "test-trainer-1"}
    kinds = sorted(i["InstanceType"] for i in seen["instances"])
    assert kinds == ["c5.18xlarge", "c5.18xlarge", "p3.2xlarge", "p3.2xlarge"]
    [group] = seen["group"]["SecurityGroups"]
    assert all(r["CidrIp"] == "203.0.113.7/32" for p in group["IpPermissions"] for r in p["IpRanges"])
    open_ports = [(p["FromPort"], p["ToPort"], bool(p["UserIdGroupPairs"])) for p in group["IpPermissions"]]
    assert sorted(open_ports) == [(22, 22, False), (1024, 65535, True)]
    logs = sorted(p.name for p in (tmp_path / "out").glob("training_worker_*"))
    pattern = r"training_worker_{}_\d\d:\d\d_\w+_\d\d_\d{{4}}_run_dlrm_2_num_machines_32_run_1_bagpipe\.log"
    assert len(logs) == 2
    assert all(re.fullmatch(pattern.format(rank), name) for rank, name in enumerate(logs))
    [row] = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert (row["model"], row["system"], row["timing"]["steps"] + row["timing"]["skipped"]) == ("dlrm", "cached", 16)
    assert row["timing"]["mean_ms"] > 0


@pytest.mark.skipif("TORCHREC_PYTHON" not in os.environ, reason="needs TorchRec's environment: TORCHREC_PYTHON")
def test_the_torchrec_baseline_on_two_machines(launch, ec2, tmp_path, capsys, monkeypatch):
    """Trainers only, started by torchrun as on EC2; the table has TorchRec's time, and the machines are gone."""
    write_data(tmp_path / "data")
    (tmp_path / "data" / "tables.txt").write_text("3\n" * 26)
    small = dataclasses.replace(launcher.TORCHREC, table_info="tables.txt", flags=())
    monkeypatch.setattr(launcher, "TORCHREC", small)
    code = launch("--iterations", "20", "--batch-size", "32", torchrec=True, python=os.environ["TORCHREC_PYTHON"])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    assert nothing_left(ec2)
    [row] = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert (row["model"], row["system"], row["trainers"]) == ("dlrm", "torchrec", 2)
    assert row["timing"]["mean_ms"] > 0


def test_a_failed_set_up_terminates_everything(launch, ec2, tmp_path, capsys):
    """A command that fails on a machine is told with the last line of its log; no machine is left."""
    write_data(tmp_path / "data")
    assert launch("--set", "setup=echo no space left; false") == 75
    assert "exit code 1: no space left" in capsys.readouterr().err
    assert nothing_left(ec2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_terminates_everything(launch, ec2, tmp_path, number):
    """Interrupted in the middle of setting up, also spot instances are gone, and the exit code says so."""
    code = launch("--set", f"setup=kill -{number.value} {os.getpid()}; sleep 100", method="spot", spot_price="2.5")
    assert code == 130
    spot = [i for i in all_instances(ec2) if i.get("InstanceLifecycle") == "spot"]
    assert len(spot) >= 4
    assert nothing_left(ec2)


def test_what_a_lost_answer_made_is_terminated(launch, ec2, monkeypatch):
    """An error right after EC2 has made a machine: it is found by its tag."""
    run = machines.Machines._run

    def cut_off(self, name, kind):
        run(self, name, kind)
        if name == "server":
            raise machines.CloudError("connection reset")

    monkeypatch.setattr(machines.Machines, "_run", cut_off)
    before = len(all_instances(ec2))
    assert launch() == 75
    assert len(all_instances(ec2)) == before + 2
    assert nothing_left(ec2)


def test_a_refusal_of_ec2_is_one_line(launch, ec2, capsys):
    """A wrong security group: EC2's own words, and nothing is left."""
    assert launch(security_group="sg-nope", ssh_cidr="") == 75
    assert "error: EC2 in us-west-2: The security group" in capsys.readouterr().err
    assert nothing_left(ec2)


def test_a_dry_run_shows_everything_and_does_nothing(launch, ec2, tmp_path, capsys):
    """`--dry-run`: machines and commands, no call."""
    before = len(all_instances(ec2))
    assert launch("--dry-run", "--models", "all") == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"oracle_cacher\.py", said)) == 6
    assert "trainer-1: p3.2xlarge, onDemand, us-west-2a" in said
    assert len(all_instances(ec2)) == before
    assert not (tmp_path / "out").exists()
