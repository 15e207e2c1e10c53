"""The names of what an oracle keeps for a process that takes its place; the supervisor clears them away by these."""

KEPT = ("topology-{}.msgpack", "trained-{}.json", "validations-{}.json", "scores-{}.msgpack", "leaving-{}.json")
"""In the run directory, each with the number of its attempt."""
TOPOLOGY, TRAINED, VALIDATIONS, SCORES, LEAVING = KEPT
