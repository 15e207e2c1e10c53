"""A stranger on the machine, and a second process with the run's token: what a running job listens on, and that nothing
it is sent changes a bit of the model.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zmq

from bagpipe.lowlevel.clock import SYSTEM_CLOCK
from bagpipe.net import messages as m
from bagpipe.net.admission import TOKEN_VARIABLE
from bagpipe.net.doorkeeper import USERNAME
from bagpipe.net.form import form
from bagpipe.net.wire import decode, encode
from bagpipe.testing.local_run import LOOK_SECONDS, LocalRun, end_process, listening

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
  transport: {deadPeerSeconds: 120}
"""

PATIENCE = 100.0
HELD = "trainer 1"
"""It is stopped while the others are attacked, and may be silent for so long: the run cannot end before."""
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


class Member:
    """A second process with the run's token, connected to one role, that says it is each of the living ones."""

    def __init__(self, outside: "zmq.Context[zmq.Socket[bytes]]", port: int, token: str) -> None:
        self.sockets, self.told = [], list[m.Message]()
        for role, index in (("server", 0), ("server", 1), ("trainer", 0), ("trainer", 1)):
            socket = outside.socket(zmq.DEALER)
            self.sockets.append(socket)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.PLAIN_USERNAME, USERNAME)
            socket.setsockopt(zmq.PLAIN_PASSWORD, token.encode())
            socket.connect(f"tcp://127.0.0.1:{port}")
            hello = m.Hello(form=form(), token=token, job="strangers", attempt=0, role=role, index=index)
            for frames in (encode(hello), *attacks()):
                socket.send_multipart(frames)

    def has_no_place(self) -> bool:
        """Whether it was told by now that a living process has the place of one that it says it is."""
        for socket in self.sockets:
            while socket.poll(0):
                self.told.append(decode(socket.recv_multipart())[0])
        answers = [one for one in self.told if isinstance(one, m.SayHello | m.Refused)]
        return any("another process is" in one.reason for one in answers)

    def close(self) -> None:
        for socket in self.sockets:
            socket.close(0)


def token_of(pid: int) -> str:
    """The token that a role was started with."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (token,) = (one.partition(b"=")[2] for one in environment if one.startswith(TOKEN_VARIABLE.encode() + b"="))
    return token.decode()


def log_of(run_dir: Path, role: str) -> Path:
    kind, _, index = role.partition(" ")
    return run_dir / "logs" / f"{kind}-{index or 0}.log"


def wait_for_refusals(logs: list[Path], run: LocalRun) -> None:
    """Until every role has said that it refused somebody."""
    wait_for(lambda: [log.name for log in logs if "refused a connection" not in log.read_text()], run)


def wait_for(missing: Callable[[], list[str]], run: LocalRun) -> None:
    """Until none is missing any more of those who refuse somebody."""
    deadline = time.monotonic() + PATIENCE
    while quiet := missing():
        assert run.process.poll() is None, f"the run ended before {quiet} had refused anybody: {run.told()}"
        assert time.monotonic() < deadline, f"{quiet} refused nobody"
        SYSTEM_CLOCK.pause(LOOK_SECONDS)


def test_nothing_that_a_stranger_sends_changes_a_bit(tmp_path: Path) -> None:
    """Every role listens on one socket, of a loopback address, and whatever comes to it without the run's token gets no
    answer and changes neither the model nor the number of attempts. Nor does what comes with the token, of a process
    that says it is one of the living roles: it is told that their places are taken.
    """
    (tmp_path / "job.yaml").write_text(JOB)
    undisturbed = LocalRun.start(tmp_path / "undisturbed", str(tmp_path / "job.yaml"))
    assert undisturbed.finish() == 0, undisturbed.told()
    run = LocalRun.start(tmp_path / "run", str(tmp_path / "job.yaml"), environment=os.environ | SLOW)
    run.wait_for_step(4)
    end_process(run.roles()[HELD], signal.SIGSTOP)  # Nobody gets further than a step without it.
    found = {name: listening(pid) for name, pid in run.roles().items()}
    assert sorted(found) == ["oracle", "server 0", "server 1", "trainer 0", "trainer 1"]
    for name, sockets in found.items():
        assert [address for address, _ in sockets] == ["0100007F"], name  # 127.0.0.1, and no other
    with zmq.Context() as outside:
        strangers = [outside.socket(zmq.DEALER) for _ in found]
        for stranger, ((_, port),) in zip(strangers, found.values(), strict=True):
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            with contextlib.suppress(zmq.Again):  # Its handshake was refused meanwhile: there is nobody to send to.
                for frames in attacks():
                    stranger.send_multipart(frames, zmq.DONTWAIT)
        wait_for_refusals([log_of(tmp_path / "run", name) for name in found if name != HELD], run)
        token = token_of(run.roles()[HELD])
        members = {name: Member(outside, port, token) for name, ((_, port),) in found.items()}
        wait_for(lambda: [n for n, member in members.items() if n != HELD and not member.has_no_place()], run)
        end_process(run.roles()[HELD], signal.SIGCONT)
        assert run.finish() == 0, run.told()
        for name, member in members.items():
            assert member.has_no_place(), name
            assert {type(answer) for answer in member.told} <= {m.SayHello, m.Refused, m.Ping}, name
            member.close()
        assert not any(stranger.poll(0) for stranger in strangers)
        for stranger in strangers:
            stranger.close(0)
    assert run.summary()["modelDigest"] == undisturbed.summary()["modelDigest"]
    assert run.summary()["attempts"] == 1
