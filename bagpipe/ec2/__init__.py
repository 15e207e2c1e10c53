"""Runs the paper's experiments on EC2 machines: the code behind `artifact/ec2_launcher_*.py`.

`settings` and `workloads` describe what is launched and run (pure), `machines` talks to EC2, `remote` to the machines,
`launcher` puts them together. Needs the extra `ec2` (boto3).
"""
