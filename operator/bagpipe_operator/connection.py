"""Where the API server is and how we prove who we are: the pod's service account, or a kubeconfig outside a cluster."""

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class NoCluster(Exception):
    """Nothing says where the API server is."""


@dataclass
class Connection:
    """Where the API server is and how we prove who we are."""

    server: str
    ssl: ssl.SSLContext | None
    token: str | None

    def headers(self) -> dict[str, str]:
        """The headers by which a request proves who sends it."""
        # Bound tokens are rotated on disk: read again each time, a few hundred bytes of page cache.
        token = _TOKEN.read_text().strip() if _TOKEN.exists() else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


def connect() -> Connection:
    """From the pod's service account, or from `$KUBECONFIG` outside a cluster."""
    settings = kopf.OperatorSettings()
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise NoCluster("no service account and no kubeconfig: nothing says where the API server is")
    context = (
        ssl.create_default_context(cafile=info.ca_path, cadata=_decoded(info.ca_data))
        if info.server.startswith("https")
        else None
    )
    if context is not None and info.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if context is not None and (info.certificate_path or info.certificate_data):
        _load_certificate(context, info)
    return Connection(server=info.server.rstrip("/"), ssl=context, token=info.token)


def _decoded(data: Any) -> str | None:
    return base64.b64decode(data).decode() if data else None


def _load_certificate(context: ssl.SSLContext, info: Any) -> None:
    """The TLS library reads certificates from files only."""
    with tempfile.NamedTemporaryFile("w") as cert, tempfile.NamedTemporaryFile("w") as key:
        cert.write(_decoded(info.certificate_data) or Path(info.certificate_path).read_text())
        key.write(_decoded(info.private_key_data) or Path(info.private_key_path).read_text())
        cert.flush()
        key.flush()
        context.load_cert_chain(cert.name, key.name)
