"""`Run`: a run as a Python object, with its figures, and methods to evaluate, predict with, export and resume it."""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from bagpipe.checkpoint.best import chosen_best
from bagpipe.checkpoint.places import JOB_FILE, checkpoints_of
from bagpipe.checkpoint.store import newest_complete
from bagpipe.errors import CheckpointError, ConfigError, ExitCode, error_of
from bagpipe.interactive.document import later_rows
from bagpipe.interactive.frames import is_path, naming_frames, refuse_parts, write_frame
from bagpipe.interactive.picture import Picture, curves
from bagpipe.interactive.progress import choose_view
from bagpipe.interactive.settings import functions_named, names_of, over, path_of, settled, spec_of
from bagpipe.interactive.user_model import importable, place_modules
from bagpipe.local.evaluate import evaluate_checkpoint
from bagpipe.local.progress import Record
from bagpipe.local.run import RunResult, resume_run
from bagpipe.local.rundir import SUMMARY
from bagpipe.local.supervisor import INTERRUPTED
from bagpipe.local.user_modules import offer_user_modules
from bagpipe.lowlevel.json_lines import records_in
from bagpipe.lowlevel.strict_json import encode
from bagpipe.metrics.figures import UNDEFINED
from bagpipe.metrics.tasks import by_task

_COLUMNS = ("time", "step", "total_steps", "loss", "examples_per_second", "cache_hit_rate")
"""What every record has."""
_PLAIN = re.compile(r"[^\W\d]\w*")
"""Names that need no quotes in a path; a number, for instance, would be an index."""


