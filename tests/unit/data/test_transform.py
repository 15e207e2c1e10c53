"""The transform is one value with a digest: saved, loaded, and the same wherever raw values become rows."""

import json

import numpy as np
import pytest

from bagpipe.data.transform import load_transform
from bagpipe.errors import CheckpointError


@pytest.mark.parametrize("settings", [{"hash_size": 50}, {"encoding": "vocabulary", "numeric_bins": "log-squared"}])
def test_a_loaded_transform_is_the_saved_one(settings, criteo_file, dataset, tmp_path):
    """The same digest and the same vocabularies, value by value."""
    saved = dataset(criteo_file, **settings).transform
    saved.save(tmp_path / "kept")
    loaded = load_transform(tmp_path / "kept")
    assert (loaded.info, loaded.digest) == (saved.info, saved.digest)
    for name, vocabulary in (saved.vocabularies or {}).items():
        assert loaded.vocabularies is not None
        assert np.array_equal(loaded.vocabularies[name].codes, vocabulary.codes)
        assert np.array_equal(loaded.vocabularies[name].counts, vocabulary.counts)
    assert (loaded.vocabularies is None) == (settings.get("encoding") != "vocabulary")


def test_the_digest_covers_what_was_stated_and_what_was_learned(criteo_file, criteo_lines, dataset, tmp_path):
    """Another setting or one more value changes it; another path or order of training does not."""
    first = dataset(criteo_file, encoding="vocabulary").transform.digest
    moved = tmp_path / "moved"
    moved.write_bytes(criteo_file.read_bytes())
    assert dataset(moved, encoding="vocabulary", shuffle="always").transform.digest == first
    digests = {first, dataset(criteo_file, encoding="vocabulary", min_count=2).transform.digest}
    moved.write_text(criteo_file.read_text() + criteo_lines(1, seed=9)[0] + "\n")
    digests |= {dataset(moved, encoding="vocabulary").transform.digest, dataset(moved).transform.digest}
    assert len(digests) == 4


@pytest.mark.parametrize("damage", ["bytes", "missing", "other", "version", "info"])
def test_a_damaged_transform_is_refused(damage, criteo_file, dataset, tmp_path):
    """One line that names the file; never other rows."""
    folder = tmp_path / "kept"
    dataset(criteo_file, encoding="vocabulary").transform.save(folder)
    info, vocabulary = folder / "transform.json", folder / "vocabulary.arrow"
    if damage == "bytes":
        vocabulary.write_bytes(vocabulary.read_bytes()[:-100])
    elif damage == "missing":
        vocabulary.unlink()
    elif damage == "other":
        dataset(criteo_file, encoding="vocabulary", min_count=2).transform.save(tmp_path / "second")
        (tmp_path / "second" / "vocabulary.arrow").replace(vocabulary)
    elif damage == "version":
        info.write_text(json.dumps(json.loads(info.read_text()) | {"version": 99}))
    else:
        info.write_text("{")
    with pytest.raises(CheckpointError, match=r"vocabulary.arrow|transform.json") as caught:
        load_transform(folder)
    assert "\n" not in str(caught.value)


def test_other_rows_are_encoded_by_the_kept_vocabulary(criteo_lines, make_kept, tmp_path):
    """Held-out lines get the rows of the training part's values, and row 0 for values that it did not have."""
    lines = criteo_lines(300, seed=4)
    train, test = tmp_path / "train", tmp_path / "test"
    train.write_text("\n".join(lines[:200]) + "\n")
    test.write_text("\n".join(lines[200:]) + "\n")
    kept, opened = make_kept(train, test, encoding="vocabulary")
    assert opened.transform is kept
    values = [[line.split("\t")[14 + t] for line in lines] for t in range(26)]
    keys = np.concatenate([b.sparse[0].keys_N.reshape(-1, 26) for b in opened.train_batches(16, epochs=1)])
    for t, (column, offset) in enumerate(zip(values, opened.layout.groups[0].offsets, strict=True)):
        ordered = sorted(set(column[:200]), key=lambda v: (-column[:200].count(v), v))
        assert keys[:, t].tolist() == [offset + (ordered.index(v) + 1 if v in ordered else 0) for v in column[200:]]
