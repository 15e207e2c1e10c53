"""Checks what a job says about its pods, which only a cluster reads."""

import msgspec

from bagpipe.client import podcheck
from bagpipe.config.load import JobFile
from bagpipe.errors import ConfigError


def check_pods(file: JobFile) -> None:
    """Refuse a job whose pods Kubernetes would refuse or never start, with the words that the operator would use.

    Raises:
        ConfigError: one line that names the setting, what is wrong with it, and what to do.
    """
    spec = msgspec.to_builtins(file.document).get("spec") or {}
    if fault := podcheck.job_fault(spec):
        raise ConfigError(fault)
