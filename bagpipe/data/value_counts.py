"""How often each value of a dense column was seen in the training part, for columns with `count`.

Training, prediction and an export's `score.py` look counts up by this code. Missing is a value like any other. A value
that was never seen counts as one seen once: the rarest value that a model has met has that count, and none has 0, of
which there is no logarithm.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.data.raw import Codes, Kind


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """The counts of one column; without any, they are not learned yet."""

    kind: Kind
    """What the codes are, see `bagpipe.data.raw`."""
    codes: Codes
    """The values that were seen, rising."""
    counts: npt.NDArray[np.int64]

    @classmethod
    def unlearned(cls, kind: Kind) -> "ValueCounts":
        return cls(kind, np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def of(self, codes_B: Codes) -> npt.NDArray[np.float64]:
        """`[B]`, the count of each value."""
        numbers_B = np.ones(len(codes_B), np.float64)
        if len(self.codes):
            place_B = np.minimum(np.searchsorted(self.codes, codes_B), len(self.codes) - 1)
            known_B = self.codes[place_B] == codes_B
            numbers_B[known_B] = self.counts[place_B[known_B]]
        return numbers_B

    def log_shares(self, codes_B: Codes) -> npt.NDArray[np.float64]:
        """`[B]`, the natural logarithm of each count divided by the count of all values."""
        return np.asarray(np.log(self.of(codes_B) / max(1, int(self.counts.sum()))))
