"""Runs side by side: which settings differ, and what became of each run. Reads run directories and changes nothing."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER
from bagpipe.checkpoint.places import JOB_FILE, checkpoints_of
from bagpipe.checkpoint.store import newest_complete, open_checkpoint
from bagpipe.config.document import JobSpec
from bagpipe.config.given import given
from bagpipe.config.load import load_job
from bagpipe.errors import ConfigError
from bagpipe.local.rundir import SUMMARY
from bagpipe.lowlevel.strict_json import encode, number
from bagpipe.metrics.figures import UNDEFINED
from bagpipe.metrics.tasks import by_task

_PARTS = ("data.test", "data.testFraction", "data.splitBy")
"""Settings that say which examples are tests."""
_LAST = ("examplesPerSecond", "cacheHitRate", "attempts", "seconds", "modelDigest")
"""Figures that are taken as `summary.json` has them, after the others."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between R runs. Each list has one entry for each run, in their order; None: that run has none."""

    names: tuple[str, ...]
    """The runs: the last part of each path, or the whole path where those are not distinct."""
    settings: Mapping[str, Sequence[Any]]
    """Settings that are not the same in all runs, by their dotted names, in the order of the job document."""
    figures: Mapping[str, Sequence[Any]]
    """All figures that a run has, also where they are equal (docs/figures.md)."""
    sections: Mapping[str, Sequence[Any]]
    """`settings` for people: a section that not all runs have is one entry, without what is a default in it."""
    versions: Mapping[str, Sequence[Any]]
    """Versions of bagpipe, Python and libraries that are not the same in all runs that tell theirs, by name."""

    @property
    def unfinished(self) -> list[str]:
        """Runs without a summary: they still run, failed, or were stopped before their first step."""
        return [name for name, digest in zip(self.names, self._of("modelDigest"), strict=True) if digest is None]

    @property
    def same_models(self) -> list[list[str]]:
        """Runs that trained the same model to the bit, group by group; a run that is like no other is in none."""
        groups: dict[str, list[str]] = {}
        for name, digest in zip(self.names, self._of("modelDigest"), strict=True):
            if digest is not None:
                groups.setdefault(digest, []).append(name)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def other_data(self) -> bool:
        """Whether two of the runs may have been tested on other examples, so that their figures do not compare."""
        read = [{one for one in self._of(name) if one is not None} for name in ("data", "testExamples")]
        return any(len(values) > 1 for values in read) or any(name in self.settings for name in _PARTS)

    def _of(self, figure: str) -> Sequence[Any]:
        return self.figures.get(figure, [None] * len(self.names))


