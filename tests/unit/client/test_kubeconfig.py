"""Kubeconfig files: which of them counts, what is wrong with one, and what goes to the API server."""

import base64
import json
import os

import pytest
from answering import JOB, answering, certificate, kubeconfig

from bagpipe.client.jobs import BagpipeClient
from bagpipe.errors import ConfigError

HTTPS = "https://127.0.0.1:9"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The path that `$KUBECONFIG` names."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def refusal(**options) -> str:
    """The one line with which a client is refused."""
    with pytest.raises(ConfigError) as caught:
        BagpipeClient(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(path, **sections) -> None:
    """Replace sections of a kubeconfig with one context."""
    kubeconfig(path, HTTPS)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **sections}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "kubeconfig: expected a kubeconfig (clusters, users and contexts), found a list; correct $KUBECONFIG"),
        ("words", "found a word; correct $KUBECONFIG"),
        ("a: {", "kubeconfig:1: not valid YAML"),
        ("kind: BagpipeJob", "kubeconfig:1: expected a kubeconfig (kind: Config), found 'BagpipeJob'"),
        ("clusters: 5", "kubeconfig:1: clusters: expected a list, found a number"),
        ("users: [{user: {}}]", "kubeconfig:1: users[0]: expected a name and a user, found none"),
        ("users: [{name: a, user: s3cret}]", "kubeconfig:1: user 'a': expected settings, found a word"),
        ("users: [{name: a}, {name: a}]", "user 'a': expected each name once, found it twice"),
        ("current-context: [a]", "current-context: expected the name of a context, found a list"),
        ("current-context: a", "no cluster: current-context: no context with name a in"),
        (
            "contexts: [{name: a}]",
            "no current-context; name one with --context or kubectl config use-context, which has",
        ),
        ("{current-context: a, contexts: [{name: a}]}", "context 'a': cluster: expected the name of a cluster, found"),
        ("", "kubeconfig names no cluster; set $KUBECONFIG"),
    ],
)
def test_a_file_that_names_no_cluster(config, text, words):
    """The line names the file and what is wrong in it, and shows no value."""
    config.write_text(text)
    assert words in (line := refusal()) and "s3cret" not in line


def test_a_pipe_to_which_nobody_writes(config):
    """Nobody is waited for, who may never come."""
    os.mkfifo(config)
    assert f"{config} names no cluster" in refusal()


def test_a_file_that_is_not_there(config, tmp_path):
    """Or is a link to nothing, a folder, no text, or beyond what a kubeconfig may be."""
    assert f"{config}: no such file; set $KUBECONFIG" in refusal()
    config.symlink_to(tmp_path / "gone")
    assert f"{config}: a link to a file that is not there; set $KUBECONFIG" in refusal()
    config.unlink()
    config.mkdir()
    assert f"{config}: expected a kubeconfig that can be read, found: Is a directory; correct $KUBECONFIG" in refusal()
    config.rmdir()
    config.write_bytes(b"\x7fELF\xff\xfe")
    assert f"{config}: expected a kubeconfig, found what is no text (byte 4)" in refusal()
    with config.open("wb") as file:
        file.truncate((16 << 20) + 1)
    assert "found more than 16,777,216 bytes" in refusal()


def test_what_a_context_names_has_to_be_there(config):
    """A missing user meant requests without credentials; a missing server, those to this machine."""
    changed(config, users=[])
    assert f"{config}:1: context 'a': user: no user with name a in {config}, which has none; correct it" in refusal()
    changed(config, clusters=[{"name": "b", "cluster": {}}])
    assert f"context 'a': cluster: no cluster with name a in {config}, which has b; correct it" in refusal()
    for cluster in ({}, {"server": "10.0.0.1:6443"}, {"server": "https://"}, {"server": "https://h:99999"}):
        changed(config, clusters=[{"name": "a", "cluster": cluster}])
        assert f"{config}:1: cluster 'a': server: expected https://HOST:PORT, found" in refusal()


def test_of_several_files_the_first_counts(config, tmp_path, monkeypatch):
    """As kubectl has it; the package takes the current context of the last one. Files that are missing do not count."""
    first, second = tmp_path / "first", tmp_path / "second"
    kubeconfig(first, "http://first.example")
    kubeconfig(second, "http://second.example")
    document = json.loads(second.read_text())
    document["contexts"].append({"name": "b", "context": {"cluster": "a", "user": "a", "namespace": "other"}})
    second.write_text(json.dumps({**document, "current-context": "b"}))
    monkeypatch.setenv("KUBECONFIG", f"{config}:{first}:{second}")
    found = BagpipeClient()
    assert (found._core.api_client.configuration.host, found.namespace) == ("http://first.example", "default")
    assert BagpipeClient(context="b").namespace == "other"
    assert f"no context with name c in {first} and {second}, which has a, b; set $KUBECONFIG" in refusal(context="c")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("insecure-skip-tls-verify", "false", "expected true or false without quotes, found a word"),
        ("certificate-authority-data", "!", "expected base64, found 1 characters that are none"),
        ("certificate-authority-data", "AAAA", "expected certificates in PEM, found none that can be read"),
        ("certificate-authority-data", 5, "expected text, found a number"),
        ("certificate-authority", "gone.crt", "expected a file that can be read, found /"),
        ("certificate-authority", "kubeconfig", "expected certificates in PEM, found none that can be read"),
    ],
)
def test_a_cluster_that_cannot_be_trusted(config, setting, value, words):
    """Before anything is sent; the text "false" made every certificate good."""
    kubeconfig(config, HTTPS, **{setting: value})
    assert f"{config}:1: cluster 'a': {setting}: {words}" in refusal()


