"""What checkpoints keep of the data, in folders where others have files too."""

from pathlib import Path

from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER, link_kept
from bagpipe.checkpoint.places import reuse_prepared_data
from bagpipe.data.transform import INFO_FILE, VOCABULARY_FILE


def test_what_a_user_keeps_in_the_folder_of_the_transform_is_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    """A folder of their own there, and a file: both stay as they are, and the checkpoint is made."""
    kept, directory = tmp_path / FOLDER, tmp_path / "step-00000001"
    (kept / "my plots").mkdir(parents=True)
    directory.mkdir()
    for name in (FINGERPRINT_FILE, INFO_FILE, VOCABULARY_FILE, f".{INFO_FILE}.tmp", "notes.txt", "my plots/a.svg"):
        (kept / name).write_text(name)
    for _ in range(2):  # As after a process that was killed while it made the links.
        names = link_kept(tmp_path, directory)
    ours = [FINGERPRINT_FILE, INFO_FILE, VOCABULARY_FILE]
    assert names == [f"{FOLDER}/{name}" for name in ours]
    assert sorted(path.name for path in (directory / FOLDER).iterdir()) == ours
    assert (kept / "my plots" / "a.svg").read_text() == "my plots/a.svg" and (kept / "notes.txt").exists()


def test_a_folder_of_a_users_own_that_has_the_name_makes_nothing(tmp_path: Path) -> None:
    """Where nothing was kept, a checkpoint has no such folder."""
    (tmp_path / FOLDER / "mine").mkdir(parents=True)
    (tmp_path / "step-00000001").mkdir()
    assert link_kept(tmp_path, tmp_path / "step-00000001") == []
    assert list((tmp_path / "step-00000001").iterdir()) == []


def test_only_what_a_run_has_prepared_is_used_again(tmp_path: Path) -> None:
    """Beside checkpoints elsewhere a folder `data` is the user's, to which an evaluation or export writes nothing."""
    work, prepared = tmp_path / "work", tmp_path / "data"
    for name in ("work", "data/prepared-0123abcd", "data/.prepared-0123abcd.01234567", "data/raw"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("count-0123abcd.json", "clicks.csv"):
        (prepared / name).touch()
    reuse_prepared_data(tmp_path / "checkpoints" / "step-00000001", work)
    assert sorted(path.name for path in work.iterdir()) == ["count-0123abcd.json", "prepared-0123abcd"]
    (work / "prepared-new").mkdir()
    assert not (prepared / "prepared-new").exists()
