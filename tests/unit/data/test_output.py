"""`--overwrite` deletes what `bagpipe data prepare` wrote, and nothing else, ever."""

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from bagpipe.config.document import DataConfig
from bagpipe.data.output import going_on, made_once, replacing
from bagpipe.data.paper_formats import write_paper_format
from bagpipe.data.prepare import prepare
from bagpipe.errors import BagpipeError, ConfigError


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def write(criteo_file):
    """Prepare as Parquet with a vocabulary, or in one of the paper's formats."""

    def make(kind, out, source=criteo_file):
        data = DataConfig(path=str(source), format="criteo-tsv", encoding="vocabulary")
        if kind == "parquet":
            prepare(data, out, overwrite=True)
        else:
            write_paper_format(data, kind, out, overwrite=True)

    return make


@pytest.mark.parametrize("way", [replacing, partial(going_on, digest="ab")])
def test_a_link_stays_one(way, tmp_path):
    """What it points to is made, and then replaced; it became a folder, and what it pointed to stayed as it was."""
    (tmp_path / "link").symlink_to("real")
    for content in ("made", "replaced"):
        with way(tmp_path / "link", overwrite=content == "replaced") as folder:
            (folder / "part").write_text(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "part").read_text() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("way", [replacing, partial(going_on, digest="ab")])
@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_what_was_there_stays_where_nothing_takes_its_place(way, fault, tmp_path, monkeypatch):
    """The old folder is moved out of the way before the new one takes its name, and was deleted if that failed."""
    out, rename = tmp_path / "out", Path.rename
    with way(out, overwrite=False) as folder:
        (folder / "part").write_text("old")

    def fail(source, target):
        if target == out and (source / "part").read_text() == "new":
            raise fault
        return rename(source, target)

    def replace():
        with way(out, overwrite=True) as folder:
            (folder / "part").write_text("new")
            monkeypatch.setattr(Path, "rename", fail)

    with pytest.raises((BagpipeError, OSError, KeyboardInterrupt)):
        replace()
    assert tree(out) == {"part": b"old"}
    assert not list(tmp_path.glob(".out.old.*"))


@pytest.mark.parametrize("refused_twice", [False, True])
def test_what_was_there_is_never_deleted_before_the_new_folder_has_its_name(refused_twice, tmp_path, monkeypatch):
    """Neither by an interruption right after it was moved out of the way, nor where it cannot be moved back."""
    out, rename = tmp_path / "out", Path.rename
    with replacing(out, overwrite=False) as folder:
        (folder / "part").write_text("old")

    def fail(source, target):
        if refused_twice and target == out:
            raise OSError(errno.EIO, "Input/output error")
        done = rename(source, target)
        if source == out:
            raise KeyboardInterrupt
        return done

    def replace():
        with replacing(out, overwrite=True) as folder:
            (folder / "part").write_text("new")
            monkeypatch.setattr(Path, "rename", fail)

    with pytest.raises((BagpipeError, KeyboardInterrupt)):
        replace()
    left = [p.read_bytes() for p in tmp_path.rglob("part")]
    assert left == [b"old"] and out.exists() != refused_twice


@pytest.mark.parametrize("way", [replacing, partial(going_on, digest="ab")])
def test_what_another_process_has_made_meanwhile_stays(way, tmp_path):
    """It was not there when it was looked for, and nobody has allowed to replace it: one line, and nothing is left."""
    out = tmp_path / "out"

    def be_second():
        with way(out, overwrite=False) as folder:
            (folder / "part").write_text("second")
            out.mkdir()
            (out / "part").write_text("first")

    with pytest.raises(ConfigError, match="out: was made by another process meanwhile"):
        be_second()
    assert tree(tmp_path) == {"out/part": b"first"} and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", ["parquet", "kaggle-json"])
@pytest.mark.parametrize("name", ["notes.txt", "part-00001.parquet", "sub/more.txt", ".hidden", "_transform2"])
def test_a_folder_with_anything_of_others_stays_as_it_is(kind, name, write, tmp_path):
    """In a folder that Bagpipe did write, too: refused by the name of what is not ours, nothing changed."""
    out = tmp_path / "out"
    write(kind, out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("important")
    before = tree(tmp_path)
    with pytest.raises(
        ConfigError, match=rf"out: holds {name.split('/')[0]}, which bagpipe did not write.*Nothing was"
    ):
        write(kind, out)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["parquet", "kaggle-json"])
def test_the_data_that_is_read_is_never_replaced(kind, write, tmp_path, criteo_file, monkeypatch):
    """Not as `OUT`, not as `.`, not as the file itself."""
    folder = tmp_path / "raw"
    folder.mkdir()
    source = folder / "train.txt"
    source.write_bytes(criteo_file.read_bytes())
    for out, message in ((folder, "holds .*train.txt, which is being read"), (source, "is a file")):
        with pytest.raises(ConfigError, match=message):
            write(kind, out, source)
    monkeypatch.chdir(folder)
    from pathlib import Path

    with pytest.raises(ConfigError, match="which is being read"):
        write(kind, Path(), source)
    assert tree(folder) == {"train.txt": criteo_file.read_bytes()}
    assert os.listdir(folder) == ["train.txt"]


@pytest.mark.parametrize("kind", ["parquet", "kaggle-json"])
def test_what_bagpipe_wrote_is_replaced_whole(kind, write, tmp_path):
    """Twice the same gives the same folder, and nothing beside it."""
    out = tmp_path / "place" / "out"
    write(kind, out)
    first = tree(out)
    write(kind, out)
    assert tree(out) == first
    assert os.listdir(out.parent) == ["out"]


def test_a_failure_leaves_the_old_folder(write, tmp_path, criteo_file):
    """Replacing begins when the new folder is whole."""
    out = tmp_path / "out"
    write("parquet", out)
    before = tree(out)
    criteo_file.write_text(criteo_file.read_text() + "oops\n")
    with pytest.raises(Exception, match="expected 40"):
        write("parquet", out)
    assert tree(out) == before


def test_folders_of_the_old_layout_may_be_replaced(write, tmp_path):
    """`tables.json`, `_vocabulary.parquet` and `_transform/` beside our parts are ours."""
    out = tmp_path / "out"
    write("parquet", out)
    (out / "_transform").mkdir()
    (out / "_transform" / "transform.json").write_text("{}")
    (out / "tables.json").write_text("{}")
    (out / "_vocabulary.parquet").write_text("")
    write("parquet", out)
    assert sorted(os.listdir(out)) == ["part-00000.parquet"]


def test_of_two_that_make_the_same_folder_the_first_stays(tmp_path):
    """Neither writes where the other does, both find it whole, and no draft is left over; nor is one of a failure."""
    folder = tmp_path / "prepared"
    with made_once(folder, "part") as first, made_once(folder, "part") as second:
        assert first is not None and second is not None and first != second
        for draft, content in ((first, "first"), (second, "second")):
            draft.mkdir()
            (draft / "part").write_text(content)
    # The inner one ended first.
    assert (folder / "part").read_text() == "second" and os.listdir(tmp_path) == ["prepared"]
    with made_once(folder, "part") as again:
        assert again is None
    with pytest.raises(KeyboardInterrupt), made_once(tmp_path / "other", "part") as draft:  # noqa: PT012
        draft.mkdir()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["prepared"]