class Run:
    """One run, in its directory: of `bagpipe.fit`, or of the command line.

    Args:
        path: the run directory.
        stopped_at_once: it was asked to stop before its first step, so there is no summary that tells it.

    Raises:
        ConfigError: no run was started there.
    """

    def __init__(self, path: str | Path, *, stopped_at_once: bool = False) -> None:
        self._given, self._stopped_at_once = path_of(path, "Run"), stopped_at_once
        self._path = settled(self._given)
        if not (self._path / JOB_FILE).is_file() and newest_complete(checkpoints_of(self._path)) is None:
            raise ConfigError(
                f"{path}: no {JOB_FILE} there and no checkpoint, so it is no run directory; give one that `fit`, `run` "
                "or a role wrote"
            )

    def __repr__(self) -> str:
        return f"Run({str(self._shown())!r}): {self._in_words()}"

    def _shown(self) -> Path:
        """The path as it was given, while that still names the run: a program may change its folder."""
        return self._given if settled(self._given) == self._path else self._path

    def _in_words(self) -> str:
        return in_words(self.summary) if self._path.is_dir() else "its directory is gone; put it back, or train again"

    def _check_there(self) -> None:
        """Without its directory a run has no figures and no model, which is no run that has none yet.

        Raises:
            ConfigError: it is gone.
        """
        if not self._path.is_dir():
            raise ConfigError(f"{self._path}: the run's directory is gone; put it back, or train again")

    @property
    def path(self) -> Path:
        """The run directory: the job, metrics, logs, checkpoints, `summary.json`."""
        return self._path

    @property
    def summary(self) -> Mapping[str, Any]:
        """The run's figures: steps, loss, evaluation, model digest, ... (docs/figures.md). Empty before its end."""
        try:
            found = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def stopped(self) -> bool:
        """Whether it ended early because it was asked to; `resume()` goes on with it, as with one that failed.

        A run that has no summary still runs, or failed: that is not stopped.
        """
        return self._stopped_at_once or bool(self.summary.get("stopped"))

    @property
    def checkpoint(self) -> Path:
        """The directory of the newest complete checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        self._check_there()
        found = newest_complete(checkpoints_of(self.path))
        if found is None:
            raise CheckpointError(f"{self.path}: no complete checkpoint yet; resume the run, or train for longer")
        return found

    @property
    def best_checkpoint(self) -> Path:
        """The directory of the checkpoint that was best on the validation part, by the setting `checkpoint.best`.

        Raises:
            CheckpointError: the run keeps none, or no evaluation had the figure.
        """
        self._check_there()
        return chosen_best(checkpoints_of(self.path))

    # ── figures ───────────────────────────────────────────────────

    def metrics(self) -> Any:
        """Figures of training over time: one row for each record (every `log_every` steps).

        Columns: `time` (s since 1970), `step`, `total_steps`, `loss`, `examples_per_second`, `cache_hit_rate`, and
        `wait_<what>` (s, mean over trainers), since the record before; `validation_<figure>` where the validation part
        was evaluated after that step (`validation_<label>/<figure>` with several labels).

        Returns:
            a pandas `DataFrame` where pandas is installed, else a list of dicts.

        Raises:
            ConfigError: the run's directory is gone.
        """
        records = with_validations(map(_flat, self._records()), self._lines("validated"))
        try:
            return import_module("pandas").DataFrame(records, columns=None if records else list(_COLUMNS))
        except ImportError:
            return records

    def plot(self) -> Picture:
        """Loss and examples per second over the steps; a notebook shows it, `plot().save(path)` writes an SVG."""
        return curves(list(self._records()), self.path.name)

    def report(self) -> str:
        """The summary as text, a figure a line."""
        summary = self.summary
        return "\n".join([f"{self._shown()}: {self._in_words()}", *figure_lines(summary)])

    def _records(self) -> Iterator[Record]:
        return (record for record in self._lines(None) if "step" in record)

    def _lines(self, event: str | None) -> Iterator[Record]:
        """Records of `metrics.jsonl` of one kind of event; None: those that are no event."""
        self._check_there()
        try:
            text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
        except OSError:
            return
        yield from (record for record in records_in(text) if record.get("event") == event)

    # ── the model ─────────────────────────────────────────────────

    def evaluate(self, test: Any = None, *, best: bool = False, **settings: Any) -> Mapping[str, Any]:
        """Evaluate the newest checkpoint, through the same caches, read-only.

        Args:
            test: labelled data, all of which is evaluated: a path, or rows; None: the run's own test part.
            best: evaluate the best checkpoint instead.
            **settings: as `fit` takes them, such as `test_fraction=0.2` or `evaluation={"metrics": ["rmse", mine]}`.

        Returns:
            `examples`, `auc`, `logLoss`, `calibration`, ... (docs/figures.md).

        Raises:
            ConfigError: there is no test part.
            Stopped: it was interrupted.
            DataError: the data is not of the form that the model was trained on.
        """
        settings, functions = functions_named(settings)
        with self._in_reach(test, "test", functions) as path:
            data = {} if path is None else {"data": {"path": path, "format": "auto"}}
            overrides = overrides_of({**data, **spec_of(settings)})
            return evaluate_checkpoint(
                self._chosen(best=best), overrides, lambda line: warnings.warn(line, stacklevel=4)
            )

    def predict(self, rows: Any, *, keep: str | Sequence[str] = (), best: bool = False) -> Any:
        """Score raw rows by the newest checkpoint, in this process, with the transform that it keeps.

        Args:
            rows: a path, or rows of the columns that the model was trained on; labels need not be there.
            keep: columns of the rows to have beside the scores; a text is one column.
            best: score by the best checkpoint instead.

        Returns:
            `score_<label>` for each label, float64: a probability in [0, 1]; of `squared-error` and `poisson`
            the expected value; of `softmax` the model's output, which orders an example's candidates. For a pandas
            frame a `DataFrame` with its index; for a polars one a `DataFrame`, for other rows a pyarrow `Table`, both
            with `row`, the number of the row from 0; for a path a `Table` with `file` and `row`, which counts from 1 in
            each file.

        Raises:
            ConfigError, DataError: the rows are not of the form that the model was trained on.
        """
        if rows is None:
            raise ConfigError("rows: expected rows to score, or their path; found None")
        from bagpipe.interactive.scores import scores_of
        from bagpipe.trainer.predict import predict

        with self._in_reach(rows, "rows") as path, tempfile.TemporaryDirectory(prefix="bagpipe-predict-") as folder:
            offer_user_modules()
            out = Path(folder) / "scores.parquet"
            predict(self._chosen(best=best), path, out, keep=names_of(keep, "keep"), keep_option="keep")
            return scores_of(out, path, None if is_path(rows) else rows)

    def export(self, folder: str | Path, *, best: bool = False) -> Path:
        """Write the newest checkpoint as a folder that scores alone, without Bagpipe (`bagpipe export`); returns it.

        Args:
            folder: is made, or empty.
            best: write the best checkpoint instead.

        Raises:
            ConfigError: the folder holds something already.
        """
        from bagpipe.export.write import export_model

        with importable(self.path):
            offer_user_modules()
            export_model(self._chosen(best=best), path_of(folder, "export"))
        return Path(folder)

    def resume(self, *, data: Any = None, progress: bool = True, **settings: Any) -> "Run":
        """Go on from the newest checkpoint. The result is that of an uninterrupted run, bit for bit.

        Args:
            data: other rows to train on from here: a path, or rows as `fit` takes them, of the same columns. An epoch
                of them begins, with the vocabulary that the run has; `--resume --new-data` does the same. None: those
                that the run was trained on.
            **settings: how long: `epochs` or `steps` **in all**, as the settings mean it; others may not change what is
                trained. None: as the job says, for a run that was stopped.

        Raises:
            ConfigError: a setting changes the result, asks for fewer steps than are trained, or leaves no epoch for
                other data.
            DataError: the data is not of the form that the model was trained on.
        """
        self._check_there()
        refuse_parts(data, "data")
        if isinstance(data, Mapping):  # As any other section of the job.
            data, settings = None, {**settings, "data": data}
        settings, functions = functions_named(settings)
        view = choose_view(progress=progress)
        try:
            with importable(self.path), later_rows(self.path, data) as path:
                place_modules(functions, self.path)
                spec = over(spec_of(settings), spec_of({"path": path}))
                result = resume_run(None, overrides_of(spec), self.path, view, new_data=path is not None)
        finally:
            view.close()
        return ended(result, progress=progress)

    def _chosen(self, *, best: bool) -> Path:
        return self.best_checkpoint if best else self.checkpoint

    @contextmanager
    def _in_reach(self, rows: Any, what: str, modules: Mapping[str, str] | None = None) -> Iterator[Any]:
        """The rows as a path; the run's own modules and these are importable, here and in children."""
        with (
            tempfile.TemporaryDirectory(prefix="bagpipe-rows-") as folder,
            importable(self.path, *([Path(folder)] if modules else [])),
        ):
            place_modules(modules or {}, Path(folder))
            if rows is None or is_path(rows):
                yield rows if rows is None or isinstance(rows, list | tuple) else os.fspath(rows)
            else:
                written = write_frame(rows, Path(folder) / "rows", what).folder
                with naming_frames({written: "the frame"}):
                    yield str(written)


