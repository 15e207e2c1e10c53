"""What the columns of one's own data are: labels, dense features, sparse features. Part of the single source.

A name is the feature's; `column` is where it is read, by default the column of that name. So one column can be read
as two features.
"""

from typing import Annotated, Literal

from msgspec import Meta

from bagpipe.config import bounds
from bagpipe.config.pods import Section

_Name = Annotated[str, Meta(min_length=1, max_length=200)]


class LabelColumn(Section):
    """One target."""

    name: Annotated[_Name, Meta(description="The column, unless `rule` names another; each label's figures bear this name.")]
    kind: Annotated[
        Literal["binary", "count", "real"],
        Meta(description="binary: 0 or 1. count: whole numbers from 0; real: any finite number; count needs the loss poisson or squared-error, real squared-error, or a model with a loss of its own."),
    ] = "binary"
    rule: Annotated[
        str,
        Meta(max_length=300, description="A comparison that is 1 where it holds: `rating >= 4`, `event == 'buy'`. With a second value, `answer == 'yes' else 'no'`, only that one is 0, and any other is refused. Empty: the column's own value."),
    ] = ""


class DenseColumn(Section):
    """One number of each example: filled or counted, then clipped, then its logarithm, then standardised, as asked for."""

    name: Annotated[_Name, Meta(description="Name of the feature.")]
    column: Annotated[str, Meta(description="Where it is read; empty: the column `name`.")] = ""
    missing: Annotated[tuple[str, ...], Meta(description="Texts that stand for a missing number, beside an empty cell, such as `NA` or `NULL`.")] = ()
    thousands: Annotated[str, Meta(max_length=1, description="Sign between groups of digits in text, `,` in 1,234; a blank stands for no-break and thin spaces too. Empty: none.")] = ""
    decimal: Annotated[Literal[".", ","], Meta(description="Sign before the fraction in text.")] = "."
    unit: Annotated[
        str, Meta(max_length=20, description="What stands before or after each number in text, such as `$`, `%` or `kg`. It is dropped, so that 5% is 5. Empty: nothing.")
    ] = ""
    negative: Annotated[
        Literal["sign", "parentheses", "behind"],
        Meta(description="How text writes negative numbers, beside a minus before them: parentheses, (5); behind, 5-."),
    ] = "sign"
    duration: Annotated[
        Literal["none", "h:m:s", "h:m", "m:s", "iso"],
        Meta(description="Text is a length of time or a time of day and becomes seconds: h:m:s, 01:30:00, also with days before it; iso, PT1H30M. none: text is a number."),
    ] = "none"
    count: Annotated[
        Literal["none", "number", "log-share"],
        Meta(description="Instead of the value, how often it occurs in the training part: number, its count; log-share, the natural logarithm of the count divided by the count of all values. "
                  "Missing is a value like any other, and a value that was never seen counts as one seen once. none: the value itself."),
    ] = "none"
    fill: Annotated[bounds.Value, Meta(description="Instead of a missing value.")] = 0.0
    clip: Annotated[tuple[bounds.Value, ...], Meta(description="Two numbers, the least and the greatest value; what lies beyond becomes them. Empty: none.")] = ()
    log1p: Annotated[bool, Meta(description="log(1 + max(x, 0)): for counts and prices.")] = False
    standardise: Annotated[bool, Meta(description="Minus the mean, divided by the standard deviation, both of the training part.")] = False


class SparseColumn(Section):
    """One categorical feature: text or whole numbers, one value or several."""

    name: Annotated[_Name, Meta(description="Name of the feature.")]
    column: Annotated[str, Meta(description="Where it is read; empty: the column `name`.")] = ""
    table: Annotated[str, Meta(description="Name of the table; features of one table share its rows. Empty: a table of its own.")] = ""
    separator: Annotated[str, Meta(max_length=8, description="Text between several values of one cell, such as `|`. Empty: one value; lists are several without it.")] = ""
    brackets: Annotated[
        bool, Meta(description="Each cell of text is a list in brackets, as JSON, Python, PostgreSQL or numpy write it: [1, 2], ['a', 'b'], {a,b}, [1 2].")
    ] = False
    max_length: Annotated[
        bounds.Items | None, Meta(description="Most values of one example; none: all.")
    ] = None
    weight: Annotated[
        str, Meta(description="Column with the weight of each value, a number from 0: `sum` adds weight times row, `mean` divides that by the sum of the weights. "
                  "As many as there are values, in the same form. Empty: all are 1.")
    ] = ""
    bins: Annotated[
        Literal["none", "log-squared"],
        Meta(description="log-squared: the column is a whole number x, and the value is its bin: x itself up to 2, above it floor(ln(x)^2)."),
    ] = "none"
    part: Annotated[
        Literal["none", "hour", "weekday"],
        Meta(description="The column is a time, and the value is its hour of the day (00 to 23) or its day of the week (0: Monday); in UTC, if the time has a zone."),
    ] = "none"
    time_format: Annotated[
        str, Meta(max_length=100, description="With `part`: how the time is written. Text: the directives of strptime. Numbers: `unix`, `unix-ms`, `unix-us` or `unix-ns`, seconds and so on since 1970, UTC. Empty: ISO 8601.")
    ] = ""
    keep: Annotated[Literal["first", "last"], Meta(description="Which values stay when there are more than `maxLength`.")] = "last"
    boundaries: Annotated[
        tuple[bounds.Value, ...],
        Meta(description="Rising numbers: the column is a number, and the value is the interval it lies in; missing is one of its own."),
    ] = ()


class ColumnsConfig(Section):
    """The columns of the data. Every column is named here, or ignored."""

    header: Annotated[
        tuple[_Name, ...],
        Meta(description="Names of all columns in order, for text files without a line that tells them. Empty: the files say."),
    ] = ()
    labels: Annotated[tuple[LabelColumn, ...], Meta(description="The targets, at least one.")] = ()
    dense: Annotated[tuple[DenseColumn, ...], Meta(description="Numbers.")] = ()
    sparse: Annotated[tuple[SparseColumn, ...], Meta(description="Categories.")] = ()
    time: Annotated[str, Meta(description="When the example happened; for `splitBy: time`. A number, a date, or text: ISO 8601 unless `timeFormat` says otherwise.")] = ""
    time_format: Annotated[
        str, Meta(max_length=100, description="How `time` is written in text, with the directives of strptime: `%d.%m.%Y %H:%M`. Empty: a number or ISO 8601.")
    ] = ""
    weight: Annotated[
        str, Meta(description="Weight of the example in the loss and in figures, a number from 0. Empty: all weigh the same.")
    ] = ""
    group: Annotated[str, Meta(description="Whom the example belongs to, a user or a session; for `splitBy: group`, figures by group and the loss pairwise.")] = ""
    ignore: Annotated[tuple[str, ...], Meta(description="Columns that are not used; `*`: all that are not named.")] = ()
