"""Which data is for training, validation and tests, by `data.train`, `validation`, `test` and `testFraction`."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from bagpipe.config.document import DataConfig, Paths

EXACT_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the examples of `data.path`, exact fractions as they were written."""

    train: Fraction | None = None
    """None: all that is neither for validation nor for tests."""
    validation: Fraction = EXACT_ZERO
    test: Fraction = EXACT_ZERO

    @property
    def whole(self) -> bool:
        """All of the data is trained on."""
        return self.train is None and not self.validation and not self.test


def shares_of(data: DataConfig) -> Shares:
    """Which shares of `data.path` are cut off."""
    test = data.test if isinstance(data.test, float) else data.test_fraction
    return Shares(
        _exact(data.train) if isinstance(data.train, float) else None,
        _exact(data.validation) if isinstance(data.validation, float) else EXACT_ZERO,
        _exact(test),
    )


def _exact(share: float) -> Fraction:
    return Fraction(str(share))


def paths_in(named: Paths | float) -> Paths:
    """The paths of a part that has data of its own; empty if it is a share, or none."""
    return () if isinstance(named, float) else named


def with_path(data: DataConfig) -> DataConfig:
    """The same data with `data.train` as `data.path`, where it is a path."""
    if isinstance(data.train, float) or not data.train:
        return data
    return msgspec.structs.replace(data, path=data.train, train=())


def all_of(data: DataConfig, path: Paths) -> DataConfig:
    """All examples of other data, read as `data` is."""
    return msgspec.structs.replace(
        data, path=path, train=(), validation=(), test=(), test_fraction=0.0, split_by="order"
    )


def part_findings(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with the parts."""
    shares = shares_of(data)
    if data.test and data.test_fraction:
        kind = "data of its own" if paths_in(data.test) else "a share"
        yield "spec.data.testFraction", f"has no effect when data.test names {kind}; remove it"
    if data.train and not isinstance(data.train, float) and data.path:
        yield "spec.data.path", "is given twice, as data.train too; remove one of them"
    total = (shares.train or EXACT_ZERO) + shares.validation + shares.test
    if total > 1 or (total == 1 and shares.train is None):
        listed = ", ".join(f"{name} {float(share):g}" for name, share in _listed(shares))
        yield "spec.data", f"{listed}: nothing is left to train on; the shares add up to more than there is"
    if data.split_by != "order" and shares.whole:
        yield "spec.data.splitBy", "has no effect without a share for tests or validation; set one, or remove splitBy"


def _listed(shares: Shares) -> list[tuple[str, Fraction]]:
    parts = (("train", shares.train), ("validation", shares.validation), ("test", shares.test))
    return [(name, share) for name, share in parts if share]
