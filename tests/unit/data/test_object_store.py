"""`s3://` against a server that speaks S3: found, read, prepared, and refused in one line."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from bagpipe.config.load import parse_job
from bagpipe.data.files import find_files, read_head
from bagpipe.data.prepare import prepare
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import DataError, StorageError

KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}


def lines(start: int, count: int = 30) -> bytes:
    rows = (f"{i % 2},i{i % 7},{i % 5}.5\n" for i in range(start, start + count))
    return ("click,item,price\n" + "".join(rows)).encode()


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where an object store without a bucket answers, as the environment says it to every program."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    yield f"http://{host}:{port}"
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    server.stop()


@pytest.fixture
def bucket(address: str) -> Any:
    """A function that puts objects into the bucket `clicks`."""
    client = boto3.client("s3", endpoint_url=address, config=Config(s3={"addressing_style": "path"}))
    client.create_bucket(Bucket="clicks")
    return lambda name, data: client.put_object(Bucket="clicks", Key=name, Body=data)


def test_a_folder_of_objects_is_described_and_prepared(bucket: Any, tmp_path: Path) -> None:
    """What lies below a prefix is read as files of a folder are, without what is hidden or no data."""
    for name in ("2026/part-1.csv", "2026/README.md", "2026/_tmp/part-0.csv", "2025/part-1.csv"):
        bucket(name, lines(0))
    bucket("2026/part-10.csv", lines(60))
    bucket("2026/part-2.csv", lines(30))
    found = [file.name for file in find_files("s3://clicks/2026/")]
    assert found == [f"s3://clicks/2026/part-{n}.csv" for n in (1, 2, 10)]
    spec = parse_job(suggest_job("s3://clicks/2026/").text, "job.yaml").spec
    done = prepare(spec.data, tmp_path / "out")
    assert done.examples == pq.read_table(done.folder).num_rows == 90


@pytest.mark.parametrize(
    "url", ["s3://clicks/2026/a b#c%d.csv", "s3a://clicks/2026/a b#c%d.csv", "s3://clicks/*/*.csv"]
)
def test_any_name_of_an_object_is_a_path(bucket: Any, url: str) -> None:
    """`#`, `%` and spaces are characters like others, and a pattern is one across folders."""
    bucket("2026/a b#c%d.csv", lines(0))
    (file,) = find_files(url)
    assert file.size == len(lines(0)) and read_head(file, 16) == lines(0)[:16]


def test_an_object_that_changes_has_another_stamp(bucket: Any) -> None:
    """Kept data are made anew when an object was replaced."""
    bucket("a.csv", lines(0))
    (before,) = find_files("s3://clicks/a.csv")
    bucket("a.csv", lines(1, 31))
    (after,) = find_files("s3://clicks/a.csv")
    assert (before.size, before.stamp) != (after.size, after.stamp)


@pytest.mark.parametrize("url", ["s3://clicks/none.csv", "s3://clicks/none/", "s3://none/a.csv"])
def test_what_is_not_there_is_the_datas_error(bucket: Any, url: str) -> None:
    """One line with the URL; an empty prefix has no files."""
    with pytest.raises(DataError, match=url) as caught:
        find_files(url)
    assert "\n" not in str(caught.value)


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused ends as storage that fails, with the URL, after a few tries."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"s3://clicks/a\.csv") as caught:
        find_files("s3://clicks/a.csv")
    assert "\n" not in str(caught.value)
