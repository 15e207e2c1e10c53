"""A stranger on the machine: what a running job listens on, and that nothing it is sent changes a bit of the model."""

import os
import time
from pathlib import Path

import msgspec
import numpy as np
import zmq

from bagpipe.net import messages as m
from bagpipe.net.wire import encode
from bagpipe.testing.local_run import LocalRun, listening

JOB = """
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
metadata: {name: strangers}
spec:
  model: {name: dlrm, bottomMlp: [16], overMlp: [16]}
  data: {format: synthetic, synthetic: {examples: 2000, tableSizes: [50, 4000, 7, 300]}}
  embedding: {dim: 8}
  batchSize: 64
  steps: 40
  lookahead: 16
  logEvery: 1
  servers: {replicas: 2}
  trainers: {replicas: 2, device: cpu}
"""

SLOW = {"BAGPIPE_DELAY_SECONDS": "0.03"}
MALFORMED = msgspec.msgpack.encode(([(0, (0, 1 << 62), 0)], msgspec.Raw(b"\x81\xa4type\xa4Ping")))
KEYS, ROWS = np.arange(0, 200, 2), np.full((100, 16), 123.0, np.float32)


def attacks() -> list[list[bytes]]:
    """What would change the model, stop the run or end a role, were it heard."""
    said = [(m.WriteBack(rank=1, step=step, checkpoint=False), [KEYS, ROWS]) for step in range(60)]
    said += [
        (m.Exchange(attempt=0, step=step, source=1, kind="dense", bucket=0, through=-1), [ROWS]) for step in range(60)
    ]
    said += [(m.Stop(rank=0), []), (m.Finished(rank=0), []), (m.Finished(rank=1), [])]
    said += [(m.Refused(reason="a stranger says so", exit_code=65), [])]
    said += [(m.NeedPlans(rank=rank, step=0, credit=5, done=-1, told_from=0), []) for rank in (0, 7)]
    said += [(m.Hello(job="strangers", attempt=0, role=role, index=0), []) for role in ("server", "trainer")]
    return [encode(message, arrays) for message, arrays in said] + [[MALFORMED], [b"noise"], [b""]]


def test_nothing_that_a_stranger_sends_changes_a_bit(tmp_path: Path) -> None:
    """Every role listens on one socket, of a loopback address, and whatever comes to it without the run's token gets no
    answer and changes neither the model nor the number of attempts.
    """
    (tmp_path / "job.yaml").write_text(JOB)
    undisturbed = LocalRun.start(tmp_path / "undisturbed", str(tmp_path / "job.yaml"))
    assert undisturbed.finish() == 0, undisturbed.told()
    run = LocalRun.start(tmp_path / "run", str(tmp_path / "job.yaml"), environment=os.environ | SLOW)
    run.wait_for_step(4)
    found = {name: listening(pid) for name, pid in run.roles().items()}
    assert sorted(found) == ["oracle", "server 0", "server 1", "trainer 0", "trainer 1"]
    for name, sockets in found.items():
        assert [address for address, _ in sockets] == ["0100007F"], name  # 127.0.0.1, and no other
    with zmq.Context() as outside:
        strangers = [outside.socket(zmq.DEALER) for _ in found]
        for stranger, ((_, port),) in zip(strangers, found.values(), strict=True):
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            for frames in attacks():
                stranger.send_multipart(frames)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert not any(stranger.poll(20) for stranger in strangers)
        for stranger in strangers:
            stranger.close(0)
    assert run.finish() == 0, run.told()
    assert run.summary()["modelDigest"] == undisturbed.summary()["modelDigest"]
    assert run.summary()["attempts"] == 1
    logs = sorted((tmp_path / "run/logs").iterdir())
    assert any("refused a connection" in log.read_text() for log in logs)
