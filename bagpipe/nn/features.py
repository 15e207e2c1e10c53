"""The sparse features of a model: `KeyedJaggedTensor`, lists of ids; `StepFeatures`, the features of a training step.

A step's ids stay with the oracle. Its features have everything else (keys, lengths, offsets, weights), and a collection
finds their rows in the cache.

Shapes: `F` features, `B` examples, `N` ids of all lists.
"""

from collections.abc import Sequence
from typing import Self

import torch

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.nn.jagged import JaggedTensor, Lists


class KeyedJaggedTensor(Lists):
    """Lists of ids: those of the first feature, example by example, then those of the second.

    Args:
        keys: names of the features.
        values: `[N]` ids.
        weights: `[N]`, one for each id.
        lengths: `[F * B]` ids of each list; or
        offsets: `[F * B + 1]`, where each list begins, and the end of the last.

    Raises:
        ConfigError: neither lengths nor offsets, or they do not add up to the values or divide by the keys.
    """

    def __init__(
        self,
        keys: Sequence[str],
        values: torch.Tensor,
        weights: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> None:
        super().__init__(values, weights, lengths, offsets)
        self._keys = list(keys)
        if len(set(self._keys)) != len(self._keys):
            raise ConfigError(f"KeyedJaggedTensor: expected each key once, found {', '.join(self._keys)}")
        lists = self.lengths().numel()
        if lists % max(1, len(self._keys)):
            raise ConfigError(
                f"KeyedJaggedTensor: expected as many lists for each of {len(self._keys)} keys, found {lists} in all"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keys={self._keys}, examples={self.stride()})"

    # ── other ways to make one ────────────────────────────────────────────────────────────────────

    @staticmethod
    def from_lengths_sync(
        keys: Sequence[str], values: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor | None = None
    ) -> "KeyedJaggedTensor":
        """Make one from the length of each list, `[F * B]`."""
        return KeyedJaggedTensor(keys, values, weights, lengths=lengths)

    @staticmethod
    def from_offsets_sync(
        keys: Sequence[str], values: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> "KeyedJaggedTensor":
        """Make one from the beginning of each list and the end of the last, `[F * B + 1]`."""
        return KeyedJaggedTensor(keys, values, weights, offsets=offsets)

    @staticmethod
    def from_jt_dict(jt_dict: dict[str, JaggedTensor]) -> "KeyedJaggedTensor":
        """Make one from the lists of each feature."""
        parts = list(jt_dict.values())
        weights = [w for part in parts if (w := part.weights_or_none()) is not None]
        return KeyedJaggedTensor(
            list(jt_dict),
            torch.cat([part.values() for part in parts]),
            torch.cat(weights) if len(weights) == len(parts) else None,
            lengths=torch.cat([part.lengths() for part in parts]),
        )

    # ── what it holds ─────────────────────────────────────────────────────────────────────────────

    def keys(self) -> list[str]:
        """Names of the features."""
        return self._keys

    def lengths_or_none(self) -> torch.Tensor | None:
        """`[F * B]`; always known."""
        return self.lengths()

    def offsets_or_none(self) -> torch.Tensor | None:
        """`[F * B + 1]`; always known."""
        return self.offsets()

    def stride(self) -> int:
        """B, the number of examples."""
        return self.lengths().numel() // max(1, len(self._keys))

    def device(self) -> torch.device:
        """Where the ids lie."""
        return self.lengths().device

    def length_per_key(self) -> list[int]:
        """Ids of each feature."""
        sums: list[int] = self._by_feature().sum(1).tolist()
        return sums

    def offset_per_key(self) -> list[int]:
        """First id of each feature, and the end of the last."""
        offsets = [0]
        for length in self.length_per_key():
            offsets.append(offsets[-1] + length)
        return offsets

    def index_per_key(self) -> dict[str, int]:
        """Number of each feature."""
        return {key: number for number, key in enumerate(self._keys)}

    # ── parts of it ───────────────────────────────────────────────────────────────────────────────

    def __getitem__(self, key: str) -> JaggedTensor:
        """One feature's lists.

        Raises:
            ConfigError: no such feature.
        """
        (part,) = self._parts([self._number(key)])
        return part

    def to_dict(self) -> dict[str, JaggedTensor]:
        """Each feature's lists."""
        return dict(zip(self._keys, self._parts(range(len(self._keys))), strict=True))

    def split(self, segments: Sequence[int]) -> "list[Self]":
        """Split into parts of `segments[i]` features each, in their order.

        Raises:
            ConfigError: the segments do not add up to the features.
        """
        if sum(segments) != len(self._keys):
            raise ConfigError(f"split: expected segments of {len(self._keys)} features in all, found {sum(segments)}")
        ends = torch.tensor(segments).cumsum(0).tolist()
        return [self.permute(range(end - size, end)) for size, end in zip(segments, ends, strict=True)]

    def permute(self, indices: Sequence[int]) -> Self:
        """The features of these numbers, in this order."""
        parts = {self._keys[number]: part for number, part in zip(indices, self._parts(indices), strict=True)}
        if not parts:
            nothing = self.values()[:0]
            return type(self)([], nothing, lengths=self.lengths()[:0])
        made = KeyedJaggedTensor.from_jt_dict(parts)
        return type(self)(made.keys(), made.values(), made.weights_or_none(), lengths=made.lengths())

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The same on another device."""
        weights = None if self._weights is None else self._weights.to(device, non_blocking=non_blocking)
        lengths = self.lengths().to(device, non_blocking=non_blocking)
        return type(self)(self._keys, self._values.to(device, non_blocking=non_blocking), weights, lengths=lengths)

    def _parts(self, numbers: Sequence[int]) -> list[JaggedTensor]:
        lengths_FB, ends = self._by_feature(), self.offset_per_key()
        values, weights = self.values(), self.weights_or_none()
        return [
            JaggedTensor(
                values[ends[n] : ends[n + 1]],
                None if weights is None else weights[ends[n] : ends[n + 1]],
                lengths=lengths_FB[n],
            )
            for n in numbers
        ]

    def _by_feature(self) -> torch.Tensor:
        """`[F, B]`."""
        return self.lengths().view(len(self._keys), self.stride())

    def _number(self, key: str) -> int:
        if key not in self._keys:
            raise ConfigError(f"expected one of the features {', '.join(self._keys)}, found {key!r}")
        return self._keys.index(key)


class StepFeatures(KeyedJaggedTensor):
    """The features of a step (or of a batch that is scored), whose rows are at hand in `sparse`.

    Args:
        keys: some of its features; by default all, in its order.
    """

    def __init__(self, sparse: SparseEmbeddings, keys: Sequence[str] | None = None) -> None:
        self.sparse = sparse
        self._keys = list(sparse.features if keys is None else keys)
        self._weights = self._lengths = self._offsets = None

    def lengths(self) -> torch.Tensor:
        """`[F * B]`. Asking for them waits for the step's rows."""
        if self._lengths is None:
            parts = [self.sparse.lengths(key) for key in self._keys]
            self._lengths = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
        return self._lengths

    def values(self) -> torch.Tensor:
        """Raises ConfigError: the ids are not here."""
        raise ConfigError(
            "values: a step's ids stay with the oracle, trainers have their rows; call a collection "
            "(bagpipe.nn.EmbeddingBagCollection, EmbeddingCollection) with these features"
        )

    def weights_or_none(self) -> torch.Tensor | None:
        """`[N]`; None if the data has none."""
        parts = [self.sparse.weights(key) for key in self._keys]
        if all(part is None for part in parts):
            return None
        ones = [torch.ones(count, device=self.device()) for count in self.length_per_key()]
        return torch.cat([one if part is None else part for part, one in zip(parts, ones, strict=True)])

    def stride(self) -> int:
        """B, the number of examples."""
        return self.sparse.num_examples

    def permute(self, indices: Sequence[int]) -> Self:
        """The features of these numbers, in this order."""
        return type(self)(self.sparse, [self._keys[number] for number in indices])

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The same: rows are where the model is."""
        return self

    def _parts(self, numbers: Sequence[int]) -> list[JaggedTensor]:
        return [_Lists(self.permute([number])) for number in numbers]


class _Lists(JaggedTensor):
    """One feature of a step: its lengths and offsets are known, its ids are not."""

    def __init__(self, features: StepFeatures) -> None:
        self._features = features
        self._lengths, self._offsets, self._weights = features.lengths(), None, features.weights_or_none()

    def __repr__(self) -> str:
        return f"JaggedTensor(examples={self.lengths().numel()}, of a step)"

    def values(self) -> torch.Tensor:
        """Raises ConfigError: the ids are not here."""
        return self._features.values()
