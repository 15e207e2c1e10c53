"""What the texts of a column may be meant as: numbers written in some way, or lists; and what is doubtful about that.

What can mean one thing only is taken for it. Of anything else the doubt is told, with the setting that settles it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.config.columns import DenseColumn
from bagpipe.data.column_values import Floats64, is_moment, is_text, moments_of, numbers_of
from bagpipe.data.units import is_money_or_share, units_of
from bagpipe.data.written_lists import values_in
from bagpipe.data.written_numbers import APOSTROPHES, BLANKS, DURATIONS, MARKS, PARENTHESES, as_numbers, with_signs
from bagpipe.lowlevel.strict_json import encode
from bagpipe.lowlevel.wording import listed

FEW = 1000
"""Different texts that are looked at before all of them are."""
SIGNS: tuple[dict[str, str], ...] = (
    {"thousands": ","}, {"decimal": ","}, {"thousands": ".", "decimal": ","}, {"thousands": "'"}, {"thousands": " "},
    {"thousands": " ", "decimal": ","},
)  # fmt: skip
"""How numbers are written elsewhere."""
_SEEN_AS = {" ": f"[{BLANKS}]", "'": f"[{APOSTROPHES}]", ",": ",", ".": r"\."}
_NEGATIVE = {"parentheses": PARENTHESES, "behind": r"[0-9]\s*-\s*[^0-9]*$"}
_SURE = ("h:m:s", "iso")
"""Forms of durations that are nothing else."""
_THREE = re.compile(r"\s*[+-]?[1-9]\d{0,2}[.,]\d{3}\s*")
_TWO_PARTS = re.compile(r"\s*\d+:[0-5]\d\s*")
_LIKE_NUMBERS = re.compile(r"[\W_]{0,3}\d[\d\W_]*[A-Za-z%]{0,3}[\W_]{0,3}")
MOST_ODD = 0.2
"""Share of the texts of a column that are no numbers, below which it is told that the others are."""
SEPARATORS = ("|", ";")
"""What cuts cells into values without a doubt, where a good part of them has it."""
_DOUBTFUL = ("|", ";", ",", "/", "+", "&", " ")
_OFTEN = 0.05
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a column may be as well, in words that follow its name, and what to write then."""

    found: str
    then: str

    def told(self, taken: str) -> str:
        return f"{self.found}, {taken}; {self.then}"


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


def numbers_in(name: str, values: Any, units: Sequence[str]) -> tuple[dict[str, Any], Floats64] | None:
    """How numbers are written, as settings of a dense column, and what they are; None: some cell is none.

    Args:
        units: what stands beside them.
    """
    few = pc.unique(values).slice(0, FEW) if is_text(values.type) else None
    for written in [{}, *(_ways_to_write(values, units) if few is not None else [])]:
        column = DenseColumn(name, **written)
        if few is not None and numbers_of(as_numbers(few, column))[1].any():
            continue
        found, wrong = numbers_of(as_numbers(values, column))
        if not wrong.any() and not np.isnan(found).all():
            return written, found
    return None


def _ways_to_write(values: Any, units: Sequence[str]) -> list[dict[str, Any]]:
    """Settings under which the texts of a column may be numbers."""
    marks = marks_in(values)
    told: dict[str, Any] = {"missing": marks} if marks else {}
    durations = [told | {"duration": form} for form in _SURE if _some(values, DURATIONS[form])]
    if len(units) == 1 and is_money_or_share(units[0]):
        told = told | {"unit": units[0]}
    negative = [{"negative": name} for name, form in _NEGATIVE.items() if _some(values, form)]
    signs = [s for s in SIGNS if all(_some(values, _SEEN_AS[sign]) for sign in s.values())]
    ways = [{**told, **minus, **sign} for minus in [{}, *negative] for sign in [{}, *signs]]
    return [*ways, *durations]


