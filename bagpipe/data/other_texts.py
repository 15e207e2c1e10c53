"""Texts that hold examples in another form than rows of columns: which one it is, and what to do about it."""

import re

_LABEL = rb"[+-]?\d+(\.\d+)?(,\d+)*"
_FORMS = (
    (rb"<", "a page of HTML or XML; fetch the data itself, as CSV, JSON lines or Parquet"),
    (rb"\[", "a JSON array; write one record on each line, for instance with jq -c '.[]'"),
    (
        _LABEL + rb"( +qid:\d+)?( +\d+:[^\s:]+)+ *(#[^\n]*)?(\r?\n|$)",
        (
            "LibSVM's format; write three columns, for instance as JSON lines: label, numbers of features and their "
            "values, {y: 1, features: [3, 7], values: [0.5, 1.2]}; features is sparse and has `weight: values`"
        ),
    ),
    (
        _LABEL + rb"( +\d+:\w+:[^\s:]+)+ *(\r?\n|$)",
        "LibFFM's format; write a column for each field, as CSV, JSON lines or Parquet",
    ),
    (
        _LABEL + rb"( +\d+(\.\d+)?)?( +'\S*)? +\|[A-Za-z]\w*(:[\d.]+)? ",
        "Vowpal Wabbit's format; write a column for each namespace, as JSON lines or Parquet",
    ),
    (rb"(%[^\n]*\n|\s)*@relation\b", "an ARFF file; write its rows as CSV, with the names of the attributes first"),
    (rb"%%MatrixMarket\b", "a Matrix Market file; write its rows as CSV, JSON lines or Parquet"),
)
"""How the text begins, and the words for it."""


def what_other_text(text: bytes) -> str | None:
    """What a text is that has no columns, by its beginning; None: nothing is known against it."""
    return next((words for form, words in _FORMS if re.match(form, text, re.IGNORECASE)), None)
