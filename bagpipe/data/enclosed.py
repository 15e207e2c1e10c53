"""The vocabulary of prepared data, as a stretch of bytes inside its first Parquet part.

Every program finds the columns of a Parquet file by the footer and passes over what the footer does not point to. So
the vocabulary, an Arrow file, lies between the last row group and the footer, and a key of the footer says where. No
file lies beside the parts: some programs (polars) read every file of a folder, whatever it is called.
"""

import shutil
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.config.paths import is_url
from bagpipe.data.files import InputFile
from bagpipe.data.prepared import FIRST_PART, OLD_TRANSFORM_FOLDER, PreparedInfo
from bagpipe.data.remedies import prepare_again
from bagpipe.data.transform import Transform, TransformInfo, load_transform, with_vocabulary
from bagpipe.errors import DataError
from bagpipe.lowlevel.atomic_files import refused

KEY = b"bagpipe.vocabulary"
_MAGIC = b"ARROW1"


class _Place(msgspec.Struct, frozen=True):
    """Where the vocabulary lies in its file, in bytes."""

    offset: int
    length: int


def enclose(transform: Transform, part: Any, folder: Path) -> dict[bytes, bytes]:
    """Write the vocabulary at the end of an open part; returns what the part's footer has to say about it.

    Args:
        part: the Arrow stream that the part is written to, at the end of a row group.
        folder: has room for a copy.
    """
    if transform.info.vocabulary is None:
        return {}
    begin = part.tell()
    # A file of its own first: Arrow counts positions from the beginning of the file that it writes.
    with cast("AbstractContextManager[IO[bytes]]", tempfile.TemporaryFile(dir=folder)) as draft:
        transform.write_vocabulary(draft)
        draft.seek(0)
        shutil.copyfileobj(draft, part, 1 << 20)
    return {KEY: msgspec.json.encode(_Place(begin, part.tell() - begin))}


def _enclosed(part: Any, metadata: dict[bytes, bytes]) -> Any | None:
    """The vocabulary's Arrow file in an open part as a buffer; None: there is none.

    A program that rewrites a part may copy the key and not the bytes; they are then not where it says.
    """
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        place = msgspec.json.decode(text, type=_Place)
    except ValueError:
        return None
    part.seek(place.offset)
    found = part.read_buffer(place.length) if isinstance(part, pa.NativeFile) else pa.py_buffer(part.read(place.length))
    whole = found.size == place.length and place.length > 2 * len(_MAGIC)
    ends = (found[: len(_MAGIC)], found[found.size - len(_MAGIC) :]) if whole else ()
    return found if whole and all(end.to_pybytes() == _MAGIC for end in ends) else None


def prepared_transform(info: PreparedInfo, file: InputFile) -> Transform:
    """What prepared data was made with, as far as it says so.

    Raises:
        CheckpointError: its vocabulary is damaged.
        DataError, StorageError: the part that may enclose the vocabulary cannot be read.
    """
    if info.transform is None:
        recipe = info.recipe
        return Transform(
            TransformInfo(
                source="parquet",
                encoding=recipe.encoding,
                hash_size=recipe.hash_size,
                min_count=recipe.min_count,
                numeric_bins=recipe.numeric_bins,
                num_labels=info.num_labels,
                dense=info.dense,
                jagged=info.jagged,
                features=(),
                tables=info.tables,
            )
        )
    if info.transform.vocabulary is None:
        return Transform(info.transform)
    for name in dict.fromkeys((file.name, _beside(file.name, FIRST_PART))):
        if (found := _with_enclosed(info.transform, name)) is not None:
            return found
    folder = Path(_beside(file.name, OLD_TRANSFORM_FOLDER))
    return load_transform(folder) if folder.is_dir() else Transform(info.transform)


def _beside(name: str, other: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}{other}"


def _with_enclosed(info: TransformInfo, name: str) -> Transform | None:
    """The transform with the vocabulary that a part encloses; None: there is no such part, or none in it.

    Raises:
        CheckpointError: the vocabulary is damaged.
        DataError, StorageError: the part cannot be read, so nobody knows whether it has a vocabulary.
    """
    with ExitStack() as stack:
        try:
            if is_url(name):
                part: Any = stack.enter_context(InputFile(name, 0, "").open())
            else:
                part = stack.enter_context(pa.memory_map(name))
            found = _enclosed(part, pq.read_metadata(part).metadata or {})
        except FileNotFoundError:
            return None
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        except (OSError, pa.ArrowException) as error:
            what = f"{name}: cannot be read for the vocabulary that it may enclose"
            if isinstance(error, OSError) and error.errno is not None:
                raise refused(what, error) from None
            raise DataError(f"{what}: {error}; {prepare_again(name)}") from None
        return None if found is None else with_vocabulary(info, found, name, prepare_again(name))
