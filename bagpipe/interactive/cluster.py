"""`fit(on="cluster")`: submits the same job to a cluster; its run asks the API server."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bagpipe.client.jobs import BagpipeClient, JobView
from bagpipe.config.load import JobFile
from bagpipe.errors import ConfigError
from bagpipe.interactive.document import is_share
from bagpipe.interactive.frames import is_path
from bagpipe.interactive.picture import Picture, curves
from bagpipe.interactive.run import Run, figure_lines, in_words
from bagpipe.interactive.user_model import NamedModel
from bagpipe.local.progress import Record
from bagpipe.lowlevel.json_lines import records_in


def submit(
    file: JobFile, data: Any, test: Any, named: NamedModel, *, namespace: str | None, context: str | None
) -> "ClusterRun":
    """Create the job; returns at once.

    Raises:
        ConfigError: the pods could not have the rows or the model, or the cluster refuses the job.
        ClusterError: the API server cannot be reached.
    """
    check_reachable(data, test, named)
    client = BagpipeClient(namespace or file.job.metadata.namespace, context=context)
    return ClusterRun(client, client.create(file))


def check_reachable(data: Any, test: Any, named: NamedModel) -> None:
    """Refuse rows, models and functions that exist only in this process.

    Raises:
        ConfigError: says what to give instead.
    """
    for what, rows in (("data", data), ("test", test)):
        if rows is not None and not isinstance(rows, Mapping) and not is_path(rows) and not is_share(rows):
            raise ConfigError(
                f"{what}: these rows are in this process, where the cluster's pods cannot read them; write them where "
                "they can, and give the path or URL"
            )
    if named.modules:
        own = str(named.section.get("entrypoint", "")).partition(":")[0] in named.modules
        what = "model: this class" if own else "evaluation.metrics or lr_lambda: a function of them"
        raise ConfigError(
            f"{what} is defined in this program, which the cluster's pods do not have; put it into a package of their "
            f"image, and give 'package.module:{'Class' if own else 'function'}'"
        )


class ClusterRun(Run):
    """A job on a cluster. Methods that need the run's files raise ConfigError, which says what to do instead."""

    def __init__(self, client: BagpipeClient, name: str) -> None:
        self._client, self.name = client, name

    def __repr__(self) -> str:
        view = self.view()
        why = f" ({view.reason}: {view.message})" if view.message else ""
        summary = in_words(view.summary) if view.summary else "no summary yet"
        return f"ClusterRun({self.name!r}): {view.phase}{why}; {summary}"

    def view(self) -> JobView:
        """The job as the cluster shows it now: phase, progress, restarts."""
        return self._client.get(self.name)

    def wait(self, *, timeout_seconds: float | None = None) -> "ClusterRun":
        """Wait until the job is complete.

        Args:
            timeout_seconds: None: however long it takes.

        Raises:
            JobFailed: it failed.
            WaitTimeout: it did not end in time.
        """
        self._client.wait(self.name, timeout_seconds=timeout_seconds)
        return self

    @property
    def path(self) -> Path:
        self._elsewhere("its run directory", "look at it with logs() and summary")

    @property
    def summary(self) -> Mapping[str, Any]:
        """The job's main figures, as its status has them; empty before its end."""
        return self.view().summary

    @property
    def stopped(self) -> bool:
        """Whether the job is suspended."""
        return self.view().phase == "Suspended"

    @property
    def checkpoint(self) -> Path:
        self._elsewhere("its checkpoints", "mount the claim of spec.checkpoint, and give its path to the command line")

    @property
    def best_checkpoint(self) -> Path:
        self._elsewhere("its checkpoints", "mount the claim of spec.checkpoint, and use `--best` of the command line")

    def logs(self, role: str = "oracle", index: int = 0) -> Iterator[str]:
        """Lines of one process's log so far."""
        return self._client.logs(self.name, role=role, index=index)

    def plot(self) -> Picture:
        """As for a run on this machine, from the oracle's log."""
        return curves(list(self._records()), self.name)

    def report(self) -> str:
        """The summary as text, a figure a line."""
        return "\n".join([repr(self), *figure_lines(self.summary)])

    def _lines(self, event: str | None) -> Iterator[Record]:
        """Progress records of one kind of event, which the oracle prints in its log too."""
        for record in records_in(self.logs()):
            if "time" in record and record.get("event") == event:
                yield record

    def evaluate(self, test: Any = None, *, best: bool = False, **settings: Any) -> Mapping[str, Any]:
        """Not from here: the summary has the evaluation of the job's own test part."""
        remedy = (
            "summary['evaluation'] is of the job's test part; or mount their claim here, and use `bagpipe evaluate`"
        )
        self._elsewhere("its checkpoints", remedy)

    def predict(self, rows: Any, *, keep: str | Sequence[str] = (), best: bool = False) -> Any:
        """Not from here: mount the checkpoints' claim, and use `bagpipe predict`."""
        self._elsewhere("its checkpoints", "mount their claim here, and use `bagpipe predict`")

    def export(self, folder: str | Path, *, best: bool = False) -> Path:
        """Not from here: mount the checkpoints' claim, and use `bagpipe export`."""
        self._elsewhere("its checkpoints", "mount their claim here, and use `bagpipe export`")

    def suspend(self) -> "ClusterRun":
        """Stop at a checkpoint and free every pod; `resume()` goes on."""
        self._client.suspend(self.name)
        return self

    def resume(self, *, progress: bool = True, **settings: Any) -> "ClusterRun":
        """Let a suspended job go on.

        Raises:
            ConfigError: a setting is given: the settings of a job on a cluster are changed there.
        """
        if settings:
            raise ConfigError(
                f"resume: {next(iter(settings))}: a job on the cluster goes on as it is; change it with `kubectl edit`"
            )
        self._client.resume(self.name)
        return self

    def _elsewhere(self, what: str, remedy: str) -> NoReturn:
        raise ConfigError(
            f"job {self.name} is in namespace {self._client.namespace} of a cluster, and {what} with it; {remedy}"
        )
