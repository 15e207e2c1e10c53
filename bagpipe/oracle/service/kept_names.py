"""The names of what an oracle keeps for a process that takes its place; the supervisor clears them away by these."""

import re

KEPT = ("topology-{}.msgpack", "trained-{}.json", "validations-{}.json", "scores-{}.msgpack", "leaving-{}.json")
"""In the run directory, each with the number of its attempt."""
TOPOLOGY, TRAINED, VALIDATIONS, SCORES, LEAVING = KEPT
LAST_LOSS = "last-loss.json"
"""Beside the checkpoints: the loss of the last step, for an attempt that finds nothing left to train."""
KEPT_NAMES = "|".join(r"\d+".join(map(re.escape, name.split("{}"))) for name in KEPT)
"""A regular expression that matches those of every attempt."""
