"""Bagpipe itself: the commands `bagpipe oracle|server|trainer`, as a cluster starts them, each on its own link.

It reads the stream as prepared Parquet, so its oracle pays for reading, planning and sending examples; peers
have theirs in memory. `ours-uncached` is the same with lookahead 0: every row fetched and written back each step.
`ours-auto` chooses lookahead and cache itself; a setting's lookahead is the longest it may choose.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.data.prepared import ROW_GROUP, VERSION, PreparedInfo, PreparedTable, Recipe
from peers import workload
from peers.contender import METRICS, trainers_and_servers, whole_lines
from peers.planned import planned_bytes
from peers.setting import Setting

PORT = 29_510


class Ours:
    """Our system, cached or not."""

    def __init__(self, name: str, label: str, *, cached: bool = True, automatic: bool = False) -> None:
        self.name, self.label, self.looks_ahead, self._automatic = name, label, cached, automatic
        self._data = Path()

    def roles(self, setting: Setting) -> Sequence[str]:
        return ["oracle", *trainers_and_servers(setting, servers=True)]

    def prepare(self, setting: Setting, cache: Path) -> None:
        self._data = cache / f"stream-{_digest(setting)}"
        if not (self._data / "tables.json").exists():
            write_stream(setting, self._data)
        if self.looks_ahead:
            self.planned(setting)

    def planned(self, setting: Setting) -> dict[str, int]:
        """The planner's own lower bound of bytes; computed once for a stream, before any clock starts."""
        shape = (setting.dim, setting.lookahead, setting.cache_rows, setting.servers)
        file = self._data.with_suffix(f".planned-{hashlib.sha256(repr(shape).encode()).hexdigest()[:8]}.json")
        if not file.exists():
            file.write_text(json.dumps(planned_bytes(setting, self._data)))
        return json.loads(file.read_text())

    def command(self, setting: Setting, role: str, addresses: Mapping[str, str], directory: Path) -> list[str]:
        job = directory / "job.json"
        if not job.exists():
            # JSON is YAML too.
            job.write_text(json.dumps(self._job(setting), indent=1))
        kind, _, number = role.partition(" ")
        oracle, own = (f"tcp://{addresses[name]}:{PORT}" for name in ("oracle", role))
        command = [sys.executable, "-m", "bagpipe", kind, "--job", str(job), "--run-dir", str(directory), "--bind", own]
        if kind == "oracle":
            return command
        return [*command, "--oracle", oracle, "--shard" if kind == "server" else "--rank", number]

    def step_seconds(self, setting: Setting, directory: Path) -> list[float]:
        """From the oracle's records: it writes one when every trainer has finished the step."""
        file = directory / METRICS
        if not file.exists():
            return []
        records = [json.loads(line) for line in whole_lines(file)]
        examples = setting.batch * setting.trainers
        return [examples / r["examples_per_second"] for r in records if r.get("examples_per_second")]

    def waits(self, directory: Path, first: int) -> dict[str, float]:
        """Milliseconds a step and trainer waited for what, from step `first` on."""
        records = [json.loads(line) for line in whole_lines(directory / METRICS)]
        steps = [r["waits"] for r in records if r.get("step", 0) > first and "waits" in r]
        names = sorted({name for waits in steps for name in waits})
        return {name: round(1e3 * sum(w.get(name, 0.0) for w in steps) / len(steps), 2) for name in names}

    def _job(self, setting: Setting) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "model": {
                "name": "dlrm",
                "bottomMlp": list(workload.BOTTOM_MLP),
                "overMlp": list(workload.OVER_MLP),
            },
            "data": {"path": str(self._data), "format": "parquet"},
            "embedding": {"dim": setting.dim, "optimizer": {"name": "sgd", "lr": setting.lr}},
            "optimizer": {"name": "sgd", "lr": setting.lr},
            "batchSize": setting.batch * setting.trainers,
            "steps": setting.stream_steps,
            "lookahead": "auto" if self._automatic else setting.lookahead if self.looks_ahead else 0,
            "logEvery": 1,
            "servers": {"replicas": setting.servers},
            "trainers": {"replicas": setting.trainers, "device": "cpu", "threads": 1},
        }
        if setting.cache_rows is not None:
            spec["cacheRows"] = setting.cache_rows
        return {
            "apiVersion": "bagpipe.dev/v1alpha1",
            "kind": "BagpipeJob",
            "metadata": {"name": "peers"},
            "spec": spec,
        }


def write_stream(setting: Setting, folder: Path) -> None:
    """The setting's whole stream as prepared Parquet, in row groups as `bagpipe data prepare` writes them."""
    tables = tuple(PreparedTable(f"C{i}", n, (f"C{i}",)) for i, n in enumerate(workload.TABLE_ROWS, 1))
    dense = tuple(f"I{i}" for i in range(1, workload.NUM_DENSE + 1))
    info = PreparedInfo(VERSION, 1, dense, False, tables, Recipe("benchmark", "ids", 1, 1, "none", 0.0, "fail"))
    schema = info.arrow_schema()
    draft = folder.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with pq.ParquetWriter(draft / "part-00000.parquet", schema, compression="NONE", use_dictionary=False) as writer:
        held: list[pa.Table] = []
        for step in range(setting.stream_steps):
            batch = workload.global_batch(setting, step)
            columns = [batch.labels_B1[:, 0], *batch.dense_BF.T, *batch.rows_TB]
            arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
            held.append(pa.Table.from_arrays(arrays, schema=schema))
            if sum(table.num_rows for table in held) >= ROW_GROUP or step == setting.stream_steps - 1:
                writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=ROW_GROUP)
                held = []
    (draft / "tables.json").write_bytes(msgspec.json.encode(info))
    draft.rename(folder)


def _digest(setting: Setting) -> str:
    """Of what the stream depends on."""
    shape = (
        ROW_GROUP,
        setting.trainers,
        setting.batch,
        setting.alpha,
        setting.seed,
        setting.stream_steps,
        setting.clicks,
    )
    return hashlib.sha256(repr(shape).encode()).hexdigest()[:12]