def compare(runs: Sequence[Path]) -> Comparison:
    """Compare runs of this machine by what their directories hold.

    Raises:
        ConfigError: fewer than two runs, or one of the directories is no run's.
        CheckpointError: a run that roles wrote which were started by hand has a damaged checkpoint.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare: expected at least two run directories, found {len(runs)}; name another one")
    specs = [_spec_of(run) for run in runs]
    settings = _side_by_side([dict(_flat(spec, "")) for spec in specs])
    summaries = [_summary_of(run) for run in runs]
    figures = _side_by_side([_figures_of(*one) for one in zip(runs, specs, summaries, strict=True)])
    versions = _side_by_side([one.get("versions") or {} for one in summaries])
    names = [run.name for run in runs]
    return Comparison(
        tuple(names if len(set(names)) == len(names) else map(str, runs)),
        {name: values for name, values in settings.items() if any(one != values[0] for one in values)},
        figures,
        dict(_differences(specs, "")),
        {name: values for name, values in versions.items() if len({one for one in values if one is not None}) > 1},
    )


def _spec_of(run: Path) -> JobSpec:
    if (run / JOB_FILE).is_file():
        return load_job(run / JOB_FILE).spec
    newest = newest_complete(checkpoints_of(run))
    if newest is None:
        raise ConfigError(f"{run}: no {JOB_FILE} there and no checkpoint; give the directory of a run")
    return open_checkpoint(newest).manifest.spec


def _side_by_side(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list for each name that any of them has, in the order of the first one that has it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: [one.get(name) for one in found] for name in names}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each setting that has a value, by its dotted name; lists of sections by number."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from _flat(getattr(value, field.name), f"{path}.{field.encode_name}".removeprefix("."))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flat(one, f"{path}.{name}")
    elif isinstance(value, list | tuple) and any(isinstance(one, msgspec.Struct | Mapping) for one in value):
        for at, one in enumerate(value):
            yield from _flat(one, f"{path}[{at}]")
    elif value is not None:
        yield path, msgspec.to_builtins(value)


def _differences(values: Sequence[Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    """What differs between the values, in the order of the job document; a section that one of them lacks is whole."""
    if all(one == values[0] for one in values):
        return
    first = values[0]
    if isinstance(first, msgspec.Struct) and all(type(one) is type(first) for one in values):
        for field in msgspec.structs.fields(first):
            found = [getattr(one, field.name) for one in values]
            yield from _differences(found, f"{path}.{field.encode_name}".removeprefix("."))
    elif all(isinstance(one, Mapping) and one for one in values):
        for name in dict.fromkeys(name for one in values for name in one):
            yield from _differences([one.get(name) for one in values], f"{path}.{name}")
    elif all(_is_list_of_sections(one) for one in values):
        for at in range(max(map(len, values))):
            yield from _differences([one[at] if at < len(one) else None for one in values], f"{path}[{at}]")
    else:
        yield path, [_without_defaults(one) for one in values]


def _is_list_of_sections(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, msgspec.Struct) for one in value)


def _without_defaults(value: Any) -> Any:
    """A setting as plain data, without what a document would not need to say."""
    if isinstance(value, msgspec.Struct):
        fields = {field.encode_name: field.name for field in msgspec.structs.fields(value)}
        return {name: _without_defaults(getattr(value, fields[name])) for name in given(value, fields)}
    if isinstance(value, list | tuple):
        return [_without_defaults(one) for one in value]
    return msgspec.to_builtins(value)


def _figures_of(run: Path, spec: JobSpec, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one run; of one that has no summary, only which data it reads."""
    found: dict[str, Any] = {}
    found |= {name: summary[name] for name in ("steps", "skippedSteps") if summary.get(name)}
    if "loss" in summary:
        found["loss"] = number(summary, "loss")
    found |= dict(_evaluation(summary.get("evaluation") or {}))
    if best := (summary.get("validation") or {}).get("best"):
        found |= {f"validation.best.{best['metric']}": best["value"], "validation.best.step": best["step"]}
    data = summary.get("data") or {}
    for name, key in (("trainExamples", "num_train_examples"), ("testExamples", "num_test_examples")):
        if key in data:
            found[name] = data[key]
    found["data"] = _data_digest(run, spec)
    if speed := summary.get("examplesPerSecond"):
        found["msPerStep"] = 1000.0 * spec.batch_size / speed
    if plan := summary.get("plan"):
        found["lookahead"] = plan.get("lookahead")
    return found | {name: summary[name] for name in _LAST if name in summary}


def _evaluation(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for task, figures in by_task(evaluation).items():
        for name, value in figures.items():
            if name != UNDEFINED:
                yield f"evaluation.{f'{task}/' if task else ''}{name}", value


def _summary_of(run: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _data_digest(run: Path, spec: JobSpec) -> str | None:
    """Tells whether two runs read the same files, wherever these lay, or generated the same rows.

    None: the run has not read its data yet.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        text = (checkpoints_of(run) / FOLDER / FINGERPRINT_FILE).read_text(encoding="utf-8")
        files = [[file["size"], file["rows"]] for file in json.loads(text)["files"]]
        generated: list[Any] = [msgspec.to_builtins(spec.data.synthetic), spec.seed]
        return hashlib.sha256(encode(files or generated).encode()).hexdigest()
    return None
