"""The proxy that leads to an API server: the kubeconfig's, or the environment's, as kubectl has it."""

import pytest
from answering import JOB, answering, certificate, http, kubeconfig, tunnel

from bagpipe.client.answers import ClusterError
from bagpipe.client.jobs import BagpipeClient
from bagpipe.errors import ConfigError

SERVER = "http://api.example:6443"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch):
    """The proxies of the machine that runs the tests are not theirs."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def chosen(tmp_path, monkeypatch, server, **cluster):
    """The proxy of a client that has this cluster."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server, **cluster))
    return BagpipeClient()._core.api_client.configuration.proxy


def test_the_clusters_proxy_is_used(tmp_path, monkeypatch):
    """Also where $NO_PROXY names the server, and a redirect of the server is followed through it."""
    monkeypatch.setenv("NO_PROXY", "*")
    with answering(http("302 Found", "", f"Location: {SERVER}/elsewhere"), JOB) as (proxy, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", SERVER, **{"proxy-url": proxy}))
        assert BagpipeClient().get("j").phase == "Complete"
    assert asked[0].startswith(b"GET http://api.example:6443/apis/bagpipe.dev/")
    assert asked[1].startswith(b"GET http://api.example:6443/elsewhere ")


def test_a_tunnel_leads_to_the_server_of_the_certificate(tmp_path, monkeypatch):
    """By CONNECT, with the name and password of `proxy-url`, and no further than to a server with the right name."""
    files = certificate(tmp_path, "other.example")
    config, authority = tmp_path / "kubeconfig", {"certificate-authority": files[0].name}
    with tunnel(*files) as (proxy, asked):
        cluster = {"proxy-url": proxy, **authority, "tls-server-name": "other.example"}
        monkeypatch.setenv("KUBECONFIG", kubeconfig(config, "https://api.example:6443", **cluster))
        assert BagpipeClient().get("j").phase == "Complete"
        assert asked[0][0].startswith(b"CONNECT api.example:6443 ") and asked[1][0].startswith(b"GET /apis/bagpipe.dev")
        assert b"proxy-authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in asked[0]
        del cluster["tls-server-name"]
        kubeconfig(config, "https://api.example:6443", **cluster)
        with pytest.raises(
            ConfigError, match=r"certificate is not accepted: .*api\.example.*; correct certificate-auth"
        ):
            BagpipeClient().wait("j")
        kubeconfig(config, "https://api.example:6443", **{"proxy-url": proxy, "insecure-skip-tls-verify": True})
        assert BagpipeClient().get("j").phase == "Complete"


def test_a_server_without_tls_is_told(tmp_path, monkeypatch):
    """The address in the kubeconfig has the wrong scheme or port."""
    with answering(http("400 Bad Request")) as (server, _):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "k", server.replace("http:", "https:")))
        with pytest.raises(
            ClusterError, match=r"j: expected TLS from the API server, found something else: .*; correct"
        ):
            BagpipeClient().get("j")


def test_a_proxy_that_refuses_is_told(tmp_path, monkeypatch):
    """As the proxy's refusal, with what to correct."""
    with answering(http("407 Proxy Authentication Required")) as (proxy, _):
        cluster = {"proxy-url": proxy}
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "k", "https://api.example:6443", **cluster))
        with pytest.raises(ClusterError, match=r"by its proxy: .*407 Proxy Auth.*; correct proxy-url"):
            BagpipeClient().get("j")


@pytest.mark.parametrize(
    ("server", "left_out", "proxied"),
    [
        ("https://api.example:6443", "", True),
        ("http://api.example:6443", "", False),  # It has a variable of its own.
        ("https://127.0.0.1:6443", "", False),
        ("https://localhost:6443", "", False),
        ("https://api.example:6443", "*", False),
        ("https://api.example:6443", "one.example, api.example", False),
        ("https://api.example:6443", "example", False),
        ("https://api.example:6443", ".example", False),
        ("https://api.example:6443", "pi.example", True),
        ("https://api.example:6443", "api.example:443", True),
        ("https://api.example:6443", "api.example:6443", False),
        ("https://10.1.2.3:6443", "10.0.0.0/8", False),
        ("https://10.1.2.3:6443", "192.168.0.0/16,10.1.2.4", True),
        ("https://[fd00::1]:6443", "fd00::/8", False),
    ],
)
def test_the_environments_proxy(tmp_path, monkeypatch, server, left_out, proxied):
    """`$HTTPS_PROXY` for https, unless the server is this machine or `$NO_PROXY` names it."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", left_out)
    assert chosen(tmp_path, monkeypatch, server) == ("http://proxy.example:3128" if proxied else None)


def test_http_has_its_own_variable(tmp_path, monkeypatch):
    """Each scheme has its variable; the package takes the one of http for both."""
    monkeypatch.setenv("http_proxy", "http://plain.example:3128")
    assert chosen(tmp_path, monkeypatch, "https://api.example:6443") is None
    assert chosen(tmp_path, monkeypatch, SERVER) == "http://plain.example:3128"


@pytest.mark.parametrize(
    "url", ["socks5://u:secret@h:1", "http://", "http://h:99999", "nonsense", "http://[::1", "http://€:secret@h:1"]
)
def test_a_proxy_that_is_none(tmp_path, monkeypatch, url):
    """One line with file, entry and what was expected; a password in it is not shown."""
    with pytest.raises(ConfigError, match=r"kubeconfig:1: cluster 'a': proxy-url: expected http://HOST:PORT") as caught:
        chosen(tmp_path, monkeypatch, SERVER, **{"proxy-url": url})
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("HTTP_PROXY", "socks5://h:1")
    with pytest.raises(ConfigError, match=r"\$HTTP_PROXY: expected http://HOST:PORT"):
        chosen(tmp_path, monkeypatch, SERVER)
