"""Converts a plain YAML scalar to its value by YAML 1.2's core schema, and refuses it where readers disagree.

`bagpipe run`, `kubectl` and the API server must read one file alike. Where YAML 1.1 and 1.2 give different
numbers (`010` is 8 or 10) a scalar is refused. Numbers are those that JSON and 64 bits can carry. Dates,
`yes`, `on`, `1_000` and `12:30` are strings.
"""

import math
import re

LEAST_INTEGER, GREATEST_INTEGER = -(2**63), 2**63 - 1

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {
    word: value for value in (True, False) for name in (str(value),) for word in (name, name.lower(), name.upper())
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Scalar = str | int | float | bool | None


def plain(text: str) -> Scalar:
    """The value of an unquoted scalar.

    Raises:
        ValueError: the scalar is refused; the message says why and what to write instead.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _LEADING_ZERO.fullmatch(text):
        digits = text.lstrip("+-").lstrip("0") or "0"
        raise ValueError(
            f"{text} is {digits} to some YAML readers and an octal number to others; write {digits}, or quote it"
        )
    if _DECIMAL.fullmatch(text):
        return _integer(text, 10)
    if _OCTAL.fullmatch(text):
        return _integer(text, 8)
    if _HEXADECIMAL.fullmatch(text):
        return _integer(text, 16)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number; write a number that the setting's bounds allow")
    if _FLOAT.fullmatch(text):
        return _float(text)
    return characters(text)


def characters(text: str) -> str:
    r"""A string in which `"\ud83d\ude00"`, as JSON writes one character beyond 16 bits, is that character.

    Raises:
        ValueError: the string holds what no file name and no text can hold.
    """
    joined = _SURROGATE_PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    lone = _LONE_SURROGATE.search(joined)
    if lone:
        # Python turns bytes of an argument that are not UTF-8 into halves of characters.
        raise ValueError(f"U+{ord(lone.group()):04X} is half a character or a byte that is not UTF-8; write text")
    if "\0" in joined:
        raise ValueError("a string holds a NUL character; remove it")
    return joined


def _integer(text: str, base: int) -> int:
    # Python refuses to convert thousands of decimal digits; twenty are beyond 64 bits already.
    digits = text.lstrip("+-")
    value = int(text, base) if base != 10 or len(digits) <= 20 else GREATEST_INTEGER + 1
    if not LEAST_INTEGER <= value <= GREATEST_INTEGER:
        raise ValueError(f"{_short(text)} does not fit into 64 bits; write a smaller number, or quote it")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_short(text)} is beyond the range of a 64-bit floating point number; write a smaller one")
    return value


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
