"""Kernels that came with an image reach the process once, and their absence stops nothing."""

from bagpipe.lowlevel.kernel_cache import SOURCE, TARGET, unpack_kernels


def test_kernels_are_copied_once(tmp_path):
    """The first process copies them whole; what a later one compiled itself is not overwritten."""
    source, target = tmp_path / "image", tmp_path / "numba"
    (source / "oracle").mkdir(parents=True)
    (source / "oracle" / "plan.nbi").write_bytes(b"compiled")
    environment = {SOURCE: str(source), TARGET: str(target)}
    unpack_kernels(environment)
    assert (target / "oracle" / "plan.nbi").read_bytes() == b"compiled"
    (target / "oracle" / "plan.nbi").write_bytes(b"newer")
    unpack_kernels(environment)
    assert (target / "oracle" / "plan.nbi").read_bytes() == b"newer"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "numba"]


def test_nothing_to_copy_and_nowhere_to_write_stop_nothing(tmp_path):
    """Outside an image, and on a disk that refuses, a process compiles for itself."""
    unpack_kernels({})
    unpack_kernels({SOURCE: str(tmp_path / "missing"), TARGET: str(tmp_path / "numba")})
    (tmp_path / "image").mkdir()
    (tmp_path / "file").touch()
    unpack_kernels({SOURCE: str(tmp_path / "image"), TARGET: str(tmp_path / "file" / "numba")})
    assert not (tmp_path / "numba").exists()