def marks_in(values: Any) -> tuple[str, ...]:
    """What stands for missing numbers among texts; an empty one where a program puts every cell in quotes."""
    trimmed = pc.utf8_trim_whitespace(values)
    return tuple(mark for mark in ("", *MARKS) if pc.any(pc.equal(trimmed, mark)).as_py())


def units_in(values: Any) -> tuple[str, ...]:
    """What stands beside numbers, if all texts of a column are numbers."""
    few = pc.unique(values).slice(0, FEW)
    found = []
    for negative in ("sign", "parentheses", "behind"):
        texts = [text for text in with_signs(few, negative).to_pylist() if text is not None]
        found.append(tuple(units_of(text for text in texts if text.strip() not in ("", *MARKS)) or ()))
    return min(filter(None, found), key=len, default=())


def odd_one(values: Any) -> str | None:
    """The first text that is no number, if most are."""
    numbers, wrong = numbers_of(values)
    told = ~np.isnan(numbers)
    few = wrong.any() and np.count_nonzero(wrong) <= MOST_ODD * np.count_nonzero(told)
    return str(values[int(np.flatnonzero(wrong)[0])].as_py()) if few else None


def doubt_about_numbers(name: str, values: Any, units: Sequence[str], written: dict[str, Any] | None) -> Doubt | None:
    """What texts may mean beside what they were taken for.

    Args:
        written: how they were read as numbers; None: they were not.
    """
    texts = _different(values)
    if written is not None:
        return _doubtful_digits(name, texts, written)
    if (odd := odd_one(values)) is not None:
        about = f"most values are numbers, but {odd[:40]!r} is none"
        return Doubt(about, f"if it stands for a missing number, {_dense(name, missing=[odd])}")
    if units and len(units) > 1:
        return Doubt(f"numbers with {listed(units)}", "several units; write one, and name it as `unit` under dense")
    if units:
        return Doubt(
            f"numbers with {units[0]}", f"they may be names; if they are numbers, {_dense(name, unit=units[0])}"
        )
    told = [text for text in texts if text.strip() not in ("", *MARKS)]
    if told and all(_TWO_PARTS.fullmatch(text) for text in told):
        other = "m:s where they are minutes and seconds"
        return Doubt(
            f"values such as {told[0]!r} are times of day or lengths of time",
            f"if they measure something, {_dense(name, duration='h:m')} (duration: {other})",
        )
    like = [text for text in told if _LIKE_NUMBERS.fullmatch(text) and not text.strip().isdigit()]
    if len(like) >= (1 - MOST_ODD) * max(1, len(told)):
        return Doubt(
            f"values such as {like[0][:40]!r} have digits and signs but are no numbers",
            "if they measure something, write them as numbers and move the column to dense",
        )
    return None


def _doubtful_digits(name: str, texts: Sequence[str], written: dict[str, Any]) -> Doubt | None:
    """A point or comma before three digits in all numbers that have one: before a fraction, or between thousands?"""
    told = [text for text in texts if re.search(r"[.,]", text)]
    if not told or not all(_THREE.fullmatch(text) for text in told):
        return None
    sign = "," if "," in told[0] else "."
    if any(("," in text) != (sign == ",") for text in told):
        return None
    if written.get("thousands") == sign:
        return Doubt(f"{told[0]} is read with {sign} between thousands", f"if it begins a fraction: decimal: {sign!r}")
    then = {"thousands": ".", "decimal": ","} if sign == "." else {"thousands": ","}
    return Doubt(
        f"{told[0]} is read with {sign} before a fraction", f"if it parts thousands: {_settings(name, **then)}"
    )


def doubt_about_times(name: str, values: Any) -> Doubt | None:
    """Times of which some are missing or cannot be read."""
    texts = pc.unique(values).slice(0, FEW) if is_text(values.type) else values
    bad = moments_of(texts, "") if is_text(values.type) else values
    if not is_moment(bad.type) or len(texts) < 2 or bad.null_count > MOST_ODD * len(texts):
        return None
    odd = next((text.as_py() for text, found in zip(texts, bad, strict=True) if not found.is_valid), None)
    if odd is None:
        return gaps_in_times(name)
    return Doubt(f"most values are times, but {odd[:40]!r} is none", _split_by(name))


