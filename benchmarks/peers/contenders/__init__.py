"""One file a contender; `peers.registry` lists them. Each is also the program that its processes run."""
