"""Sockets with keys keep strangers out, and say where keys are missing."""

from pathlib import Path

import pytest
import zmq
from socket_world import PATIENCE

from bagpipe.config.document import TransportConfig
from bagpipe.errors import ConfigError
from bagpipe.net.curve import CURVE_DIR, CurveKeys
from bagpipe.net.messages import Ping
from bagpipe.net.sockets import Context
from bagpipe.testing.open_door import OpenDoor


def test_curve_admits_only_the_jobs_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: zmq.Context) -> None:
    """With keys, the job's roles talk to each other and a stranger with keys of its own gets nothing through."""
    secure = TransportConfig(dead_peer_seconds=0.5, security="curve")
    CurveKeys.create(tmp_path / "ours")
    theirs = CurveKeys.create(tmp_path / "theirs")
    ours = CurveKeys.load(tmp_path / "ours")
    monkeypatch.setenv(CURVE_DIR, str(tmp_path / "ours"))
    with Context(secure) as context:
        listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
        stranger = outside.socket(zmq.DEALER)
        stranger.curve_serverkey, stranger.curve_publickey, stranger.curve_secretkey = (
            ours.public,
            theirs.public,
            theirs.secret,
        )
        stranger.connect(listener.endpoint)
        stranger.send_multipart([b"let me in"])
        connection = context.connect(listener.endpoint, peer="server")
        connection.send(Ping())
        _, message, _ = listener.poll(PATIENCE)[0]
        assert message == Ping()
        assert not listener.poll(0.3)
        stranger.close(0)


def test_auto_takes_keys_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: zmq.Context) -> None:
    """`security: auto` admits no plain stranger where the job has keys, and needs none where it has not."""
    CurveKeys.create(tmp_path)
    monkeypatch.setenv(CURVE_DIR, str(tmp_path))
    with Context(TransportConfig()) as context:
        listener = context.listen("tcp://127.0.0.1:0", OpenDoor())
        stranger = outside.socket(zmq.DEALER)
        stranger.connect(listener.endpoint)
        stranger.send_multipart([b"let me in"])
        context.connect(listener.endpoint, peer="server").send(Ping())
        assert [message for _, message, _ in listener.poll(PATIENCE)] == [Ping()]
        stranger.close(0)
    monkeypatch.delenv(CURVE_DIR)
    with Context(TransportConfig()) as context:
        context.connect(context.listen("tcp://127.0.0.1:0", OpenDoor()).endpoint, peer="server")


def test_missing_keys_are_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Security without keys says where they were expected."""
    monkeypatch.setenv(CURVE_DIR, str(tmp_path))
    with pytest.raises(ConfigError, match=str(tmp_path)):
        Context(TransportConfig(security="curve"))
