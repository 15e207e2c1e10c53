"""Do the original's flags mean what they meant, and does a useless one say that it is?"""

from pathlib import Path

import pytest

from bagpipe.errors import ConfigError, DataError
from bagpipe.paper.flags import KAGGLE_TABLES, read_table_sizes
from bagpipe.paper.kinds import CASER, DEEPFM, DLRM, FGCNN, WDL
from bagpipe.paper.oracle import job_of
from bagpipe.paper.oracle import parser as oracle_parser
from bagpipe.paper.server import parser as server_parser
from bagpipe.paper.trainer import parser as trainer_parser

REQUIRED = "--cache-size 9 --worker-id 1 --world-size 4 --dist-worker-id 0 --world-size-trainers 2 --dist-master-ip h"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "kaggle_criteo_weekly.txt"
    path.write_text('{"label": 1.0, "dense": [0.5], "sparse": [' + ", ".join("0" * 26) + "]}\n")
    return path


def test_defaults_of_the_original() -> None:
    """As the paper's code has them."""
    trainer = trainer_parser(DLRM).parse_args(REQUIRED.split())
    assert (trainer.emb_size, trainer.lookahead_value, trainer.device, trainer.dist_backend) == (48, 200, "cpu", "gloo")
    assert (trainer.master_ip, trainer.master_port, trainer.master_port_ccom) == ("localhost", 18000, 9988)
    assert (trainer.stop_iter, trainer.logging_prefix, trainer.loss_function) == (1000, "test", "bce")
    assert trainer_parser(CASER).parse_args(REQUIRED.split()).emb_size == 50
    assert trainer_parser(WDL).parse_args(REQUIRED.split()).dense_size == 13
    server = server_parser().parse_args(["--worker-id", "3", "--world-size", "4"])
    assert (server.emb_size, server.master_ip, server.master_port) == (48, "localhost", 18000)
    oracle = oracle_parser().parse_args(["--processed-csv", "f", "--world-size", "4", "--world-size-trainers", "2"])
    assert (oracle.lookahead_value, oracle.mini_batch_size, oracle.stop_iter) == (200, 1, 2000)
    assert oracle.log_file_path == Path("oracle_cacher.log")


def test_prefixes_are_understood() -> None:
    """The paper writes --lookahead-val; a shorter one will do as well."""
    assert trainer_parser(DLRM).parse_args(f"{REQUIRED} --lookahead-val 7".split()).lookahead_value == 7
    assert trainer_parser(DLRM).parse_args(f"{REQUIRED} --lookahead 8".split()).lookahead_value == 8


def test_a_flag_without_effect_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Each says why; what is not given says nothing."""
    trainer_parser(DLRM).parse_args(f"{REQUIRED} --cleanup-batch-proportion 0.5 --delay-emb-sync --s3".split())
    told = capsys.readouterr().err
    for flag in ("--cleanup-batch-proportion", "--delay-emb-sync", "--s3"):
        assert f"note: {flag} has no effect: " in told
    trainer_parser(DLRM).parse_args(REQUIRED.split())
    assert capsys.readouterr().err == ""


def test_the_batch_is_global(data: Path) -> None:
    """The oracle's batch size is that of the job, and every trainer must get as much as the others."""
    arguments = f"--processed-csv {data} --world-size 5 --world-size-trainers 2 --mini-batch-size"
    job = job_of(oracle_parser().parse_args(f"{arguments} 4096".split()))
    assert (job.spec.batch_size, job.spec.trainers.replicas, job.spec.servers.replicas) == (4096, 2, 2)
    assert tuple(t.num_embeddings for t in job.spec.embedding.tables) == KAGGLE_TABLES
    with pytest.raises(ConfigError, match="is the global batch, which 2 trainers share equally"):
        job_of(oracle_parser().parse_args(f"{arguments} 4097".split()))


