"""Kernels that came with an image reach the process once, and their absence stops nothing."""

from pathlib import Path

from bagpipe.cli.failures import failure_of
from bagpipe.lowlevel import kernel_cache
from bagpipe.lowlevel.kernel_cache import SOURCE, TARGET, choose_cache, unpack_kernels


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


def chosen(tmp_path, monkeypatch, **environment):
    """What `choose_cache` names where the installation cannot be written to."""
    monkeypatch.setattr(kernel_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    choose_cache(environment, tmp_path / "no such package")
    return environment.get(TARGET)


def test_an_installation_that_can_be_written_to_needs_no_other_place(tmp_path, monkeypatch):
    """numba keeps kernels beside their source, or in the user's cache, or where the user said."""
    choose_cache(environment := {}, tmp_path)
    assert environment == {}
    assert chosen(tmp_path, monkeypatch, XDG_CACHE_HOME=str(tmp_path / "cache")) is None
    assert chosen(tmp_path, monkeypatch, **{TARGET: "/elsewhere"}) == "/elsewhere"


def test_without_a_home_kernels_are_kept_in_a_temporary_folder_of_this_user_alone(tmp_path, monkeypatch):
    """The same one for every process; what others may write to, or made, is never used: it holds code that is run."""
    monkeypatch.setattr(kernel_cache.os.path, "expanduser", lambda path: path)
    first = chosen(tmp_path, monkeypatch)
    assert first is not None and Path(first).parent == tmp_path and Path(first).stat().st_mode & 0o777 == 0o700
    assert chosen(tmp_path, monkeypatch) == first
    for spoil in (lambda path: path.chmod(0o777), lambda path: (path.rmdir(), path.symlink_to(tmp_path))):
        spoil(Path(first))
        other = chosen(tmp_path, monkeypatch)
        assert other is not None and other != first and Path(other).stat().st_mode & 0o777 == 0o700


def test_without_a_temporary_folder_kernels_are_kept_in_memory(tmp_path, monkeypatch):
    """As in a container that is read-only; where that is missing too, numba is left to say so, and the user told."""
    monkeypatch.setattr(kernel_cache.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(kernel_cache, "SHARED_MEMORY", str(tmp_path / "memory"))
    for made in (False, True):
        if made:
            (tmp_path / "memory").mkdir()
        found = chosen(tmp_path / "missing", monkeypatch)
        assert (Path(found).parent if found else None) == (tmp_path / "memory" if made else None)
    failure = failure_of(RuntimeError("cannot cache function 'f': no locator available for file 'f.py'"))
    assert failure.code == 78 and "NUMBA_CACHE_DIR" in failure.message
