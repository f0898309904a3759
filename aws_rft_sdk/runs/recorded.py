"""Where a replay finds what it needs: records, trajectories, the handler, and what the run was made of."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.runs.manifest import handler_sources, is_deployed, read_manifest
from aws_rft_sdk.runs.records import DATABASE_FILE, RolloutRecord, read_records


def choose_records(folder: str | Path, only: Collection[str], limit: int | None) -> list[RolloutRecord]:
    """Return the records to replay, in the order of the dataset.

    Raises:
        ConfigurationError: An id is unknown, or there are no records.
        DatasetError: The records cannot be read.
    """
    records = sorted(read_records(folder), key=lambda record: (record.prompt_index, record.sample_index))
    if unknown := sorted(set(only) - {record.trajectory_id for record in records}):
        raise ConfigurationError(f"{folder} has no rollout {unknown[0]!r}")
    if only:
        records = [record for record in records if record.trajectory_id in set(only)]
    if not records:
        raise ConfigurationError(f"{folder} holds no rollouts yet")
    return records[:limit]


def find_database(folder: str | Path, db: str | Path | None) -> Path:
    """Return the path of the trajectories of a run.

    Raises:
        ConfigurationError: There is none.
    """
    path = Path(db) if db is not None else Path(folder) / DATABASE_FILE
    if not path.is_file():
        raise ConfigurationError(
            f"there is no {path}: the turns are recorded by the local runtime; name the database of the runtime that "
            "the rollouts ran at with --db"
            if db is None
            else f"there is no database file {path}"
        )
    return path


def find_reference(folder: str | Path, reference: str | None) -> str:
    """Return the handler to replay with, as `path/to/file.py:function`.

    Raises:
        ConfigurationError: None is given, and the run names none, a deployed agent, or a file that is not there.
    """
    if reference is not None:
        return reference
    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigurationError(f"{folder} does not say which handler ran; name it with --handler FILE.py:FN")
    if is_deployed(manifest.handler):
        raise ConfigurationError(
            f"{folder} ran the deployed agent {manifest.handler}; name its handler here with --handler FILE.py:FN"
        )
    location = manifest.handler.rpartition(":")[0]
    if location.endswith(".py") and not Path(location).is_file():
        raise ConfigurationError(
            f"{folder} ran {manifest.handler}, and there is no {location} here; name it with --handler FILE.py:FN"
        )
    return manifest.handler


def changed_sources(folder: str | Path, handler: Handler) -> tuple[str, ...]:
    """Return the handler's source files that are not as they were when the rollouts ran, sorted.

    Returns:
        Paths as in the run's `sources`; empty also where nobody wrote down what they were.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return ()
    then, now = manifest.sources, handler_sources(manifest.handler, handler)
    return tuple(sorted(name for name in now if name in then and now[name] != then[name]))
