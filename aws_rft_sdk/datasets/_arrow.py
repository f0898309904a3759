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
        raise DatasetError(f"{path}: {path.suffix.lower()[1:]} needs pyarrow; install aws-rft-sdk[parquet]") from error
    module: ModuleType = pyarrow
    return module


def read_table(path: Path, choose: Choose | None, progress: Progress) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield row numbers from 1 and rows of a parquet or arrow file, a batch of them in memory at a time.

    A DatasetError says if pyarrow is missing, the file is damaged, or two columns have one name.
    """
    pyarrow, number, suffix = _pyarrow(path), 0, path.suffix.lower()

    def columns(names: Sequence[str]) -> list[str]:
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DatasetError(f"{path}: {len(repeated)} columns are called {repeated[0]!r}")
        return list(names if choose is None else choose(names))

    try:
        for batch, done in (_parquet if suffix == ".parquet" else _arrow)(pyarrow, path, columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
            progress(done)
    except pyarrow.ArrowInvalid as error:
        raise DatasetError(f"{path}: the {suffix} file is damaged, or is another kind of file ({error})") from error


def _parquet(pyarrow: ModuleType, path: Path, columns: Choose) -> Iterator[tuple[Any, int]]:
    with pyarrow.parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        size, total, number = path.stat().st_size, max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=_READ_ROWS, columns=columns(file.schema_arrow.names)):
            number += batch.num_rows
            yield batch, size * number // total


def _arrow(pyarrow: ModuleType, path: Path, columns: Choose) -> Iterator[tuple[Any, int]]:
    """Yield batches of the stream format, which `datasets` saves, or of the file format."""
    with pyarrow.memory_map(str(path)) as file:
        is_stream = file.read(6) != b"ARROW1"
        file.seek(0)
        reader = pyarrow.ipc.open_stream(file) if is_stream else pyarrow.ipc.open_file(file)
        names = columns(reader.schema.names)
        for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
            for start in range(0, batch.num_rows, _READ_ROWS):
                yield batch.select(names).slice(start, _READ_ROWS), file.tell()


def write_parquet(part: Path, path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write columns of equal lengths to `part`, which will be called `path`. Values of several types do not fit one."""
    pyarrow = _pyarrow(path)
    try:
        arrays = [pyarrow.array(values) for values in columns.values()]
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
        problem = f"not a table ({error}); a column holds one type of values, or write jsonl"
        raise DatasetError(f"{path}: {problem}") from error
    # A column without any value is taken for text.
    typed = [array.cast("string") if pyarrow.types.is_null(array.type) else array for array in arrays]
    pyarrow.parquet.write_table(pyarrow.table(typed, names=list(columns)), part)
