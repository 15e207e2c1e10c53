"""Bagpipe beside its peers: the same work, on the same rate-limited links, in interleaved rounds (`make bench-peers`)."""
