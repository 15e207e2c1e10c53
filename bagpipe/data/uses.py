"""What a column that nobody described is good for: a number, a category, or nothing, by its values and its name."""

import re

import numpy as np

from bagpipe.data.sample import Column

LABELS = ("label", "target", "y", "click", "clicked", "is_click", "is_clicked", "conversion", "converted", "purchase",
           "purchased", "bought", "liked", "outcome", "response", "rating", "stars", "score")  # fmt: skip
"""Names of what is to be predicted."""
_LENGTHS = ("duration", "time32", "time64")
"""Types of Arrow for lengths of time and times of day."""
_MEASURES = re.compile(
    r"(.*_)?(price|cost|amount|revenue|income|salary|budget|fee|tax|balance|spend|paid|count|number|num|total|sum|avg|mean|"
    r"rate|ratio|share|views?|visits?|clicks?|impressions|likes|votes|orders|quantity|qty|stock|size|length|width|height|"
    r"weight|depth|distance|duration|seconds|minutes|hours|days|age|year|bytes|speed|temperature|score|rank|position|level|"
    r"cents)(_.*)?|(?-i:n_.*|.*[a-z](Count|Price|Amount|Size|Length|Duration|Views|Clicks|Age|Number|Total))",
    re.IGNORECASE,
)
"""What measures or counts."""
_FRAME_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+")
"""What pandas calls the index, or the first column of a file that it wrote with one."""
NEAR = 10
"""Numbers of rows lie within so many times as many numbers as there are rows."""
LONGEST_NAME = 200


def use_of(column: Column) -> tuple[str, str]:
    """What a column is good for, and why."""
    if column.unusable or not column.name:
        return "ignore", column.unusable or "has no name; give it one to use it"
    if len(column.name) > LONGEST_NAME:
        return "ignore", f"a name of {len(column.name)} signs; a feature's has at most {LONGEST_NAME}"
    if column.name.strip().lower() in LABELS:
        return "ignore", "looks like another label, which is not known when a prediction is made"
    if column.missing == column.rows:
        return "ignore", "always missing"
    if column.distinct <= 1 and not column.missing:
        return "ignore", "always the same"
    if column.several:
        return "sparse", ""
    if len(column.time_forms) > 1:
        return "ignore", f"times; which of {' and '.join(column.time_forms)} is it? name it as time, with timeFormat"
    if column.time_forms:
        return "ignore", "times, which never come again"
    if column.step and column.rows > 2:
        return "ignore", "counts the rows"
    if _FRAME_INDEX.fullmatch(column.name) or _numbers_the_rows(column):
        return "ignore", "numbers the rows, as the index of a frame does"
    return _by_values(column, named=column.named_like_id)


def _numbers_the_rows(column: Column) -> bool:
    """Whether whole numbers may be the index of a frame, of which some rows were taken, in their order or shuffled."""
    if column.numbers is None or column.written or column.missing or not column.whole or column.rows <= 100:
        return False
    if column.distinct < column.rows or _MEASURES.fullmatch(column.name.strip()):
        return False
    spread = float(column.numbers.max() - column.numbers.min())
    return spread < NEAR * column.rows or bool(np.all(np.diff(column.numbers) > 0))


def _by_values(column: Column, *, named: bool) -> tuple[str, str]:
    if column.numbers is not None and ("duration" in column.written or column.type.startswith(_LENGTHS)):
        return "dense", ""
    if column.numbers is not None and (not column.whole or (column.written and not named)):
        return "dense", ""
    if column.distinct > 0.95 * (column.rows - column.missing) and column.rows > 100 and not named:
        return ("dense", "") if column.numbers is not None else ("ignore", "nearly every row has a value of its own")
    if column.distinct == column.rows > 100:
        return "ignore", "every row has a value of its own"
    if column.numbers is None or named or column.type not in ("string", "large_string"):
        return ("sparse", "") if column.numbers is None or named or column.distinct > 1000 else _small(column)
    return _small(column)


def _small(column: Column) -> tuple[str, str]:
    """Whole numbers without a telling name: spread far apart they count or measure something."""
    spread = float(column.numbers.max() - column.numbers.min()) if len(column.numbers) else 0.0
    skewed = spread > 0 and float(np.median(column.numbers) - column.numbers.min()) < 0.02 * spread
    return ("dense", "") if skewed and column.distinct > 50 and column.distinct < 0.5 * spread else ("sparse", "")


def maybe_ids(column: Column, kind: str) -> list[str]:
    """Whole numbers of which neither the name nor the way they are written says whether they measure something."""
    told = column.doubt or column.written or column.missing or column.type.startswith(_LENGTHS)
    if kind != "dense" or told or not column.whole or column.values[0] < 0:
        return []
    if _MEASURES.fullmatch(column.name.strip()):
        return []
    return [f"{column.name}: whole numbers, taken as a number; if they are ids, move the column to sparse"]
