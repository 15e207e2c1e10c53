"""Connects as kubectl does: by `$KUBECONFIG`, or by the pod's own account."""

import logging
import os
from pathlib import Path
from typing import Any

from bagpipe.errors import ConfigError


def connect(kubernetes: Any, context: str | None) -> tuple[Any, str]:
    """A client and the namespace of its context.

    Raises:
        ConfigError: there is no kubeconfig, or it is none.
    """
    import yaml

    said, root = _Said(), logging.getLogger()
    root.addHandler(said)
    try:
        found = _connected(kubernetes, context)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        # The package reads a file that may be anything, and checks little of it.
        why = " ".join(str(error).split())[:200]
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ConfigError(f"{file}: expected a kubeconfig, found what cannot be read as one: {why}") from None
    finally:
        root.removeHandler(said)
    if said.words:
        raise ConfigError(f"the kubeconfig's command or provider of credentials failed: {said.words}; log in again")
    return found


class _Said(logging.Handler):
    """Hears what the package logs where credentials are refused to it: it goes on without any, as if nothing were."""

    words = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "root" and record.levelno >= logging.ERROR:
            self.words = self.words or " ".join(record.getMessage().split())[:300]


def _connected(kubernetes: Any, context: str | None) -> tuple[Any, str]:
    """As `connect`, with whatever errors the package raises.

    `$KUBECONFIG` is read now: the package itself reads it once, when it is imported, which in a notebook is long ago.
    """
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    try:
        file = os.environ.get("KUBECONFIG") or None
        api = kubernetes.config.new_client_from_config(config_file=file, context=context)
        known, active = kubernetes.config.list_kube_config_contexts(config_file=file)
        chosen = next((one for one in known if one["name"] == context), active)
        return api, (chosen.get("context") or {}).get("namespace") or "default"
    except kubernetes.config.ConfigException as error:
        if not account.exists():
            raise ConfigError(f"no cluster: {error}; set $KUBECONFIG") from None
    kubernetes.config.load_incluster_config()
    return kubernetes.client.ApiClient(), account.read_text().strip()
