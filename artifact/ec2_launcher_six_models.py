"""Run the six models on machines of EC2, fetch the logs, terminate the machines (docs/experiments.md)."""

from bagpipe.ec2.launcher import exit_main

launch_cfg = {
    "name": "bagpipe-six-models",
    # Yours; the launcher does not start without them.
    "key_name": "",  # EC2's name of your key pair
    "key_path": "",  # where its private half lies here
    "region": "us-west-2",
    "az": "us-west-2a",
    "ami_id": "",  # GPU driver, Python, and the data in data_dir
    "security_group": "",  # a group of yours; none: one is made for the run ...
    "ssh_cidr": "",  # ... that lets in ssh from this address only, such as 203.0.113.7/32
    # What is rented.
    "method": "onDemand",  # or spot
    "spot_price": "",
    "instance_type": "p3.2xlarge",
    "instance_count": 8,
    "cpu_instance_type": "c5.18xlarge",
    "GroupName": "",
    "iam_role": "",
    "ssh_username": "ubuntu",
    "data_dir": "$HOME/data",
    "max_hours": 6,
}

# Which models: --models dlrm,wdl,dcn,deepfm,fgcnn,caser or --models all; DLRM if none is named.
if __name__ == "__main__":
    exit_main(launch_cfg)
