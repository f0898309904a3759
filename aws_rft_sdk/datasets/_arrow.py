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


class ParquetTarget:
    """Writes batches of rows, in the types of the first batch."""

    def __init__(self, path: Path, name: Path) -> None:
        self._pyarrow = _pyarrow(name)
        self._path, self._name = path, name
        self._writer: Any = None
        self._rows = 0

    def write(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Add `rows`; what a row lacks becomes null.

        Raises:
            DatasetError: A column holds values of several types.
        """
        arrow = self._pyarrow
        try:
            if self._writer is None:
                arrays = [arrow.array([row.get(column) for row in rows]) for column in columns]
                # A column without any value yet is taken for text.
                types = [arrow.string() if arrow.types.is_null(array.type) else array.type for array in arrays]
                schema = arrow.schema(list(zip(columns, types, strict=True)))
                self._writer = arrow.parquet.ParquetWriter(self._path, schema)
            # Column by column: the schema's types are law, and a value that does not fit is refused.
            schema = self._writer.schema
            cells = [arrow.array([row.get(field.name) for row in rows], field.type) for field in schema]
            self._writer.write_table(arrow.Table.from_arrays(cells, schema=schema))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
            first, last = self._rows + 1, self._rows + len(rows)
            raise DatasetError(
                f"{self._name}: rows {first} to {last} do not fit a table ({error}); a column holds one type of "
                "values, or write jsonl"
            ) from error
        self._rows += len(rows)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
