"""A job that trains in threads within a second, for tests whose claim is about its data or its model."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bagpipe.config.document import Job


def small_job(model: Mapping[str, Any], data: Mapping[str, Any], **spec: Any) -> Job:
    """Rows of width 4, Adagrad, a lookahead of 4 batches, a record for each step, one thread a trainer.

    Args:
        model: `spec.model` of the job document, as YAML would have it; likewise `data`.
        **spec: further sections, each in place of the one here; `servers` and `trainers` are completed.
    """
    trainers = {"device": "cpu", "threads": 1} | spec.pop("trainers", {})
    document = {
        "model": model,
        "data": data,
        "embedding": {"dim": 4, "optimizer": {"name": "adagrad", "lr": 0.1}},
        "epochs": None,
        "lookahead": 4,
        "logEvery": 1,
        "trainers": trainers,
    }
    return msgspec.convert({"spec": document | spec}, Job)
