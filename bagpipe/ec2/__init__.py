"""The paper's experiments on rented machines: what `artifact/ec2_launcher_*.py` do.

`settings` and `workloads` say what is launched and run (pure), `machines` talks to EC2, `remote` to the machines,
`launcher` puts them together. Needs the extra `ec2` (boto3).
"""