def ended(result: RunResult, *, progress: bool) -> Run:
    """The `Run` of a supervisor's result.

    Raises:
        BagpipeError: it failed; of the class that its exit code stands for.
        KeyboardInterrupt: it was killed by a second Ctrl-C.
    """
    outcome = result.outcome
    if outcome.code == INTERRUPTED:
        raise KeyboardInterrupt(outcome.error)
    if outcome.code not in (ExitCode.DONE, ExitCode.STOPPED):
        raise error_of(outcome.code)(outcome.error)
    run = Run(result.run_dir, stopped_at_once=outcome.code == ExitCode.STOPPED and result.summary is None)
    if progress:
        print(run, flush=True)
    return run


def overrides_of(spec: Mapping[str, Any], above: str = "spec") -> list[str]:
    """A part of a job as `--set` takes it, one for each value."""
    found: list[str] = []
    for name, value in spec.items():
        place = f"{above}.{name}" if _PLAIN.fullmatch(str(name)) else f"{above}[{_quoted(str(name))}]"
        found += overrides_of(value, place) if isinstance(value, Mapping) and value else [f"{place}={encode(value)}"]
    return found


def _quoted(name: str) -> str:
    """A name that is no setting, such as that of a column, as a part of a path."""
    return f"'{name}'" if '"' in name else f'"{name}"'


def in_words(summary: Mapping[str, Any]) -> str:
    if not summary:
        return "no summary: it has not ended, failed, or was stopped while it started; .resume() goes on"
    early = (summary.get("validation") or {}).get("stoppedEarly", False)
    did = "stopped at" if summary.get("stopped") else "stopped early at" if early else "trained"
    parts = [f"{did} step {summary.get('steps')}"]
    if isinstance(summary.get("loss"), float):
        parts.append(f"loss {summary['loss']:.4f}")
    test = summary.get("evaluation") or {}
    for label, figures in by_task(test).items():
        task = f"{label} " if label else ""
        parts += [f"test {task}{words} {figures[name]:.4f}" for name, words in (("auc", "AUC"), ("logLoss", "log loss"))
                  if isinstance(figures.get(name), float)]  # fmt: skip
    failed = f"; evaluation failed: {test['failed']}; .evaluate() repeats it" if test.get("failed") else ""
    return ", ".join(parts) + failed + ("; .resume() goes on" if summary.get("stopped") else "")


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    waits = record.get("waits") or {}
    return {k: v for k, v in record.items() if k != "waits"} | {f"wait_{name}": s for name, s in waits.items()}


def with_validations(records: Iterable[dict[str, Any]], validations: Iterable[Record]) -> list[dict[str, Any]]:
    """The records, with the figures of each evaluation in the latest record of its step, or in a row of their own."""
    rows = list(records)
    for one in validations:
        row = next((row for row in reversed(rows) if row["step"] == one["step"]), None)
        if row is None:
            row = {"time": one["time"], "step": one["step"]}
            rows.append(row)
        for label, figures in by_task(one["validation"]).items():
            before = f"{label}/" if label else ""
            row |= {f"validation_{before}{name}": value for name, value in figures.items() if name != UNDEFINED}
    return sorted(rows, key=lambda row: float(row["time"]))


def figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """A figure a line, its value in the same column as all others; groups are indented below their names."""
    entries = list(_entries(figures, "  "))
    width = max((len(name) for name, value in entries if value), default=0)
    return [f"{name:{width}s}  {value}".rstrip() for name, value in entries]


def _entries(figures: Mapping[str, Any], indent: str) -> Iterator[tuple[str, str]]:
    for name, one in figures.items():
        if isinstance(one, Mapping):
            yield f"{indent}{name}", ""
            yield from _entries(one, indent + "  ")
        else:
            yield f"{indent}{name}", f"{one:.6g}" if isinstance(one, float) else str(one)
