"""How often the agent of a run changed a history, by the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runs.fidelity import fidelity_of
from aws_rft_sdk.runtime import TrajectoryReader

MOST = 1_000
"""Trajectories that are read. Of a larger run these are spread evenly from its first to its last."""


@dataclass(frozen=True)
class Histories:
    """Trajectories of a run, 1,000 at most."""

    recorded: int
    """Trajectories that the run has."""
    trajectories: int
    """Those that were read, and have a turn and requests that were kept."""
    broken: int
    """Those where a turn does not go on from an earlier one."""
    rows: int
    """Training rows of all of them."""
    causes: Mapping[str, int] = field(default_factory=dict)
    """Trajectories that have each cause, the most frequent first."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON, and the share that is broken."""
        share = self.broken / self.trajectories
        counts = {"recorded": self.recorded, "trajectories": self.trajectories, "broken": self.broken}
        return {**counts, "broken_share": share, "rows": self.rows, "causes": dict(self.causes)}

    def __str__(self) -> str:
        """Return them in a sentence."""
        of_all = "" if self.trajectories == self.recorded else f" that were read, of {self.recorded:,}"
        read = f"{self.trajectories:,} rollouts{of_all}"
        if not self.broken:
            return f"the agent changed no history of {read}: {self.rows:,} training rows"
        causes = ", ".join(f"{cause} in {count:,}" for cause, count in self.causes.items())
        return f"the agent changed the history of {self.broken:,} of {read} ({causes}): {self.rows:,} training rows"


def read_histories(database: Path, most: int = MOST) -> Histories | None:
    """Return what a database of the local runtime shows. None if there is none, or if it kept no requests.

    Args:
        database: The file.
        most: Trajectories to read at most, spread evenly.

    Raises:
        ConfigurationError: The file is no database of the local runtime.
        DatasetError: The file is damaged.
    """
    if not database.is_file():
        return None
    with TrajectoryReader(database) as reader:
        recorded = len(reader)
        found = [one for one in map(fidelity_of, reader.spread(most)) if one is not None]
    if not found:
        return None
    causes = Counter(cause.value for one in found for cause in {item.cause for item in one.breaks})
    return Histories(
        recorded,
        len(found),
        sum(bool(one.breaks) for one in found),
        sum(one.rows for one in found),
        dict(causes.most_common()),
    )
