"""A fingerprint tells other data from the same data that was moved."""

import pytest

from bagpipe.data.files import find_files
from bagpipe.data.fingerprint import END_BYTES, difference, in_common, take_fingerprint

SIZE = 3 * END_BYTES


@pytest.fixture
def folder(tmp_path):
    """Three files of different rows."""
    for number in (1, 2, 3):
        (tmp_path / f"part_{number}").write_bytes(bytes([number]) * SIZE)
    return tmp_path


def taken(folder):
    return take_fingerprint(find_files(str(folder)))


def test_moved_or_renamed_data_is_the_same(folder, tmp_path_factory):
    """Names and times do not count; rows and order do."""
    before = taken(folder)
    other = tmp_path_factory.mktemp("other")
    for path in folder.iterdir():
        (other / path.name.replace("part", "day")).write_bytes(path.read_bytes())
    assert difference(before, taken(other)) is None
    assert difference(before, take_fingerprint(find_files(f"file://{folder}"))) is None


def change_first(path):
    path.write_bytes(b"x" + path.read_bytes()[1:])


def change_last(path):
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def swap(folder):
    (folder / "part_1").rename(folder / "x")
    (folder / "part_2").rename(folder / "part_1")
    (folder / "x").rename(folder / "part_2")


CHANGES = {
    "shorter": (lambda f: (f / "part_2").write_bytes(b"\2" * (SIZE - 1)), "part_2 is shorter than it was: 196,607 "),
    "longer": (lambda f: (f / "part_2").write_bytes(b"\2" * (SIZE + 1)), "part_2 is longer than it was"),
    "first row": (lambda f: change_first(f / "part_3"), "part_3 holds other rows"),
    "last row": (lambda f: change_last(f / "part_1"), "part_1 holds other rows"),
    "swapped": (swap, "part_1 holds other rows"),
    "one more": (lambda f: (f / "part_4").write_bytes(b"\4"), "part_4 is new: 4 files, there were 3"),
    "one less": (lambda f: (f / "part_3").unlink(), "part_3 is missing: 2 files, there were 3"),
}


def test_another_file_in_its_place_is_named(folder):
    """A file that took another one's place is not said to have changed its size: both are named."""
    before = taken(folder)
    (folder / "part_3").unlink()
    (folder / "part_9").write_bytes(b"9")
    said = difference(before, taken(folder))
    assert "part_9 is shorter than " in said and "part_3, on which the model was trained: 1 bytes, and 196,608" in said


@pytest.mark.parametrize("name", CHANGES)
def test_other_data_is_told_by_its_first_file(name, folder):
    """Each change is seen, and the message names the file and what is other about it."""
    before = taken(folder)
    change, words = CHANGES[name]
    change(folder)
    assert words in str(difference(before, taken(folder)))


def test_files_in_common_are_found_wherever_they_lie(folder, tmp_path_factory):
    """One of the training files among others, under another name."""
    before = taken(folder)
    other = tmp_path_factory.mktemp("other")
    (other / "a").write_bytes(b"a" * SIZE)
    (other / "b").write_bytes((folder / "part_2").read_bytes())
    assert in_common(before, taken(other)) == (str(other / "b"),)
