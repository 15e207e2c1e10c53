"""What the launchers would do: settings are checked, and the paper's command lines come out."""

import dataclasses
import shlex

import pytest

from bagpipe.ec2.machines import Machine
from bagpipe.ec2.remote import Ssh
from bagpipe.ec2.settings import BOUNDS, LaunchConfig, launch_config
from bagpipe.ec2.workloads import TORCHREC, WORKLOADS, bagpipe_commands, torchrec_commands, warm_up_command
from bagpipe.errors import ConfigError

CFG = {
    "key_name": "me", "key_path": "~/me.pem", "region": "us-west-2", "az": "us-west-2a", "ami_id": "ami-1",
    "ssh_cidr": "203.0.113.7/32",
}  # fmt: skip


def flags_of(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("key_name=", "key_name: missing"),
        ("ssh_cidr=0.0.0.0/0", "lets everybody in"),
        ("ssh_cidr=", "expected your own address"),
        ("method=rent", "expected onDemand or spot"),
        ("spot_price=1.0", "has no effect with method onDemand"),
        ("security_group=sg-1", "ssh_cidr: has no effect"),
        ("instance_count=many", "instance_count: expected a number"),
        ("regoin=x", "regoin: unknown field"),
        ("instance_count=0", "instance_count: expected a number from 1 to 1000, found 0"),
        ("max_hours=nan", "max_hours: expected a number from 0.1 to 720, found nan"),
        ("run_seconds=inf", "run_seconds: expected a number from 1 to 2.592e"),
        ("ready_seconds=1e400", "ready_seconds: expected a number from 1 to 86400, found inf"),
    ],
)
def test_mistakes_are_found_before_anything_is_rented(change, words):
    """A field that is missing, unknown, dangerous or without effect is an error that names it."""
    with pytest.raises(ConfigError, match=words):
        launch_config(CFG, [change])


def test_every_number_has_bounds():
    """No number of the settings can be infinite, or cost money for ever."""
    numbers = [f.name for f in dataclasses.fields(LaunchConfig) if isinstance(f.default, int | float)]
    assert set(numbers) <= set(BOUNDS)
    with pytest.raises(ConfigError, match=r"spot_price: expected a number from 0.0001 to 1000, found 'cheap'"):
        launch_config(CFG, ["method=spot", "spot_price=cheap"])


def test_every_role_gets_the_papers_flags():
    """Oracle 0, server 1, trainers from 2; the global batch goes to the oracle; all agree on world and sizes."""
    config = launch_config(CFG, ["instance_count=8", "data_dir=$HOME/kaggle 8"])
    trainers = [f"10.0.0.{i}" for i in range(8)]
    commands = bagpipe_commands(WORKLOADS["dlrm"], config, oracle="10.0.0.100", trainers=trainers, number=1)
    oracle = flags_of(commands.oracle)
    assert (oracle["--worker-id"], oracle["--world-size"], oracle["--mini-batch-size"]) == ("0", "10", "16384")
    assert flags_of(commands.server)["--worker-id"] == "1"
    ranks = [flags_of(c) for c in commands.trainers]
    assert [(r["--worker-id"], r["--dist-worker-id"]) for r in ranks] == [(str(i + 2), str(i)) for i in range(8)]
    assert {r["--master-ip"] for r in ranks} == {"10.0.0.100"}
    assert {r["--dist-master-ip"] for r in ranks} == {"10.0.0.0"}
    assert {r["--logging-prefix"] for r in ranks} == {"run_dlrm_8_num_machines_16384_run_1"}
    assert "\"$HOME\"/'kaggle 8/kaggle_criteo_weekly.txt'" in warm_up_command(WORKLOADS["dlrm"], config)


def test_the_baselines_batch_is_a_machines_share():
    """16,384 examples on 8 machines are 2,048 on each: the same global batch as Bagpipe's."""
    config = launch_config(CFG)
    commands = torchrec_commands(TORCHREC, config, trainers=[f"10.0.0.{i}" for i in range(8)], number=1)
    assert (commands.oracle, commands.server) == (None, None)
    assert [flags_of(c)["--node-rank"] for c in commands.trainers] == [str(i) for i in range(8)]
    assert {flags_of(c)["--batch-size"] for c in commands.trainers} == {"2048"}


def test_the_interface_reaches_every_role():
    """`interface` becomes the variables that choose the network card, in front of the program."""
    config = launch_config(CFG, ["interface=ens5"])
    commands = bagpipe_commands(WORKLOADS["wdl"], config, oracle="a", trainers=["b"], number=1)
    for command in (commands.oracle, commands.server, *commands.trainers):
        assert "TP_SOCKET_IFNAME=ens5 GLOO_SOCKET_IFNAME=ens5" in command


def test_ssh_learns_a_new_machines_key_and_holds_to_it(tmp_path):
    """The real door: the key, the user, the public address; the command survives two shells."""
    config = launch_config(CFG)
    machine = Machine("oracle", "i-1", "10.0.0.1", "203.0.113.9")
    door = Ssh(config, tmp_path / "known_hosts")
    argv = door.argv(machine, "cd 'a b' && echo $HOME")
    assert argv[0] == "ssh"
    assert "StrictHostKeyChecking=accept-new" in argv
    assert argv[-2] == "ubuntu@203.0.113.9"
    assert shlex.split(argv[-1]) == ["bash", "-lc", "cd 'a b' && echo $HOME"]
    assert door.address(machine) == "10.0.0.1"
