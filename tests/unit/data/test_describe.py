"""`describe` counts what a `Counter` counts, from raw text and from prepared Parquet."""

from collections import Counter

import pytest

from bagpipe.config.document import DataConfig
from bagpipe.data.describe import describe
from bagpipe.data.prepare import prepare


def test_describe_counts_values_skew_and_bad_lines(criteo_file):
    """Distinct values, missing ones, values seen once, the top 1 % of values; bad lines never end it."""
    criteo_file.write_text(criteo_file.read_text() + "oops\n")
    found = describe(DataConfig(path=str(criteo_file)))
    rows = [line.split("\t") for line in criteo_file.read_text().splitlines()[:200]]
    assert (found.examples, found.bad_lines, found.num_dense, found.format) == (200, 1, 13, "criteo-tsv")
    assert found.mean_label == pytest.approx(sum(int(r[0]) for r in rows) / 200)
    for t, feature in enumerate(found.features):
        counts = Counter(r[14 + t] for r in rows)
        assert (feature.name, feature.lookups, feature.distinct) == (f"C{t + 1}", 200, len(counts))
        assert (feature.missing, feature.once) == (counts[""], sum(n == 1 for n in counts.values()))
        top = sorted(counts.values(), reverse=True)[: max(1, len(counts) // 100)]
        assert feature.top_share == pytest.approx(sum(top) / 200)
        assert counts[feature.most_frequent.replace("(missing)", "")] == max(counts.values())
    text = str(found)
    assert "examples    200   bad lines 1" in text
    assert "train.txt:201: expected 40 tab-separated fields, found 1" in text
    assert len(text.splitlines()) == 4 + 1 + 1 + 26


@pytest.mark.parametrize("kind", ["criteo_file", "ragged_file"])
def test_prepared_data_has_the_same_description(kind, request, tmp_path):
    """With a vocabulary of everything, the counts survive preparation."""
    raw = DataConfig(path=str(request.getfixturevalue(kind)), encoding="vocabulary")
    before = describe(raw)
    after = describe(DataConfig(path=str(prepare(raw, tmp_path / "out").folder)))
    assert (after.examples, after.num_labels, after.jagged) == (before.examples, before.num_labels, before.jagged)
    assert [(f.name, f.lookups, f.distinct, f.once, f.top_share) for f in after.features] == [
        (f.name, f.lookups, f.distinct, f.once, f.top_share) for f in before.features
    ]
