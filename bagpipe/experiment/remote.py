"""Jobs of an experiment as BagpipeJobs on a cluster: submit, wait, collect logs, delete."""

from collections.abc import Callable
from pathlib import Path

from bagpipe.client.answers import ClusterError, JobNotFound
from bagpipe.client.jobs import BagpipeClient, JobView
from bagpipe.config.load import dump_job
from bagpipe.errors import BagpipeError
from bagpipe.experiment.session import Note, signals_wait
from bagpipe.experiment.suite import LABEL, Case


class ClusterRunner:
    """One experiment's jobs in one namespace."""

    def __init__(
        self,
        client: BagpipeClient,
        experiment: str,
        note: Note,
        *,
        keep: bool,
        timeout_seconds: float,
        on_change: Callable[[JobView], None] | None = None,
    ) -> None:
        """`keep`: jobs stay on the cluster when they have ended."""
        self._client, self._experiment, self._note, self._keep = client, experiment, note, keep
        self._timeout_seconds, self._on_change = timeout_seconds, on_change

    def run(self, case: Case, directory: Path) -> Path:
        directory.mkdir(parents=True)
        job_file = directory / "job.yaml"
        job_file.write_text(dump_job(case.job), encoding="utf-8")
        name = self._client.submit(job_file)
        try:
            self._client.wait(name, timeout_seconds=self._timeout_seconds, on_change=self._on_change)
        finally:
            with signals_wait(self._note):
                self._collect(case, name, directory)
                self._delete(name)
        return directory / "logs" / "oracle-0.log"

    def close(self) -> None:
        """Delete by label: also a job whose submission was interrupted before its answer came."""
        if self._keep:
            return
        try:
            left = [v.name for v in self._client.list() if _label(v) == self._experiment]
        except ClusterError as error:
            self._note(f"jobs with the label {LABEL}={self._experiment} may be left on the cluster: {error}")
            return
        for name in left:
            self._delete(name)

    def _collect(self, case: Case, name: str, directory: Path) -> None:
        """Fetch every process's log; one that cannot be fetched is only noted, so that the job's own error is kept."""
        logs = directory / "logs"
        logs.mkdir(exist_ok=True)
        spec = case.job.spec
        processes = [
            ("oracle", 0),
            *(("server", i) for i in range(spec.servers.replicas)),
            *(("trainer", i) for i in range(spec.trainers.replicas)),
        ]
        for role, index in processes:
            try:
                with (logs / f"{role}-{index}.log").open("w", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in self._client.logs(name, role=role, index=index))
            except BagpipeError as error:
                self._note(f"  no log of {role} {index}: {error}")

    def _delete(self, name: str) -> None:
        if self._keep:
            return
        try:
            self._client.delete(name)
        except JobNotFound:
            pass  # somebody was faster
        except ClusterError as error:
            self._note(f"job {name} may be left on the cluster: {error}")


def _label(view: JobView) -> str | None:
    labels = view.raw["metadata"].get("labels") or {}
    return labels.get(LABEL)
