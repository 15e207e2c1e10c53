"""`JaggedTensor`: one list of values for each example, one list behind the other.

Shapes: `B` examples, `N` values of all of them, `D` width (absent where a value is one number).
"""

from collections.abc import Sequence

import torch

from bagpipe.errors import ConfigError


class Lists:
    """Values of several lists, one list behind the other; `[N]`, or `[N, D]`. The base of both kinds of tensors.

    Args:
        weights: a number for each value.
        lengths: values of each list; or
        offsets: where each list's values begin, and the end of the last.

    Raises:
        ConfigError: neither lengths nor offsets, or they do not add up to the values.
    """

    def __init__(
        self,
        values: torch.Tensor,
        weights: torch.Tensor | None,
        lengths: torch.Tensor | None,
        offsets: torch.Tensor | None,
    ) -> None:
        if lengths is None and offsets is None:
            raise ConfigError(f"{type(self).__name__}: expected lengths or offsets, found neither")
        self._values, self._weights, self._lengths, self._offsets = values, weights, lengths, offsets
        check_sizes(type(self).__name__, values, weights, self.offsets())

    def values(self) -> torch.Tensor:
        """`[N]` or `[N, D]`."""
        return self._values

    def lengths(self) -> torch.Tensor:
        """The number of values of each list."""
        if self._lengths is None:
            assert self._offsets is not None
            self._lengths = self._offsets.diff()
        return self._lengths

    def offsets(self) -> torch.Tensor:
        """Where each list begins, and the end of the last."""
        if self._offsets is None:
            self._offsets = to_offsets(self.lengths())
        return self._offsets

    def weights(self) -> torch.Tensor:
        """`[N]`.

        Raises:
            ConfigError: there are none.
        """
        return given_weights(self.weights_or_none())

    def weights_or_none(self) -> torch.Tensor | None:
        """`[N]`, or None."""
        return self._weights


class JaggedTensor(Lists):
    """Values of B examples, `[N]` or `[N, D]`.

    Args:
        weights: a number for each value.
        lengths: `[B]` values of each example; or
        offsets: `[B + 1]`, where each example's values begin, and their end.

    Raises:
        ConfigError: neither lengths nor offsets, or they do not add up to the values.
    """

    def __init__(
        self,
        values: torch.Tensor,
        weights: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        offsets: torch.Tensor | None = None,
    ) -> None:
        super().__init__(values, weights, lengths, offsets)

    def __repr__(self) -> str:
        return f"JaggedTensor(examples={self.lengths().numel()}, values={list(self._values.shape)})"

    def lengths_or_none(self) -> torch.Tensor | None:
        """`[B]`, if they were given or asked for before."""
        return self._lengths

    def offsets_or_none(self) -> torch.Tensor | None:
        """`[B + 1]`; always known."""
        return self._offsets

    def device(self) -> torch.device:
        """Where the values lie."""
        return self._values.device

    def to(self, device: torch.device, non_blocking: bool = False) -> "JaggedTensor":
        """The same on another device."""
        weights = None if self._weights is None else self._weights.to(device, non_blocking=non_blocking)
        return JaggedTensor(
            self._values.to(device, non_blocking=non_blocking),
            weights,
            lengths=self.lengths().to(device, non_blocking=non_blocking),
        )

    def to_dense(self) -> list[torch.Tensor]:
        """Each example's values."""
        return list(torch.split(self._values, self.lengths().tolist()))

    def to_padded_dense(self, desired_length: int | None = None, padding_value: float = 0.0) -> torch.Tensor:
        """`[B, desired_length]` or `[B, desired_length, D]`: longer lists are cut at their end, shorter ones filled.

        Args:
            desired_length: by default the longest list's.
        """
        lengths, starts = self.lengths(), self.offsets()[:-1]
        longest = desired_length if desired_length is not None else int(lengths.max()) if lengths.numel() else 0
        place = torch.arange(longest, device=lengths.device)
        there = place < lengths.unsqueeze(1)
        shape = (lengths.numel(), longest, *self._values.shape[1:])
        padded = self._values.new_full(shape, padding_value)
        return padded.index_put((there,), self._values[(starts.unsqueeze(1) + place)[there]])

    @staticmethod
    def from_dense(values: Sequence[torch.Tensor], weights: Sequence[torch.Tensor] | None = None) -> "JaggedTensor":
        """Make one from each example's values."""
        lengths = torch.tensor([len(one) for one in values], device=values[0].device)
        return JaggedTensor(torch.cat(list(values)), None if weights is None else torch.cat(list(weights)), lengths)


def to_offsets(lengths: torch.Tensor) -> torch.Tensor:
    """Where each list begins, and the end of the last."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=lengths.dtype)])


def given_weights(weights: torch.Tensor | None) -> torch.Tensor:
    """The weights.

    Raises:
        ConfigError: there are none.
    """
    if weights is None:
        raise ConfigError("weights: expected a weight for each value, found none; give weights, or use weights_or_none")
    return weights


def check_sizes(what: str, values: torch.Tensor, weights: torch.Tensor | None, offsets: torch.Tensor) -> None:
    """Check that lists and weights fit the values.

    Raises:
        ConfigError: the lists do not add up to the values, or there is not one weight for each value.
    """
    end = int(offsets[-1])
    if end != len(values):
        raise ConfigError(f"{what}: expected {end} values, the sum of the lengths, found {len(values)}")
    if weights is not None and len(weights) != len(values):
        raise ConfigError(f"{what}: expected {len(values)} weights, one for each value, found {len(weights)}")
