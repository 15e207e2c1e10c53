"""One page, docs/reasons.md, explains each condition and each reason that a job may have."""

from pathlib import Path

from bagpipe_operator import reasons
from bagpipe_operator.names import Condition, Reason
from bagpipe_operator.warned import _MEANINGFUL

WAITING = """ImagePullBackOff ErrImagePull InvalidImageName ErrImageNeverPull CreateContainerConfigError
CreateContainerError RunContainerError CrashLoopBackOff"""
"""Kubelets' usual reasons why a container waits."""

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_page_is_generated():
    """docs/reasons.md is what the operator's own table says."""
    assert PAGE.read_text() == reasons.page(), "python -m bagpipe_operator.reasons > docs/reasons.md"


def test_nothing_is_left_out():
    """Every condition and reason that the operator writes is explained, and those of Kubernetes that it passes on."""
    assert set(reasons.CONDITIONS) == set(Condition)
    told = {name for rows in reasons.TABLES.values() for key in rows for name in str(key).split(", ")}
    assert told >= {str(reason) for reason in Reason} | {*WAITING.split()} | _MEANINGFUL


def test_each_reason_stands_once():
    """One reason has one meaning."""
    listed = [name for rows in reasons.TABLES.values() for key in rows for name in str(key).split(", ")]
    assert len(listed) == len(set(listed))
