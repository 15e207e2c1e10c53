"""How a number of things is written in a message."""


def counted(number: int, noun: str) -> str:
    """`1 step`, `2,048 steps`; for nouns whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
