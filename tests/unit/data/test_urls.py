"""Any URL that fsspec opens stands where a path does: init, preparing, training, encoding rows to predict."""

from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bagpipe import Transform
from bagpipe.cli.main import app
from bagpipe.config.load import parse_job
from bagpipe.data.dataset import open_dataset
from bagpipe.data.prepare import prepare
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import ConfigError

ROWS = 60


def lines(start: int) -> str:
    return "click,item,price\n" + "".join(f"{i % 2},i{i % 7},{i % 5}.5\n" for i in range(start, start + ROWS // 2))


@pytest.fixture(params=["memory://own/logs", "file://{}/logs"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of two files, and notes beside them."""
    where = str(request.param).format(tmp_path)
    system, root = fsspec.url_to_fs(where)
    system.makedirs(root, exist_ok=True)
    for name, text in (("part-1.csv", lines(0)), ("part-2.csv", lines(ROWS // 2)), ("README.md", "notes")):
        system.pipe(f"{root}/{name}", text.encode())
    return where


@pytest.mark.parametrize("of", ["{}", "{}/*.csv", "{}/part-1.csv"])
def test_a_url_is_described_prepared_trained_on_and_encoded(of: str, url: str, tmp_path: Path) -> None:
    """A folder, a pattern, a file: what init writes is read, and other rows behind a URL are encoded alike."""
    path = of.format(url)
    rows = ROWS // 2 if path.endswith("part-1.csv") else ROWS
    found = suggest_job(path)
    spec = parse_job(found.text, "job.yaml").spec
    assert spec.data.path == path
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")
    assert (dataset.num_train_examples, dataset.num_test_examples) == (rows * 9 // 10, rows // 10)
    batch = next(iter(dataset.train_batches(7, epochs=1)))
    done = prepare(spec.data, tmp_path / "out")
    assert (done.examples, pq.read_table(done.folder).num_rows) == (rows, rows)
    dataset.transform.save(tmp_path / "kept")
    encoded = Transform.load(tmp_path / "kept").encode(f"{url}/part-1.csv")
    (group,) = dataset.layout.groups
    keys = batch.sparse[0].keys_N.reshape(7, -1)
    for place, name in enumerate(group.feature_names):
        offset = group.offsets[[t.feature_names[0] for t in group.tables].index(name)]
        assert encoded.features[name].rows[:7].tolist() == (keys[:, place] - offset).tolist()


def test_a_store_without_its_package_names_it() -> None:
    """One line that says what to install."""
    with pytest.raises(ConfigError, match=r"gs://b/logs: this kind of URL cannot be opened \(.*gcsfs") as caught:
        suggest_job("gs://b/logs")
    assert "\n" not in str(caught.value)


def test_raw_logs_behind_a_url_are_prepared_by_the_command(criteo_file: Path, tmp_path: Path) -> None:
    """As they are, without a job file."""
    done = CliRunner().invoke(app, ["data", "prepare", f"file://{criteo_file}", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "out").num_rows == 200
