"""Run the TorchRec baseline (DLRM) on machines of EC2, fetch the logs, terminate the machines (docs/experiments.md)."""

from bagpipe.ec2.launcher import exit_main

launch_cfg = {
    "name": "bagpipe-torchrec-baseline",
    # Yours; the launcher does not start without them.
    "key_name": "",
    "key_path": "",
    "region": "us-west-2",
    "az": "us-west-2a",
    "ami_id": "",
    "security_group": "",
    "ssh_cidr": "",
    # What is rented: the trainers only, for the baseline has no other roles.
    "method": "onDemand",
    "spot_price": "",
    "instance_type": "p3.2xlarge",
    "instance_count": 8,
    "GroupName": "",
    "iam_role": "",
    "ssh_username": "ubuntu",
    "data_dir": "$HOME/data",
    "max_hours": 6,
    # TorchRec has an environment of its own: its torch is not ours.
    "setup": "mkdir -p bagpipe && tar xzf bagpipe.tar.gz -C bagpipe && bagpipe/artifact/torchrec_baseline/setup.sh",
    "python": "$HOME/torchrec/bin/python",
    "dist_backend": "nccl",
}

if __name__ == "__main__":
    exit_main(launch_cfg, torchrec=True)
