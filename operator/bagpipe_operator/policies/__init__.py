"""One policy a file, each a pure function of what was observed."""
