"""Bagpipe beside its peers: the same work on the same rate-limited links (`make bench-peers`)."""