def test_lookahead_one_is_the_baseline(data: Path) -> None:
    """The original's word for no cache."""
    arguments = f"--processed-csv {data} --world-size 3 --world-size-trainers 1 --lookahead-value"
    assert job_of(oracle_parser().parse_args(f"{arguments} 1".split())).spec.lookahead == 0
    assert job_of(oracle_parser().parse_args(f"{arguments} 200".split())).spec.lookahead == 200


def test_worlds_that_do_not_add_up(data: Path) -> None:
    """Somebody must be a server; an id lies in the world; sizes are as many as features."""
    base = f"--processed-csv {data}"
    with pytest.raises(ConfigError, match="--world-size counts them all"):
        job_of(oracle_parser().parse_args(f"{base} --world-size 3 --world-size-trainers 2 --mini-batch-size 2".split()))
    with pytest.raises(ConfigError, match="--worker-id 4: expected 0 to 2"):
        job_of(oracle_parser().parse_args(f"{base} --world-size 3 --world-size-trainers 1 --worker-id 4".split()))
    with pytest.raises(ConfigError, match="needs the sizes of 26 tables, but 2 were given"):
        job_of(oracle_parser().parse_args(f"{base} --world-size 3 --world-size-trainers 1 --ln-emb 5-6".split()))


def test_a_folder_is_its_part_files(tmp_path: Path, data: Path) -> None:
    """All of them, or the first so many; the file of sizes beside them is no data."""
    for number in range(11):
        (tmp_path / f"part_{number}.txt").write_text(data.read_text())
    data.unlink()
    (tmp_path / "emb_table_info.txt").write_text("5\n" * 26)
    base = f"--processed-csv {tmp_path} --world-size 3 --world-size-trainers 1"
    everything = job_of(oracle_parser().parse_args(base.split()))
    assert everything.spec.data.path == str(tmp_path / "part_*.txt")
    two = job_of(oracle_parser().parse_args(f"{base} --dataset-multi-num 2".split()))
    assert two.spec.data.path == (str(tmp_path / "part_0.txt"), str(tmp_path / "part_1.txt"))


def test_table_sizes_of_a_file(tmp_path: Path) -> None:
    """One a line; a line that is none is named."""
    path = tmp_path / "emb_table_info.txt"
    path.write_text("5\n\n 7 \n")
    assert read_table_sizes(path) == (5, 7)
    path.write_text("5\nmany\n")
    with pytest.raises(DataError, match=r"emb_table_info.txt:2: expected the number of a table's rows, found 'many'"):
        read_table_sizes(path)
    with pytest.raises(DataError, match="No such file"):
        read_table_sizes(tmp_path / "absent.txt")


def test_layers_become_models() -> None:
    """The layers of the flags are the model's, without what the data and the width give."""
    flags = "--arch-mlp-top 1024-512-256-1 --arch-mlp-bot 13-1024-1024-512-256-64-48"
    dlrm = DLRM.model(trainer_parser(DLRM).parse_args(f"{REQUIRED} {flags}".split()))
    assert (dlrm.bottom_mlp, dlrm.over_mlp) == ((1024, 1024, 512, 256, 64), (1024, 512, 256))
    wrong = trainer_parser(DLRM).parse_args(f"{REQUIRED} --arch-mlp-bot 13-8-16".split())
    with pytest.raises(ConfigError, match="end with --emb-size 48, found 13-8-16"):
        DLRM.model(wrong)
    with pytest.raises(ConfigError, match="the data has 5 dense features"):
        DLRM.check(trainer_parser(DLRM).parse_args(REQUIRED.split()), 5)
    fgcnn = FGCNN.model(trainer_parser(FGCNN).parse_args(f"{REQUIRED} --filter-range 0-3".split()))
    assert fgcnn.filter_range == "0-3" and fgcnn.over_mlp == (4096, 2048, 1024, 512)
    assert DEEPFM.row_width(48) == 49 and CASER.tables((5, 7)) == (5, 7, 7)
