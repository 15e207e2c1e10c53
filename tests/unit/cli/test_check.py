"""`bagpipe run --check`: what it says would run."""

from pathlib import Path

from bagpipe.cli.check import check_run

JOB = """\
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
metadata: {name: small}
spec:
  model: {name: dlrm, bottomMlp: [8], overMlp: [8]}
  data: {format: synthetic}
  batchSize: 2048
"""


def test_lengths_and_numbers_read_as_english(tmp_path: Path) -> None:
    """An epoch is not said to be as long as a batch, and one thing is not called by its plural."""
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    lines = list(check_run(file, (), tmp_path / "run"))
    assert lines[0] == "small: the oracle, 1 server and 1 trainer"
    assert "  length: 1 epoch, in batches of 2,048 examples" in lines
    lines = list(check_run(file, ("steps=60", "servers.replicas=2"), tmp_path / "run"))
    assert lines[0] == "small: the oracle, 2 servers and 1 trainer"
    assert "  length: 60 steps, in batches of 2,048 examples" in lines
    lines = list(check_run(file, ("steps=60", "epochs=2"), tmp_path / "run"))
    assert "  length: 60 steps or 2 epochs, whichever ends first, in batches of 2,048 examples" in lines
