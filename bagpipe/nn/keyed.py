"""`KeyedTensor`: one vector for each key and example, side by side.

Shapes: `B` examples, `W` sum of the keys' widths.
"""

from collections.abc import Sequence

import torch

from bagpipe.errors import ConfigError


class KeyedTensor:
    """`values` is `[B, W]`; key i has `length_per_key[i]` columns.

    Raises:
        ConfigError: the lengths do not add up to the columns, or there is not one for each key.
    """

    def __init__(
        self, keys: Sequence[str], length_per_key: Sequence[int], values: torch.Tensor, key_dim: int = 1
    ) -> None:
        if key_dim != 1:
            raise ConfigError(f"KeyedTensor: expected key_dim 1, found {key_dim}; keys lie side by side")
        if len(keys) != len(length_per_key) or sum(length_per_key) != values.shape[1]:
            raise ConfigError(
                f"KeyedTensor: expected a length for each of {len(keys)} keys and {values.shape[1]} columns in all, "
                f"found {len(length_per_key)} lengths of {sum(length_per_key)} columns"
            )
        self._keys, self._lengths, self._values = list(keys), list(length_per_key), values

    def __repr__(self) -> str:
        return f"KeyedTensor(keys={self._keys}, values={list(self._values.shape)})"

    @staticmethod
    def from_tensor_list(keys: Sequence[str], tensors: Sequence[torch.Tensor], key_dim: int = 1) -> "KeyedTensor":
        """Make one from a tensor `[B, width]` for each key."""
        return KeyedTensor(keys, [t.shape[1] for t in tensors], torch.cat(list(tensors), dim=1), key_dim)

    def keys(self) -> list[str]:
        """The keys, in the order of the columns."""
        return self._keys

    def values(self) -> torch.Tensor:
        """`[B, W]`."""
        return self._values

    def key_dim(self) -> int:
        """The dimension along which keys lie side by side."""
        return 1

    def device(self) -> torch.device:
        """Where the values lie."""
        return self._values.device

    def length_per_key(self) -> list[int]:
        """Columns of each key."""
        return self._lengths

    def offset_per_key(self) -> list[int]:
        """First column of each key, and the end of the last."""
        offsets = [0]
        for length in self._lengths:
            offsets.append(offsets[-1] + length)
        return offsets

    def __getitem__(self, key: str) -> torch.Tensor:
        """`[B, width of the key]`.

        Raises:
            ConfigError: no such key.
        """
        if key not in self._keys:
            raise ConfigError(f"expected one of the keys {', '.join(self._keys)}, found {key!r}")
        number = self._keys.index(key)
        return self._values.narrow(1, self.offset_per_key()[number], self._lengths[number])

    def to_dict(self) -> dict[str, torch.Tensor]:
        """`[B, width]` of each key."""
        return dict(zip(self._keys, torch.split(self._values, self._lengths, dim=1), strict=True))

    def to(self, device: torch.device, non_blocking: bool = False) -> "KeyedTensor":
        """The same on another device."""
        return KeyedTensor(self._keys, self._lengths, self._values.to(device, non_blocking=non_blocking))

    @staticmethod
    def regroup(keyed_tensors: Sequence["KeyedTensor"], groups: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """For each group its keys side by side, from whichever of the tensors has them."""
        found: dict[str, torch.Tensor] = {}
        for tensor in keyed_tensors:
            found = tensor.to_dict() | found
        missing = [key for group in groups for key in group if key not in found]
        if missing:
            raise ConfigError(f"regroup: expected keys among {', '.join(found)}, found {missing[0]!r}")
        return [torch.cat([found[key] for key in group], dim=1) for group in groups]

    @staticmethod
    def regroup_as_dict(
        keyed_tensors: Sequence["KeyedTensor"], groups: Sequence[Sequence[str]], keys: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The same, by the groups' names."""
        return dict(zip(keys, KeyedTensor.regroup(keyed_tensors, groups), strict=True))
