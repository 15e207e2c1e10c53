"""The command of a kubeconfig that prints credentials: whatever it does, it ends, and one line says what came of it."""

import json
import os
from pathlib import Path

import pytest
from answering import JOB, answering, kubeconfig

from bagpipe.client import plugin
from bagpipe.client.jobs import BagpipeClient
from bagpipe.errors import ConfigError

V1 = "client.authentication.k8s.io/v1"
GOOD = json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": {"token": "s3cret"}})


def using(tmp_path, monkeypatch, script: str, server="http://127.0.0.1:9", **more):
    """Let the kubeconfig's user have this shell script as command."""
    file = tmp_path / "bin" / "log-in"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    user = {"exec": {"apiVersion": V1, "command": "bin/log-in", "interactiveMode": "Never", **more}}
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server, user))


def test_its_token_is_sent(tmp_path, monkeypatch):
    """The command is looked for beside the kubeconfig, has its arguments and environment, and knows the cluster."""
    script = f"echo \"$1 $ONE $KUBERNETES_EXEC_INFO\" > {tmp_path}/told; echo '{GOOD}'"
    with answering(JOB) as (server, asked):
        more = {"args": ["two"], "env": [{"name": "ONE", "value": "1"}], "provideClusterInfo": True}
        using(tmp_path, monkeypatch, script, server, **more)
        BagpipeClient().get("j")
    assert b"Bearer s3cret" in asked[0]
    first, second, info = (tmp_path / "told").read_text().split(maxsplit=2)
    assert (first, second) == ("two", "1")
    assert json.loads(info)["spec"] == {"interactive": False, "cluster": {"server": server}}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo expired >&2; echo more >&2; exit 3", "it ended with 3: expired more; log in again"),
        ("kill -9 $$", "it ended with -9; log in again"),
        ("exit 0", "found nothing; log in again"),
        ("echo s3cret", "found 7 bytes that are no JSON"),
        ("echo '[\"s3cret\"]'", "found other JSON"),
        ("""echo '{"kind": "ExecCredential", "status": null}'""", "found other JSON"),
        (f"echo '{GOOD.replace('token', 'other')}'", "found one without; log in again"),
        (f"echo '{GOOD.replace('/v1', '/v1beta1')}'", "found one of 'client.authentication.k8s.io/v1beta1'; correct"),
        ("cat /dev/zero", "it printed more than 1,048,576 bytes"),
    ],
)
def test_it_gives_no_credentials(tmp_path, monkeypatch, script, words):
    """What it printed is not shown, for that may be a secret; what it said on stderr is."""
    using(tmp_path, monkeypatch, script)
    with pytest.raises(
        ConfigError, match=r"kubeconfig:1: user 'a': exec: the command for credentials failed"
    ) as caught:
        BagpipeClient()
    assert words in str(caught.value) and "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keeps", ["", "exec >/dev/null 2>&1;"])
def test_it_does_not_end(tmp_path, monkeypatch, keeps):
    """It is ended with all that it started; whether it holds its output open makes no difference."""
    monkeypatch.setattr(plugin, "PLUGIN_SECONDS", 0.3)
    using(tmp_path, monkeypatch, f"{keeps} echo $$ > {tmp_path}/pid; sleep 600")
    with pytest.raises(ConfigError, match=r"log-in: it has not ended after 0\.3 s; log in again, or try"):
        BagpipeClient()
    number = int(Path(tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"command": "no-such", "installHint": "get it\nthere"}, "no such command (get it there); log in again once"),
        ({"command": "bin"}, "no such command; log in again once"),
        ({"command": "./bin"}, "it cannot be started: Permission denied"),
        ({"command": ""}, "expected a map with the command that prints credentials, found none"),
        ({"apiVersion": "v0"}, "apiVersion: expected client.authentication.k8s.io/v1 or"),
        ({"args": [1]}, "args: expected a list of texts"),
        ({"env": [{"value": "1"}]}, "env: expected a list of name and value"),
    ],
)
def test_it_cannot_be_started(tmp_path, monkeypatch, more, words):
    """What the provider says about getting the command is told."""
    using(tmp_path, monkeypatch, "exit 1", **more)
    with pytest.raises(ConfigError, match=r"kubeconfig:1: user 'a': exec: ") as caught:
        BagpipeClient()
    assert words in str(caught.value) and "\n" not in str(caught.value)