def gaps_in_times(name: str) -> Doubt:
    return Doubt("times, of which some are missing", _split_by(name))


def times_of_units(name: str, units: Sequence[str]) -> Doubt:
    """Numbers that have no order as they are: any of the one unit is greater than all of the other."""
    return Doubt(f"times in {' and in '.join(units)}", f"write all in one unit; {_split_by(name, gaps=False)}")


def sentinel_in_times(name: str, odd: str) -> Doubt:
    """A number for no time, which would be the first of all."""
    return Doubt(f"most values are times, but {odd} is none", f"write nothing there; {_split_by(name)}")


def _split_by(name: str, *, gaps: bool = True) -> str:
    rest = ", splitBy: time and onBadLine: skip" if gaps else " and splitBy: time"
    return f"to split by them, write time: {encode(name)}{rest}"


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Lists:
    """Cells that hold several values, and how."""

    separator: str = ""
    brackets: bool = False
    values: tuple[str, ...] = ()
    """Some of them."""


def lists_in(values: Any) -> Lists | None:
    """How most cells hold several values; None: they hold one, or it is doubtful."""
    texts = [text for text in _different(values) if text.strip()]
    bracketed = [text for text in texts if text.strip()[0] in "[{"]
    if texts and len(bracketed) == len(texts):
        found = [values_in(text) for text in texts]
        if all(one is not None for one in found):
            return Lists(brackets=True, values=tuple(v for one in found for v in one or () if v is not None))
    for one in SEPARATORS:
        share = pc.mean(pc.cast(pc.match_substring(values, one), pa.float64())).as_py() or 0.0
        if share > _OFTEN and not _cuts_urls(texts, one):
            return Lists(separator=_spaced(texts, one))
    return None


def _cuts_urls(texts: Sequence[str], sign: str) -> bool:
    """Whether the sign stands within URLs, which may hold any sign, and not between them."""
    parts = [part for text in texts if _URL.match(text) for part in text.split(sign)]
    return any(not _URL.match(part) for part in parts)


def _spaced(texts: Sequence[str], one: str) -> str:
    """The separator with the blanks that always stand beside it."""
    having = [text for text in texts if one in text]
    wide = (f" {one} ", f"{one} ")
    return next((w for w in wide if all(text.count(w) == text.count(one) for text in having)), one)


def are_records(values: Any) -> bool:
    """Whether all cells are JSON objects."""
    texts = [text for text in _different(values) if text.strip()][:FEW]
    return bool(texts) and all(text.strip().startswith("{") and _is_record(text) for text in texts)


def _is_record(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def doubt_about_lists(name: str, values: Any) -> Doubt | None:
    """A sign that cuts many cells into words which come again and again: it may part values."""
    texts = [text.strip() for text in _different(values)]
    for one in _DOUBTFUL:
        cut = [text for text in texts if one in text.strip(one)]
        parts = [part.strip() for text in cut for part in text.split(one)]
        again = len(set(parts)) <= 0.25 * len(parts) and all(0 < len(part) <= 30 for part in parts)
        if len(cut) >= 0.3 * len(texts) and len(cut) > 2 and again:
            sign = _spaced(cut, one) if one != " " else one
            return Doubt(
                f"cells such as {cut[0][:40]!r} may hold several values",
                f"if they do, write {_settings(name, separator=sign, maxLength=50)}",
            )
    return None


def _different(values: Any) -> list[str]:
    return [text for text in pc.unique(values).slice(0, FEW).to_pylist() if text is not None]


def _some(values: Any, form: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, form)).as_py())


def _dense(name: str, **settings: Any) -> str:
    return f"move the column to dense: {_settings(name, **settings)}"


def _settings(name: str, **settings: Any) -> str:
    return f"{{{', '.join(f'{key}: {encode(value)}' for key, value in (('name', name), *settings.items()))}}}"
