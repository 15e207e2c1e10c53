"""What stands beside the numbers of a column of text: a currency, a per cent sign, a unit such as kg.

`bagpipe init` takes signs and codes of currencies and per cents for what they are. Other words may as well be a part of
a name (`10X`), so it only tells them.
"""

import re
import unicodedata
from collections.abc import Iterable

CURRENCIES = frozenset({
    "USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR", "KRW", "BRL", "CAD", "AUD", "NZD", "SEK", "NOK", "DKK", "PLN",
    "CZK", "HUF", "RUB", "TRY", "ZAR", "MXN", "SGD", "HKD", "TWD", "THB", "IDR", "ILS", "AED", "SAR", "US$", "R$",
    "A$", "C$", "HK$", "kr", "Kč", "zł", "Fr.", "Rs", "Rs.",
})  # fmt: skip
SHARES = frozenset("%‰")
MOST = 5
"""Different words behind the numbers of one column; beyond it they are no units."""
_AMOUNT = re.compile(
    r"[+-]?\s*(?P<before>[^\d\s+-]*)\s*[+-]?\d[\d.,'\u2019 \u00a0\u2007\u2009\u202f]*(?P<behind>[^\d]*)"
)


def units_of(texts: Iterable[str]) -> list[str] | None:
    """The units beside numbers, each once, in the order in which they come.

    None: some text is no number with a unit, or there are too many units.

    Numbers without one are passed over. Words before a number are no unit, unless they mean money: `item 5` is a name.
    """
    found: dict[str, None] = {}
    for text in texts:
        match = _AMOUNT.fullmatch(text.strip())
        if match is None:
            return None
        before, behind = match["before"].rstrip(".,'"), match["behind"].strip()
        if (before and behind) or (before and not is_money_or_share(before)):
            return None
        if unit := before or behind:
            found[unit] = None
    return list(found) if len(found) <= MOST else None


def is_money_or_share(unit: str) -> bool:
    """Whether this can mean nothing else beside a number."""
    one_sign = len(unit) == 1 and unicodedata.category(unit) == "Sc"
    return one_sign or unit in CURRENCIES or unit in SHARES
