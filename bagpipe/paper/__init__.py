"""The command lines of the paper's own artifact, as skins over the library (docs/artifact.md)."""
