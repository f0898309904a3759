"""What commands that look at a finished run share: its records, and what it was made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.folder import PROMPTS_FILE
from aws_rft_sdk.runs.manifest import Manifest, file_sha256, read_manifest
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD, Metrics, hints
from aws_rft_sdk.runs.records import Damage
from aws_rft_sdk.runs.table import RolloutTable


@dataclass(frozen=True)
class RecordedRun:
    """A folder of rollouts that have ended."""

    folder: Path
    table: RolloutTable
    manifest: Manifest | None
    """None for a folder of an older version."""

    @classmethod
    def read(cls, folder: Path) -> RecordedRun:
        """Read a folder, also while a run writes to it.

        Raises:
            DatasetError: The records cannot be read.
            ConfigurationError: There is a manifest that cannot be read.
        """
        manifest = read_manifest(folder)
        return cls(folder, RolloutTable.read(folder), manifest)

    @property
    def prompts(self) -> int | None:
        """Prompts that were to be run, None when that is not known."""
        return None if self.manifest is None else self.manifest.rows

    @property
    def group_size(self) -> int | None:
        """Rollouts of each prompt that were to be run, None when that is not known."""
        return self._setting("group-size")

    @property
    def max_tokens(self) -> int | None:
        """Most tokens that a response was allowed, None when that is not known."""
        return self._setting("max-tokens")

    @property
    def total(self) -> int | None:
        """Rollouts that were to be run, None when that is not known."""
        return None if self.prompts is None or self.group_size is None else self.prompts * self.group_size

    def _setting(self, name: str) -> int | None:
        value = None if self.manifest is None else self.manifest.settings.get(name)
        return value if isinstance(value, int) else None


def metrics_json(found: Metrics, table: RolloutTable) -> dict[str, JSON]:
    """Return the figures of a run as JSON, with what they are made of."""
    return {
        "metrics": found.to_dict(),
        "hints": [asdict(hint) for hint in hints(found)],
        "intervals": {"method": found.interval_method, "confidence": found.confidence},
        "failures": dict(found.failures),
        "sources": dict(found.sources),
        "damaged": damaged_lines(table),
    }


def damaged_lines(table: RolloutTable) -> dict[str, JSON]:
    """Return the lines that hold no record as JSON: how many, and the first of them."""
    damage = table.damage or Damage(Path())
    return {"count": damage.count, "lines": [{"line": line, "fault": fault} for line, fault in damage.lines]}


def dataset_of(folder: Path, manifest: Manifest | None) -> Path:
    """Return the file with the prompts of a run.

    Raises:
        ConfigurationError: The run does not say which file that was, or the file has other content now.
    """
    if manifest is None:
        raise ConfigurationError(f"{folder} does not say which dataset it ran: an older version wrote it")
    path = folder / PROMPTS_FILE if (folder / PROMPTS_FILE).exists() else Path(manifest.dataset)
    if not path.is_file():
        raise ConfigurationError(f"{folder} ran {manifest.dataset}, which is not there. Run this where it is")
    if path.name != PROMPTS_FILE and file_sha256(path) != manifest.dataset_sha256:
        raise ConfigurationError(f"{path} has changed since {folder} ran it, so rollouts and rows do not match")
    return path


def threshold_of(given: float | None, *folders: Path) -> float:
    """Return the success threshold: the one that was given, else that of the runs, else the service's.

    Raises:
        ConfigurationError: None was given and the runs have different ones, or a manifest cannot be read.
    """
    if given is not None:
        return given
    manifests = [read_manifest(folder) for folder in folders]
    known = {manifest.success_threshold for manifest in manifests if manifest is not None} or {SUCCESS_THRESHOLD}
    if len(known) > 1:
        listed = " and ".join(f"{threshold:g}" for threshold in sorted(known))
        raise ConfigurationError(f"the runs have different success thresholds, {listed}; give --success-threshold")
    return known.pop()
