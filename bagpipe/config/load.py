"""Reads a job: YAML and `--set` overrides in, a checked `Job` out, one clear line on any mistake.

Types, bounds and names come from `bagpipe.config.document`; rules that tie several settings together from
`bagpipe.config.rules`; the sentences about mistakes from `bagpipe.config.explain`. Every command, the client
and the experiments read jobs here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bagpipe.config import overrides as overriding
from bagpipe.config import paths, yaml_lines, yaml_writer
from bagpipe.config.document import API_VERSION, KIND, Job, Paths
from bagpipe.config.explain import Explainer
from bagpipe.config.header import job_of
from bagpipe.config.parts import with_path
from bagpipe.config.rules import check_rules
from bagpipe.config.yaml_lines import Document


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job, and the document that it was read from."""

    job: Job
    document: Mapping[str, Any]
    """The user's document with overrides applied, as an API server takes it; settings that were left out are absent."""


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file; `overrides` are `path=value`, later ones win.

    Raises:
        ConfigError: one line that names file, field and remedy.
    """
    return read_job_file(path, overrides).job


def load_local_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, for a command that works on this machine: its paths are absolute, with `~` expanded."""
    return absolute_paths(load_job(path, overrides))


def read_job_file(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """As `load_job`, with the document itself."""
    where = paths.local(path)
    return _read(yaml_lines.parse(yaml_lines.read_text(where), paths.shown(path)), overrides)


def parse_job(text: str, source: str, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, from text; `source` names it in messages."""
    return _read(yaml_lines.parse(text, source), overrides).job


def job_from(document: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, from a document that a program made."""
    return job_file_from(document, source, overrides).job


def job_file_from(document: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> JobFile:
    """As `job_from`, with the document itself."""
    return _read(Document(source, msgspec.to_builtins(document)), overrides)


def _read(document: Document, overrides: Sequence[str]) -> JobFile:
    document = job_of(document)
    parsed = [overriding.parse_override(text) for text in overrides]
    overriding.apply(document, parsed)
    explainer = Explainer(document, {override.path: override.text for override in parsed})
    if (unknown := explainer.unknown()) is not None:
        raise unknown
    try:
        job = msgspec.convert(document.value, Job)
    except msgspec.ValidationError as error:
        raise explainer.error(error) from None
    check_rules(job, explainer.where)
    spec = msgspec.structs.replace(job.spec, data=with_path(job.spec.data))
    return JobFile(msgspec.structs.replace(job, spec=spec), {"apiVersion": API_VERSION, "kind": KIND, **document.value})


def absolute_paths(job: Job) -> Job:
    """The same job with local paths that are valid from any folder.

    Raises:
        ConfigError: a path holds a variable, which is never expanded, or `~` without a home folder.
    """
    data, checkpoint = job.spec.data, job.spec.checkpoint
    data = msgspec.structs.replace(
        data,
        path=_absolute_all(data.path, "spec.data.path"),
        validation=_absolute_part(data.validation, "spec.data.validation"),
        test=_absolute_part(data.test, "spec.data.test"),
    )
    place = paths.absolute(checkpoint.path, "spec.checkpoint.path") if checkpoint.path else None
    embedding, warm = job.spec.embedding, job.spec.init_from
    overrides = tuple(
        one
        if one.init_from is None
        else msgspec.structs.replace(
            one, init_from=paths.absolute(one.init_from, f"spec.embedding.overrides[{number}].initFrom")
        )
        for number, one in enumerate(embedding.overrides)
    )
    if warm is not None:
        warm = msgspec.structs.replace(warm, run=paths.absolute(warm.run, "spec.initFrom.run"))
    spec = msgspec.structs.replace(
        job.spec,
        data=data,
        embedding=msgspec.structs.replace(embedding, overrides=overrides),
        init_from=warm,
        checkpoint=msgspec.structs.replace(checkpoint, path=place),
    )
    return msgspec.structs.replace(job, spec=spec)


def _absolute_part(named: Paths | float, setting: str) -> Paths | float:
    return named if isinstance(named, float) else _absolute_all(named, setting)


def _absolute_all(named: Paths, setting: str) -> Paths:
    if isinstance(named, str):
        return paths.absolute(named, setting)
    return tuple(paths.absolute(one, setting) for one in named)


def dump_job(job: Job) -> str:
    """The job as YAML, every setting that has a value; `parse_job` gives back an equal job, and an API server takes it.

    A setting without a value is left out, not written as null: the API server accepts null for no enum.
    """
    return yaml_writer.dump(_plain(job))


def _plain(value: Any) -> Any:
    """A setting as YAML has it. What the user wrote in Kubernetes' own terms keeps its nulls."""
    if isinstance(value, msgspec.Struct):
        fields = ((f, getattr(value, f.name)) for f in msgspec.structs.fields(value))
        return {f.encode_name: _plain(v) for f, v in fields if v is not None or f.default is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return msgspec.to_builtins(value)
