"""The operator: watches `BagpipeJob` and runs it as an oracle, embedding servers and trainers."""

__version__ = "0.1.0"
