"""Checkpoints of one file, for tests that look for one rather than into it."""

from pathlib import Path

from bagpipe.batch import Cursor
from bagpipe.checkpoint.manifest import Manifest
from bagpipe.checkpoint.store import commit, describe_file, directory_of
from bagpipe.config.document import DataConfig, JobSpec

FILE = "dense.safetensors"
SPEC = JobSpec(data=DataConfig(path="x"))


def save(root: Path, step: int, *, job: str = "own", spec: JobSpec = SPEC) -> Path:
    """A complete checkpoint, whose one file differs with its step."""
    directory = directory_of(root, step)
    directory.mkdir(parents=True)
    (directory / FILE).write_bytes(bytes([step]) * 100)
    manifest = Manifest(
        job=job,
        step=step,
        cursor=Cursor(0, step),
        spec=spec,
        tables=(),
        record_widths=(),
        num_servers=1,
        num_trainers=1,
        shards=(),
        dense=(describe_file(directory, FILE),),
        created="now",
    )
    commit(directory, manifest)
    return directory
