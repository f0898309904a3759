"""Parquet and arrow files, through pyarrow, which only this module imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aws_rft_sdk.datasets._storage import Progress
from aws_rft_sdk.errors import DatasetError

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Makes the columns to read out of all there are."""

_READ_ROWS = 1024
_READ_BYTES = 1 << 20
"""Of a column at a time, if nothing is read ahead; otherwise a row group is read whole, and a file may be one of it."""


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        kind = path.suffix.lower().removeprefix(".")
        raise DatasetError(f"{path}: {kind} needs pyarrow; install aws-rft-sdk[parquet]") from error
    module: ModuleType = pyarrow
    return module


def read_table(
    path: Path, choose: Choose | None = None, progress: Progress | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield row numbers from 1 and rows of a parquet or arrow file, a batch of them in memory at a time.

    Args:
        path: The file.
        choose: Which columns to read; None for all.
        progress: Is told how many bytes of the file have been dealt with.

    Raises:
        DatasetError: pyarrow is missing, the file is damaged, or two columns have one name.
    """
    pyarrow = _pyarrow(path)
    batches = _parquet_batches if path.suffix.lower() == ".parquet" else _arrow_batches
    number = 0
    try:
        for batch, done in batches(pyarrow, path, choose):
            for row in batch.to_pylist():
                number += 1
                yield number, row
            if progress is not None:
                progress(done)
    except pyarrow.ArrowInvalid as error:
        raise DatasetError(
            f"{path}: the {path.suffix.lower()} file is damaged, or is another kind of file ({error})"
        ) from error


def _parquet_batches(pyarrow: ModuleType, path: Path, choose: Choose | None) -> Iterator[tuple[Any, int]]:
    with pyarrow.parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        columns = _columns(path, file.schema_arrow.names, choose)
        size, total, number = path.stat().st_size, max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=_READ_ROWS, columns=columns):
            number += batch.num_rows
            yield batch, size * number // total


def _arrow_batches(pyarrow: ModuleType, path: Path, choose: Choose | None) -> Iterator[tuple[Any, int]]:
    """Yield batches of the stream format, which `datasets` saves, or of the file format."""
    with pyarrow.memory_map(str(path)) as file:
        is_stream = file.read(6) != b"ARROW1"
        file.seek(0)
        reader = pyarrow.ipc.open_stream(file) if is_stream else pyarrow.ipc.open_file(file)
        columns = _columns(path, reader.schema.names, choose)
        for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
            for start in range(0, batch.num_rows, _READ_ROWS):
                yield batch.select(columns).slice(start, _READ_ROWS), file.tell()


def _columns(path: Path, names: Sequence[str], choose: Choose | None) -> list[str]:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DatasetError(f"{path}: {len(repeated)} columns are called {repeated[0]!r}")
    return list(names if choose is None else choose(names))


def write_parquet(part: Path, path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write columns of equal lengths, each in the type of its values.

    Args:
        part: The file to write.
        path: What the file will be called.
        columns: Lists of values by name.

    Raises:
        DatasetError: pyarrow is missing, or a column holds values of several types.
    """
    pyarrow = _pyarrow(path)
    try:
        arrays = {name: pyarrow.array(values) for name, values in columns.items()}
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
        raise DatasetError(
            f"{path}: not a table ({error}); a column holds one type of values, or write jsonl"
        ) from error
    # A column without any value is taken for text.
    typed = {
        name: array.cast("string") if pyarrow.types.is_null(array.type) else array for name, array in arrays.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(typed), part)
