"""Safetensors files read without the package of that name: a header of JSON, then the bytes of every tensor."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bagpipe.errors import CheckpointError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_ARRAYS: dict[str, npt.DTypeLike] = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I64": np.int64}


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name, mapped: what is not looked at is not read.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    header, start, content = _open(path)
    try:
        return {
            name: _bytes_of(entry, start, content).view(_ARRAYS[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, in torch's own memory.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    header, start, content = _open(path)
    found = {}
    try:
        for name, entry in header.items():
            flat = torch.from_numpy(np.array(_bytes_of(entry, start, content)))
            found[name] = flat.view(_TYPES[entry["dtype"]]).reshape(entry["shape"]).clone()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from None
    return found


def _bytes_of(entry: Any, start: int, content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    first, last = entry["data_offsets"]
    if start + last > content.size:
        raise ValueError("truncated")
    return content[start + first : start + last]


def _open(path: Path) -> tuple[dict[str, Any], int, npt.NDArray[np.uint8]]:
    try:
        content = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        header.pop("__metadata__", None)
        longest = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; export the model again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None
    if start + longest > content.size:
        raise CheckpointError(
            f"{path}: expected {start + longest} bytes, found {content.size}; the file is truncated, export again"
        )
    return header, start, content


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not a safetensors file ({error}); export the model again")


def check_weights(where: str, own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not a model's.

    Args:
        where: the weights were found, for the message.
        own: the model's state.

    Raises:
        CheckpointError: names the first weight of another shape, or that only one of the two has.
    """
    for name in sorted(own.keys() | found.keys()):
        here = list(own[name].shape) if name in own else "nothing"
        there = list(found[name].shape) if name in found else "nothing"
        if here != there:
            raise CheckpointError(
                f"{where}: weight {name}: expected {here}, found {there}; give the model that was trained: a loop of "
                "your own names its class in spec.model.entrypoint of the job"
            )