def test_an_authority_for_a_server_that_is_not_checked(config, tmp_path):
    """One of the two settings is a mistake."""
    authority, _ = certificate(tmp_path, "a.example")
    settings = {"certificate-authority": str(authority), "insecure-skip-tls-verify": True}
    kubeconfig(config, HTTPS, **settings)
    assert "insecure-skip-tls-verify: expected no certificate-authority beside it, found one; remove" in refusal()


def test_a_certificate_that_does_not_fit_its_key(config, tmp_path):
    """Each fault is told with the setting; a key with a pass phrase asks nobody for it."""
    one, key = certificate(tmp_path, "one.example")
    _, other = certificate(tmp_path, "other.example")
    certificate(tmp_path, "locked", b"phrase")
    data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in {"c": one, "o": other}.items()}
    for user, words in (
        (
            {"client-certificate-data": data["c"], "client-key-data": data["o"]},
            "client-key: expected the key of client-c",
        ),
        ({"client-certificate": "locked.crt", "client-key": "locked.key"}, "client-key: expected a key without a"),
        (
            {"client-certificate": "gone.crt", "client-key": str(key)},
            f"expected a file that can be read, found {tmp_path}",
        ),
        ({"client-certificate": str(one)}, "client-key: expected a certificate and its key, found one of them"),
        ({"client-certificate": str(one), "client-key": str(one)}, "client-key: expected a key in PEM, found none"),
        (
            {"client-certificate": str(key), "client-key": str(key)},
            "client-certificate: expected one in PEM, found none",
        ),
        (
            {"client-certificate": str(one), "client-key-data": "?"},
            "client-key-data: expected base64, found 1 characters",
        ),
    ):
        kubeconfig(config, HTTPS, user)
        assert f"{config}:1: user 'a': " in (line := refusal()) and words in line
    kubeconfig(config, HTTPS, {"client-certificate": "one.example.crt", "client-key": str(key)})
    assert BagpipeClient()._core.api_client.configuration.cert_file == str(one)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"tokenFile": "gone"}, "tokenFile: expected a file that can be read, found /"),
        (
            {"tokenFile": "empty"},
            "tokenFile: expected a token of visible ASCII characters, found nothing; log in again",
        ),
        ({"tokenFile": "pipe"}, "tokenFile: expected a token of visible ASCII characters, found nothing"),
        ({"token": "s3cret and\nmore"}, "token: expected a token of visible ASCII characters, found 15 characters"),
        ({"token": 5}, "token: expected text, found a number"),
        ({"username": "u"}, "password: expected one beside username, found none"),
        ({"token": "t", "as-groups": ["g"]}, "as-groups: expected a user without it"),
        ({"auth-provider": {"name": "azure"}}, "auth-provider: expected oidc or gcp, found 'azure'"),
    ],
)
def test_a_user_that_nobody_would_know(config, tmp_path, user, words):
    """A token is never shown."""
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    kubeconfig(config, HTTPS, user)
    assert f"{config}:1: user 'a': {words}" in (line := refusal()) and "s3cret" not in line


def test_what_is_sent_of_a_user(config, tmp_path):
    """A token's file ends in a line end, and `as` names who is to be taken for the sender."""
    (tmp_path / "token").write_text("abc\n")
    with answering(JOB) as (server, asked):
        kubeconfig(config, server, {"tokenFile": "token", "as": "robot"})
        BagpipeClient().get("j")
    lines = asked[0].lower().split(b"\r\n")
    assert b"authorization: bearer abc" in lines and b"impersonate-user: robot" in lines


def test_a_pod_without_the_files_of_its_account(config, monkeypatch, tmp_path):
    """One line, where the package's own error reached the user."""
    monkeypatch.setattr("bagpipe.client.connection.Path.exists", lambda self: True)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "no cluster: there is no kubeconfig, and of the pod's own account in /var/run" in refusal()
    kubeconfig(config, HTTPS)  # Its context is broken: the pod's account is another cluster's.
    changed(config, users=[])
    assert "no user with name a" in refusal()
