"""Texts as the numbers that they write: with the signs, units and marks that a dense column names."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.config.columns import DenseColumn
from bagpipe.data.column_values import MINUS, Mask, is_text

MARKS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "(null)", "None", "none", "\\N", "-", "?", ".")
"""What people write for a number that is missing."""
BLANKS = "\u0020\u00a0\u2007\u2009\u202f"
"""One is as good as another between digits: blank, no-break space, figure space, thin space, narrow no-break space."""
APOSTROPHES = "'\u2019"
_SIGN = f"[+{MINUS}-]?"
PARENTHESES = r"^\s*([^()]*)\(\s*([^()]*[0-9][^()]*)\)([^()]*)$"
BEHIND = r"^\s*([^+-]*[0-9][^+-]*)-([^0-9+-]*)$"
_DAYS = r"(?:(?P<d>[0-9]+)\s*(?:d|days?)[\s,]*)?"
DURATIONS = {
    "h:m:s": rf"^\s*(?P<sign>[+-]?)\s*{_DAYS}(?P<h>[0-9]+):(?P<m>[0-5]?[0-9]):(?P<s>[0-5]?[0-9](?:\.[0-9]*)?)\s*$",
    "h:m": r"^\s*(?P<sign>[+-]?)(?P<h>[0-9]+):(?P<m>[0-5][0-9])\s*$",
    "m:s": r"^\s*(?P<sign>[+-]?)(?P<m>[0-9]+):(?P<s>[0-5][0-9](?:\.[0-9]*)?)\s*$",
    "iso": (
        r"^\s*(?P<sign>[+-]?)P(?:(?P<d>[0-9]+)D)?"
        r"(?:T(?:(?P<h>[0-9]+)H)?(?:(?P<m>[0-9]+)M)?(?:(?P<s>[0-9]+(?:\.[0-9]*)?)S)?)?\s*$"
    ),
}  # fmt: skip
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_AMOUNT = re.compile(r"[+-]?\s*[^\d\s]{0,3}\s*[+-]?\d[\d.]*\s*[^\d\s]{0,4}")


def as_numbers(column: Any, dense: DenseColumn) -> Any:
    """Text as Arrow parses numbers, or as numbers; what is none stays text that is none, or is infinite.

    Columns that are no text are returned as they are.
    """
    if not is_text(column.type):
        return column
    if dense.missing:
        marks = pa.array(dense.missing, column.type)
        column = pc.if_else(pc.is_in(pc.utf8_trim_whitespace(column), marks), pa.scalar(None, column.type), column)
    if dense.duration != "none":
        return seconds_of(column, dense.duration)
    column = with_signs(column, dense.negative)
    if dense.unit:
        column = _without_unit(column, re.escape(dense.unit.strip()))
    if dense.thousands:
        column = _ungrouped(column, dense.thousands, dense.decimal)
    if dense.decimal == ",":  # A point is then no part of a number, and must not become one.
        column = pc.replace_substring(pc.replace_substring(column, ".", ";"), ",", ".")
    return column


def with_signs(column: Any, negative: str) -> Any:
    """Text in which a negative number begins with a minus: `(5)` and `5-` do, where the column says so."""
    if negative == "parentheses":
        return pc.replace_substring_regex(column, PARENTHESES, r"-\1\2\3")
    if negative == "behind":
        return pc.replace_substring_regex(column, BEHIND, r"-\1\2")
    return column


def seconds_of(column: Any, form: str) -> Any:
    """Lengths of time or times of day in seconds; infinite where a text is none."""
    found = pc.extract_regex(column, DURATIONS[form])
    seconds, told = np.zeros(len(column)), np.zeros(len(column), np.bool_)
    for name, worth in _SECONDS.items():
        if f"(?P<{name}>" in DURATIONS[form]:
            part = pc.struct_field(found, name)
            there = pc.fill_null(pc.not_equal(part, ""), fill_value=False)
            digits = pc.if_else(there, part, pa.scalar("0", part.type)).cast(pa.float64())
            seconds += worth * digits.to_numpy(zero_copy_only=False)
            told |= there.to_numpy(zero_copy_only=False)
    minus = pc.fill_null(pc.equal(pc.struct_field(found, "sign"), "-"), fill_value=False)
    seconds = np.where(minus.to_numpy(zero_copy_only=False), -seconds, seconds)
    return pa.array(np.where(told, seconds, np.inf), mask=column.is_null().to_numpy(zero_copy_only=False))


def _without_unit(column: Any, unit: str) -> Any:
    """The unit before the number, after its sign or before that; else behind it."""
    before = rf"^\s*({_SIGN})\s*{unit}\s*"
    behind = pc.replace_substring_regex(column, rf"\s*{unit}\s*$", "")
    return pc.if_else(
        pc.match_substring_regex(column, before), pc.replace_substring_regex(column, before, r"\1"), behind
    )


def _ungrouped(column: Any, sign: str, decimal: str) -> Any:
    """Without the sign between groups of three digits; elsewhere it stays, and the text is no number."""
    alike = next((signs for signs in (BLANKS, APOSTROPHES) if sign in signs), sign)
    if len(alike) > 1:
        column = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), f"[{alike}]", sign)
    groups = rf"[1-9][0-9]{{0,2}}({re.escape(sign)}[0-9]{{3}})+"
    lakhs = rf"[1-9][0-9]?({re.escape(sign)}[0-9]{{2}})+{re.escape(sign)}[0-9]{{3}}"  # as India writes them
    pattern = rf"^\s*{_SIGN}({groups}|{lakhs})({re.escape(decimal)}[0-9]*)?\s*$"
    return pc.if_else(pc.match_substring_regex(column, pattern), pc.replace_substring(column, sign, ""), column)


def what_was_expected(column: Any, wrong: Mask) -> str:
    """What a cell should have been, and which setting says that numbers are written otherwise."""
    if not is_text(column.type) or not wrong.any():
        return "a finite number"
    text = column[int(np.flatnonzero(wrong)[0])].as_py().strip()
    hint = next((words for form, words in _HINTS if re.search(form, text)), "")
    if not hint and _AMOUNT.fullmatch(text):
        hint = "`unit` of the column drops what stands beside it"
    if not hint and text in MARKS:
        hint = "`missing` of the column names texts for none"
    return f"a finite number ({hint})" if hint else "a finite number"


_HINTS = (
    (r"^[+-]?[0-9]+:[0-9]", "`duration` of the column reads hours, minutes and seconds"),
    (PARENTHESES, "`negative: parentheses` of the column reads (5) as -5"),
    (r"[0-9]\s*-$", "`negative: behind` of the column reads 5- as -5"),
    (f",|[0-9][{BLANKS}{APOSTROPHES}][0-9]", "`decimal` and `thousands` of the column say how numbers are written"),
)
