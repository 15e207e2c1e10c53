"""The command lines of the paper's artifact, implemented with the library (docs/artifact.md)."""
