"""Where the cluster is, who one is there, and what answers in its place."""

import json
import socket
from pathlib import Path

import pytest
from answering import JOB, answering, http, kubeconfig

from bagpipe.client.answers import ClusterError, NotAllowed
from bagpipe.client.jobs import BagpipeClient
from bagpipe.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "a: {", "just words", "\x00\x01", "apiVersion: v1\nclusters: 5\ncontexts: x\ncurrent-context: y\n", ""],
)
def test_a_kubeconfig_that_is_none(tmp_path, monkeypatch, text):
    """Whatever the file contains, its path and one line."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError) as caught:
        BagpipeClient()
    assert "\n" not in str(caught.value)


def test_a_kubeconfig_that_cannot_be_read(tmp_path, monkeypatch):
    """A folder, or a file that is no text, is told with its path."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "bytes"):
        monkeypatch.setenv("KUBECONFIG", str(path))
        with pytest.raises((ConfigError, OSError)) as caught:
            BagpipeClient()
        assert str(path) in str(caught.value)


def test_a_command_for_credentials_that_fails_is_told(tmp_path, monkeypatch):
    """The command that a kubeconfig names may be missing, or its login have expired: nothing is asked without one."""
    path = tmp_path / "kubeconfig"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path.write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match=r"credentials failed: .*no-such-plugin.*; log in again"):
        BagpipeClient()
    document["users"][0]["user"] = {}
    path.write_text(json.dumps(document))
    assert BagpipeClient().namespace == "default"


UNAUTHORIZED = http("401 Unauthorized", '{"kind": "Status", "message": "Unauthorized"}')


def with_token(path, server: str, token: str) -> None:
    """Write a kubeconfig whose user has this token."""
    document = json.loads(Path(kubeconfig(path, server)).read_text())
    document["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(document))


def test_credentials_are_read_again_once(tmp_path, monkeypatch):
    """A token expires during a wait: the new one of the file is used; without one a line says what to do."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with answering(UNAUTHORIZED, JOB, UNAUTHORIZED) as (server, asked):
        with_token(path, server, "old")
        made = BagpipeClient()
        with_token(path, server, "new")
        assert made.wait("j").phase == "Complete"
        assert [b"Bearer old" in asked[0], b"Bearer new" in asked[1], len(asked)] == [True, True, 2]
        with pytest.raises(NotAllowed, match=r"401: Unauthorized; log in again: .* these credentials, also read anew"):
            made.wait("j")
        assert len(asked) == 4
        path.write_text(path.read_text().replace(server, "http://127.0.0.1:9"))
        with pytest.raises(NotAllowed):  # The context's name is that of another cluster now.
            made.wait("j")
        assert len(asked) == 5


def test_another_context_is_not_taken_for_new_credentials(tmp_path, monkeypatch):
    """`kubectl config use-context` elsewhere, meanwhile, does not lead the command to another cluster."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with answering(UNAUTHORIZED, JOB) as (server, asked):
        with_token(path, server, "old")
        made = BagpipeClient()
        document = json.loads(path.read_text())
        document["users"] += [{"name": "b", "user": {"token": "elsewhere"}}]
        document["contexts"] += [{"name": "b", "context": {"cluster": "a", "user": "b"}}]
        path.write_text(json.dumps({**document, "current-context": "b"}))
        assert made.get("j").phase == "Complete" and b"Bearer old" in asked[1]


def test_a_redirect_to_a_login_is_told(tmp_path, monkeypatch):
    """By its address, without the secrets of its query; a redirect on the same host is followed."""
    away = http("302 Found", "", "Location: https://login.example/start?state=secret")
    with answering(away) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        with pytest.raises(ClusterError, match=r"redirect to https://login\.example/start came in its place") as caught:
            BagpipeClient().get("j")
        assert "secret" not in str(caught.value) and len(asked) == 1
    with answering(http("302 Found", "", "Location: /elsewhere"), JOB) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        assert BagpipeClient().get("j").phase == "Complete" and asked[1].startswith(b"GET /elsewhere")


def test_an_api_server_that_says_come_back_in_an_hour_is_told_at_once(tmp_path, monkeypatch):
    """The answer is the user's to see; the command slept for as long as `Retry-After` said."""
    answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(answer) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        slept = []
        monkeypatch.setattr("time.sleep", slept.append)
        with pytest.raises(ClusterError, match="the API server answered 429"):
            BagpipeClient().get("j")
    assert len(asked) == 1 and slept == []


def test_an_api_server_that_never_answers_is_asked_once(tmp_path, monkeypatch):
    """A request lasts as long as it says: it was sent four times over, each with the whole time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # The system connects, and nobody answers.
        server = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        monkeypatch.setattr("bagpipe.client.jobs.REQUEST_SECONDS", 0.05)
        with pytest.raises(
            ClusterError, match=r"j: the API server cannot be reached: 127\.0\.0\.1:\d+: Read timed out"
        ):
            BagpipeClient().get("j")
        listening.setblocking(False)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_dead_connection_is_noticed(tmp_path, monkeypatch):
    """A log that is followed may be silent for hours, so the system asks whether the other end is still there."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
    options = BagpipeClient()._core.api_client.configuration.socket_options
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options


def test_a_context_that_there_is_not_is_no_reason_to_use_the_pods_own_account(tmp_path, monkeypatch):
    """In a pod a context that is misspelled must not lead to another cluster's job."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
    monkeypatch.setattr("bagpipe.client.connection.Path.exists", lambda self: True)
    with pytest.raises(ConfigError, match=r"no cluster: .*with name elsewhere in .*name a context of it"):
        BagpipeClient(context="elsewhere")
