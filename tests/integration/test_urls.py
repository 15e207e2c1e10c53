"""Data behind a URL, from `run` to `predict`: the model is that of the same files on a disk, and so are the scores."""

import random
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.store import newest_complete
from bagpipe.config.document import Job
from bagpipe.testing.threads import run_in_threads
from bagpipe.trainer.predict import predict

ROWS, BAD = 240, 5
KINDS = ["csv", "parquet"]


class Ranges(SimpleHTTPRequestHandler):
    """Files of a folder as an object store gives them: whole, or a range of bytes."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not asked.startswith("bytes=") or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as two CSV files and two of Parquet, each kind in a folder, and one file more to score."""
    rng, folder = random.Random(7), tmp_path_factory.mktemp("disk")
    for name in ("part-1", "part-2", "new"):
        lines = [
            f"{rng.randrange(2)},u{rng.randrange(30)},i{rng.randrange(20)},{rng.random():.3f}" for _ in range(ROWS)
        ]
        where = folder if name == "new" else folder / "csv"
        for one in (where, folder / "parquet"):
            one.mkdir(exist_ok=True)
        if name == "new":
            lines.insert(BAD - 1, "1,u1")
        (where / f"{name}.csv").write_text("\n".join(["y,user,item,price", *lines]) + "\n")
        if name != "new":
            pq.write_table(
                csv.read_csv(where / f"{name}.csv"), folder / "parquet" / f"{name}.parquet", row_group_size=99
            )
    return folder


@pytest.fixture(scope="module", params=["memory", "file", "http"])
def url(request: pytest.FixtureRequest, disk: Path) -> Iterator[str]:
    """The same folder behind a URL."""
    if request.param == "file":
        yield f"file://{disk}"
    elif request.param == "memory":
        fsspec.filesystem("memory").put(str(disk), "/urls", recursive=True)
        yield "memory://urls"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(disk)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()


def trained(path: str, run_dir: Path) -> Path:
    """The last checkpoint of a short run."""
    columns = {
        "labels": [{"name": "y"}],
        "dense": [{"name": "price", "standardise": True}],
        "sparse": [{"name": "user"}, {"name": "item"}],
    }
    spec = {
        "model": {"name": "dlrm", "bottomMlp": [4], "overMlp": [4]},
        "data": {"path": path, "columns": columns, "testFraction": 0.2, "onBadLine": "skip"},
        "embedding": {"dim": 4},
        "batchSize": 32,
        "steps": 6,
        "trainers": {"device": "cpu", "threads": 1},
    }
    run_in_threads(msgspec.convert({"spec": spec}, Job), run_dir)
    found = newest_complete(run_dir / "checkpoints")
    assert found is not None
    return found


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def local(kind: str, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the files of the disk."""
    return trained(str(disk / kind), tmp_path_factory.mktemp("local") / "run")


def test_a_run_on_a_url_is_the_run_on_the_files(kind: str, local: Path, url: str, tmp_path: Path) -> None:
    """The same model to the bit, and the same scores of another file, whichever way it is read.

    Of a file with a malformed row, each score stands beside its own row's number and kept column.
    """
    found = trained(f"{url}/{kind}", tmp_path / "run")
    assert model_digest(found) == model_digest(local)
    for where, name in ((f"{url}/new.csv", "there"), (str(tmp_path / "new.csv"), "here")):
        if name == "here":
            fsspec.filesystem(url.partition(":")[0]).get(f"{url}/new.csv", where)
        assert predict(found, where, tmp_path / name, keep=["user"]).rows == ROWS
    there, here = (pq.read_table(tmp_path / name) for name in ("there", "here"))
    assert there.drop(["file"]).equals(here.drop(["file"]))
    assert there["file"][0].as_py().endswith("new.csv")
    lines = [line.split(",") for line in (tmp_path / "new.csv").read_text().splitlines()[1:]]
    rows = [(number, cells[1]) for number, cells in enumerate(lines, 1) if number != BAD]
    assert list(zip(there["row"].to_pylist(), there["user"].to_pylist(), strict=True)) == rows
