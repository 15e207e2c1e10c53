"""Scores of raw rows by the model in this folder. Needs torch, numpy and pyarrow; not Bagpipe.

python score.py DATA OUT.parquet [--keep COLUMN]...    a file or folder of raw rows
python score.py - -                                    JSON objects, one a line, from stdin; scores to stdout

from score import load
model = load()
model.score([{"user": "u1", "item": "i7"}])            # [rows, labels], probabilities
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MANIFEST = "files.json"
"""Size and SHA-256 of every other file of the export."""
OTHER_FORMS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".arrow", ".feather", ".gz", ".xz", ".zst")
"""Endings of names under which nobody would look for Parquet."""


class Damaged(Exception):
    """A file of the export is missing, or is not as it was written."""

    exit_code = 65


def load(folder: Path = HERE, *, threads: int | None = None, check: bool = True) -> Any:
    """The model of an export (`ExportedModel` in `code/bagpipe/standalone/model.py`).

    Args:
        folder: the export; by default the one that this file lies in.
        threads: torch's; None: as many as in training, where the job said how many.
        check: compare every file with `files.json` first, which reads all of them once (about 1.5 GB a second).

    Raises:
        Damaged: a file is missing, or is not as it was written.
    """
    if check:
        check_files(folder)
    # A package of this export's own, so that two exports do not share code, nor with an installed Bagpipe.
    name = f"bagpipe_export_{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder / "code")]
        sys.modules[name] = module_from_spec(spec)
    return importlib.import_module(f"{name}.bagpipe.standalone.model").ExportedModel(folder, threads=threads)


def check_files(folder: Path = HERE, name: str | None = None) -> None:
    """Compare the files of an export with its manifest.

    Args:
        folder: the export.
        name: this file only, by its path in the folder; None: all.

    Raises:
        Damaged: names the first file that is missing, or is not as it was written.
        OSError: a file cannot be read.
    """
    for known, (size, digest) in _listed(folder / MANIFEST).items():
        if name not in (None, known):
            continue
        path = folder / known
        try:
            with path.open("rb") as content:
                found = os.fstat(content.fileno()).st_size
                if found != size:
                    raise Damaged(f"{path}: expected {size} bytes, found {found}; copy or export the model again")
                if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                    raise Damaged(f"{path}: its checksum differs from {MANIFEST}'s; copy or export the model again")
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(f"{path}: no such file; copy or export the model again") from None


def _listed(path: Path) -> dict[str, list[Any]]:
    """Size and digest of every file by its name."""
    try:
        found = json.loads(path.read_bytes())
        files: dict[str, list[Any]] = found["files"]
        if found["checksum"] != checksum_of(files):
            raise ValueError("its own checksum differs")
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file; copy or export the model again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: not a manifest ({error}); copy or export the model again") from None
    return files


def checksum_of(files: Mapping[str, Sequence[Any]]) -> str:
    """The manifest's own checksum, of the size and digest of each file by its name."""
    lines = [f"{name} {size} {digest}\n" for name, (size, digest) in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main() -> int:
    """Score what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description="Scores of raw rows by the model in this folder.")
    parser.add_argument("data", help="file or folder of raw rows; -: JSON objects from stdin")
    parser.add_argument("out", help="Parquet file to write; -: JSON to stdout")
    parser.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="write this column too")
    parser.add_argument("--threads", type=int, help="torch's; by default as in training")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--no-check", action="store_true", help=f"do not compare the files with {MANIFEST} first")
    asked = parser.parse_args()
    try:
        os.getcwd()
    except FileNotFoundError:  # torch cannot compute there.
        sys.stderr.write("error: the current folder has been removed; change to one that exists\n")
        return 78
    if wrong := _unwritable(asked.data, asked.out, overwrite=asked.overwrite):
        sys.stderr.write(f"error: {asked.out}: {wrong}\n")
        return 78
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # Told to end, it leaves no draft: `finally` is run.
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        model = load(threads=asked.threads, check=not asked.no_check)
        if asked.data == "-":
            _from_stdin(model)
        elif asked.out == "-":
            _to_stdout(model, asked.data, asked.keep)
        else:
            _to_parquet(model, asked.data, Path(asked.out), asked.keep)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # Whoever read the scores has left.
        _print_no_more()
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or asked.out}: {error.strerror or error}\n")
        if "-" in (asked.data, asked.out):  # Standard output, which would fail once more at the end.
            _print_no_more()
        return 78 if isinstance(error, FileNotFoundError) else 75
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return 0


def _print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unwritable(data: str, out: str, *, overwrite: bool) -> str | None:
    """Why scores cannot be written to OUT; None: they can."""
    if "-" in (data, out):
        return None
    if Path(out).suffix.lower() in OTHER_FORMS:
        return f"scores are written as Parquet; name it {Path(out).with_suffix('.parquet')}"
    if Path(out).exists() and not (Path(out).is_file() or Path(out).is_dir()):
        return "is a device or a pipe, and scores are written as a file; choose another name"
    source, target = Path(data).resolve(), Path(out).resolve()
    if target == source or (target.exists() and source in target.parents):
        return "holds rows that are to be scored; choose another name"
    if target.is_dir():
        return "is a folder, and scores are written as a file; choose another name"
    if target.exists() and not overwrite:
        return "exists already; choose another name, or allow --overwrite"
    return None


def _from_stdin(model: Any) -> None:
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise model.bad_data(f"stdin: line {number}: expected a JSON object, found {line.strip()[:40]!r}")
        scores = model.score([row])[0].tolist()
        sys.stdout.write(model.json(dict(zip(model.labels, scores, strict=True))) + "\n")


def _to_stdout(model: Any, data: str, keep: list[str]) -> None:
    for table in model.score_file(data, keep):
        for row in table.to_pylist():
            sys.stdout.write(model.json(row) + "\n")


def _to_parquet(model: Any, data: str, out: Path, keep: list[str]) -> None:
    """Whole or not at all: a draft takes the name when it is complete."""
    import pyarrow.parquet as pq

    # With the process in its name: two that write one file at once do not write into one draft.
    asked, out = out, out.resolve()  # A link stays one: what it points to is replaced.
    draft, writer, rows = out.with_name(f".{out.name}.{os.getpid()}.tmp"), None, 0
    try:
        for table in model.score_file(data, keep):
            if writer is None:
                writer = pq.ParquetWriter(draft, table.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(table.cast(writer.schema))
            rows += table.num_rows
        if writer is None:
            raise SystemExit("error: no row in the data; nothing was written")
        writer.close()
        os.replace(draft, out)
        sys.stdout.write(f"{asked}: {rows:,} rows, columns {', '.join(writer.schema.names)}\n")
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):  # The disk that was full for a row is full for the end of the file too.
                writer.close()
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


if __name__ == "__main__":
    sys.exit(main())
